// Package scope parses SMART scopes and compiles them into access rules.
//
// It owns: the syntax of SMART v1 (patient/Observation.read) and v2
// (patient/Observation.rs?category=…) scopes at the three levels, the scopes
// for launch context and identity (launch/patient, openid, …), the intersection
// of the scopes that a client requests with those that it is registered for,
// and the string that goes into a token. It is pure.
//
// It does not own: the registered scopes of a client (smart/client), or the
// decision on a resource (fhir/access).
//
// A granular scope may use token parameters only. Its parameters are combined
// with AND, comma-separated values with OR, as in a search. smart/policy
// compiles the meaning of a level, that is, the patients it covers.
//
// Source: SMART App Launch 2.2, "Scopes and Launch Context"; RFC 6749 3.3.
package scope
