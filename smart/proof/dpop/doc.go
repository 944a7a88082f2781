// Package dpop verifies proofs of possession: DPoP headers (RFC 9449) and the
// certificates of TLS clients (RFC 8705).
//
// It owns: the verification of a proof, its single use, the comparison of a
// token's cnf claim with a request, and the certificate that a reverse proxy
// forwards (RFC 9440). It does not own: which clients must bind their tokens
// (smart/client), or the tokens (smart/oauth/token, smart/policy).
//
// # State
//
//	dpop/<thumbprint>/<SHA-256 of jti, base64url>   expiration, Unix seconds
//	dpop-nonce/key                                  32-byte key of the nonces
//
// A proof is valid from maxAge before now until skew after it. Its jti is
// stored longer than that, so that it is used only once even across a restart
// or a small step back of the clock. At the token endpoint the jti is part of
// the commit that issues the token. At the resource server it is committed
// separately, before the response.
package dpop
