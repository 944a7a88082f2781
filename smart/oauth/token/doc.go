// Package token implements the token endpoint, POST /oauth/token, with the
// grant types client_credentials (SMART Backend Services), authorization_code
// and refresh_token.
//
// It owns the form of a request and its OAuth errors, the rule that the jti of
// an assertion works once, the access token and the id_token, and the audit of
// every token issued or refused. It does not own the authentication of clients
// (smart/client), codes and authorizations (smart/authz), proofs of possession
// (smart/proof/dpop), scopes (smart/scope), or what a token may do
// (smart/policy).
//
// A request passes through the phases of Endpoint.serve and ends as an outcome.
// Each grant type has a file.
//
// A public client may send a refresh token without a client_id (RFC 6749 6);
// the client is then that of the token.
//
// Requests are limited, failing requests more strictly, by client address and
// by the client that they claim to come from (429, Retry-After). Refusals are
// recorded up to a rate. Above it they are counted (pulsegate.token.requests,
// outcome "unrecorded") and logged.
//
// An access token is a JWT (ES256, typ at+jwt, RFC 9068) with iss, sub and
// client_id, aud (the FHIR base URL), scope, jti, iat, exp, and cnf if it is
// bound to a key. A backend's token lives at most 5 minutes. A person's token
// also has authz (the authorization), patient, encounter, fhirUser, acr and
// auth_time.
//
// # State
//
//	jti/<client id>/<SHA-256 of jti, base64url>   exp, Unix seconds
//	jti/~high-water                               latest time seen, Unix seconds
//
// The jti, the AuditEvent and its leaf are written in one commit before the
// token is returned. After a crash, a token that was returned is on record and
// its assertion is used up.
//
// Assertions and codes are compared with the later of the clock and the
// high-water mark, so that a clock that jumps back cannot make expired ones
// valid again. Only an authenticated request moves the mark. If the clock once
// ran ahead, the mark is lowered to at most six minutes (the lifetime of an
// assertion plus the skew) beyond the clock, so that tokens are issued again
// after that time at the latest. The log and the trail record it, and
// `pulsegate clock reset` ends the wait. A jti is kept for a day after its
// assertion expires: if the clock is set back by more than that, assertions of
// the time in between become valid again.
package token
