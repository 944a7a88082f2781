package pebblestore

import (
	"container/list"
	"reflect"
	"slices"
	"sync"

	"github.com/cockroachdb/pebble/v2"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/search"
	"pulsegate/fhir/series"
)

const (
	blockSamples = 4096 // of a block that is full
	cachedSeries = 8192 // templates kept in memory
)

// seriesInfo is what the store knows of a series.
type seriesInfo struct {
	id      series.SeriesID
	t       *series.Template
	encoded []byte // for a series that may not be stored yet
	place          // start is not used
	others  [][8]byte
	// values are those of a specimen; only of parameters outside dynamic do
	// they hold for every sample.
	values  *search.Values
	dynamic map[string]bool
	size    int         // of an Observation, about
	tags    [][2]string // parameter and value of the X rows that all samples would have
}

// newSeriesInfo works out what a template decides: the index values of two
// specimens that differ wherever samples can.
func newSeriesInfo(t *series.Template, encoded []byte) (*seriesInfo, error) {
	in := &seriesInfo{id: series.IDOf(encoded), t: t, encoded: encoded}
	a := series.Sample{Start: 0, End: series.NoEnd, Commit: series.Commit{T: 1, Updated: 0}}
	b := series.Sample{Start: 86400e6, End: 86400e6 + 1e6, Commit: series.Commit{T: 2, Updated: 86400e3}}
	for i := range t.Values {
		a.Values[i], b.Values[i] = series.Decimal{Mant: 1}, series.Decimal{Mant: 2 + int64(i)}
	}
	specimen := t.Append(nil, &b)
	in.size = len(specimen) + 64
	va, err := search.Extract("Observation", t.Append(nil, &a))
	if err != nil {
		return nil, err
	}
	vb, err := search.Extract("Observation", specimen)
	if err != nil {
		return nil, err
	}
	in.values, in.dynamic = va, map[string]bool{"_lastUpdated": true}
	for p, vals := range va.ByParam {
		if !reflect.DeepEqual(vals, vb.ByParam[p]) {
			in.dynamic[p] = true
		}
	}
	in.place = placeOf(va)
	in.bucket, in.start = byte(t.Class), 0
	if va.Patient != t.Patient {
		return nil, fhir.Errorf(fhir.Invalid, "pebblestore.Commit", "a template's subject is not its patient")
	}
	in.others = otherCodes("Observation", va, in.code)
	for _, param := range []string{"device", "identifier"} {
		p, ok := search.Lookup("Observation", param)
		if !ok {
			continue
		}
		for i := range va.ByParam[param] {
			x := indexValue(p.Kind, &va.ByParam[param][i])
			constant := slices.ContainsFunc(vb.ByParam[param],
				func(v search.Value) bool { return indexValue(p.Kind, &v) == x })
			if x != "" && constant && !slices.Contains(in.tags, [2]string{param, x}) {
				in.tags = append(in.tags, [2]string{param, x})
			}
		}
	}
	return in, nil
}

// infos remembers templates. What it hands out is shared and read only.
type infos struct {
	mu    sync.Mutex
	byID  map[series.SeriesID]*list.Element
	byPtr map[*series.Template]*seriesInfo // of writers, which keep theirs
	order *list.List
}

func newInfos() *infos {
	return &infos{byID: map[series.SeriesID]*list.Element{}, byPtr: map[*series.Template]*seriesInfo{},
		order: list.New()}
}

func (c *infos) get(id series.SeriesID) *seriesInfo {
	c.mu.Lock()
	defer c.mu.Unlock()
	el := c.byID[id]
	if el == nil {
		return nil
	}
	c.order.MoveToFront(el)
	return el.Value.(*seriesInfo)
}

func (c *infos) put(in *seriesInfo) *seriesInfo {
	c.mu.Lock()
	defer c.mu.Unlock()
	if el := c.byID[in.id]; el != nil {
		c.order.MoveToFront(el)
		return el.Value.(*seriesInfo)
	}
	c.byID[in.id] = c.order.PushFront(in)
	for c.order.Len() > cachedSeries {
		old := c.order.Remove(c.order.Back()).(*seriesInfo)
		delete(c.byID, old.id)
	}
	return in
}

