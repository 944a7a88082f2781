// Package r4 is the door through which FHIR R4 (4.0.1) JSON from outside
// comes in, and the small forms in which answers go out: OperationOutcome,
// and the subsets of _summary and _elements.
//
// It owns: the limits on untrusted JSON, validation (Door), the reading of
// batch and transaction Bundles, OutcomeJSON, Subset. It is the only user of
// google/fhir.
//
// It does not own: who may write, references between stored resources, or the
// Bundles of search results.
//
// # What google/fhir costs
//
// A validated Unmarshal takes 150 to 180 us and about 650 allocations for a
// 640-byte Observation; the package adds about 24 MB to the stripped binary,
// 32 MB of resident memory and 45 ms to the start. So it is asked only where
// it is needed: never to read, serve or export, nor for resources that the
// server builds itself. Its output is never stored: it changes the precision
// and offset of times.
//
// # The first yes
//
// What comes from outside is first held against shapes compiled from the
// descriptors that google/fhir validates with (names, cardinalities, required
// elements, choices, closed codes, targets of references, forms of the
// primitive types), and against the invariants of their types. That costs some
// microseconds and knows one answer: surely right. Everything else (wrong,
// unusual, or a thing the shapes leave out, such as extensions of primitives
// and contained resources) takes the long way through the scan, google/fhir
// and the typed walk, which decide and say why. So no text of an error and no
// refusal depends on the short way, and two tests hold that its yes is always
// theirs.
//
// # What is checked beyond google/fhir
//
// Invariants of data types and of the served resource types are functions by
// type (invariants.go, vitals.go) that both ways call. The texts of URIs,
// OIDs, UUIDs, language tags, media types and currencies are in leaves.go.
// Rules that depend on the whole resource (contained resources, references,
// ids of elements, narrative) are in rules.go and run on both ways. Narrative
// is parsed as XML and compared with the lists of invariant txt-1.
//
// All issues of a body are returned at once, at most maxIssues, each with its
// FHIRPath and its line and column in the body.
//
// Its error texts quote the input. None of them is passed on: only a place
// made of R4 element names and one of a fixed set of rules.
package r4
