// Package egress is the only door by which the server itself calls out:
// subscription endpoints and JWKS URLs, both of which are named by others.
//
// It owns: which addresses may be dialled, and the bounds of an exchange. The
// check happens when the connection is made, on the address that the name
// resolved to, so a name that changes its answer after it was checked
// (rebinding) gains nothing. A policy refuses every address that is not
// global unicast: private, loopback, link-local (with the cloud metadata
// services), carrier-grade NAT, multicast, documentation and benchmark
// ranges, and IPv6 forms that carry an IPv4 address inside; the operator may
// allow single private ranges. Only https is spoken, except http to an
// allowed private range when the policy says so. Redirects are not followed,
// proxy variables are not read, credentials in URLs are refused, and every
// exchange has a time limit and a limit on the size of the answer.
//
// It does not own: what is sent, retries, and authentication of the peer
// beyond TLS.
package egress
