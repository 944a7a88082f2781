// Package pebblestore is the embedded driver of fhir/store, over Pebble. It
// owns the key layout, group commit and the planning of searches; it does not
// own what a search means (fhir/search) or who may see (fhir/access).
//
// # Keys
//
// One byte names the table. str is a string with 00 escaped as 00 FF and
// closed by 00 01, so that no string is a prefix of another. T and other
// numbers are 8 bytes, big-endian; ^T is inverted (newest first); start is
// Unix milliseconds with the sign bit flipped.
//
//	D | str patient | str type | code(8) | bucket(1) | start(8) | str id | T
//	    one version: to-T(8) | flags(1) | version | lastUpdated ms | vendor |
//	    author | categories | stamped JSON. patient is "" outside compartments.
//	    code is a hash of the primary code (its system is checked on the
//	    document). bucket: 0 at most 1 min long, 1 at most 1 h, 2 at most
//	    48 h, 3 longer or open, 4 undated.
//	    to-T is the commit that superseded the version, 0 while it is
//	    current: T sees it when from <= T and (to == 0 or to > T). A deletion
//	    marker keeps the last bytes, for granular scopes; nobody is given them.
//	P | str patient | str type | code(8) | bucket(1) | start(8) | str id | T
//	    the same for every other coding of an Observation's code:
//	    to-T(8) | code(8) of the D row.
//	I | str type | str id | ^T
//	    version | flags | hash(16) | str patient | code | bucket | start:
//	    the versions of a resource and where its D rows are.
//	X | str type | str param | str value | str id | T
//	    to-T(8) | str patient | code | bucket | start, for searches without a
//	    patient. value is a token's code, "Type/id", or a URI; one over 200
//	    bytes is its hash. Systems are checked on the document.
//	L | T | n(4)
//	    the change log: type, id, version, flags, facts, place of the D row.
//	S | key
//	    small state: expires ms(8, 0 never) | value.
//	E | expires ms(8) | key
//	    when to look at a state key again.
//	M | 0 | i(8)   leaf i of the log
//	M | 1 | i(8)   stored hash i (golang.org/x/mod/sumdb/tlog numbering)
//	N | "schema"   schema version; an unknown one is refused
//	N | "head"     T | lastUpdated ms | log size | current resources
//
// All token, reference and URI parameters have X rows, except that
// Observation has identifier and device only (code and patient are D and P
// keys; a search by code over all patients visits each patient's cluster) and
// AuditEvent has patient and entity only: these two types are nearly all of
// the data, and every further row costs each write.
//
// # Commit
//
// Callers extract and hash on their own goroutines. One committer resolves
// the preconditions of all waiting batches, writes one Pebble batch, and
// builds the next group while that one syncs. Readers read a Pebble snapshot
// taken after the last group that is on stable storage, so what is not
// durable is never seen. lastUpdated grows with every group; a group is never
// split by T(), so an export at T() followed by _since misses nothing.
package pebblestore
