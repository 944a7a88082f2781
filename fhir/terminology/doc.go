// Package terminology answers questions about the code systems, value sets and concept maps
// that the server holds: the CodeSystem, ValueSet and ConceptMap resources in its store,
// those of its own mapping among them, and the value sets with required bindings of R4
// (fhir/definitions).
//
// It owns the index of these resources (Service), expansion and membership of value sets,
// subsumption, translation, and what fhir/search and fhir/fhirpath ask of terminology
// (search.ValueSets, Env.MemberOf and Env.Subsumes). It does not own the operations with
// their permissions and audit (fhir/interaction), nor the content of other terminologies:
// nothing is known of LOINC, SNOMED CT or UCUM but the codes that a resource lists.
//
// # What is held
//
// Of R4's own code systems, the server knows the codes that the value sets with required
// bindings have, and neither displays nor hierarchies. Of a resource in the store, it knows
// everything. Resources with the same URL are versions; without a version, the newest
// counts. A resource in the store hides the value set of R4 with its URL.
//
// The index is kept in memory, and a watcher marks what a commit has changed. It is read
// again at the next question. So an answer is never older than the last commit that the
// process shows.
//
// # What a value set may say
//
// Includes and excludes with lists of codes, whole code systems, other value sets, and the
// filters is-a, descendent-of, is-not-a and generalizes of concepts, and =, in, not-in,
// exists and regex of properties. A list of codes may be of any code system. Everything
// else needs the code system to be held. A question that cannot be decided is an error with
// the issue code not-supported and the reason; it never has a guess as its answer. A code
// system with the content fragment counts as far as it goes.
//
// # Limits
//
// An expansion has at most MaxCodes codes, value sets import each other to a depth of at
// most 16, and all concepts in the index are at most two million; a resource beyond is not
// known.
//
// A caller who may ask about a value set may learn what the resources that it uses contain,
// because terminology is not health data. The caller of this package checks the permission
// for the resource that is named.
package terminology
