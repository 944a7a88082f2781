//go:build pulsegate_nextschema

package pebblestore

import (
	"bytes"
	"strconv"

	"github.com/cockroachdb/pebble/v2"
)

// RowSchema is the schema of a later version of the program, for tests of upgrades. No
// released program is built with it.
const RowSchema = 5

// markKey is the key of a row that only entries of schema 5 have. A program that reads
// schema 4 takes an entry with it for malformed.
var markKey = []byte("Nmark") // read only

// mark adds a row to the entries of schema 5.
func mark(b *pebble.Batch, schema uint32) error {
	if schema < 5 {
		return nil
	}
	return b.Set(markKey, []byte(strconv.FormatUint(uint64(schema), 10)), nil)
}

// isMark reports whether a key is one of a row that mark writes.
func isMark(key []byte) bool { return bytes.Equal(key, markKey) }
