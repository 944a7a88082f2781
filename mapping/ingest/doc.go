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
// In a store that an earlier release wrote (Pipeline.LegacyIDs) each sample is
// looked up under the id it had then; where it is there, it stays that
// document.
//
// A run that fails leaves an AuditEvent too: outcome 8 without consent or when
// it was withdrawn on the way, 4 for a payload that cannot be read, 12 for a
// failure of ours.
//
// Equal content is not written. Changed content of a final resource becomes
// "amended", the vendor's retraction "entered-in-error".
//
// # Redelivery
//
// Two deliveries of one payload have one effect, also when the payload states
// one resource twice or arrives after a newer one. The room
// ingest/payload/PATIENT/VENDOR/HASH remembers payloads by the SHA-256 of
// their first 64 KiB; in a payload seen before, content that an earlier
// version of the resource had is old news and not written again. In a payload
// never seen it is (a vendor may take a change back).
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
