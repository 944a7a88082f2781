// Package r4 validates untrusted FHIR R4 (4.0.1) JSON, and renders
// OperationOutcomes and the subsets of _summary and _elements.
//
// It owns the limits on untrusted JSON, validation (Validator), the parsing of
// batch and transaction Bundles, OutcomeJSON and Subset. It is the only user of
// google/fhir.
//
// It does not own access control, references between stored resources, or the
// Bundles of search results.
//
// # What google/fhir costs
//
// Validating a 640-byte Observation takes 150 to 180 us and about 650
// allocations. The package adds about 24 MB to the stripped binary, 32 MB to the
// resident memory and 45 ms to the start. So google/fhir is used only where it is
// needed: not to read, serve or export resources, and not for resources that the
// server builds itself. Its output is never stored, because it changes the
// precision and offset of times.
//
// # The precheck
//
// Input is first checked against structures compiled from the descriptors that
// google/fhir validates with (names, cardinalities, required elements, choices,
// closed codes, targets of references, primitive types) and against the
// invariants of their types. This precheck takes a few microseconds and accepts
// only what is certainly valid. Everything else (invalid or unusual input, and
// what the structures do not cover, such as extensions of primitives and
// contained resources) goes through the full validation: the scan, google/fhir
// and the walk that checks types. So no refusal and no error text depends on the
// precheck, and two tests verify that the full validation accepts whatever the
// precheck accepts.
//
// # What is checked beyond google/fhir
//
// The invariants of data types and of the stored resource types are functions
// by type (invariants.go, vitalsigns.go). The precheck and the full validation
// both call them, and the checks of URIs, OIDs, UUIDs, language tags, media types
// and currencies (primitives.go). Rules that depend on the whole resource
// (contained resources, references, ids of elements, narrative) are in rules.go
// and always run. Narrative is parsed as XML and compared with the lists of
// invariant txt-1.
//
// Up to maxIssues issues of a body are returned together, each with its FHIRPath
// and its line and column in the body.
//
// google/fhir's error texts quote the input. They are not passed on: an issue has
// only a path made of R4 element names and a rule from a fixed set.
package r4
