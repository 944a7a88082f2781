// Package ingest takes vendor payloads in: consent, decoding, mapping,
// restatement, commit, Provenance, audit and quarantine.
//
// It owns: Pipeline.Run and Retry, the quarantine, POST
// /ingest/{vendor}/{format}, and the state rooms quarantine/ and ingest/. It
// does not own: vendor formats (adapters), the metric table (mapping).
//
// # One run
//
// The consent is asked for first: without one nothing is stored, the refusal
// is audited. One goroutine decodes and maps, one sorts, probes and commits;
// batches of up to Limits.Batch documents, 256 KiB of their JSON, and
// Limits.Samples samples of series stand between them, so memory is bounded and the order of the payload is the
// order of the commits. Before each commit the consent is asked for again: a
// withdrawal stops the import.
//
// A batch holds the samples by series, the Observations that are documents,
// the Devices they name, one Provenance of what is written (see mapping),
// quarantined items, and the AuditEvent with its leaf. Series come first, in
// the order in which their first samples came.
//
// # Samples
//
// The store is asked what it has of each sample (Probe). What is missing is
// written as a series, what is the same is unchanged, and what is there with
// other content is a restated document like any other. When somebody else
// wrote into the streams between probe and commit, the batch is tried again,
// up to 16 times. Of a sample that a batch states twice, under whichever
// template or as a document, the last word counts.
//
// A run that fails leaves an AuditEvent too: outcome 8 without consent or when
// it was withdrawn on the way, 4 for a payload that cannot be read, 12 for a
// failure of ours.
//
// Changed content of a final resource becomes "amended", the vendor's
// retraction "entered-in-error".
//
// # The latest word
//
// Of two statements on one thing the latest delivered one counts, also when it
// restates an earlier value (62, 63, 62): payloads are small, vendors take
// changes back, and nothing about the bytes of a payload tells a late copy from
// a change. Only what is provably older is old news and is not written:
// Sample.Revision, the vendor's own order, says so. It is the updateTime of a
// point of the Google Health API, meta.updated_at of a document of Oura's, the
// sync version of a HealthKit sample and else the ExportDate of the export, for
// days and for samples with an id of the vendor's. The room ingest/revision/ID
// holds the greatest that was seen, also where the content was the same. An
// equal Revision proves nothing, and neither does an absent one: a webhook that
// is delivered out of order, of a vendor that states no time, counts as it
// arrives, and the next poll sets it right.
//
// Equal content is no write, so a payload that is delivered again right after
// itself leaves an AuditEvent alone.
//
// # Nights
//
// A row of the metric table with segmentsOf (Apple's segments of sleep) is what
// another row, night, is made of. Each commit of segments says in the room
// ingest/night/PATIENT/VENDOR/SOURCE, in the same batch, which time they cover.
// When the payload has been read to its end, or an error, the nights of that
// time are made again of every stored segment of the source (see
// mapping/sleep), whichever payload or channel brought it, 90 days a commit; a
// run that was interrupted leaves the rest to the next one. So the order, the
// split and the repetition of payloads do not matter.
//
// A night is night/HASH(source)/DAY, with /2, /3 for further sessions that end
// on that day. A night whose segments changed is a new version, amended; one
// that is none any more (two halves have become one) is entered-in-error. A
// night that ended less than 90 minutes before it is made is preliminary; the
// first delivery of the vendor's for the patient after that makes it final.
//
// A night that a source states as a whole (an aggregated night of Health Auto
// Export) is the stored one of the source that it overlaps, whatever its start,
// and two that it covers become one. Segments say it better: where they make a
// night, the one that was stated is entered-in-error, or not written.
//
// # Several channels
//
// One wearer's data may come through several channels of a vendor: Health Auto
// Export and export.xml, list and reconcile of the Google Health API. Those
// that know less of where a sample came from mark it Sample.Coarse. What a
// coarse channel and another one both bring, of one type, at the same second or
// over the same time, with the same value (within a thousandth, after
// conversion), is one Observation, as a sample and as a document:
//
//   - What the store has from the channel that knows more stands, and the
//     coarse delivery leaves a Provenance with the stream or Observation that
//     it confirms as target, once.
//   - What the store has from the coarse channel gets what the other one knows
//     (device, metadata) as a new version under the identity that it has.
//   - A restated value that a coarse channel had stated before takes back what
//     that channel said of the same source. The coarse channel that repeats it,
//     or restates its own to it, confirms it.
//
// Two sources that say the same are two measurements, whichever channels bring
// them: a source is known by its name, its stream or its Device. Where no
// channel knows a device, the Device made of the name stands for both channels
// (channels.Plain), and what carries it may be of either. Within one payload
// the document of the channel that knows more comes before a coarse one. Two ids
// that an app gives one workout (same source, type, start and end) are one. A
// document that is stored under another id has that id in the room
// ingest/same/ID; the rooms ingest/channels and ingest/heard hold which kinds
// of channels have delivered and what was confirmed. A patient of one channel
// pays a read of ingest/channels a commit. The commits of one patient and
// vendor are worked out one after the other.
//
// # Device facts
//
// Each fact of a Device (versions, battery, model) is the latest word on it;
// a sample that says nothing of it leaves it. The room ingest/device/ID holds
// the facts with their times, so that an old export does not turn them back. A
// Device is written when a stored Observation names it.
//
// Of an Observation that is known, a page that says neither device nor source
// keeps the known ones: a vendor's merged stream does not know them.
//
// A retraction of what was never stored is dropped.
//
// # Quarantine
//
// quarantine/PATIENT/ID, ID derived from the content: a repeat is one item.
// At most Limits.KeepPerMetric items a metric and payload keep their raw
// bytes; what is beyond is counted in one item without raw, and so is what the
// consent's categories do not cover. Nothing in it reaches a log.
package ingest
