package pebblestore

import (
	"encoding/binary"

	"golang.org/x/mod/sumdb/tlog"

	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore/internal/fault"
	"pulsegate/fhir/store/pebblestore/internal/keys"
	"pulsegate/fhir/store/pebblestore/internal/rows"
)

// edge holds hashes on the right edge of the log's tree, by level. A level that is
// not known is read from the store.
type edge struct {
	known uint64 // bit set of levels
	at    [64]tlog.Hash
}

func (e *edge) set(level int, h tlog.Hash) {
	e.known |= 1 << level
	e.at[level] = h
}

// putLeaves appends to the log one row of leaves and one of hashes. It needs the
// hashes on the right edge of the tree, which the committer keeps in memory and
// reads after a start.
func (s *stage) putLeaves(ls []store.Leaf) error {
	if len(ls) == 0 {
		return nil
	}
	first := s.meta.Leaves
	var leaves []byte
	hashes := make([]byte, 0, 2*tlog.HashSize*(len(ls)+8))
	for _, l := range ls {
		hs, err := tlog.StoredHashes(int64(s.meta.Leaves), l, tlog.HashReaderFunc(s.edgeHashes))
		if err != nil {
			return err
		}
		leaves = append(binary.AppendUvarint(leaves, uint64(len(l))), l...)
		for level, h := range hs {
			s.edge.set(level, h)
			hashes = append(hashes, h[:]...)
		}
		s.meta.Leaves++
	}
	if err := s.batch.Set(keys.LeavesKey(first), leaves, nil); err != nil {
		return err
	}
	return s.batch.Set(keys.HashesKey(tlog.StoredHashIndex(0, int64(first))), hashes, nil)
}

// edgeHashes returns hashes of the right edge.
func (s *stage) edgeHashes(indexes []int64) (out []tlog.Hash, err error) {
	out = make([]tlog.Hash, len(indexes))
	var log *rows.Log
	defer func() {
		if log != nil {
			fault.Close(log, &err)
		}
	}()
	for i, x := range indexes {
		level, _ := tlog.SplitStoredHashIndex(x)
		if s.edge.known&(1<<level) != 0 {
			out[i] = s.edge.at[level]
			continue
		}
		if log == nil {
			if log, err = rows.OpenLog(s.from.reader); err != nil {
				return nil, err
			}
		}
		v, err := log.Hash(x)
		if err != nil {
			return nil, err
		}
		if len(v) != tlog.HashSize {
			return nil, fault.ErrRow
		}
		copy(out[i][:], v)
	}
	return out, nil
}
