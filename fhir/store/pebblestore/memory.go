package pebblestore

import (
	"encoding/binary"
	"encoding/hex"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore/internal/fault"
	"pulsegate/fhir/store/pebblestore/internal/rows"
)

// batchKey returns the state key under which the result of a batch with an ID is kept
// for store.BatchMemory.
func batchKey(id [16]byte) string { return "commit/" + hex.EncodeToString(id[:]) }

// remembered returns the result of the batch with an ID, if it was committed.
func (s *stage) remembered(id [16]byte) (r store.Result, ok bool, err error) {
	if id == ([16]byte{}) {
		return r, false, nil
	}
	v, err := s.stateOf(batchKey(id))
	if err != nil || v == nil {
		return r, false, err
	}
	r, err = decodeResult(v)
	return r, err == nil, err
}

// remember keeps the result of a batch with an ID.
func (s *stage) remember(id [16]byte, r *store.Result, updated int64) error {
	if id == ([16]byte{}) {
		return nil
	}
	return s.putState(&store.StateWrite{Key: batchKey(id), Value: encodeResult(r),
		Expires: time.UnixMilli(updated).Add(store.BatchMemory)})
}

// age tells how long ago a batch was sent.
type age struct {
	sent time.Time // with a monotonic reading
	// updated bounds the newest lastUpdated at that time, in milliseconds. The result
	// of the batch is forgotten by a group that is store.BatchMemory later. This also
	// counts the time for which the machine was suspended, which the monotonic clock may
	// omit.
	updated int64
}

// exceeds reports whether the batch was sent longer than limit ago, as of the real time
// or a state with the given lastUpdated.
func (a age) exceeds(limit time.Duration, updated int64) bool {
	return time.Since(a.sent) > limit || updated-a.updated > limit.Milliseconds()
}

// errForgotten is the error of a batch whose result may have been forgotten.
func errForgotten() error {
	return fhir.Errorf(fhir.Unavailable, "pebblestore.Commit",
		"it is no longer known whether the change took place; read before you repeat it")
}

const (
	resultCreated = 1 << iota
	resultUnchanged
	resultDeleted
	resultUpdated // LastUpdated is set
)

// encodeResult encodes a result without the JSON of its outcomes.
func encodeResult(r *store.Result) []byte {
	b := binary.AppendUvarint(nil, uint64(r.Seq))
	b = binary.AppendUvarint(b, r.LeafIndex)
	b = binary.AppendUvarint(b, uint64(len(r.Outcomes)))
	for i := range r.Outcomes {
		o := &r.Outcomes[i]
		var f byte
		for bit, set := range map[byte]bool{resultCreated: o.Created, resultUnchanged: o.Unchanged,
			resultDeleted: o.Deleted, resultUpdated: !o.LastUpdated.IsZero()} {
			if set {
				f |= bit
			}
		}
		b = append(b, f)
		b = rows.AppendText(rows.AppendText(b, o.Ref.Type), o.Ref.ID)
		b = binary.AppendUvarint(b, o.Version)
		if f&resultUpdated != 0 {
			b = binary.AppendVarint(b, o.LastUpdated.UnixMilli())
		}
	}
	return b
}

// decodeResult decodes a result. It fails if v is malformed.
func decodeResult(v []byte) (r store.Result, err error) {
	in := rows.Reader{Bytes: v}
	r.Seq, r.LeafIndex = store.Seq(in.Uvarint()), in.Uvarint()
	n := in.Uvarint()
	if n > uint64(len(in.Bytes)) {
		return store.Result{}, fault.ErrRow
	}
	r.Outcomes = make([]store.Outcome, n)
	for i := range r.Outcomes {
		f := in.Byte()
		o := store.Outcome{Ref: fhir.Ref{Type: in.Text(), ID: in.Text()}, Version: in.Uvarint(),
			Created: f&resultCreated != 0, Unchanged: f&resultUnchanged != 0, Deleted: f&resultDeleted != 0}
		if f&resultUpdated != 0 {
			o.LastUpdated = time.UnixMilli(in.Varint()).UTC()
		}
		r.Outcomes[i] = o
	}
	if in.Bad || len(in.Bytes) > 0 {
		return store.Result{}, fault.ErrRow
	}
	return r, nil
}
