package pebblestore

import (
	"encoding/binary"
	"math"

	"pulsegate/fhir/store"
)

// updates is a decoded U or V row: what one commit wrote of a type.
type updates struct {
	updated int64  // Unix ms
	count   uint64 // resources, samples among them
	list    []byte // n of L rows, or AuditEvents
}

func encodeUpdates(updated int64, count uint64, list []byte) []byte {
	b := appendU64(make([]byte, 0, 16+len(list)), sortable(updated))
	return append(binary.AppendUvarint(b, count), list...)
}

func decodeUpdates(v []byte) (u updates, err error) {
	r := reader{b: v}
	u.updated, u.count = unsortable(r.u64()), r.uvarint()
	if u.list = r.b; r.bad {
		return u, errRow
	}
	return u, nil
}

// events reads the list of a U row of AuditEvents.
func (u *updates) events(t store.Seq) (out []row, err error) {
	for b := u.list; len(b) > 0; {
		r := reader{b: b}
		w := row{typ: "AuditEvent", t: t, id: r.text()}
		var ok bool
		if w.place, b, ok = takePlace(r.b); !ok || r.bad {
			return nil, errRow
		}
		out = append(out, w)
	}
	return out, nil
}

// changes reads the list of any other row: n of L rows.
func (u *updates) changes() (out []uint32, err error) {
	for r := (reader{b: u.list}); len(r.b) > 0; {
		n := r.uvarint()
		if r.bad || n > math.MaxUint32 {
			return nil, errRow
		}
		out = append(out, uint32(n))
	}
	return out, nil
}
