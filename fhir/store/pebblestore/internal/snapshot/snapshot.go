package snapshot

import (
	"math"

	"github.com/cockroachdb/pebble/v2"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/series"
	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore/internal/fault"
	"pulsegate/fhir/store/pebblestore/internal/keys"
	"pulsegate/fhir/store/pebblestore/internal/rows"
	"pulsegate/fhir/store/pebblestore/internal/tier"
)

// At returns the Seq that a read names, where 0 is the latest.
func (snap *Snapshot) At(op string, seq store.Seq) (store.Seq, error) {
	if seq == 0 {
		return snap.Head.Seq, nil
	}
	if seq > snap.Head.Seq {
		return 0, fhir.Errorf(fhir.Gone, op, "this store does not have the snapshot")
	}
	return seq, nil
}

// Fetch reads the document of an I row.
func (snap *Snapshot) Fetch(ref fhir.Ref, p *rows.Pointer) (*Match, error) {
	return snap.FetchRow(keys.Row{Location: p.Location, Type: ref.Type, ID: ref.ID, Seq: p.Seq})
}

func (snap *Snapshot) FetchRow(r keys.Row) (*Match, error) {
	val, err := rows.Get(snap.Reader, keys.RowKey(keys.TableDocument, &r.Location, r.Code, r.Type, r.ID, r.Seq))
	if err != nil {
		return nil, err
	}
	if val == nil {
		return nil, fault.ErrRow
	}
	d, err := snap.Templates.Document(snap.Reader, new(rows.Recent), r.Type, r.ID, val)
	if err != nil {
		return nil, err
	}
	m := NewMatch(r, d).Within(snap)
	m.resolve() // callers use the facts after the snapshot is closed
	m.snap = nil
	return m, nil
}

// Current returns the version of ref at a Seq, a document or a sample, or nil if
// there is none.
func (snap *Snapshot) Current(ref fhir.Ref, seq store.Seq) (*Match, error) {
	p, err := rows.HeadOf(snap.Reader, ref, seq)
	if err != nil {
		return nil, err
	}
	if p != nil {
		return snap.Fetch(ref, p)
	}
	s, err := snap.Tier.Sample(snap.Reader, ref)
	if err != nil || s == nil || store.Seq(s.Sample.Commit.Seq) > seq {
		return nil, err
	}
	return NewSample(s.Series, &s.Sample), nil
}

// Change calls fn with the change that the L row of a document holds.
func (snap *Snapshot) Change(seq store.Seq, raw []byte, fn func(*store.Change) bool) (bool, error) {
	e, err := rows.DecodeChange(raw)
	if err != nil {
		return false, err
	}
	r := keys.Row{Location: e.Location, Type: e.Type, ID: e.ID, Seq: seq}
	var m *Match
	c := store.Change{Seq: seq, Ref: fhir.Ref{Type: e.Type, ID: e.ID}, Version: e.Version, Created: e.Created,
		Deleted: e.Deleted,
		Facts: access.Facts{Type: e.Type, ID: e.ID, Patient: e.Patient, Vendor: e.Vendor, Author: e.Author,
			Categories: e.Categories}}
	c.Facts.Tokens = func(param string) []access.Token {
		if m == nil {
			// A row that cannot be read has no tokens, so that no granular scope
			// covers it.
			if m, _ = snap.FetchRow(r); m == nil {
				return nil
			}
		}
		return m.tokens(param)
	}
	return fn(&c), nil
}

// SampleRun returns the samples of an L row without reading them.
func (snap *Snapshot) SampleRun(raw []byte) (*store.SampleChange, error) {
	e, err := rows.DecodeSeriesChange(raw)
	if err != nil {
		return nil, err
	}
	return &store.SampleChange{First: e.First, Last: e.Last, Template: func() (*series.Template, error) {
		ser, err := snap.Tier.Series(snap.Reader, &e.Location, e.Series)
		if err != nil {
			return nil, err
		}
		return ser.Template, nil
	}}, nil
}

// SampleChanges calls fn with the samples of an L row, in order, including those
// that have become documents.
func (snap *Snapshot) SampleChanges(seq store.Seq, raw []byte, fn func(*store.Change) bool) (more bool, err error) {
	e, err := rows.DecodeSeriesChange(raw)
	if err != nil {
		return false, err
	}
	ser, err := snap.Tier.Series(snap.Reader, &e.Location, e.Series)
	if err != nil {
		return false, err
	}
	moved, err := snap.Moved(ser, seq, e.First, e.Last)
	if err != nil {
		return false, err
	}
	w := snap.Walk(ser, seq, false)
	w.Skip = func(h *series.Header) bool { return store.Seq(h.MaxSeq) < seq }
	defer fault.Close(fault.CloseFunc(w.Close), &err)
	if err := w.SeekRange(e.First, e.Last+1); err != nil {
		return false, err
	}
	for w.Valid() || len(moved) > 0 {
		var m *Match
		if w.Valid() {
			s := w.Sample()
			if store.Seq(s.Commit.Seq) != seq {
				if err := w.Next(); err != nil {
					return false, err
				}
				continue
			}
			m = NewSample(ser, &s)
		}
		if len(moved) > 0 && (m == nil || moved[0].Row.ID < m.Row.ID) {
			m, moved = moved[0], moved[1:]
		} else if err := w.Next(); err != nil {
			return false, err
		}
		if !fn(&store.Change{Seq: seq, Ref: fhir.Ref{Type: "Observation", ID: m.Row.ID}, Version: 1, Created: true,
			Facts: m.Facts}) {
			return false, nil
		}
	}
	return true, nil
}

// Moved returns the samples that a commit wrote of one series, with a start in
// [first, last] in Unix microseconds, and that have become documents since, ordered
// by id.
func (snap *Snapshot) Moved(ser *tier.Series, seq store.Seq, first, last int64) (out []*Match, err error) {
	lo, hi := series.Key{Identity: ser.Template.Identity, Start: first},
		series.Key{Identity: ser.Template.Identity, Start: last, Check: math.MaxUint32}
	it, err := snap.Reader.NewIter(&pebble.IterOptions{LowerBound: keys.IDPrefix("Observation", lo.ID()),
		UpperBound: keys.PrefixEnd(keys.IDPrefix("Observation", hi.ID()))})
	if err != nil {
		return nil, err
	}
	defer fault.Close(it, &err)
	for ok := it.First(); ok; ok = it.Next() {
		p, err := rows.DecodePointer(it.Key(), it.Value())
		if err != nil {
			return nil, err
		}
		if !p.Moved || p.Seq != seq || p.Series != ser.ID {
			continue
		}
		_, rest, _ := keys.CutString(it.Key()[1:])
		id, _, _ := keys.CutString(rest)
		m, err := snap.Fetch(fhir.Ref{Type: "Observation", ID: id}, &p)
		if err != nil {
			return nil, err
		}
		out = append(out, m)
	}
	return out, it.Error()
}

// Snapshot is the durable state at one Seq, and the means to read it.
type Snapshot struct {
	Reader    *pebble.Snapshot
	Head      rows.Head
	Templates *rows.Templates
	Tier      *tier.Tier
}

// Walk returns a walk of a series at the Seq at.
func (snap *Snapshot) Walk(ser *tier.Series, at store.Seq, desc bool) *tier.Walk {
	return snap.Tier.Walk(snap.Reader, ser, at, desc)
}
