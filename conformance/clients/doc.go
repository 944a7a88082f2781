// Package clients tests the binary with unmodified third-party SMART and FHIR clients:
// fhirclient in a real browser on a separate origin, and fhir-kit-client in node.
//
// The server is `serve --demo`, people sign in with passkeys on its pages, and the apps
// in testdata use only the documented functions of the libraries.
package clients
