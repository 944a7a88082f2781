package rows

import (
	"pulsegate/fhir/store/pebblestore/internal/fault"
	"pulsegate/fhir/store/pebblestore/internal/keys"
	"pulsegate/fhir/store/sharedlog"
)

// Position is the N row "log": the place up to which a store has read the log that it
// shares, and the identity of the log.
type Position struct {
	sharedlog.Position
	Cluster [16]byte
	Epoch   uint64
}

func (p *Position) Encode() []byte {
	b := keys.AppendUint64(make([]byte, 0, 96), p.Index)
	b = append(append(b, p.Last[:]...), p.Valid[:]...)
	return keys.AppendUint64(append(b, p.Cluster[:]...), p.Epoch)
}

// DecodePosition decodes the value of the position row.
func DecodePosition(v []byte) (p Position, err error) {
	r := Reader{Bytes: v}
	p.Index = r.Uint64()
	copy(p.Last[:], r.Take(uint64(len(p.Last))))
	copy(p.Valid[:], r.Take(uint64(len(p.Valid))))
	copy(p.Cluster[:], r.Take(uint64(len(p.Cluster))))
	if p.Epoch = r.Uint64(); r.Bad || len(r.Bytes) > 0 {
		return p, fault.ErrRow
	}
	return p, nil
}
