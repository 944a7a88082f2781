package pebblestore

import (
	"cmp"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"strings"

	"pulsegate/fhir"
	"pulsegate/fhir/search"
)

// sorted gives out the matches in an order that no rows have: all of them are
// collected and sorted once, and the result is kept for the pages to come.
func (x *finder) sorted(sort []search.SortKey, after []byte) error {
	var from *sortPos
	if len(after) > 0 {
		from = &sortPos{}
		if after[0] != posSort || json.Unmarshal(after[1:], from) != nil || len(from.Keys) != len(sort) {
			return errPos(x.op)
		}
	}
	id := resultID(x.owner, x.q, sort, x.at)
	r := x.s.results.take(id)
	if r == nil {
		var err error
		if r, err = x.sort(sort); err != nil {
			return err
		}
		x.s.results.keep(id, x.owner, r)
	}
	defer x.s.results.release(r)
	return x.giveSorted(r, sort, from)
}

// sort collects the sort keys and ids of all matches into a result.
func (x *finder) sort(sort []search.SortKey) (r *result, err error) {
	keys, err := newKeyer(x.q.Type, sort)
	if err != nil {
		return nil, err
	}
	w := x.s.results.writer(sort)
	defer func() {
		if err != nil {
			err = errors.Join(err, w.abandon())
		}
	}()
	y := *x
	y.passing = true // keys are copied
	var failed error
	y.emit = func(m *match, _ []byte) bool {
		failed = w.add(&sortPos{keys.of(m), strings.Clone(m.row.id)})
		return failed == nil
	}
	err = y.run(nil, nil)
	x.steps = y.steps
	if err = cmp.Or(failed, err); err != nil {
		return nil, err
	}
	return w.finish(x.ctx)
}

// giveSorted gives out the matches behind from.
func (x *finder) giveSorted(r *result, sort []search.SortKey, from *sortPos) error {
	c, err := r.seek(sort, from)
	if err != nil {
		return err
	}
	for {
		p, err := c.next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if from != nil && p.compare(from, sort) <= 0 {
			continue
		}
		if err := x.step(); err != nil {
			return err
		}
		m, err := x.v.current(fhir.Ref{Type: x.q.Type, ID: p.ID}, x.at)
		if err != nil {
			return err
		}
		// Consent and scope are those of the moment.
		if m == nil || m.in == nil && m.doc.deleted || !x.filter.Allow(&m.facts) {
			continue
		}
		pos, err := json.Marshal(p)
		if err != nil {
			return err
		}
		if !x.emit(m, append([]byte{posSort}, pos...)) {
			return nil
		}
	}
}

// keyer makes sort keys. What a sample's template decides is not asked of the
// sample.
type keyer struct {
	typ  string
	sort []search.SortKey
	sel  *search.Selection
	vals search.Values // of a sample
	last *seriesInfo
	held []sortKey // of last
	dyn  []bool    // whether the key differs between its samples
}

func newKeyer(typ string, sort []search.SortKey) (*keyer, error) {
	q := &search.Query{Type: typ}
	for _, s := range sort {
		p, ok := search.Lookup(typ, s.Param)
		if !ok {
			return nil, fhir.Errorf(fhir.Invalid, "pebblestore.Find",
				"_sort names a parameter that %s does not have", typ)
		}
		q.Clauses = append(q.Clauses, search.Clause{Param: p})
	}
	sel, err := search.Select(q)
	return &keyer{typ: typ, sort: sort, sel: sel, vals: search.Values{ByParam: map[string][]search.Value{}}}, err
}

func (k *keyer) of(m *match) []sortKey {
	if m.in == nil || !k.simple(m.in) {
		v, err := search.Extractor{}.ExtractFor(k.sel, m.body())
		if err != nil {
			v = &search.Values{}
		}
		return keysOf(k.typ, v, k.sort)
	}
	out := slices.Clone(k.held)
	for i, s := range k.sort {
		if !k.dyn[i] {
			continue
		}
		v := search.Value{}
		switch s.Param {
		case "date":
			v.Lo, v.Hi = m.smp.Interval()
		case "_lastUpdated":
			v.Lo = m.smp.Commit.Updated
		case "_id":
			v.Code = m.row.id
		default:
			v.Num = m.smp.Values[0].Float()
		}
		k.vals.ByParam[s.Param] = append(k.vals.ByParam[s.Param][:0], v)
		out[i] = keysOf(k.typ, &k.vals, k.sort[i:i+1])[0]
	}
	return out
}

// simple reports whether the keys of a series' samples need no Observation.
func (k *keyer) simple(in *seriesInfo) bool {
	if in == k.last {
		return k.held != nil
	}
	k.last, k.held, k.dyn = in, nil, make([]bool, len(k.sort))
	for i, s := range k.sort {
		if k.dyn[i] = in.dynamic[s.Param]; !k.dyn[i] {
			continue
		}
		switch s.Param {
		case "date", "_lastUpdated", "_id":
		case "value-quantity", "combo-value-quantity":
			if in.t.Values != 1 || len(in.values.ByParam[s.Param]) != 1 {
				return false
			}
		default:
			return false
		}
	}
	k.held = keysOf(k.typ, in.values, k.sort)
	return true
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
