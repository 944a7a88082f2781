// Package mongolog keeps the log and the snapshots of package sharedlog in a
// MongoDB replica set.
//
// # Collections
//
//	log_<segment>       entries, by place as 16 hex digits
//	log_parts           pieces of rows that do not fit into an entry
//	log_first           first places that are kept, the greatest counts
//	log_identity        identities of the cluster, the latest counts
//	log_layout          one document: format and entries per segment
//	snapshot_manifests  manifests, complete or being written
//	snapshot_files      uploads of files, complete or being written
//	snapshot_chunks     contents of the uploads
//
// An entry is one document:
//
//	_id  place                        w  node
//	p    parent                       t  first sequence number
//	h    hash                         c  number of sequence numbers
//	n    nonce                        k  guards touched
//	e    epoch                        b  rows
//	s    schema                       x  true if k and b are in l
//	l    guards, rows or the hashes of its parts, and the size of the rows
//
// Guards and rows above 16 KB are in l, so that a look at the head of the log,
// which leaves l out, reads little and still returns most entries whole. Rows
// above 12 MB are in parts of 12 MB. MongoDB refuses documents above 16 MB.
//
// # How MongoDB is used
//
// Every promise rests on inserts that are unique by _id. Nothing is updated in
// place, except for the times and the states of snapshots.
//
//   - Inserts have the write concern majority with journal. Retryable writes are
//     off: the caller decides what happens to an insert without an answer, and
//     does so by sending the same entry again.
//     The driver does repeat queries, until Options.Timeout has passed.
//   - If a place is taken, the nonce there is read with the read concern
//     linearizable. For this, the primary commits a write of its own to a
//     majority after the query, which covers everything that the query saw. An
//     entry with our nonce is therefore durable, even if the insert that put it
//     there is still being replicated.
//   - The head of the log is read with the read concern linearizable, too, by one
//     query for the entry at the position and for those after it. MongoDB's
//     manual promises linearizability for queries that match one document,
//     because a document may change while a query runs. Entries never change, so
//     that each place is read by itself as of a time within the call.
//   - The identity is a list of documents with consecutive numbers. Replacing it
//     inserts the next one, which is a compare-and-swap.
//
// # Truncation
//
// A process that was stopped for a long time may wake and insert an entry at a
// place whose entry was removed meanwhile. Nothing would refuse it. Truncate
// therefore first records the first place to keep, and removes a segment only
// when that record is older than Options.Grace. Every process reads the record
// again when it has not done so for a minute, after its insert or query and
// before it returns, and fails with ErrTruncated if the place is no longer kept.
//
// # Parts
//
// A part is written before the entry that names it, under the place of the entry
// and its own hash. If another entry is at that place, no entry can ever name
// the part, and Sweep removes it. A part whose place is empty stays: its entry
// may still come. This needs no clock, unlike removing parts by age, which would
// break the log if a process stopped for long between the part and the entry.
//
// # Snapshots
//
// Files are not in GridFS, because a file there has a random id, and its name
// needs a second index to be found. Uploads have the hash of the file in their
// _id, and chunks are found by _id alone. A file, and a manifest, counts when its
// document is marked as complete, by an update that fails if Remove has collected
// an upload that seemed abandoned.
//
// # What the stand-in cannot show
//
// Package mongotest runs the tests against FerretDB over SQLite, unless
// PULSEGATE_TEST_MONGODB names a replica set. FerretDB is one process without
// replication. It accepts and ignores read and write concerns, so it shows
// nothing about
//
//   - elections, rollback, and entries that a majority does not have;
//   - what linearizable and majority mean, and what they cost;
//   - latency and throughput;
//   - the limit of 16 MB per document: it takes 17 MB. The limits of this package
//     have tests of their own;
//   - authentication and TLS;
//   - atomicity of an update with a filter: FerretDB reads and writes in two
//     steps. The promises that rest on inserts do not depend on it; collecting an
//     abandoned upload while its Put completes does.
//
// What the driver sends is tested with a command monitor instead. For the rest,
// run make test-cluster MONGODB=<connection string> against a replica set.
package mongolog
