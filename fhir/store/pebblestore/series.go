package pebblestore

import (
	"encoding/binary"
	"reflect"
	"slices"
	"sync"

	"github.com/cockroachdb/pebble/v2"
	"github.com/hashicorp/golang-lru/v2/simplelru"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/search"
	"pulsegate/fhir/series"
	"pulsegate/fhir/store"
)

const (
	blockSamples = 4096 // of a block that is full
	cachedSeries = 8192 // templates kept in memory
)

// seriesKey is a Q or R row: the series of a patient under a code, in the
// order of the D or P rows that their samples stand for.
func seriesKey(table byte, p *place, code [8]byte, id series.SeriesID) []byte {
	b := clusterKey(table, p.patient, "Observation")
	b = append(b, code[:]...)
	b = append(b, p.bucket)
	return append(b, id[:]...)
}

func identityKey(id series.Identity) []byte { return append([]byte{tabIdentity}, id[:]...) }

func memberKey(id series.Identity, s series.SeriesID) []byte {
	return append(identityKey(id), s[:]...)
}

func tagPrefix(param, value string) []byte {
	b := append(make([]byte, 0, 200), tabTag)
	return appendStr(appendStr(b, param), clip(value))
}

func tallyKey(s series.SeriesID) []byte { return append([]byte{tabTally}, s[:]...) }

// blockKey is an H or B key. Level 0 holds what commits wrote, by commit;
// the levels above hold blocks that do not overlap, by their first sample.
func blockKey(table byte, s series.SeriesID, level byte, major uint64, minor uint32) []byte {
	b := append(make([]byte, 0, 22), table)
	b = append(b, s[:]...)
	b = append(b, level)
	b = appendU64(b, major)
	return binary.BigEndian.AppendUint32(b, minor)
}

func levelPrefix(table byte, s series.SeriesID, level byte) []byte {
	return append(append([]byte{table}, s[:]...), level)
}

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
			x := indexValue(p.Type, &va.ByParam[param][i])
			constant := slices.ContainsFunc(vb.ByParam[param],
				func(v search.Value) bool { return indexValue(p.Type, &v) == x })
			if x != "" && constant && !slices.Contains(in.tags, [2]string{param, x}) {
				in.tags = append(in.tags, [2]string{param, x})
			}
		}
	}
	return in, nil
}

// infos caches series infos, which are shared and read only.
type infos struct {
	mu    sync.Mutex
	byID  *simplelru.LRU[series.SeriesID, *seriesInfo]
	byPtr *simplelru.LRU[*series.Template, *seriesInfo] // by the template that a writer passes with each batch
}

func newInfos() *infos {
	c := &infos{}
	c.byID, _ = simplelru.NewLRU[series.SeriesID, *seriesInfo](cachedSeries, nil) // fails only for a size below one
	c.byPtr, _ = simplelru.NewLRU[*series.Template, *seriesInfo](cachedSeries, nil)
	return c
}

func (c *infos) get(id series.SeriesID) *seriesInfo {
	c.mu.Lock()
	defer c.mu.Unlock()
	in, _ := c.byID.Get(id)
	return in
}

func (c *infos) put(in *seriesInfo) *seriesInfo {
	c.mu.Lock()
	defer c.mu.Unlock()
	if cached, ok := c.byID.Get(in.id); ok {
		return cached
	}
	c.byID.Add(in.id, in)
	return in
}

// ofTemplate is the info of a writer's template.
func (c *infos) ofTemplate(t *series.Template) (*seriesInfo, error) {
	c.mu.Lock()
	in, _ := c.byPtr.Get(t)
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
	c.byPtr.Add(t, in)
	return in, nil
}

// info reads a series at p from r.
func (d *DB) info(r pebble.Reader, p *place, id series.SeriesID) (*seriesInfo, error) {
	if in := d.infos.get(id); in != nil {
		return in, nil
	}
	v, err := get(r, seriesKey(tabSeries, p, p.code, id))
	if err != nil {
		return nil, err
	}
	if v == nil {
		return nil, errRow
	}
	return d.infoOf(id, v)
}

func (d *DB) infoOf(id series.SeriesID, encoded []byte) (*seriesInfo, error) {
	if in := d.infos.get(id); in != nil {
		return in, nil
	}
	encoded = slices.Clone(encoded)
	if series.IDOf(encoded) != id {
		return nil, errRow
	}
	t, err := series.DecodeTemplate(encoded)
	if err != nil {
		return nil, errRow
	}
	in, err := newSeriesInfo(t, encoded)
	if err != nil {
		return nil, err
	}
	return d.infos.put(in), nil
}

