// Package user stores the people who may sign in: their roles, the Patient or
// Practitioner resource that they are, their authenticators, and the one-time
// links that invite them.
//
// It does not own: the permissions of a role (smart/people/role), the
// verification of an authenticator (smart/people/authn), or sessions
// (smart/people/session).
//
// No account exists until the operator creates one. A new user has no
// authenticator and can only redeem a one-time link, so no password is ever
// handed over.
//
// # State
//
//	user/<id>                          User, JSON
//	user-login/<SHA-256 of login>      id
//	user-external/<SHA-256 of iss,sub> id
//	user-invite/<SHA-256 of token>     Invite, JSON
//
// Every change is a compare-and-swap StateWrite for the caller's own batch, so
// that the change and its AuditEvent are one commit. The secrets of links and
// recovery codes are stored as SHA-256 hashes; they are long and random, so a
// slow hash would add nothing. A TOTP secret is sealed (smart/people/authn).
//
// Epoch counts the changes that end sessions: roles, links, authenticators, and
// disabling. A session of an earlier epoch ends at its next request. Access
// counts the changes that also end the authorizations of apps: roles, links,
// disabling, a reset of the sign-in, and a request of the person. An
// authorization, code or launch of an earlier count is invalid.
package user
