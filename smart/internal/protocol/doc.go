// Package protocol holds the tests of the authorization server as a whole:
// every endpoint over real HTTP, on the embedded store, with a clock of its
// own. It has no code beside them.
package protocol
