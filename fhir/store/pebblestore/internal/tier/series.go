package tier

import (
	"reflect"
	"slices"
	"sync"

	"github.com/cockroachdb/pebble/v2"
	"github.com/hashicorp/golang-lru/v2/simplelru"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/search"
	"pulsegate/fhir/series"
	"pulsegate/fhir/store/pebblestore/internal/fault"
	"pulsegate/fhir/store/pebblestore/internal/keys"
	"pulsegate/fhir/store/pebblestore/internal/rows"
)

const (
	BlockSamples = 4096 // samples of a full block
	cachedSeries = 8192 // series in memory
)

// Series describes a series: its template, and what follows from it.
type Series struct {
	ID            series.SeriesID
	Template      *series.Template
	Encoded       []byte // the template, for a series that may not be stored yet
	keys.Location        // Start is not used
	OtherCodes    [][8]byte
	// Values holds the index values of a specimen. They hold for every sample,
	// except for the parameters in Varies.
	Values *search.Values
	Varies map[string]bool
	Size   int         // size of an Observation in bytes, estimated
	Tags   [][2]string // parameter and value of the X rows for which all samples stand
}

// newSeries finds the index values that all samples share: it compares two
// specimens that differ in everything in which samples can differ.
func newSeries(t *series.Template, encoded []byte) (*Series, error) {
	ser := &Series{ID: series.IDOf(encoded), Template: t, Encoded: encoded}
	a := series.Sample{Start: 0, End: series.NoEnd, Commit: series.Commit{Seq: 1, Updated: 0}}
	b := series.Sample{Start: 86400e6, End: 86400e6 + 1e6, Commit: series.Commit{Seq: 2, Updated: 86400e3}}
	for i := range t.Values {
		a.Values[i], b.Values[i] = series.Decimal{Mant: 1}, series.Decimal{Mant: 2 + int64(i)}
	}
	specimen := t.Append(nil, &b)
	ser.Size = len(specimen) + 64
	va, err := search.Extract("Observation", t.Append(nil, &a))
	if err != nil {
		return nil, err
	}
	vb, err := search.Extract("Observation", specimen)
	if err != nil {
		return nil, err
	}
	ser.Values, ser.Varies = va, map[string]bool{"_lastUpdated": true}
	for p, vals := range va.ByParam {
		if !reflect.DeepEqual(vals, vb.ByParam[p]) {
			ser.Varies[p] = true
		}
	}
	ser.Location = keys.LocationOf(va)
	ser.Bucket, ser.Start = byte(t.Class), 0
	if va.Patient != t.Patient {
		return nil, fhir.Errorf(fhir.Invalid, "pebblestore.Commit", "a template's subject is not its patient")
	}
	ser.OtherCodes = rows.OtherCodes("Observation", va, ser.Code)
	for _, param := range rows.TagParams() {
		p, ok := search.Lookup("Observation", param)
		if !ok {
			continue
		}
		for i := range va.ByParam[param] {
			x := rows.IndexValue(p.Type, &va.ByParam[param][i])
			constant := slices.ContainsFunc(vb.ByParam[param],
				func(v search.Value) bool { return rows.IndexValue(p.Type, &v) == x })
			if x != "" && constant && !rows.OwnPatient("Observation", param, x, va.Patient) &&
				!slices.Contains(ser.Tags, [2]string{param, x}) {
				ser.Tags = append(ser.Tags, [2]string{param, x})
			}
		}
	}
	return ser, nil
}

// seriesCache caches series, most recently used first. The series are shared and
// read only.
type seriesCache struct {
	mu    sync.Mutex
	byID  *simplelru.LRU[series.SeriesID, *Series]
	byPtr *simplelru.LRU[*series.Template, *Series] // by the templates of writers, which keep them
}

func newSeriesCache() *seriesCache {
	c := &seriesCache{}
	c.byID, _ = simplelru.NewLRU[series.SeriesID, *Series](cachedSeries, nil) // fails only for a size below one
	c.byPtr, _ = simplelru.NewLRU[*series.Template, *Series](cachedSeries, nil)
	return c
}

func (c *seriesCache) get(id series.SeriesID) *Series {
	c.mu.Lock()
	defer c.mu.Unlock()
	ser, _ := c.byID.Get(id)
	return ser
}

