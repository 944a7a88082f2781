// Package token is the token endpoint: POST /oauth/token, with the grants
// client_credentials (SMART Backend Services), authorization_code and
// refresh_token.
//
// It owns: the request's form and its OAuth errors, the use-once rule of an
// assertion's jti, the access token and the id_token, and the audit of every
// issue and refusal. It does not own: how a client shows who it is
// (smart/client), codes and authorizations (smart/grant), proofs of
// possession (smart/dpop), scopes (smart/scope), or what a token may do
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
// out is on record, and its assertion is spent, also after a crash. The time
// that assertions are held against never goes back: it is the later of the
// clock and the high-water mark, so a clock that jumps back cannot reopen an
// assertion whose jti has been dropped. For the same reason a jti is kept an
// hour longer than the assertion lives. If the clock once ran far ahead, no
// token is issued until it has caught up; the log says so.
package token
