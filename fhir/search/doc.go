// Package search is FHIR search without a store: the parameter registry
// (generated from HL7's R4 definitions), the query parser, the extraction of
// index values from a resource's bytes, and the matching of values against
// clauses. It is pure: no clock, no I/O, no store. A store driver plans with
// it: it chooses an index for one clause and checks the others with Match, or,
// where there are many resources, with a Matcher.
//
// What a device measures is one text but for a few leaves (a Shape). A Matcher
// parses the first resource of a shape; of the others it compares the bytes
// between the leaves and reads the leaves that a clause asks for.
//
// Semantics are those of https://hl7.org/fhir/R4/search.html; where that text
// leaves a choice, the choice is written at the function.
package search
