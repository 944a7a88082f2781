// Package protocol contains the tests of the authorization server as a whole:
// all endpoints over HTTP, with the embedded store and a clock that the tests
// set. It contains no other code.
package protocol
