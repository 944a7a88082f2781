package find

import (
	"bytes"
	"context"

	"pulsegate/fhir"
	"pulsegate/fhir/search"
	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore/internal/fault"
	"pulsegate/fhir/store/pebblestore/internal/keys"
	"pulsegate/fhir/store/pebblestore/internal/snapshot"
)

// Scan implements store.Store at a snapshot.
func (s *Searcher) Scan(ctx context.Context, op string, snap *snapshot.Snapshot, r store.ScanRange,
	fn func(*store.Found) bool) error {
	at, err := snap.At(op, r.At)
	if err != nil {
		return err
	}
	if len(r.Types) != 1 && (r.After != "" || r.To != "") {
		return fhir.Errorf(fhir.Internal, op, "a position needs one type")
	}
	for _, typ := range r.Types {
		f := &finder{searcher: s, evaluator: evaluator{query: &search.Query{Type: typ}},
			request: request{ctx: ctx, op: op, snap: snap, at: at, filter: r.Filter}}
		more, err := f.scan(r, fn)
		if err != nil || !more {
			return fault.Wrap(op, err)
		}
	}
	return nil
}

// scan streams one type. Types whose resources may name several patients are found
// by the X rows of the patient parameter; deletion markers have none.
func (f *finder) scan(r store.ScanRange, fn func(*store.Found) bool) (more bool, err error) {
	more = true
	var since int64
	if !r.Since.IsZero() {
		since = r.Since.UnixMilli()
		f.since = since
	}
	var body []byte     // of the sample that was passed to fn last
	var kind, at []byte // the parts of the position of the match
	give := func(m *snapshot.Match) bool {
		if (since == 0 || m.Document.Updated > since) && f.filter.Allow(&m.Facts) {
			if m.Series != nil { // valid until fn returns, like a document's bytes
				body = m.Series.Template.Append(body[:0], &m.Sample)
				m.Document.JSON = body
			}
			found := &store.Found{Resource: m.Resource(), Facts: &m.Facts}
			if r.Positions {
				found.Pos = string(kind) + string(at)
			}
			more = fn(found)
		}
		return more
	}
	if p, several := severalPatients(f.query.Type); several && r.Patient != "" {
		c := search.Clause{Param: p, Values: []search.Value{{RefType: "Patient", RefID: r.Patient}}}
		f.query.Clauses = []search.Clause{c}
		if f.sel, err = search.Select(f.query); err != nil {
			return false, err
		}
		f.emit = func(m *snapshot.Match, pos []byte) bool {
			at = pos
			return (r.To == "" || string(pos) <= r.To) && give(m)
		}
		return more, f.byIndex(&c, []byte(r.After))
	}
	from, err := afterRow(f.op, r.After)
	if err != nil {
		return false, err
	}
	kind = []byte{posDoc}
	err = f.eachRow(r.Patient, r.Patient != "", from, func(key []byte, rw keys.Row, t *table) (bool, error) {
		if r.To != "" && bytes.Compare(key, []byte(r.To[1:])) > 0 {
			return false, nil
		}
		m, err := f.met(rw, t)
		if err != nil || m == nil || m.Document.Deleted && !r.Deleted {
			return true, err
		}
		at = key
		return give(m), nil
	})
	return more, err
}
