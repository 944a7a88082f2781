// Package ingest ingests vendor payloads: it checks the consent, decodes, maps,
// commits, and writes Provenance, AuditEvents and the quarantine.
//
// It owns Pipeline.Run, Repair, Receive, Retry, Remap, Retract and Erase, the
// quarantine, POST /ingest/{vendor}/{format}, and the state with the key prefixes
// quarantine/, ingest/ and erasure/. It does not own the vendor formats (package adapters) and
// the metric table (package mapping).
//
// # Deliveries
//
// A delivery is one payload. Without a consent of the patient nothing is stored,
// and the refusal is audited. One goroutine decodes and maps, another one sorts,
// compares with the store and commits. They exchange batches of up to
// Limits.Batch documents, 256 KiB of their JSON, and Limits.Samples samples of
// series, so that memory is bounded and commits have the order of the payload.
// The consent is checked again before each commit, so that its withdrawal stops
// the delivery.
//
// A commit consists of the samples by series, the Observations that are
// documents, the Devices that they name, one Provenance of what is written,
// quarantined items, and the AuditEvent with its leaf. Series
// come first, in the order of their first samples.
//
// A failed delivery leaves an AuditEvent too: with outcome 8 if there is no
// consent or if it was withdrawn during the delivery, 4 for a payload that cannot
// be read, and 12 for an internal error.
//
// If the content of a final resource changes, its status becomes "amended". If
// the vendor retracts it, its status becomes "entered-in-error". The retraction
// of a resource that was never stored is dropped. A deletion
// (sample.Sample.IsDeletion) changes the status only and keeps the content. Its
// revision is stored even if there is no resource, so that a delayed delivery
// does not bring the sample back.
//
// # Observations sent over FHIR
//
// Pipeline.Repair and Pipeline.Receive serve phone-made Observations that clients
// create over FHIR (package fhir/interaction). Repair maps one without writing, so that
// the client's scopes can be compared with the repaired Observation, and refuses it if
// it cannot be mapped: the client learns that, so that it needs no quarantine. Receive
// is a delivery like any other.
//
// # Provenance
//
// There is one Provenance per commit. Its targets are the patient; the stream of
// every new sample, once, as
// {"type":"Observation","identifier":{…/identifier/series}}; and every other
// Observation, new version and Device. They do not depend on whether samples are
// stored as series or as documents. Its agents are those of US Core: the vendor's
// Organization as author, this server's as transmitter, and the software as
// assembler on behalf of the server. Its entities are the payload, by the hash of its
// first 64 KiB, and the Origin of the delivery: the id of the patient's link as
// identifier and the channel as display. The Provenance of a retraction has the
// activity deprecate.
//
// Between them are the rows that mapped the targets, each once:
// {"what":{"reference":"ConceptMap/PACK","identifier":{…/identifier/mapping-row,
// "PACK|VERSION#ROW"}}}. The reference leads to the ConceptMap that publishes the
// pack, of which the identifier states the version. If a tenant's pack overrides a
// row, its entity is followed by that of the built-in row, which has the fields that
// the pack does not state. The row of a target is the one whose metric is the vendor's
// coding in its code. Nights that are derived from segments name their own row, and
// Devices the rows of device facts. A retraction is not mapped and names no row.
//
// ROW is an id under the secret of the installation (mapping.Mapper.RowID), not the
// metric: a consent to some categories discloses the Provenance of the whole commit,
// and an erasure leaves it, so it must not tell which metrics there are.
// `pulsegate pack show` resolves the id.
//
// # Samples
//
// Store.Probe reports which samples the store has. Samples that are missing are
// written as series, equal samples are unchanged, and samples that the store has
// with other content are restated documents like any other. If another writer
// changes the streams between Probe and Commit, the batch is tried again, up to
// 16 times. If a batch states a sample more than once, in any series or as a
// document, the last statement counts.
//
// # Latest statement
//
// Of two statements about one thing the one delivered later counts, even if it
// repeats an earlier value (62, 63, 62). Payloads are small, vendors revert
// changes, and the bytes of a payload do not tell a late copy from a change.
//
// Only a statement that is provably older is not written. Sample.Revision, the
// vendor's own order, proves that: the updateTime of a data point of the Google
// Health API, meta.updated_at of an Oura document, and the sync version of a
// HealthKit sample or else the ExportDate of the export, for days and for samples
// with an id of the vendor's. The state ingest/revision/ID holds the greatest
// revision so far, even if the content was the same. An equal or missing Revision
// proves nothing: a webhook of a vendor that states no time counts when it
// arrives, even if it is delivered out of order, and the next poll corrects it.
//
// Equal content is not written again, so a payload that is delivered twice in a
// row leaves only an AuditEvent.
//
// # Complete windows
//
// Vendors delete and restate without saying so. If Request.Complete is set, the
// payload states everything that the vendor holds of some types in a time. When the
// payload has been read and committed to its end, each stored Observation of these
// types in this time that it did not state becomes entered-in-error. If the payload
// breaks off or a commit fails, nothing is retracted.
//
// An Observation is stated if the payload has it under the id under which it is
// stored; a sample of one channel that is a duplicate of another one's states that
// one. The Observations of one document of the vendor, such as a night and its heart
// rate, share the vendor's id and are in the window or not as a whole, regardless of
// the times of its parts. If a stated document no longer has a part, the part is
// retracted.
//
// A window of days contains the daily values of these days, and an Observation with a
// time if it contains the day before its start to the day after its end, because the
// payload may file a night under any of them.
//
// These are kept:
//
//   - Observations of a row that a roll-up shares, unless Window.Types names it too.
//   - Observations that another channel of the vendor has delivered, or may have: a
//     fine channel does not know those of a coarse one, and the other way around.
//   - Observations that an item of the payload in quarantine may state: those with
//     its vendor's id, or else those that start in the same second. If an item has
//     neither, its whole type is kept.
//   - Observations that another delivery has written since this one began.
//   - Nights that are derived from segments. They follow the segments.
//   - Data that the consent does not cover, or that were measured before
//     Request.Since.
//
// The ids of a payload are kept as hashes, at most 2^20. A payload that states more
// is stored and fails without retracting anything.
//
// # Mapping again
//
// Pipeline.Remap maps the samples that are kept of a vendor's Observations again with
// the current table: for one patient or all, batch by batch in order of time, first the
// items in quarantine (as Retry does), then the Observations, then the nights that are
// derived from segments. An Observation whose content differs gets a new version with
// the status "amended", whose Provenance names the job and the rows. A row of a series
// that changes becomes a document. An equal one is not written, so a job may be repeated
// or interrupted at any point.
//
// These stay as they are:
//
//   - Observations that are deleted or entered-in-error, or whose current version a
//     client has written.
//   - Observations whose sample the table rejects now, because its row is gone, its unit
//     is not accepted or its value is out of range, or whose sample is not known for sure
//     (ErrAmbiguous). They are reported by reason and not put in quarantine, because
//     nothing is lost. A component that is rejected goes to quarantine.
//   - Data that no consent covers now, under the new category too.
//
// The converted numbers of a sample of a stream with Sample.KeyValue are part of its id.
// If a correction changes them, the stored Observation becomes entered-in-error, and the
// sample is stored under its new id, as a redelivery would store it. Tenants' packs
// cannot cause that, only a new version of a built-in pack.
//
// A batch excludes other deliveries of the patient and vendor while it reads, maps and
// commits, so that it never replaces a later statement. There is one job per vendor at a
// time. Any process may start, follow and cancel it, and the holder of a role runs it. Its
// position and figures are in the state ingest/remap/VENDOR, in the commits of its
// batches, so that the next process continues it if it has the same packs. The state
// ingest/packs/VENDOR says which packs were in force for which commits: rows of one
// series that different packs have converted cannot be told apart otherwise.
//
// # Several processes
//
// Deliveries of one patient and vendor to several processes have the same result as one
// after another. Within a process, a lock excludes them from each other. Between
// processes, a guard does: each commit touches the guard of its patient and vendor, and
// fails if another one has touched it since the attempt began, or if a Consent of the
// patient has changed. Then what is stored is read anew (delivery.exclusively).
//
// An Erase is marked in erasure/PATIENT/VENDOR. The mark fails deliveries that overlap
// with it in any process, and ends a minute after the last commit of a process that has
// died. A part that may be repeated is claimed in ingest/part/HASH by the first commit of
// its delivery. Another process that gets the same part waits for the end of that
// delivery, or a minute after its last commit.
//
// Two processes should not map with different packs for longer than an upgrade takes:
// ingest/packs/VENDOR holds only the packs of the process that started last, so that the
// samples of a series that the other one stores may become ambiguous.
//
// # Retraction and erasure
//
// Pipeline.Retract takes a deletion that the vendor reports, of an object or of a
// time. It applies to all channels of the vendor. A retracted Observation that is
// stated again becomes amended.
//
// Pipeline.Erase deletes everything that ingest has stored for a patient and a
// vendor. Provenances and the versions in the history remain.
//
// # Nights
//
// A row of the metric table with segmentsOf, such as Apple's segments of sleep,
// is the source of another row, night. Each commit of segments records the time
// that they cover in ingest/night/PATIENT/VENDOR/SOURCE. At the end of the
// payload, or after an error, the nights of that time are derived from all stored
// segments of the source (see package mapping/sleep), whichever payload or
// channel delivered them, for up to 400 days per commit. The next delivery
// continues an interrupted one. So the order, the split and the repetition of
// payloads do not matter.
//
// The vendor's id of a night is night/HASH(source)/DAY, followed by /2 or /3 for
// further sessions that end on that day. A night whose segments changed is
// amended. A night that no longer exists, because two halves have become one, is
// entered-in-error. A night that ended less than 90 minutes before it is derived
// is preliminary, and the first delivery of the vendor for the patient after that
// makes it final.
//
// Some sources state a night as a whole, such as an aggregated night of Health
// Auto Export. A stated night replaces the stored night of the source that it
// overlaps, at whatever time it starts, and two stored nights that it covers
// become one. Nights that are derived from segments take precedence: the stated
// night is then entered-in-error or not written.
//
// # Several channels
//
// The data of one wearer may come through several channels of a vendor: Health
// Auto Export and export.xml, or list and reconcile of the Google Health API. A
// coarse channel knows less about the origin of a sample than another one and
// marks its samples as Sample.Coarse; the other channels are fine. A measurement
// that a coarse and a fine channel both deliver is one Observation. The
// deliveries are duplicates if they have one type, start in the same second or
// cover the same time, and have values that differ by at most a thousandth after
// conversion. Nights are duplicates if they cover the same time, because the channels
// may have determined the sleep by different versions of an algorithm:
//
//   - If the store has the Observation of the fine channel, it is kept. The
//     coarse delivery leaves a Provenance, once, whose target is the stream or
//     Observation that it confirms.
//   - If the store has the Observation of the coarse channel, the delivery of the
//     fine channel adds its device and metadata as a new version with the same
//     id.
//   - If a fine channel restates a value that a coarse channel has delivered, the
//     Observation of the coarse channel for the same source is retracted. The
//     coarse channel confirms the value when it repeats the restated one.
//
// Fine channels differ too: an export of HealthKit lacks the UUIDs that apps on the
// phone read (sample.Sample.SharedID). A sample with a SharedID and one without are
// one Observation by the same rules if they have one device, or if one of them has
// none. The Observation keeps the id that it got first, has the SharedID as
// identifier, and has the components of both. It changes only if a delivery adds the
// device or components. A deletion by the SharedID is final: a channel without it
// cannot make the Observation valid again.
//
// Equal measurements of two sources are two measurements, whichever channels
// deliver them. A source is identified by its name, its stream or its Device. If
// no channel knows the device, the Device derived from the name stands for both
// channels (channels.NameOnly), and its Observations may come from either. Within
// one payload the documents of fine channels are processed before those of coarse
// ones. If an app gives one workout two ids (same source, type, start and end),
// it is one Observation. The state ingest/same/ID holds the id under which a
// document with another id is stored, ingest/channels the channels that have
// delivered, and ingest/heard what was confirmed. A patient with one channel costs
// one read of ingest/channels per commit. Commits for one patient and vendor are
// prepared one after another.
//
// # Kept samples
//
// The sample from which an Observation was made is kept in the commit that writes the
// Observation, so that the mapping can be explained and repeated (Pipeline.Kept,
// Pipeline.EachKept, Pipeline.MapAgain). It is kept under the id of the stored
// Observation; a restatement replaces it, and a retraction that states only the id leaves
// it. Of an Observation that was joined of several samples, all are kept. Of a night that
// was derived from segments, the derived sample is kept.
//
// Of a series, only one exemplar is kept of all samples that differ in times and numbers
// alone (stream.Exemplar). Together with a row, it is the sample again, except for zeros
// at the end of numbers and for facts that leave no trace in the Observation. If a
// component of such a sample could not be written, the exemplar is without it. If two
// exemplars have one form of Observation, such as those of two units, both samples are
// candidates, because the row does not tell them apart.
//
// # Device facts
//
// A Device has the latest statement of each fact (versions, battery, model). A
// sample without a fact does not change it. The state ingest/device/ID holds the
// facts with their times, so that an old export does not revert them. A Device is
// written when a stored Observation names it. Its history has each firmware version.
// Its property last-seen is the hour of the newest sample, so that it alone causes at
// most one version per hour of samples.
//
// A sample that names neither a device nor a source, such as one from a vendor's
// merged stream, keeps those of the stored Observation.
//
// # Quarantine
//
// Items have the keys quarantine/PATIENT/ID. The id is derived from the content,
// so a repeated item is stored once. At most Limits.KeepPerMetric items per metric
// and payload keep their raw bytes. Further items, and items that the categories of
// the consent do not cover, are counted in one item without raw bytes. Quarantined
// data is never logged.
package ingest
