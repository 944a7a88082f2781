// Package oracle holds the sample tier to its promise: from outside nothing
// tells a sample in a series from the document it stands for.
//
// It owns a test. Two servers are built from the same parts in one process:
// one over a store that writes each sample as a document (store.Documents),
// one over the sample tier. Both get the same random life: payloads through
// mapping/ingest (late, overlapping, restated, retracted, with clock errors),
// writes over REST, consents granted, narrowed and withdrawn, restarts, kills;
// blocks are compacted in the second one only. After every step both are asked
// the same questions as the same clients, and must answer alike: status,
// headers and body, byte for byte.
//
// That works because nothing in a server is left to chance. Time, ids and
// nonces come from clocks and generators of the same seed; one request is
// served at a time; and what works in the background moves only between
// requests, one commit and one Subscription at a time (see gate).
//
// It does not own the semantics of what is asked: both could be wrong alike.
//
// A failure prints the seed, and
//
//	go test ./conformance/oracle -oracle.seed N
//
// has the same life again. -oracle.time says how long to go on with new lives.
package oracle