// ofTemplate is the info of a writer's template.
func (c *infos) ofTemplate(t *series.Template) (*seriesInfo, error) {
	c.mu.Lock()
	in := c.byPtr[t]
	c.mu.Unlock()
	if in != nil {
		return in, nil
	}
	encoded := series.AppendTemplate(nil, t)
	if in = c.get(series.IDOf(encoded)); in == nil {
		own, err := series.DecodeTemplate(encoded) // the writer's memory stays the writer's
		if err != nil {
			return nil, fhir.Errorf(fhir.Invalid, "pebblestore.Commit", "a template is malformed")
		}
		if in, err = newSeriesInfo(own, encoded); err != nil {
			return nil, err
		}
		in = c.put(in)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.byPtr) >= cachedSeries {
		clear(c.byPtr)
	}
	c.byPtr[t] = in
	return in, nil
}

// info reads a series at p from r.
func (t *tier) info(r pebble.Reader, p *place, id series.SeriesID) (*seriesInfo, error) {
	if in := t.infos.get(id); in != nil {
		return in, nil
	}
	v, err := get(r, seriesKey(tabSeries, p, p.code, id))
	if err != nil {
		return nil, err
	}
	if v == nil {
		return nil, errRow
	}
	return t.infoOf(id, v)
}

func (t *tier) infoOf(id series.SeriesID, encoded []byte) (*seriesInfo, error) {
	if in := t.infos.get(id); in != nil {
		return in, nil
	}
	encoded = slices.Clone(encoded)
	if series.IDOf(encoded) != id {
		return nil, errRow
	}
	tpl, err := series.DecodeTemplate(encoded)
	if err != nil {
		return nil, errRow
	}
	in, err := newSeriesInfo(tpl, encoded)
	if err != nil {
		return nil, err
	}
	return t.infos.put(in), nil
}

// members calls fn with every series of an identity.
func (t *tier) members(r pebble.Reader, id series.Identity, fn func(*seriesInfo) error) (err error) {
	pre := identityKey(id)
	it, err := r.NewIter(&pebble.IterOptions{LowerBound: append(slices.Clone(pre), 0), UpperBound: next(pre)})
	if err != nil {
		return err
	}
	defer closing(it, &err)
	for ok := it.First(); ok; ok = it.Next() {
		in, err := t.member(r, it.Key(), it.Value())
		if err != nil {
			return err
		}
		if in == nil {
			continue
		}
		if err := fn(in); err != nil {
			return err
		}
	}
	return it.Error()
}

// member reads the series a G row names; nil for the row of the identity
// itself.
func (t *tier) member(r pebble.Reader, k, v []byte) (*seriesInfo, error) {
	const n = 1 + len(series.Identity{})
	if len(k) == n {
		return nil, nil
	}
	if len(k) != n+8 {
		return nil, errRow
	}
	var id series.SeriesID
	copy(id[:], k[n:])
	p, _, ok := takePlace(v)
	if !ok {
		return nil, errRow
	}
	return t.info(r, &p, id)
}

// facts of a sample, whose id the caller fills in.
func (in *seriesInfo) facts() access.Facts {
	return access.Facts{Type: "Observation", Patient: in.patient, Vendor: in.t.Vendor, Categories: in.t.Categories}
}

// seriesAt returns the series of a Q or R row (table) with value v.
func (t *tier) seriesAt(r pebble.Reader, table byte, v []byte, id series.SeriesID) (*seriesInfo, error) {
	if table == tabSeries {
		return t.infoOf(id, v)
	}
	if in := t.infos.get(id); in != nil {
		return in, nil
	}
	p, _, ok := takePlace(v)
	if !ok {
		return nil, errRow
	}
	return t.info(r, &p, id)
}
