package pebblestore

import (
	"encoding/binary"

	"pulsegate/fhir/search"
	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore/internal/keys"
	"pulsegate/fhir/store/pebblestore/internal/rows"
)

// updatesGroup collects the entries of one U or V row while a batch is staged.
type updatesGroup struct {
	count uint64
	list  []byte
}

type updatesID struct {
	patient, typ string
	allPatients  bool // the U row of the type
}

// noteUpdate adds an L row to the U and V rows of the batch.
func (s *stage) noteUpdate(typ, patient string, n uint32, count uint64) {
	s.noteUpdateIn(updatesID{typ: typ, allPatients: true}, count,
		func(b []byte) []byte { return binary.AppendUvarint(b, uint64(n)) })
	if patient == "" {
		return
	}
	if _, single := search.PatientParam(typ); single {
		s.noteUpdateIn(updatesID{patient: patient, typ: typ}, count,
			func(b []byte) []byte { return binary.AppendUvarint(b, uint64(n)) })
	}
}

// noteEvent adds an AuditEvent, which has no L row, to the U row of the batch.
func (s *stage) noteEvent(id string, p *keys.Location) {
	s.noteUpdateIn(updatesID{typ: "AuditEvent", allPatients: true}, 1,
		func(b []byte) []byte { return p.Append(rows.AppendText(b, id)) })
}

func (s *stage) noteUpdateIn(id updatesID, count uint64, add func([]byte) []byte) {
	g := s.updates[id]
	if g == nil {
		g = &updatesGroup{}
		s.updates[id] = g
	}
	g.count += count
	g.list = add(g.list)
}

// putUpdates writes the U and V rows of a batch.
func (s *stage) putUpdates(seq store.Seq, updated int64) error {
	for id, g := range s.updates {
		prefix := keys.TypeUpdates(id.typ)
		if !id.allPatients {
			prefix = keys.PatientUpdates(id.patient, id.typ)
		}
		if err := s.batch.Set(keys.UpdateKey(prefix, seq, 0), rows.EncodeUpdates(updated, g.count, g.list),
			nil); err != nil {
			return err
		}
	}
	clear(s.updates)
	return nil
}
