// Package blackbox drives a pulsegate binary: it starts the process, runs the
// commands of the operator, and sends SMART Backend Services and FHIR requests over
// HTTP. The conformance programs use it. It imports no package of the server.
package blackbox
