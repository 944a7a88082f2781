// Package r4 validates untrusted FHIR R4 (4.0.1) JSON, and renders
// OperationOutcomes and the subsets of _summary and _elements.
//
// It owns the limits on untrusted JSON, the server's rules for resources
// (Validator), the parsing of batch and transaction Bundles, OutcomeJSON and
// Subset. The rules of R4 itself are in fhir/validate, the definitions in
// fhir/definitions.
//
// It does not own access control, references between stored resources, or the
// Bundles of search results.
//
// # What is beyond R4
//
// A resource must be of a type that the server stores and must have the id of the
// request. Modifier extensions and implicitRules are refused, because the server
// does not know what they mean. Elements that have only an id are accepted although
// ele-1 forbids them, because HealthKitOnFHIR sends such identifiers. Narrative is parsed as XML and compared with the
// lists of invariant txt-1.
//
// Up to 20 issues of a body are returned together, each with its FHIRPath and its
// line and column in the body. They never quote the input: an issue has a path made
// of R4 element names and a rule from a fixed set.
package r4
