//go:build !pulsegate_nextschema

package pebblestore

import "github.com/cockroachdb/pebble/v2"

// RowSchema is the newest encoding of rows that this program reads and writes. Tests build
// a program with a newer one by the tag pulsegate_nextschema.
const RowSchema = 5

// mark adds the rows to a batch in which a newer encoding differs.
func mark(*pebble.Batch, uint32) error { return nil }

// isMark reports whether a key is one of a row that mark writes.
func isMark([]byte) bool { return false }
