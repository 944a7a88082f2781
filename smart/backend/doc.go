// Package backend authenticates this server as a client of another one, according
// to SMART Backend Services.
//
// It owns: the discovery of the token endpoint at
// [FHIR base]/.well-known/smart-configuration, the client assertion, the token
// request, and a cache of one access token per Client.
//
// It does not own: the signing keys and their JWK Set (smart/proof/keys), the policy
// for outgoing connections (fhir/egress), or retries. A failed request is reported
// to the caller, who decides when to try again.
//
// # What a hostile server can do
//
// A FHIR server that names another server's token endpoint would get that server's
// token with the next request (mix-up). So the discovered endpoint must have the
// scheme and host of the FHIR base; one elsewhere must be configured. The audience
// of an assertion is the URL that it is sent to, and an assertion is used once.
// Answers are limited to 64 KiB, and redirects are not followed. Errors contain
// neither tokens nor assertions, and of the answers only error codes of RFC 6749.
//
// Sources: SMART App Launch 2.2, "Backend Services" and "Client Authentication:
// Asymmetric"; RFC 6749 4.4 and 5; RFC 7523.
package backend
