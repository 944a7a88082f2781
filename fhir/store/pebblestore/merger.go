package pebblestore

import (
	"io"

	"github.com/cockroachdb/pebble/v2"
)

// setBits merges what is written to one row of table W: a bit that is set in one
// value is set in the row. No other table has merged rows. Pebble stores the name
// with the store and refuses to open it with a merger of another name.
var setBits = &pebble.Merger{
	Name: "pulsegate.setbits",
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
