// Package clients runs SMART and FHIR clients that others wrote, unmodified,
// against the binary: fhirclient in a real browser on an origin of its own,
// and fhir-kit-client in node. It holds tests only.
//
// The server is `serve --demo`, the people sign in with a passkey on its own
// pages, and the apps in testdata use of the libraries what their
// documentation says, and nothing beside them.
package clients
