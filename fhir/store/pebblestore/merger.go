package pebblestore

import (
	"io"

	"github.com/cockroachdb/pebble/v2"
)

// setBits merges what is written to one row of table W: a bit that is set in one
// value is set in the row. No other table has merged rows. The name is that of
// Pebble's own merger: Pebble compares it with the one a store was made with,
// and stores from before have none of their own.
var setBits = &pebble.Merger{
	Name: pebble.DefaultMerger.Name,
	Merge: func(_, value []byte) (pebble.ValueMerger, error) {
		return mergedBits(append([]byte(nil), value...)), nil
	},
}

// mergedBits implements pebble.ValueMerger. It never fails, since an error
// would end the compaction; decodeDayBits refuses a row of another length.
type mergedBits []byte

func (m mergedBits) MergeNewer(value []byte) error { m.or(value); return nil }
func (m mergedBits) MergeOlder(value []byte) error { m.or(value); return nil }

func (m mergedBits) or(value []byte) {
	for i := range min(len(m), len(value)) {
		m[i] |= value[i]
	}
}

// Finish implements pebble.ValueMerger.
func (m mergedBits) Finish(bool) ([]byte, io.Closer, error) { return m, nil, nil }
