package pebblestore

import (
	"encoding/binary"
)

// seriesState is a K row.
type Tally struct {
	MaxStart    int64 // of all its samples, ever
	Samples     uint64
	Tails       uint64 // rows
	TailSamples uint64 // samples in tails
	Moves       uint64 // samples that became documents: a compaction that has not seen one is void
	Merges      uint64 // compactions, for the keys of merged tails
}

func (s *Tally) Encode() []byte {
	b := AppendUint64(make([]byte, 0, 48), Sortable(s.MaxStart))
	for _, v := range [...]uint64{s.Samples, s.Tails, s.TailSamples, s.Moves, s.Merges} {
		b = binary.AppendUvarint(b, v)
	}
	return b
}

func DecodeTally(v []byte) (s Tally, err error) {
	r := reader{Bytes: v}
	s.MaxStart = Unsortable(r.Uint64())
	for _, p := range [...]*uint64{&s.Samples, &s.Tails, &s.TailSamples, &s.Moves, &s.Merges} {
		*p = r.Uvarint()
	}
	if r.Bad {
		return s, ErrRow
	}
	return s, nil
}
