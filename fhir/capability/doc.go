// Package capability derives the CapabilityStatement from the resource types
// (fhir.Types), the search parameters (fhir/search), and the operations and endpoints
// in its settings. Nothing is maintained by hand per type, so the statement cannot
// contain what the server does not support.
package capability