// seriesState is a K row.
type seriesState struct {
	maxStart int64 // of all its samples, ever
	samples  uint64
	tails    uint64 // rows
	loose    uint64 // samples in tails
	moves    uint64 // samples that became documents: a compaction that has not seen one is void
	merges   uint64 // compactions, for the keys of merged tails
}

func (s *seriesState) encode() []byte {
	b := appendU64(make([]byte, 0, 48), sortable(s.maxStart))
	for _, v := range [...]uint64{s.samples, s.tails, s.loose, s.moves, s.merges} {
		b = binary.AppendUvarint(b, v)
	}
	return b
}

func decodeSeriesState(v []byte) (s seriesState, err error) {
	r := reader{b: v}
	s.maxStart = unsortable(r.u64())
	for _, p := range [...]*uint64{&s.samples, &s.tails, &s.loose, &s.moves, &s.merges} {
		*p = r.uvarint()
	}
	if r.bad {
		return s, errRow
	}
	return s, nil
}

// members calls fn with every series of an identity.
func (d *DB) members(r pebble.Reader, id series.Identity, fn func(*seriesInfo) error) (err error) {
	pre := identityKey(id)
	it, err := r.NewIter(&pebble.IterOptions{LowerBound: append(slices.Clone(pre), 0), UpperBound: next(pre)})
	if err != nil {
		return err
	}
	defer closing(it, &err)
	for ok := it.First(); ok; ok = it.Next() {
		in, err := d.member(r, it.Key(), it.Value())
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
func (d *DB) member(r pebble.Reader, k, v []byte) (*seriesInfo, error) {
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
	return d.info(r, &p, id)
}

// facts of a sample, whose id the caller fills in.
func (in *seriesInfo) facts() access.Facts {
	return access.Facts{Type: "Observation", Patient: in.patient, Vendor: in.t.Vendor, Categories: in.t.Categories}
}

// located is a sample and the block that holds it.
type located struct {
	in   *seriesInfo
	smp  series.Sample
	head []byte // H key
	at   int    // index in the block
}

// hash identifies the content as Write.Hash does.
func (l *located) hash() [16]byte {
	s := l.smp
	s.Commit = series.Commit{}
	return store.ContentHash(l.in.t.Append(nil, &s))
}

// sampleOf finds the sample that an id names, nil when there is none.
func (d *DB) sampleOf(r pebble.Reader, ref fhir.Ref) (*located, error) {
	if ref.Type != "Observation" {
		return nil, nil
	}
	k, ok := series.ParseID(ref.ID)
	if !ok {
		return nil, nil
	}
	var found *located
	err := d.members(r, k.Identity, func(in *seriesInfo) error {
		if found != nil {
			return nil
		}
		l, err := d.locate(r, in, &k)
		found = l
		return err
	})
	return found, err
}

// locate looks for a sample in one series.
func (d *DB) locate(r pebble.Reader, in *seriesInfo, k *series.Key) (*located, error) {
	for level := byte(0); level < levels; level++ {
		l, err := d.locateIn(r, in, k, level)
		if l != nil || err != nil {
			return l, err
		}
	}
	return nil, nil
}

func (d *DB) locateIn(r pebble.Reader, in *seriesInfo, k *series.Key, level byte) (_ *located, err error) {
	pre := levelPrefix(tabHead, in.id, level)
	it, err := r.NewIter(&pebble.IterOptions{LowerBound: pre, UpperBound: next(pre)})
	if err != nil {
		return nil, err
	}
	defer closing(it, &err)
	var ok bool
	if level == 0 {
		ok = it.First()
	} else if ok = it.SeekLT(blockKey(tabHead, in.id, level, sortable(k.Start), 0)); !ok {
		ok = it.First()
	}
	for ; ok; ok = it.Next() {
		h, err := series.DecodeHeader(it.Value())
		if err != nil {
			return nil, err
		}
		if h.MinStart > k.Start {
			if level > 0 {
				break
			}
			continue
		}
		if h.MaxStart < k.Start {
			continue
		}
		cols, err := d.decoded.block(d, r, it.Key(), &h)
		if err != nil {
			return nil, err
		}
		for i := cols.Search(k.Start); i < cols.Len() && cols.Start[i] == k.Start; i++ {
			s := cols.At(i)
			if in.t.Check(&s) == k.Check {
				return &located{in: in, smp: s, head: slices.Clone(it.Key()), at: i}, nil
			}
		}
	}
	return nil, it.Error()
}
