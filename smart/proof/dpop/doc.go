// Package dpop verifies proofs of possession: a DPoP header (RFC 9449) and the
// certificate of a TLS client (RFC 8705).
//
// It owns: the check of a proof, its use-once rule, and whether a token's cnf
// is met by a request; also the certificate that a proxy in front hands on
// (RFC 9440). It does not own: which clients must bind their tokens
// (smart/client) or the tokens (smart/oauth/token, smart/policy).
//
// # State
//
//	dpop/<thumbprint>/<SHA-256 of jti, base64url>   exp, Unix seconds
//	dpop-nonce/key                                  32 bytes that nonces are made with
//
// A proof is good from MaxAge before now to Skew after; its jti is kept
// longer than that, so it is used once also across a restart and a clock that
// goes back a little. At the token endpoint it is in the commit that issues
// the token; at the resource server a commit of its own, before anything is
// answered.
package dpop
