// Package clients tests the binary with unmodified third-party SMART and FHIR clients:
// fhirclient in a real browser on a separate origin, and fhirclient, fhir-kit-client and
// @medplum/core in node. It also sends the requests of smart-on-fhir/bulk-data-client,
// which is no package of npm. README.md lists what was found.
//
// The server is `serve --demo`, people sign in with passkeys on its pages, and the
// programs in testdata use only the documented functions of the libraries.
package clients
