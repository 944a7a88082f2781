// Package keys manages the server's signing keys and publishes the public keys.
//
// It owns: the key ring in DIR/keys/<kid>.jwk (mode 0600, created at the first
// start; kid is the RFC 7638 thumbprint), the rotation every 30 days by Run,
// GET /.well-known/jwks.json, and GET /.well-known/client-jwks.json. It does not own
// the keys of clients (smart/client).
//
// Access tokens are signed with ES256, id_tokens with RS256, and with ES384 the
// assertions by which this server authenticates as a client of other servers. A new
// key is published for Lead before it signs, or for a day if it signs assertions.
// The previous key verifies for an overlap after that. The file of a private key has additional members: "created",
// "begins" if the key does not sign from its creation on, "retires" once it is
// replaced (Unix seconds), and "for" if it signs assertions.
package keys
