// Package user owns the people who may sign in: who they are, which roles and
// which Patient or Practitioner they are, what they authenticate with, and the
// one-time links by which they first come in.
//
// It does not own: what a role may do (smart/people/role), the proof of an
// authenticator (smart/people/authn), sessions (smart/people/session).
//
// No account exists until the operator makes one, and none has a password
// until its owner sets one: a user is made without any authenticator and can
// do nothing but redeem a link.
//
// # State
//
//	user/<id>                          User, JSON
//	user-login/<SHA-256 of login>      id
//	user-external/<SHA-256 of iss,sub> id
//	user-invite/<SHA-256 of token>     Invite, JSON
//
// Every change is a StateWrite with compare-and-swap for the caller's own
// batch, so that it is one commit with its AuditEvent. The secret of a link or
// of a recovery code is kept as its hash only; they are long and random, so a
// plain hash is enough. A TOTP secret is sealed (smart/people/authn).
//
// Epoch counts what ends sessions: a change of roles, links or authenticators,
// and disabling. A session of an older epoch is over at its next request.
// Access counts what also ends the authorizations of apps: a change of roles or
// links, disabling, a link to begin anew, and the person's own wish. An
// authorization, a code or a launch of an older count is dead.
package user
