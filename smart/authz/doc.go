// Package authz is what a person allowed an app: the authorization, from the
// code that stands for it for a minute to the refresh tokens that renew it for
// months.
//
// It owns: the records of codes and authorizations, and the rules of their
// use: a code once, a refresh token once with a short grace for an identical
// retry, the end of the whole family when either is used again. It does not
// own: how a person decides (smart/oauth/authorize), how a client proves who it is
// and what an answer looks like (smart/oauth/token), or what a token may do
// (smart/policy).
//
// Nothing here is held in memory. Secrets are stored as SHA-256; they are
// random and long, so a slow hash would add nothing.
package authz
