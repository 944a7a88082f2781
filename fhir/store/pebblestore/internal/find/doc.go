// Package find answers searches at a snapshot.
//
// A Searcher makes a finder for each search. The plan (plan.go) chooses the path that
// looks at the fewest rows; each path walks rows in order of their keys, and merges
// the rows for which samples stand. An evaluator decides which rows match. The clauses
// that a template decides are evaluated once per series.
//
// # Orders
//
// U and V rows are ordered by lastUpdated, which never decreases with the sequence
// number; the resources of one instant are sorted by id when they are read. A search
// by lastUpdated thus reads only resources updated since, and a sort by lastUpdated
// reads only what it returns.
//
// The D rows of one patient are ordered by date. Over all patients, a search reads the
// W rows of a day and opens the runs that begin in a quarter of an hour.
//
// Observations of which a patient is the subject or the performer, such as those of a
// compartment, lie in the cluster of the patient or have an X row of their performer
// (union.go). Mostly there is no such row, and the search is one of the cluster.
//
// For any other order, all matches are sorted (package sorted).
//
// # Newest documents
//
// $lastn returns the newest documents of every code, where codes that share a coding
// count as one. A walk that starts at the newest document must therefore know which
// codings older documents have. A signature lists the facts in which the documents of a
// cluster (a patient and a primary code) differ apart from what was measured. The
// first search of a cluster reads all of it. The committer then adds the signatures
// of the documents it writes, before a snapshot shows them. Later searches stop when
// they have the newest documents of each set of codings that can match.
package find
