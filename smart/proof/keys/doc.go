// Package keys manages the server's signing keys and publishes the public keys.
//
// It owns: the key ring, which a single server keeps in DIR/keys/<kid>.jwk (mode 0600,
// created at the first start; kid is the RFC 7638 thumbprint) and a cluster in the
// secret "signing-keys" of its vault (package fhir/cluster/sealed); the rotation every
// 30 days by Run, GET /.well-known/jwks.json, and GET /.well-known/client-jwks.json. It
// does not own the keys of clients (smart/client).
//
// Access tokens are signed with ES256, id_tokens with RS256, and with ES384 the
// assertions by which this server authenticates as a client of other servers. A new key
// is published for Lead before it signs, or for a day if it signs assertions. The
// previous key verifies for an overlap after that. A private key is stored as a JWK with
// additional members: "created", "begins" if the key does not sign from its creation on,
// "retires" once it is replaced (Unix seconds), and "for" if it signs assertions.
//
// In a cluster, the process with the role "keys" rotates. Every use of the ring looks
// whether the stored keys have changed, so that a token verifies at every process as
// soon as one process has signed it, and every process publishes the same keys.
package keys
