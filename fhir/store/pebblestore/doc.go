// Package pebblestore is the embedded driver of fhir/store, over Pebble. It owns the
// key layout, group commit, snapshots and the planning of searches. It does not own
// the meaning of a search (fhir/search) or the decision who may see a resource
// (fhir/access).
//
// # Packages
//
// This package is the engine: it commits, recovers, takes snapshots and compacts.
// The packages below it know nothing of it; from the bottom up:
//
//	fault      errors of the engine without keys in their texts; walks past damage
//	keys       builders and parsers of keys
//	rows       encoding of the rows, caches of templates
//	tier       the sample tier: series, blocks, walks, plans of compactions
//	snapshot   reads of documents and samples at a snapshot
//	sorted     sorted results, in memory and on disk
//	find       searches: plans, walks, evaluation
//	check      consistency checks
//	salvage    recovery of the readable part of a damaged store
//	readcache  cache of single resources and of small state
//
// The committer stays one package, in the files commit.go, stage.go, stageseries.go,
// stageleaves.go, stageupdates.go, guards.go and memory.go, and, for a shared store,
// replica.go, flight.go, foreign.go and entry.go: a stage reads and writes the committer's
// state for each row, and an interface between them would cost a dynamic call or a
// copy per row. For the same reason, snapshots, matches and walks are concrete types
// with exported fields.
//
// # Keys
//
// The first byte of a key names the table. In the tables below:
//
//	str    a string in which 00 is escaped as 00 FF, followed by 00 01, so that no
//	       string is a prefix of another
//	seq    the sequence number of a commit; ^seq has its bits inverted, so that the
//	       newest comes first
//	start  Unix milliseconds with the sign bit inverted
//	loc    the location of a D row: str patient | code(8) | bucket(1) | start(8)
//
// Numbers are 8 bytes, big-endian, unless a size in bytes follows in parentheses.
// Numbers in values are uvarints, and strings in values follow their length, unless
// stated otherwise.
//
// Documents:
//
//	D | str patient | str type | code(8) | bucket(1) | start | str id | seq
//	    One version of a resource: end(8) | flags(1) | version | lastUpdated in Unix
//	    milliseconds (varint) | vendor | author | categories | stamped JSON.
//	    patient is "" outside of compartments. code is a hash of the code of the
//	    primary coding; the document holds its system. bucket is 0 for durations of at
//	    most 1 minute, 1 for at most 1 hour, 2 for at most 48 hours, 3 for longer or
//	    open ones, and 4 for undated resources. end is the commit that superseded the
//	    version, or 0 while it is current: a snapshot at S shows the version if
//	    seq <= S and end is 0 or > S. A deletion marker keeps the last bytes, which
//	    only granular scopes evaluate. With flag 16, the JSON is replaced by
//	    template(16) and the slots of the template, each after its length; a read
//	    adds the stamp.
//	F | template(16)
//	    The parts of a template (store.Template), each after its length. template is
//	    the first half of the SHA-256 of the value. The committer writes the row with
//	    the first resource that needs it after a start, and never deletes it.
//	P | str patient | str type | code(8) | bucket(1) | start | str id | seq
//	    The same version under another coding of an Observation's code: end(8) |
//	    code(8) of the D row.
//	I | str type | str id | ^seq
//	    A version of a resource: version | flags(1) | hash(16) | loc of its D row.
//	    With flag 4 the version was a sample, and series(8) follows the hash.
//	X | str type | str param | str value | str id | seq
//	    The index: end(8) | loc. param is the code of a parameter of R4, or "+" and a
//	    hash of a parameter defined at run time: of its URL and all that its values
//	    depend on. value is the code of a token, "Type/id", or a URI; a value over 200
//	    bytes is replaced by its hash. The document holds the system. An Observation has
//	    rows of identifier, device, performer, subject and encounter only, and none of
//	    the latter three for the patient of its cluster. For other types of
//	    parameters, value begins with a class (rows.ClassText and so on):
//	    string     's' | the folded text without spaces, cut at 64 bytes
//	               'w' | the same from a later word on, for names; 'v' if there are too many
//	               'o' | the folded text, cut at 64 bytes; the least and the greatest only
//	    date       '0' to '5', by length | start
//	    number     'n' | order-preserving float64
//	    quantity   'n' | the number as written
//	               'c' | hash of the canonical unit(8) | the number in that unit
//	    of these   'x' for ranges, 'y' for documents with several values
//	    reference  03 | the value of Reference.identifier
//
// Orders of documents:
//
//	L | seq | n(4)
//	    The change log. Of a document: flags(1) | version | type | id | vendor |
//	    author | categories | loc. Of the samples of a series, with flag 8: flags(1) |
//	    series(8) | count | least and greatest start in microseconds (varints) | loc.
//	U | str type | seq | n(4)
//	    The resources of a type that a commit wrote: lastUpdated(8) | count | the n of
//	    each L row. For AuditEvents, which have no L rows: id and loc of each.
//	V | str patient | str type | seq | n(4)
//	    The same for one patient, for types that name one patient.
//	W | str type | bucket(1) | day | code(8) | str patient | table(1)
//	    bits(12) of documents | bits(12) of samples: the quarters of an hour of the
//	    day in which a row of the run (patient, code, bucket) begins. table is D or P.
//	    Bits are only added, so that a bit may outlive its documents.
//
// Samples:
//
//	Q | str patient | str "Observation" | code(8) | bucket(1) | series(8)
//	    The encoded template (fhir/series) of a series, whose samples stand for D rows
//	    with the same prefix. series is a hash of the template.
//	R | str patient | str "Observation" | code(8) | bucket(1) | series(8)
//	    The same under the code of another coding, for P rows: loc of the Q row.
//	G | identity(9)
//	    seq of the last commit that wrote a sample of this identity, or a document
//	    with the id of one.
//	G | identity(9) | series(8)
//	    A series of the identity: loc.
//	Y | str param | str value | identity(9) | series(8)
//	    An index value that all samples of the series have, for X rows: loc.
//	K | series(8)
//	    The tally of a series: greatest start(8) | samples | tails | samples in tails |
//	    samples that became documents | compactions.
//	H | series(8) | level(1) | major | minor(4)
//	    The header of a block (fhir/series).
//	B | series(8) | level(1) | major | minor(4)
//	    The block. At level 0, the tails, major is the seq of the commit that wrote
//	    the block, or 1<<63 + n for merged tails; tails may overlap. At level 1, the
//	    base, major is the start of a sample at or before the first, in microseconds
//	    with the sign bit inverted; blocks do not overlap. A block that a commit wrote
//	    leaves out the commit, which its header names.
//
// State and log:
//
//	S | key
//	    Small state: expiry(8) in Unix milliseconds, 0 for none | value.
//	E | expiry | key
//	    The time at which the committer looks at the state key again. No value.
//	M | 2(1) | i
//	    The leaves of a batch, starting at leaf i of the log, each after its length.
//	M | 3(1) | i
//	    The stored hashes that the leaves add, 32 bytes each, starting at hash i
//	    (numbered as in golang.org/x/mod/sumdb/tlog).
//	N | "schema"
//	    The schema version, 5: the newest encoding of the rows. Open refuses one that the
//	    program does not read. If the store is shared, it is that of the entries applied.
//	N | "head"
//	    seq | lastUpdated(8) in Unix milliseconds | leaves(8) | current resources(8).
//	N | "log"
//	    The position of a shared store in its log: index(8) | hash of the last
//	    entry(32) | hash of the last valid entry(32) | cluster(16) | epoch(8).
//
// All parameters with values have X rows, with two exceptions. Observation has only
// identifier and device: code and patient are part of its D and P keys, and a search by
// code over all patients visits the clusters of each. AuditEvent has only patient, and
// entity for other entities. These two types are nearly all of the data, and every row
// costs each write.
//
// # Indexes
//
// Small state under "index/" says which X rows documents have (rows.Index). It is written
// with the rows, so that a snapshot never shows one without the other:
//
//	index/r4                    the parameters of R4; complete from the first commit on, if
//	                            that was in schema 5
//	index/param/<type>/<param>  a parameter defined at run time
//
// In schema 4, there were X rows of tokens, references and URIs only (rows.IndexedBefore).
// Reindex writes the missing rows of older documents, a bounded number per commit, and a
// cursor with them. The committer does it between writes, on the newest state: whatever
// version a group writes or ends has its rows from its writer. From the first step on,
// which writes the state alone, every writer writes the rows of its documents; one whose
// registry lacks the parameter marks the index as stale in the same commit, so that it is
// built again. Searches use an index when it is complete, and read the documents until
// then; they always evaluate the document, so that rows need only be a superset.
//
// # Plans
//
// A search of a type with all rows collects the ranges of X keys in which every match of a
// clause has a row, counts the rows of each clause in rounds, and walks those of the
// clause with the fewest. Two clauses on one date or number, such as the two ends of a
// range, have common ranges. A document with several rows is emitted at the first of
// them, so that a position is a key. A sort by an indexed parameter walks the X rows in
// order, and sorts groups of equal values; its positions are those of a sorted result, so
// that either can continue the other. It gives way to sorting when a clause has few rows,
// or when the matches are far apart.
//
// The value of a row of a token is its code: the row does not have the system, and there
// is none for an element without a code, such as a CodeableConcept of only text. So the
// search system|, which such elements can match, reads the documents, and :missing=false
// has rows only under parameters whose elements always have some (rows.Sure); they are
// walked if there are few. :contains, :text and :missing=true read the documents, too: no
// range of rows holds their matches, and an index of all parts of a text would cost every
// write. Another clause with rows bounds each of these, and so does the cluster of a patient.
//
// Of several clauses, one drives, and the documents of its rows are evaluated. To look up
// the rows of the other clauses first costs about as much as to read the documents
// (BenchmarkIntersection).
//
// A count reads rows only if they decide alone: the filter permits everything of the type
// (access.Filter.Everything), and the query has no clause, or one whose rows are exactly
// its matches, such as a reference, a URI, or a code without a system.
//
// # AuditEvents
//
// Every read writes an AuditEvent, so that they are most of the rows of a busy server.
// The events of one caller differ in a few bytes. They are stored as the slots of a
// template, in 0.15 KB instead of 2 KB: a D row, an I row and two X rows each, and one
// row of leaves and one of hashes per batch. A read assembles their bytes.
//
// # Commit
//
// Callers extract and hash on their own goroutines. One committer resolves the
// preconditions of all waiting batches, writes one Pebble batch, and builds the next
// group while that one is synced. Readers read a Pebble snapshot taken after the last
// group that is on stable storage, so that they never see what is not durable.
// lastUpdated grows with every group, and LastSeq never splits a group, so that an
// export at LastSeq followed by _since misses nothing.
//
// A stage builds a group. It changes nothing but its Pebble batch: what else the group
// changes in memory (hashes on the edge of the log's tree, known W and F rows, guards,
// signatures, queued compactions) takes place when the batch is applied. A group can
// therefore be discarded and built again on another state.
//
// The result of a batch with an ID is small state under "commit/", which expires after
// store.BatchMemory. Guards are kept in memory, see guards.go: those of the last 65,536
// touches at least, and none from before the store was opened.
//
// # Several processes
//
// With Options.Shared, a replica takes the place of the committer and the syncer. The
// store on disk is then a copy that is made by applying a log of groups
// (package sharedlog), and all copies have equal rows. An entry of the log holds the
// representation of the group's Pebble batch, compressed: rows rather than commands, so
// that every version of this program writes the same bytes, and applying an entry costs
// a fraction of building it. The position row is written in the same Pebble batch, so
// that it never disagrees with the rows, and nothing is synced: a copy that lost its
// last writes in a crash reads them from the log again.
//
// The replica builds a group on the newest state, appends it to the log, and applies,
// shows, reports and answers it when it is durable there. If another process has the
// place, the replica applies that entry and builds the group again from its requests.
// While entries are on their way, another group is built over their batches; it names the
// last of them as its parent and is answered after it. If one of them loses its place,
// those after it are void (sharedlog.Position.Next), and all are built again.
//
// An Append without an answer may have stored the entry, or may do so later. So it is
// repeated until the entry is durable or another durable entry has its place, which only
// a read of the log tells. Meanwhile writers wait, and after a few seconds the requests
// that are not on their way fail with Unavailable. Close gives up; its writers learn that
// the outcome is not known.
//
// A refusal, such as Conflict, is an answer only as of a state that was current after
// the request came. The append of the request's group shows that it was. A group that
// writes nothing waits for a look at the log, and is built again if the look found
// entries of other processes.
//
// Sync waits for a look at the log that began after the call. One look serves all who
// wait, and an append that began after the call is one, too. Two looks may be under way,
// so that a caller waits for at most half of one before its own begins.
//
// Entries of other processes are checked and applied row for row. Their effects in memory
// are derived from the rows: cached resources and state are dropped, and commits for
// watchers are made of L and D rows. Rows that this program does not know, or that do not
// agree with the entry, stop the store.
//
// Compactions of series go through the log. One process at a time should plan them
// (SetCompacting); a plan is void if the series has lost a sample or was compacted
// meanwhile, so that two do no harm.
//
// A store stops with ErrRejoin if the log does not continue its position: the process
// then begins again from a snapshot (Checkpoint) of another one.
//
// # Caches
//
// Package readcache answers repeated reads of one resource and of small state. The
// values that a group changes are dropped before its view is published.
package pebblestore
