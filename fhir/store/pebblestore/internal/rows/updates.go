package rows

import (
	"encoding/binary"
	"math"

	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore/internal/fault"
	"pulsegate/fhir/store/pebblestore/internal/keys"
)

// Updates is a decoded U or V row: the resources of a type that one commit wrote.
type Updates struct {
	Updated int64  // Unix milliseconds
	Count   uint64 // resources, including samples
	List    []byte // encoded numbers of L rows, or AuditEvents
}

// EncodeUpdates encodes a U or V value.
func EncodeUpdates(updated int64, count uint64, list []byte) []byte {
	b := keys.AppendUint64(make([]byte, 0, 16+len(list)), keys.Sortable(updated))
	return append(binary.AppendUvarint(b, count), list...)
}

// DecodeUpdates decodes a U or V value. The list aliases v.
func DecodeUpdates(v []byte) (u Updates, err error) {
	r := Reader{Bytes: v}
	u.Updated, u.Count = keys.Unsortable(r.Uint64()), r.Uvarint()
	if u.List = r.Bytes; r.Bad {
		return u, fault.ErrRow
	}
	return u, nil
}

// Events decodes the list of a U row of AuditEvents.
func (up *Updates) Events(seq store.Seq) (out []keys.Row, err error) {
	for b := up.List; len(b) > 0; {
		r := Reader{Bytes: b}
		w := keys.Row{Type: "AuditEvent", Seq: seq, ID: r.Text()}
		var ok bool
		if w.Location, b, ok = keys.CutLocation(r.Bytes); !ok || r.Bad {
			return nil, fault.ErrRow
		}
		out = append(out, w)
	}
	return out, nil
}

// Changes decodes the list of any other row: the numbers of L rows.
func (up *Updates) Changes() (out []uint32, err error) {
	for r := (Reader{Bytes: up.List}); len(r.Bytes) > 0; {
		n := r.Uvarint()
		if r.Bad || n > math.MaxUint32 {
			return nil, fault.ErrRow
		}
		out = append(out, uint32(n))
	}
	return out, nil
}
