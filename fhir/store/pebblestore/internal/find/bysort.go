package find

import (
	"encoding/json"
	"io"
	"slices"
	"strings"

	"pulsegate/fhir"
	"pulsegate/fhir/search"
	"pulsegate/fhir/store/pebblestore/internal/rows"
	"pulsegate/fhir/store/pebblestore/internal/snapshot"
	"pulsegate/fhir/store/pebblestore/internal/sorted"
	"pulsegate/fhir/store/pebblestore/internal/tier"
)

// giveSorted emits the matches after from.
func (f *finder) giveSorted(r *sorted.Result, sort []search.SortKey, from *sorted.Position) error {
	c, err := r.Seek(sort, from)
	if err != nil {
		return err
	}
	for {
		p, err := c.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if from != nil && p.Compare(from, sort) <= 0 {
			continue
		}
		if err := f.step(); err != nil {
			return err
		}
		m, err := f.snap.Current(fhir.Ref{Type: f.query.Type, ID: p.ID}, f.at)
		if err != nil {
			return err
		}
		// Apply the consents and scopes of this moment.
		if m == nil || m.Series == nil && m.Document.Deleted || !f.filter.Allow(&m.Facts) {
			continue
		}
		pos, err := json.Marshal(p)
		if err != nil {
			return err
		}
		if !f.emit(m, append([]byte{posSort}, pos...)) {
			return nil
		}
	}
}

// keyer makes sort keys. The keys that a template decides are made once per series.
type keyer struct {
	query  *search.Query
	sort   []search.SortKey
	sel    *search.Selection
	values search.Values // of a sample
	last   *tier.Series
	held   []sorted.Key // keys of the series last; nil if its samples need their Observation
	varies []bool       // whether the key differs between samples of last
}

func newKeyer(of *search.Query, sort []search.SortKey) (*keyer, error) {
	q := &search.Query{Type: of.Type, Registry: of.Registry}
	for _, s := range sort {
		p, ok := q.Registry.Lookup(q.Type, s.Param)
		if !ok {
			return nil, fhir.Errorf(fhir.Invalid, "pebblestore.Find",
				"_sort names a parameter that %s does not have", q.Type)
		}
		q.Clauses = append(q.Clauses, search.Clause{Param: p})
	}
	sel, err := search.Select(q)
	return &keyer{query: q, sort: sort, sel: sel, values: search.Values{ByParam: map[string][]search.Value{}}}, err
}

func (k *keyer) of(m *snapshot.Match) []sorted.Key {
	if m.Series == nil || !k.simple(m.Series) {
		v, err := search.Extractor{Registry: k.query.Registry}.ExtractFor(k.sel, m.Body())
		if err != nil {
			v = &search.Values{}
		}
		return keysOf(k.query, v, k.sort)
	}
	out := slices.Clone(k.held)
	for i, s := range k.sort {
		if !k.varies[i] {
			continue
		}
		v := search.Value{}
		switch s.Param {
		case "date":
			v.Lo, v.Hi = m.Sample.Interval()
		case "_lastUpdated":
			v.Lo = m.Sample.Commit.Updated
		case "_id":
			v.Code = m.Row.ID
		default:
			v.Num = m.Sample.Values[0].Float()
		}
		k.values.ByParam[s.Param] = append(k.values.ByParam[s.Param][:0], v)
		out[i] = keysOf(k.query, &k.values, k.sort[i:i+1])[0]
	}
	return out
}

// simple reports whether the keys of a series' samples can be made without their
// Observations.
func (k *keyer) simple(ser *tier.Series) bool {
	if ser == k.last {
		return k.held != nil
	}
	k.last, k.held, k.varies = ser, nil, make([]bool, len(k.sort))
	for i, s := range k.sort {
		if rows.Runtime(k.query.Clauses[i].Param) { // the values of a series are those of R4's parameters
			return false
		}
		if k.varies[i] = ser.Varies[s.Param]; !k.varies[i] {
			continue
		}
		switch s.Param {
		case "date", "_lastUpdated", "_id":
		case "value-quantity", "combo-value-quantity":
			if ser.Template.Values != 1 || len(ser.Values.ByParam[s.Param]) != 1 {
				return false
			}
		default:
			return false
		}
	}
	k.held = keysOf(k.query, ser.Values, k.sort)
	return true
}

func keysOf(q *search.Query, v *search.Values, sort []search.SortKey) []sorted.Key {
	out := make([]sorted.Key, len(sort))
	for i, s := range sort {
		k, ok := q.Registry.Key(q.Type, v, s)
		// The key outlives the document, whose strings share one allocation.
		out[i] = sorted.Key{None: !ok, Lo: k.Lo, Num: k.Num, Code: strings.Clone(k.Code),
			System: strings.Clone(k.System)}
	}
	return out
}
