package find

import (
	"context"

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
	for _, typ := range r.Types {
		f := &finder{searcher: s, indexes: &indexes{reader: snap.Reader},
			evaluator: evaluator{query: &search.Query{Type: typ}},
			request:   request{ctx: ctx, op: op, snap: snap, at: at, filter: r.Filter}}
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
	var body []byte // of the sample that was passed to fn last
	give := func(m *snapshot.Match) bool {
		if (since == 0 || m.Document.Updated > since) && f.filter.Allow(&m.Facts) {
			if m.Series != nil { // valid until fn returns, like a document's bytes
				body = m.Series.Template.Append(body[:0], &m.Sample)
				m.Document.JSON = body
			}
			more = fn(&store.Found{Resource: m.Resource(), Facts: &m.Facts})
		}
		return more
	}
	if p, several := severalPatients(f.query.Type); several && r.Patient != "" {
		c := search.Clause{Param: p, Values: []search.Value{{RefType: "Patient", RefID: r.Patient}}}
		f.query.Clauses = []search.Clause{c}
		if f.sel, err = search.Select(f.query); err != nil {
			return false, err
		}
		f.emit = func(m *snapshot.Match, _ []byte) bool { return give(m) }
		return more, f.byIndex(&c, nil)
	}
	err = f.eachRow(r.Patient, r.Patient != "", nil, func(_ []byte, rw keys.Row, t *table) (bool, error) {
		m, err := f.met(rw, t)
		if err != nil || m == nil || m.Document.Deleted && !r.Deleted {
			return true, err
		}
		return give(m), nil
	})
	return more, err
}
