// Package authz stores the authorizations that people give to apps: the
// authorization codes, which are valid for a minute, and the authorizations
// with their refresh tokens, which are valid for months.
//
// It owns the records of codes and authorizations and the rules for their use.
// A code works once. A refresh token works once, with a short grace period for
// an identical retry. A second use of either ends the authorization with all
// its tokens. It does not own the person's decision (smart/oauth/authorize),
// the authentication of clients and the token response (smart/oauth/token), or
// the rights of a token (smart/policy).
//
// The package keeps no state in memory. Secrets are stored as SHA-256 hashes.
// They are long and random, so a slow hash would add no security.
package authz
