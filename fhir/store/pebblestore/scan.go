package pebblestore

import (
	"context"
	"encoding/json"
	"slices"
	"strings"

	"pulsegate/fhir"
	"pulsegate/fhir/search"
	"pulsegate/fhir/series"
	"pulsegate/fhir/store"
)

// sortKey is what one match sorts by under one element of _sort.
type sortKey struct {
	None   bool    `json:"z,omitempty"`
	Lo     int64   `json:"l,omitempty"`
	Num    float64 `json:"n,omitempty"`
	Code   string  `json:"c,omitempty"`
	System string  `json:"s,omitempty"`
}

// sortPos is the position of a match in a sorted result.
type sortPos struct {
	Keys []sortKey `json:"k"`
	ID   string    `json:"i"`
}

func keysOf(typ string, v *search.Values, sort []search.SortKey) []sortKey {
	out := make([]sortKey, len(sort))
	for i, s := range sort {
		k, ok := search.Key(typ, v, s)
		// The key outlives the document: its strings share the extraction's slab.
		out[i] = sortKey{None: !ok, Lo: k.Lo, Num: k.Num, Code: strings.Clone(k.Code), System: strings.Clone(k.System)}
	}
	return out
}

// compare orders as search.CompareValues does, then by id.
func (p *sortPos) compare(o *sortPos, sort []search.SortKey) int {
	for i, s := range sort {
		a, b := p.Keys[i], o.Keys[i]
		switch {
		case a.None && b.None:
			continue
		case a.None:
			return 1
		case b.None:
			return -1
		}
		c := search.Compare(search.Value{Lo: a.Lo, Num: a.Num, Code: a.Code, System: a.System},
			search.Value{Lo: b.Lo, Num: b.Num, Code: b.Code, System: b.System})
		if c != 0 {
			if s.Desc {
				return -c
			}
			return c
		}
	}
	return strings.Compare(p.ID, o.ID)
}

// sorted collects the keys of all matches, sorts them, and gives them out.
func (x *finder) sorted(sort []search.SortKey, after []byte) error {
	var from *sortPos
	if len(after) > 0 {
		from = &sortPos{}
		if after[0] != posSort || json.Unmarshal(after[1:], from) != nil || len(from.Keys) != len(sort) {
			return errPos(x.op)
		}
	}
	type hit struct {
		sortPos
		row row
		in  *seriesInfo // of a sample
		smp series.Sample
	}
	var hits []hit
	costly := false
	y := *x
	y.emit = func(m *match, _ []byte) bool {
		h := hit{sortPos{keysOf(x.q.Type, m.index(), sort), m.row.id}, m.row, m.in, m.smp}
		if from != nil && h.compare(from, sort) <= 0 {
			return true
		}
		if len(hits) == maxSort {
			costly = true
			return false
		}
		hits = append(hits, h)
		return true
	}
	if err := y.run(nil, nil); err != nil {
		return err
	}
	if costly {
		return fhir.Errorf(fhir.TooCostly, x.op, "more than %d matches to sort; narrow the search", maxSort)
	}
	slices.SortFunc(hits, func(a, b hit) int { return a.compare(&b.sortPos, sort) })
	for i := range hits {
		if err := x.step(); err != nil {
			return err
		}
		m, err := x.again(hits[i].row, hits[i].in, &hits[i].smp)
		if err != nil {
			return err
		}
		// A consent may have been withdrawn while the rest was collected.
		if !x.filter.Allow(&m.facts) {
			continue
		}
		pos, err := json.Marshal(&hits[i].sortPos)
		if err != nil {
			return err
		}
		if !x.emit(m, append([]byte{posSort}, pos...)) {
			return nil
		}
	}
	return nil
}

// again reads a match that was met before.
func (x *finder) again(r row, in *seriesInfo, s *series.Sample) (*match, error) {
	if in != nil {
		return newSample(in, s), nil
	}
	return x.v.fetchRow(r)
}

// Scan is of store.Store.
func (d *DB) Scan(ctx context.Context, r store.ScanRange, fn func(*store.Found) bool) error {
	const op = "pebblestore.Scan"
	v, err := d.enter(op)
	if err != nil {
		return err
	}
	defer d.leave(v)
	at, err := v.at(op, r.At)
	if err != nil {
		return err
	}
	for _, typ := range r.Types {
		x := &finder{ctx: ctx, op: op, d: d, v: v, at: at, q: &search.Query{Type: typ}, filter: r.Filter}
		more, err := x.scan(r, fn)
		if err != nil || !more {
			return fhir.Wrap(op, err)
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
