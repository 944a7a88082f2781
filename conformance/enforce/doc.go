// Package enforce holds every surface of the FHIR API to one slow interpreter
// of who may see what: random tokens, roles, consents and data; sets of ids
// compared exactly, so that nothing leaks and nothing is lost.
//
// The interpreter reads scopes, roles and consents as text and shares no code
// with what it checks. What a search would match if everything were visible is
// asked of the operator; that searches match what they should is held
// elsewhere (fhir/search, fhir/store/storetest, conformance/oracle).
//
// Every answer of every surface, writes included, is also held to the trail:
// each resource whose content or existence it tells is named in an event of
// that request, in the compartment of its patient, and no event of a patient
// names what is another's.
//
// Controls: servers that are wrong in one place each must be found.
//
//	go test ./conformance/enforce                       40 cases
//	go test ./conformance/enforce -rapid.checks=5000    longer
//
// A failure prints the seed and the case.
package enforce
