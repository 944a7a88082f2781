// Package keys holds the server's own signing keys and publishes their public
// parts.
//
// It owns: the ring of keys in DIR/keys/<kid>.jwk (mode 0600, made on first
// start, kid is the RFC 7638 thumbprint), their rotation every 30 days by Run,
// and GET /.well-known/jwks.json. It does not own the keys of clients
// (smart/client).
//
// Access tokens are signed with ES256, id_tokens with RS256. A new key is
// published before it signs (Lead), and the one before it verifies for an
// overlap after that. A private JWK file carries members of ours: "created",
// "begins" when it does not sign from the start and, once replaced, "retires"
// (Unix seconds).
package keys
