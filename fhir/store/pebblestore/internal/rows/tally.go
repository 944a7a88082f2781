package rows

import (
	"encoding/binary"

	"pulsegate/fhir/store/pebblestore/internal/fault"
	"pulsegate/fhir/store/pebblestore/internal/keys"
)

// Tally is a K row: the counts of a series.
type Tally struct {
	MaxStart    int64 // of all samples that the series ever had
	Samples     uint64
	Tails       uint64 // blocks at level 0
	TailSamples uint64 // samples in tails
	Moves       uint64 // samples that became documents; a compaction planned before the latest one is void
	Merges      uint64 // number of compactions, part of the keys of merged tails
}

func (s *Tally) Encode() []byte {
	b := keys.AppendUint64(make([]byte, 0, 48), keys.Sortable(s.MaxStart))
	for _, v := range [...]uint64{s.Samples, s.Tails, s.TailSamples, s.Moves, s.Merges} {
		b = binary.AppendUvarint(b, v)
	}
	return b
}

// DecodeTally decodes a K value.
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
