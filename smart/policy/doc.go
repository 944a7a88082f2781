// Package policy turns an access token into what it may do.
//
// It owns: the check of an access token, of this server and of configured
// outside issuers, and the making of the access.Grant from its scopes, its
// launch context, the person's roles and the consents. It does not own: the
// token's making (smart/oauth/token), scopes (smart/scope), what a role may do (its
// table is given), consents (fhir/consent), or the application of the Grant
// (fhir/access and whoever reads the store).
//
// A token is read from the Authorization header only (RFC 6750 2.1), as Bearer
// or, when it is bound to a key, as DPoP with a proof. That its client is
// still registered and enabled, that it was not revoked, that the person still
// allows it and which roles the person has now is asked at every request; the
// signature is checked once for each token. A long answer asks the same again
// as it goes, through its Grant (access.Grant.Still).
//
// An export, and taking a Device out of use, back or away, ask a person for a
// passkey shown within five minutes: 401 insufficient_user_authentication with
// acr_values and max_age (RFC 9470), which an app hands on to the
// authorization endpoint. The token's acr and auth_time are those of the
// sign-in that it goes back to.
package policy
