// Package search implements FHIR search without a store: the registry of search
// parameters (generated from HL7's R4 definitions), the query parser, the
// extraction of index values from resources, and the matching of values against
// clauses. It uses no clock, no I/O and no store. A store driver chooses an index
// for one clause and checks the others with Match or, for many resources, with a
// Matcher.
//
// The measurements of a device have the same text except for a few leaves; the
// rest is their Template. A Matcher parses the first resource with a template. For
// the others it compares the text between the slots and reads only the leaves
// that a clause depends on.
//
// The semantics follow https://hl7.org/fhir/R4/search.html. Where the
// specification leaves a choice, the function that makes it says so.
package search
