// Package guide holds Pulsegate's own FHIR implementation guide: the profiles, extensions,
// value sets, code systems and operations that this project defines, and the package in
// which developers load them.
//
// It owns the files in resources, one per resource, named Type-id.json. It does not own
// the CodeSystems and ConceptMaps of the metric table, which depend on the packs of an
// installation (mapping/terminology), nor topics (fhir/subscription/topic), nor
// validation (fhir/validate).
//
// The canonical URL of every resource is fhir.Canonical, its type and its id. The
// snapshots of StructureDefinitions are generated from their differentials and from
// HL7's StructureDefinitions of R4 (CC0):
//
//	go generate ./fhir/guide
package guide
