// Package enforce compares the access control of every surface of the FHIR API with a
// simple model. Tokens, roles, consents and data are random. The sets of visible ids are
// compared exactly, so that nothing is disclosed or missing.
//
// The model interprets scopes, roles and consents as text and shares no code with the
// server. It asks the server, as the operator, what a search matches when everything is
// visible. Whether searches match correctly is tested elsewhere (fhir/search,
// fhir/store/storetest, conformance/oracle).
//
// Every answer, those to writes included, is also compared with the audit trail: each
// resource of which the answer discloses the content or existence must be named in an
// event of the request, in the compartment of its patient, and no event in the
// compartment of a patient may name resources of another.
//
// What is sent to the endpoints and sockets of Subscriptions, also again by $resend, what is
// sent to targets (fhir/push), the preferred values (mapping/preferred) and the writes of
// phone-made Observations are compared with the same model.
//
// Controls check that servers with a single fault are detected.
//
//	go test ./conformance/enforce -v                    20 cases, and how often each surface was checked
//	go test ./conformance/enforce -rapid.checks=5000    longer
//
// A failure prints the seed and the case.
package enforce
