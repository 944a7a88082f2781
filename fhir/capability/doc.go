// Package capability derives the CapabilityStatement from what is registered:
// the resource types (fhir.Types), the search parameters (fhir/search) and
// the operations and endpoints it is told of. Nothing in it is kept by hand
// per type, so it cannot promise what is not there.
package capability
