// Package scope reads SMART scopes and compiles them into access rules.
//
// It owns: the syntax of SMART v1 (patient/Observation.read) and v2
// (patient/Observation.rs?category=…) scopes at the three levels, the scopes
// for launch context and identity (launch/patient, openid, …), the intersection of what a
// client asks for with what it is registered for, and the written form that
// goes into a token. It is pure.
//
// It does not own: which scopes a client is registered for (smart/client), or
// the decision on a resource (fhir/access).
//
// A granular scope may name token parameters only; its parameters are ANDed,
// comma-separated values ORed, as in a search. What a level means (whose data)
// is compiled by smart/policy.
//
// Source: SMART App Launch 2.2, "Scopes and Launch Context"; RFC 6749 3.3.
package scope
