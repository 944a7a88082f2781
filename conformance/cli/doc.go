// Package cli uses the command line as an operator types it, against a running
// binary: tables, next steps of errors, and which server a command means.
package cli
