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
//	    With flag 16 there is, instead of the JSON, form(16) and what is the
//	    resource's own between the parts of the form, in order, each behind its
//	    length (uvarint); the stamp is put in when it is read.
//	    code is a hash of the primary code (its system is checked on the
//	    document). bucket: 0 at most 1 min long, 1 at most 1 h, 2 at most
//	    48 h, 3 longer or open, 4 undated.
//	    to-T is the commit that superseded the version, 0 while it is
//	    current: T sees it when from <= T and (to == 0 or to > T). A deletion
//	    marker keeps the last bytes, for granular scopes; nobody is given them.
//	F | form(16)
//	    the parts of a form (store.Form), each behind its length (uvarint);
//	    form is the first half of the SHA-256 of the value. It is written with
//	    the first resource that needs it after a start, and stays.
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
//	    the change log: type, id, version, flags, facts, place of the D row; or
//	    the series, count and least and greatest start of appended samples.
//	U | str type | T | n(4)
//	    lastUpdated ms | count (uvarint) | n of each L row of the type in the
//	    commit (uvarint); for AuditEvents, which have no L row, id and place of
//	    each.
//	V | str patient | str type | T | n(4)
//	    the same of one patient, for types that name one patient.
//	W | str type | bucket(1) | day(8) | code(8) | str patient | table(1)
//	    bits(12) of documents | bits(12) of samples: the quarters of the day in
//	    which something of the run begins. table is D or P. A bit is never taken
//	    back, so it may be that nothing of it is left.
//	S | key
//	    small state: expires ms(8, 0 never) | value.
//	E | expires ms(8) | key
//	    when to look at a state key again.
//	M | 2 | i(8)
//	    the leaves of a batch, leaf i of the log and those behind it, each
//	    behind its length (uvarint).
//	M | 3 | i(8)
//	    the stored hashes that they add, 32 bytes each, the hash i and those
//	    behind it (golang.org/x/mod/sumdb/tlog numbering).
//	Q | str patient | str "Observation" | code(8) | bucket(1) | series(8)
//	    the encoded template (fhir/series) of a series, whose samples stand for
//	    D rows under the same prefix. series is a hash of it.
//	R | the same, with the code of another coding
//	    place: the samples stand for P rows.
//	G | identity(9)
//	    T of the last commit that wrote a sample, or a document with the id of
//	    a sample, of this identity.
//	G | identity(9) | series(8)
//	    place: the series of an identity.
//	Y | str param | str value | identity(9) | series(8)
//	    place: what all samples of a series have; they stand for X rows.
//	K | series(8)
//	    maxStart(8) | samples | tails | loose | moves | merges (uvarint).
//	H | series(8) | level(1) | major(8) | minor(4)   header of a block
//	B | series(8) | level(1) | major(8) | minor(4)   the block
//	    level 0, tails: what a commit wrote, major T, or merged tails, major
//	    1<<63 + n; they may overlap. Level 1, base: major is the start of a
//	    sample at or before the first (sortable, microseconds); blocks do not
//	    overlap. A block that a commit wrote does not name the commit: its
//	    header does (see fhir/series).
//	N | "schema"   schema version; an unknown one is refused
//	N | "head"     T | lastUpdated ms | log size | current resources
//
// All token, reference and URI parameters have X rows, except that
// Observation has identifier and device only (code and patient are D and P
// keys; a search by code over all patients visits each patient's cluster) and
// AuditEvent has patient, and entity for what is no patient, only: these two types are nearly all of
// the data, and every further row costs each write.
//
// # AuditEvents
//
// Every read leaves one, so they are most of the rows of a busy server, and
// those of one caller differ in a few bytes. They are kept by form, 0.15 KB
// instead of 2: a D, an I and two X rows each, and for each batch a row of
// leaves and one of hashes. Their bytes are put together when somebody looks.
//
// # Orders
//
// The U and V rows are the order of lastUpdated: T never decreases with it, and
// what was written at one instant is put in order of id when it is read. A
// search by lastUpdated therefore reads what was updated since, and a sort reads
// what it gives out. A commit writes one row per type and one per patient and
// type, however many samples it has.
//
// The date is the order of the D rows within one patient. Over all patients a
// search takes the W rows of a day, and opens the runs that have something in a
// quarter of an hour. A series write touches a row per day.
//
// Any other _sort collects keys and ids of all matches, sorts them, on disk when
// they are many, and keeps the result for the pages to come. A position holds
// the keys of its match, so when the result is gone it is made again and the
// same page follows.
//
// # Samples
//
// A sample has no row of its own. Every walk over D, P and X rows merges the
// rows that samples stand for where they would lie (table, tagged, source), so
// order, positions and visibility are those of documents; the clauses that a
// template decides are decided once a series (judge).
//
// A commit appends: blocks of at least half the full size that lie behind
// everything the series has go to the base, all else to the tails. A compactor
// in the background merges tails of like size, and then into the base when
// that rewrites at most 16 times as much: it plans on a snapshot and hands the
// committer rows to drop and to put; a sample that left the series meanwhile
// voids the plan. So a sample is rewritten about 4 + 16 times at worst, about
// twice when it comes in order, and no writer waits.
//
// A write on a sample's id takes it out of its block: version 1 becomes a
// document that ends where the new version begins, the I row says what series
// it was of, for the change log of its commit.
//
// # Kinds
//
// $lastn wants the newest of every code, and codes that share a coding are one:
// whoever reads from the newest on must know which codings there are further
// down. The store remembers, in memory, the kinds of the documents of each
// cluster (patient and primary code) that was asked: codings, categories,
// status, vendor and author. The first question reads the cluster whole; from
// then on the committer adds what it writes, before it is seen. A question
// then reads until it has the newest of each set of codings that can match.
//
// # Commit
//
// Callers extract and hash on their own goroutines. One committer resolves
// the preconditions of all waiting batches, writes one Pebble batch, and
// builds the next group while that one syncs. Readers read a Pebble snapshot
// taken after the last group that is on stable storage, so what is not
// durable is never seen. lastUpdated grows with every group; a group is never
// split by T(), so an export at T() followed by _since misses nothing.
//
// Reads of one resource and of small state are answered from memory when they
// were asked for before: what a group changes is dropped before its view is
// shown (cache).
package pebblestore
