// Package fhir defines the types that all packages of Pulsegate share: the resource,
// the reference and the error.
//
// It owns: Resource, Ref, Error and its kinds, Issue, and the insertion of version
// and time into a resource's bytes (Stamp).
//
// It does not own: parsing and validation (fhir/r4), search (fhir/search), storage
// (fhir/store) or access decisions (fhir/access). It imports none of them.
package fhir
