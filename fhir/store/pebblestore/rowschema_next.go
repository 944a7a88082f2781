//go:build pulsegate_nextschema

package pebblestore

import (
	"bytes"
	"strconv"

	"github.com/cockroachdb/pebble/v2"
)

// RowSchema is the schema of a later version of the program, for tests of upgrades. No
// released program is built with it.
const RowSchema = 6

// markKey is the key of a row that only entries of schema 6 have. A program that reads
// schema 5 takes an entry with it for malformed.
var markKey = []byte("Nmark") // read only

// mark adds a row to the entries of schema 6.
func mark(b *pebble.Batch, schema uint32) error {
	if schema < 6 {
		return nil
	}
	return b.Set(markKey, []byte(strconv.FormatUint(uint64(schema), 10)), nil)
}

// isMark reports whether a key is one of a row that mark writes.
func isMark(key []byte) bool { return bytes.Equal(key, markKey) }
