// Package client stores the registered clients and authenticates them, by
// secret or by signed assertion.
//
// It owns: the registrations, in small state at client/<id>; the JWK Set of a
// client, inline or by URL, with a cache that respects the client's
// Cache-Control; and the checks of an assertion that need no state. It does not
// own: the single use of a jti and the tokens (smart/oauth/token), or the
// syntax of scopes (smart/scope).
//
// RSA keys of at least 2048 bits sign with RS384, P-384 keys with ES384. Other
// keys of a set are ignored. A set with a private or symmetric key is refused
// as a whole. The kid of an assertion must match exactly one key.
//
// A set by URL is cached for its max-age (less Age) or until Expires, for at
// most 5 minutes. With no-store, no-cache or no such header it is not cached.
// An unknown kid causes one more fetch, at most every 10 seconds. A stale set
// is never used, even if the URL cannot be reached.
//
// Sources: SMART App Launch 2.2, "Client Authentication: Asymmetric"; RFC 7523;
// RFC 7517; RFC 9111.
package client
