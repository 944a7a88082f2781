// Package cli tests the command line of a running binary: tables, the next steps of
// errors, and the choice of the server.
package cli
