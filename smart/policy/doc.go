// Package policy authenticates API requests: it compiles an access token into
// an access.Grant.
//
// It owns the validation of access tokens, of this server and of configured
// external issuers, and the compilation of a Grant from the token's scopes, its
// launch context, the person's roles and the consents. It does not own the
// issuing of tokens (smart/oauth/token), scopes (smart/scope), the table of
// rules per role (given as a function), consents (fhir/consent), or the
// enforcement of the Grant (fhir/access and the readers of the store).
//
// A token is read from the Authorization header only (RFC 6750 2.1), as Bearer
// or, if it is bound to a key, as DPoP with a proof. The signature is verified
// once per token. Every request checks again that the client is still
// registered and enabled, that the token was not revoked, that the person's
// authorization is still valid, and which roles the person has now. A long
// response repeats these checks while it is written (access.Grant.Recheck).
//
// A person's export, and a change of a Device's status or its deletion, require
// that the person used a passkey within the last five minutes. Otherwise the
// response is 401 insufficient_user_authentication with acr_values and max_age
// (RFC 9470), which the app passes on to the authorization endpoint. The acr
// and auth_time of a token are those of the sign-in that it originates from.
package policy
