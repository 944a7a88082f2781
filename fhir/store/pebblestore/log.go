package pebblestore

import (
	"encoding/binary"

	"github.com/cockroachdb/pebble/v2"
	"golang.org/x/mod/sumdb/tlog"

	"pulsegate/fhir/store"
)

// putLeaves appends to the log: one row of leaves and one of hashes. The hashes
// it needs are those on the right edge of the tree, which the committer keeps;
// after a start they are read.
func (s *stage) putLeaves(ls []store.Leaf) error {
	if len(ls) == 0 {
		return nil
	}
	first := s.meta.leaves
	var leaves []byte
	hashes := make([]byte, 0, 2*tlog.HashSize*(len(ls)+8))
	for _, l := range ls {
		hs, err := tlog.StoredHashes(int64(s.meta.leaves), l, tlog.HashReaderFunc(s.edge))
		if err != nil {
			return err
		}
		leaves = append(binary.AppendUvarint(leaves, uint64(len(l))), l...)
		for level, h := range hs {
			s.d.edge[level] = h
			hashes = append(hashes, h[:]...)
		}
		s.meta.leaves++
	}
	if err := s.batch.Set(leavesKey(first), leaves, nil); err != nil {
		return err
	}
	return s.batch.Set(hashesKey(tlog.StoredHashIndex(0, int64(first))), hashes, nil)
}

// edge reads hashes of the right edge.
func (s *stage) edge(indexes []int64) (out []tlog.Hash, err error) {
	out = make([]tlog.Hash, len(indexes))
	var rows *logRows
	defer func() {
		if rows != nil {
			closing(rows, &err)
		}
	}()
	for i, x := range indexes {
		level, _ := tlog.SplitStoredHashIndex(x)
		if h, ok := s.d.edge[level]; ok {
			out[i] = h
			continue
		}
		if rows == nil {
			if rows, err = openLog(s.d.pdb); err != nil {
				return nil, err
			}
		}
		v, err := rows.hash(x)
		if err != nil {
			return nil, err
		}
		if len(v) != tlog.HashSize {
			return nil, errRow
		}
		copy(out[i][:], v)
	}
	return out, nil
}

// logRows reads single leaves and hashes out of the rows of whole batches.
type logRows struct{ it *pebble.Iterator }

func openLog(r pebble.Reader) (*logRows, error) {
	it, err := r.NewIter(&pebble.IterOptions{LowerBound: leavesKey(0), UpperBound: []byte{tabLog, logHashes + 1}})
	if err != nil {
		return nil, err
	}
	return &logRows{it: it}, nil
}

func (l *logRows) Close() error { return l.it.Close() }

// row is the row of a kind that begins at index i or nearest before it.
func (l *logRows) row(kind byte, i uint64) (first uint64, v []byte, err error) {
	if !l.it.SeekLT(appendU64([]byte{tabLog, kind}, i+1)) {
		return 0, nil, l.it.Error()
	}
	k := l.it.Key()
	if k[1] != kind {
		return 0, nil, nil
	}
	if len(k) != 10 {
		return 0, nil, errRow
	}
	return binary.BigEndian.Uint64(k[2:]), l.it.Value(), nil
}

// leaf is leaf i, nil when there is none.
func (l *logRows) leaf(i uint64) (store.Leaf, error) {
	first, v, err := l.row(logLeaves, i)
	if err != nil || v == nil {
		return nil, err
	}
	leaf, err := leafIn(v, i-first)
	return append(store.Leaf(nil), leaf...), err
}

// leafIn is the n-th leaf of a row, nil when it ends before.
func leafIn(v []byte, n uint64) (leaf []byte, err error) {
	r := reader{b: v}
	for ; len(r.b) > 0; n-- {
		leaf = r.take(r.uvarint())
		if r.bad {
			return nil, errRow
		}
		if n == 0 {
			return leaf, nil
		}
	}
	return nil, nil
}

// hash is the stored hash i, nil when there is none. It is valid until the
// next call.
func (l *logRows) hash(i int64) ([]byte, error) {
	first, v, err := l.row(logHashes, uint64(i))
	if err != nil || v == nil {
		return nil, err
	}
	if len(v)%tlog.HashSize != 0 {
		return nil, errRow
	}
	n := (uint64(i) - first)
	if n >= uint64(len(v)/tlog.HashSize) {
		return nil, nil
	}
	return v[n*tlog.HashSize : (n+1)*tlog.HashSize], nil
}