func (c *seriesCache) put(ser *Series) *Series {
	c.mu.Lock()
	defer c.mu.Unlock()
	if cached, ok := c.byID.Get(ser.ID); ok {
		return cached
	}
	c.byID.Add(ser.ID, ser)
	return ser
}

// ofTemplate returns the series of a writer's template.
func (c *seriesCache) ofTemplate(t *series.Template) (*Series, error) {
	c.mu.Lock()
	ser, _ := c.byPtr.Get(t)
	c.mu.Unlock()
	if ser != nil {
		return ser, nil
	}
	encoded := series.AppendTemplate(nil, t)
	if ser = c.get(series.IDOf(encoded)); ser == nil {
		own, err := series.DecodeTemplate(encoded) // the writer may reuse its memory
		if err != nil {
			return nil, fhir.Errorf(fhir.Invalid, "pebblestore.Commit", "a template is malformed")
		}
		if ser, err = newSeries(own, encoded); err != nil {
			return nil, err
		}
		ser = c.put(ser)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.byPtr.Add(t, ser)
	return ser, nil
}

// Series returns the series at p.
func (t *Tier) Series(r pebble.Reader, p *keys.Location, id series.SeriesID) (*Series, error) {
	if ser := t.series.get(id); ser != nil {
		return ser, nil
	}
	v, err := rows.Get(r, keys.SeriesKey(keys.TableSeries, p, p.Code, id))
	if err != nil {
		return nil, err
	}
	if v == nil {
		return nil, fault.ErrRow
	}
	return t.SeriesOf(id, v)
}

func (t *Tier) SeriesOf(id series.SeriesID, encoded []byte) (*Series, error) {
	if ser := t.series.get(id); ser != nil {
		return ser, nil
	}
	encoded = slices.Clone(encoded)
	if series.IDOf(encoded) != id {
		return nil, fault.ErrRow
	}
	tpl, err := series.DecodeTemplate(encoded)
	if err != nil {
		return nil, fault.ErrRow
	}
	ser, err := newSeries(tpl, encoded)
	if err != nil {
		return nil, err
	}
	return t.series.put(ser), nil
}

// Members calls fn with every series of an identity.
func (t *Tier) Members(r pebble.Reader, id series.Identity, fn func(*Series) error) (err error) {
	pre := keys.IdentityKey(id)
	it, err := r.NewIter(&pebble.IterOptions{LowerBound: append(slices.Clone(pre), 0), UpperBound: keys.PrefixEnd(pre)})
	if err != nil {
		return err
	}
	defer fault.Close(it, &err)
	for ok := it.First(); ok; ok = it.Next() {
		ser, err := t.Member(r, it.Key(), it.Value())
		if err != nil {
			return err
		}
		if ser == nil {
			continue
		}
		if err := fn(ser); err != nil {
			return err
		}
	}
	return it.Error()
}

// Member returns the series that a G row names, or nil for the row of the identity
// itself.
func (t *Tier) Member(r pebble.Reader, k, v []byte) (*Series, error) {
	const n = 1 + len(series.Identity{})
	if len(k) == n {
		return nil, nil
	}
	if len(k) != n+8 {
		return nil, fault.ErrRow
	}
	var id series.SeriesID
	copy(id[:], k[n:])
	p, _, ok := keys.CutLocation(v)
	if !ok {
		return nil, fault.ErrRow
	}
	return t.Series(r, &p, id)
}

// Facts returns the facts of a sample without its id.
func (ser *Series) Facts() access.Facts {
	return access.Facts{Type: "Observation", Patient: ser.Patient, Vendor: ser.Template.Vendor,
		Categories: ser.Template.Categories}
}

// SeriesAt returns the series of a row of table Q or R with value v.
func (t *Tier) SeriesAt(r pebble.Reader, table byte, v []byte, id series.SeriesID) (*Series, error) {
	if table == keys.TableSeries {
		return t.SeriesOf(id, v)
	}
	if ser := t.series.get(id); ser != nil {
		return ser, nil
	}
	p, _, ok := keys.CutLocation(v)
	if !ok {
		return nil, fault.ErrRow
	}
	return t.Series(r, &p, id)
}
