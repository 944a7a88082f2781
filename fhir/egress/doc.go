// Package egress makes all outgoing requests of the server: to subscription
// endpoints and JWKS URLs, which clients specify.
//
// It owns the policy for addresses and the limits of an exchange. It checks the
// resolved address when it connects, so that DNS rebinding has no effect. A policy
// refuses all addresses that are not global unicast: private, loopback, link-local
// (including cloud metadata services), carrier-grade NAT, multicast, documentation
// and benchmark ranges, and IPv6 addresses that embed an IPv4 address. Operators
// may allow private ranges. Only https is allowed, and http to an allowed private
// range if the policy permits it. Redirects are not followed, proxy variables are
// ignored, credentials in URLs are refused, and every exchange has a timeout and a
// limit on the size of the response.
//
// It does not own the content of requests, retries, or authentication of the peer
// beyond TLS.
package egress
