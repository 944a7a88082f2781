package rows

import (
	"encoding/binary"

	"pulsegate/fhir/store/pebblestore/internal/fault"
	"pulsegate/fhir/store/pebblestore/internal/keys"
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
	b := keys.AppendUint64(make([]byte, 0, 48), keys.Sortable(s.MaxStart))
	for _, v := range [...]uint64{s.Samples, s.Tails, s.TailSamples, s.Moves, s.Merges} {
		b = binary.AppendUvarint(b, v)
	}
	return b
}

func DecodeTally(v []byte) (s Tally, err error) {
	r := Reader{Bytes: v}
	s.MaxStart = keys.Unsortable(r.Uint64())
	for _, p := range [...]*uint64{&s.Samples, &s.Tails, &s.TailSamples, &s.Moves, &s.Merges} {
		*p = r.Uvarint()
	}
	if r.Bad {
		return s, fault.ErrRow
	}
	return s, nil
}
