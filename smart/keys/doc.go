// Package keys holds the server's own signing keys and publishes their public
// parts.
//
// It owns: the ring of ES384 keys in DIR/keys/<kid>.jwk (mode 0600, made on
// first start, kid is the RFC 7638 thumbprint), rotation every 30 days by Run,
// with an overlap in which old tokens still verify, and GET /.well-known/jwks.json. It does not
// own the keys of clients (smart/client).
//
// Access tokens are signed with ES384 only. A private JWK file carries two
// members of ours: "created" and, once replaced, "retires" (Unix seconds).
package keys
