package rows

import (
	"encoding/binary"

	"github.com/cockroachdb/pebble/v2"
	"golang.org/x/mod/sumdb/tlog"

	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore/internal/fault"
	"pulsegate/fhir/store/pebblestore/internal/keys"
)

// Log reads single leaves and hashes from M rows, which each hold those of one
// batch.
type Log struct{ it *pebble.Iterator }

// OpenLog returns a Log that reads from r. The caller closes it.
func OpenLog(r pebble.Reader) (*Log, error) {
	it, err := r.NewIter(&pebble.IterOptions{LowerBound: keys.LeavesKey(0),
		UpperBound: []byte{keys.TableLog, keys.LogHashes + 1}})
	if err != nil {
		return nil, err
	}
	return &Log{it: it}, nil
}

func (l *Log) Close() error { return l.it.Close() }

// row returns the row of type typ that begins at index i, or the last one before
// it.
func (l *Log) row(typ byte, i uint64) (first uint64, v []byte, err error) {
	if !l.it.SeekLT(keys.AppendUint64([]byte{keys.TableLog, typ}, i+1)) {
		return 0, nil, l.it.Error()
	}
	k := l.it.Key()
	if k[1] != typ {
		return 0, nil, nil
	}
	if len(k) != 10 {
		return 0, nil, fault.ErrRow
	}
	return binary.BigEndian.Uint64(k[2:]), l.it.Value(), nil
}

// Leaf returns leaf i, or nil if there is none.
func (l *Log) Leaf(i uint64) (store.Leaf, error) {
	first, v, err := l.row(keys.LogLeaves, i)
	if err != nil || v == nil {
		return nil, err
	}
	leaf, err := LeafIn(v, i-first)
	return append(store.Leaf(nil), leaf...), err
}

// LeafIn returns the n-th leaf of a row, or nil if the row has fewer.
func LeafIn(v []byte, n uint64) (leaf []byte, err error) {
	r := Reader{Bytes: v}
	for ; len(r.Bytes) > 0; n-- {
		leaf = r.Take(r.Uvarint())
		if r.Bad {
			return nil, fault.ErrRow
		}
		if n == 0 {
			return leaf, nil
		}
	}
	return nil, nil
}

// Hash returns the stored hash i, or nil if there is none. The bytes are valid
// until the next call.
func (l *Log) Hash(i int64) ([]byte, error) {
	first, v, err := l.row(keys.LogHashes, uint64(i))
	if err != nil || v == nil {
		return nil, err
	}
	if len(v)%tlog.HashSize != 0 {
		return nil, fault.ErrRow
	}
	n := (uint64(i) - first)
	if n >= uint64(len(v)/tlog.HashSize) {
		return nil, nil
	}
	return v[n*tlog.HashSize : (n+1)*tlog.HashSize], nil
}
