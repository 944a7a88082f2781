package pebblestore

import (
	"context"

	"pulsegate/fhir/search"
	"pulsegate/fhir/series"
	"pulsegate/fhir/store"
)

// again reads a match that was met before.
func (x *finder) again(r row, in *seriesInfo, s *series.Sample) (*match, error) {
	if in != nil {
		return newSample(in, s), nil
	}
	return x.v.fetchRow(r)
}

// scan implements store.Store.Scan at a snapshot.
func (s *searcher) scan(ctx context.Context, op string, v *snapshot, r store.ScanRange,
	fn func(*store.Found) bool) error {
	at, err := v.at(op, r.At)
	if err != nil {
		return err
	}
	for _, typ := range r.Types {
		x := &finder{ctx: ctx, op: op, s: s, v: v, at: at, q: &search.Query{Type: typ}, filter: r.Filter}
		more, err := x.scan(r, fn)
		if err != nil || !more {
			return faulted(op, err)
		}
	}
	return nil
}

// scan streams one type. Types that may name several patients are found by
// the patient parameter's X rows, where a marker of a deletion has none.
func (x *finder) scan(r store.ScanRange, fn func(*store.Found) bool) (more bool, err error) {
	more = true
	var since int64
	if !r.Since.IsZero() {
		since = r.Since.UnixMilli()
		x.since = since
	}
	give := func(m *match) bool {
		if (since == 0 || m.doc.updated > since) && x.filter.Allow(&m.facts) {
			if m.in != nil { // valid until fn returns, like a document's bytes
				x.body = m.in.t.Append(x.body[:0], &m.smp)
				m.doc.json = x.body
			}
			more = fn(&store.Found{Resource: m.resource(), Facts: &m.facts})
		}
		return more
	}
	if p, several := severalPatients(x.q.Type); several && r.Patient != "" {
		c := search.Clause{Param: p, Values: []search.Value{{RefType: "Patient", RefID: r.Patient}}}
		x.q.Clauses = []search.Clause{c}
		if x.sel, err = search.Select(x.q); err != nil {
			return false, err
		}
		x.emit = func(m *match, _ []byte) bool { return give(m) }
		return more, x.byIndex(&c, nil)
	}
	err = x.rows(r.Patient, r.Patient != "", nil, func(_ []byte, rw row, t *table) (bool, error) {
		m, err := x.met(rw, t)
		if err != nil || m == nil || m.doc.deleted && !r.Deleted {
			return true, err
		}
		return give(m), nil
	})
	return more, err
}

// severalPatients returns the patient parameter of types whose resources may
// name more than one.
func severalPatients(typ string) (*search.Param, bool) {
	code, single := search.PatientParam(typ)
	if typ == "Group" {
		code = "member"
	}
	if code == "" || single {
		return nil, false
	}
	return search.Lookup(typ, code)
}
