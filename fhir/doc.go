// Package fhir is the vocabulary of Pulsegate: the resource as every other
// package passes it on, the reference, and the one error type.
//
// It owns: Resource, Ref, Error and its kinds, Issue, and the stamping of
// version facts into a resource's bytes (Stamp).
//
// It does not own: parsing or validation (fhir/r4), search (fhir/search),
// storage (fhir/store), or who may (fhir/access). It imports none of them.
package fhir
