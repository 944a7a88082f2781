package pebblestore

import (
	"encoding/binary"
)

// seriesState is a K row.
type seriesState struct {
	maxStart int64 // of all its samples, ever
	samples  uint64
	tails    uint64 // rows
	loose    uint64 // samples in tails
	moves    uint64 // samples that became documents: a compaction that has not seen one is void
	merges   uint64 // compactions, for the keys of merged tails
}

func (s *seriesState) encode() []byte {
	b := appendU64(make([]byte, 0, 48), sortable(s.maxStart))
	for _, v := range [...]uint64{s.samples, s.tails, s.loose, s.moves, s.merges} {
		b = binary.AppendUvarint(b, v)
	}
	return b
}

func decodeSeriesState(v []byte) (s seriesState, err error) {
	r := reader{b: v}
	s.maxStart = unsortable(r.u64())
	for _, p := range [...]*uint64{&s.samples, &s.tails, &s.loose, &s.moves, &s.merges} {
		*p = r.uvarint()
	}
	if r.bad {
		return s, errRow
	}
	return s, nil
}
