// Package client owns the registered backend clients and what proves that one
// is who it says: its public keys and its signed assertion.
//
// It owns: the registration in small state, room client/<id>; the JWK Set of
// a client, inline or by URL, with a cache that keeps to the client's
// Cache-Control; and the checks of an assertion that need no state. It does
// not own: the use-once rule of jti and the token (smart/oauth/token), or scopes
// (smart/scope).
//
// Keys: RSA of 2048 bits or more for RS384, P-384 for ES384; other keys in a
// set are passed over; a set with a private or a symmetric key is refused
// whole. The kid of an assertion must match exactly one key.
//
// Cache of a set by URL: max-age (less Age) or Expires, at most 5 minutes;
// no-store, no-cache or no statement at all means no caching. An unknown kid
// fetches once more, at most every 10 seconds. What is stale is never used,
// also when the URL cannot be reached.
//
// Sources: SMART App Launch 2.2, "Client Authentication: Asymmetric"; RFC
// 7523; RFC 7517; RFC 9111.
package client
