// Package blackbox drives a pulsegate binary from outside: it starts the
// process, runs operator commands, and speaks SMART Backend Services and FHIR
// to it over HTTP. The smoke run, the kill harness and the benches stand on
// it. It imports nothing of the server.
package blackbox
