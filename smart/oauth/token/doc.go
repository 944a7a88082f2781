// Package token is the token endpoint: POST /oauth/token, with the grants
// client_credentials (SMART Backend Services), authorization_code and
// refresh_token.
//
// It owns: the request's form and its OAuth errors, the use-once rule of an
// assertion's jti, the access token and the id_token, and the audit of every
// issue and refusal. It does not own: how a client shows who it is
// (smart/client), codes and authorizations (smart/authz), proofs of
// possession (smart/proof/dpop), scopes (smart/scope), or what a token may do
// (smart/policy).
//
// A public client may send a refresh token and nothing else, as RFC 6749 6
// has it: the token says whose it is.
//
// Requests are limited, all of them loosely and failing ones hard, by address
// and by the client that they claim to be from (429, Retry-After). Refusals
// are recorded up to a rate; beyond it they are counted
// (pulsegate.token.requests, outcome "unrecorded") and logged.
//
// An access token is a JWT (ES256, typ at+jwt, RFC 9068): iss, sub and
// client_id, aud (the FHIR base), scope, jti, iat, exp, and cnf when it is
// bound to a key. A backend's lives at most 5 minutes. That of a person carries
// besides authz (the authorization), patient, encounter, fhirUser, acr and
// auth_time.
//
// # State
//
//	jti/<client id>/<SHA-256 of jti, base64url>   exp, Unix seconds
//	jti/~high-water                               latest time seen, Unix seconds
//
// The jti, the AuditEvent and its leaf are one commit: a token that was given
// out is on record, and its assertion is spent, also after a crash.
//
// Assertions and codes are held against the later of the clock and the
// high-water mark, so that a clock that jumps back cannot reopen what has
// expired. Only a request that has shown who it is from moves the mark. If the
// clock once ran ahead, the mark is lowered to at most six minutes (the life of
// an assertion, and the skew) beyond the clock, so that tokens are issued again
// after that time at the latest; the log and the trail say so, and `pulsegate
// clock reset` ends the wait. A jti is kept a day longer than its assertion
// lives: a clock that is set back by more than that reopens assertions of the
// time in between.
package token
