package pebblestore

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/clocktest"
	"pulsegate/fhir/rapidtest"
	"pulsegate/fhir/search"
	"pulsegate/fhir/series"
	"pulsegate/fhir/store"
)

const parts0 = `},"identifier":[{"system":"urn:x","value":"`

func streamTemplate(patient, code, device string, class series.Class, variant int) *series.Template {
	t := &series.Template{Class: class, Patient: patient, Vendor: "apple", Categories: []string{"vital-signs"},
		Values: 1 + variant%2}
	copy(t.Identity[:], patient+code+device)
	t.KeyValue = variant == 2
	t.Parts = [][]byte{
		[]byte(parts0),
		[]byte(`"},{"system":"urn:s","value":"stream-` + patient + code +
			`"}],"status":"final","category":[{"coding":[{"system":"http://terminology.hl7.org/CodeSystem/observation-category","code":"vital-signs"}]}],"code":{"coding":[{"system":"http://loinc.org","code":"` + code + `"},{"system":"urn:v","code":"v` + code + strconv.Itoa(variant) + `"}]},"subject":{"reference":"Patient/` + patient + `"},`),
		[]byte(`,"valueQuantity":{"value":`),
	}
	t.Slots = []series.Slot{series.SlotID, series.SlotEffective, series.SlotValue}
	end := `,"unit":"/min","system":"http://unitsofmeasure.org","code":"/min"},"device":{"reference":"Device/` +
		device + `"}`
	if t.Values == 2 {
		t.Parts = append(t.Parts, []byte(end+
			`,"component":[{"code":{"coding":[{"system":"urn:v","code":"min"}]},"valueQuantity":{"value":`))
		t.Slots = append(t.Slots, series.SlotValue+1)
		end = `,"unit":"/min"}}]`
	}
	t.Parts = append(t.Parts, []byte(end+`}`))
	return t
}

// world holds the same data in two stores: a has documents, b has series.
type world struct {
	t    *testing.T
	rnd  *rand.Rand
	a, b store.Store
	ids  []string
	pins []store.Seq
	tpls []*series.Template
}

func newWorld(t *testing.T, seed uint64) *world {
	w := &world{t: t, rnd: rand.New(rand.NewPCG(seed, 1))}
	open := func() *DB {
		d, err := Open("s", Options{FS: vfs.NewMem(), Clock: clocktest.At(time.UnixMilli(1767225600000)).Now})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := d.Close(); err != nil {
				t.Error(err)
			}
		})
		return d
	}
	a, b := open(), open()
	w.a, w.b = store.Documents{Store: a}, b
	for _, p := range []string{"p1", "p2"} {
		for _, c := range []string{"c1", "c2"} {
			for v := range 3 {
				for class := series.Instant; class <= series.Long; class++ {
					w.tpls = append(w.tpls, streamTemplate(p, c, "d"+p, class, v))
				}
			}
		}
	}
	return w
}

func (w *world) commit(b *store.Batch) {
	w.t.Helper()
	ba := *b
	ra, ea := w.a.Commit(context.Background(), &ba)
	rb, eb := w.b.Commit(context.Background(), b)
	if fhir.KindOf(ea) != fhir.KindOf(eb) || (ea == nil) != (eb == nil) || ra.Seq != rb.Seq ||
		len(ra.Outcomes) != len(rb.Outcomes) {
		w.t.Fatalf("commit: %+v %v; %+v %v", ra.Seq, ea, rb.Seq, eb)
	}
	for i := range ra.Outcomes {
		x, y := ra.Outcomes[i], rb.Outcomes[i]
		if x.Version != y.Version || !x.LastUpdated.Equal(y.LastUpdated) || x.Created != y.Created ||
			string(x.JSON) != string(y.JSON) {
			w.t.Fatalf("outcome %d: %+v %+v", i, x, y)
		}
	}
	w.pins = append(w.pins, rb.Seq)
}

// stream writes random samples of a template.
func (w *world) stream() {
	t := w.tpls[w.rnd.IntN(len(w.tpls))]
	var c series.Columns
	n := 1 + w.rnd.IntN(8)
	if w.rnd.IntN(6) == 0 {
		n = 1000 + w.rnd.IntN(9000)
	}
	at := int64(1767225600+w.rnd.IntN(40000)) * 1e6
	if w.rnd.IntN(20) == 0 {
		at -= 1e15
	}
	for range n {
		step := []int64{0, 1, 1000, 1e6, 5e6, 60e6}[w.rnd.IntN(6)]
		at += step
		s := series.Sample{Start: at, End: series.NoEnd, Off: int16(60 * w.rnd.IntN(3))}
		dur := []int64{0, 30, 3000, 100_000, 400_000}[int(t.Class)+w.rnd.IntN(2)] * 1e6
		if t.Class > series.Instant || dur > 0 && w.rnd.IntN(2) == 0 {
			s.End, s.EndOff = at+dur, s.Off
		}
		if s.Class() != t.Class {
			continue
		}
		for v := range t.Values {
			s.Values[v] = series.Decimal{Mant: int64(w.rnd.IntN(200)) - 20, Scale: uint8(w.rnd.IntN(3))}
		}
		c.Append(&s, t.Values)
	}
	if c.Len() == 0 || c.Sort(t) == 0 {
		return
	}
	ws := []store.SeriesWrite{{Template: t, Columns: &c}}
	at1, fa, ea := w.a.Probe(context.Background(), ws)
	at2, fb, eb := w.b.Probe(context.Background(), ws)
	if ea != nil || eb != nil || at1 != at2 || !slices.Equal(fa[0], fb[0]) {
		for i := range fa[0] {
			if fa[0][i] != fb[0][i] {
				s := c.At(i)
				k := t.Key(&s)
				w.t.Errorf("sample %d %s: %d %d", i, k.ID(), fa[0][i], fb[0][i])
			}
		}
		w.t.Fatalf("probe: %v %v T %d %d", ea, eb, at1, at2)
	}
	var fresh series.Columns
	batch := &store.Batch{Probed: at2}
	for i := range c.Len() {
		s := c.At(i)
		k := t.Key(&s)
		switch fb[0][i] {
		case store.Missing:
			fresh.Append(&s, t.Values)
			w.ids = append(w.ids, k.ID())
		case store.Other:
			if len(batch.Writes) < 5 {
				batch.Writes = append(batch.Writes,
					store.Write{Vendor: t.Vendor,
						Resource: fhir.Resource{Type: "Observation", ID: k.ID(), JSON: t.Append(nil, &s)},
						SkipSame: true})
			}
		}
	}
	if fresh.Len() > 0 {
		batch.Series = []store.SeriesWrite{{Template: t, Columns: &fresh}}
	}
	if w.rnd.IntN(4) == 0 {
		batch.Probed = 0 // as if another commit had changed the stream
	}
	w.commit(batchIfAlike(w, batch))
}

// batchIfAlike sets Probed so that both stores accept the batch.
func batchIfAlike(_ *world, b *store.Batch) *store.Batch {
	b.Probed = ^store.Seq(0)
	return b
}

func (w *world) edit() {
	if len(w.ids) == 0 {
		return
	}
	id := w.ids[w.rnd.IntN(len(w.ids))]
	wr := store.Write{Resource: fhir.Resource{Type: "Observation", ID: id}, Author: "c"}
	switch w.rnd.IntN(3) {
	case 0:
		wr.Op = store.Remove
	default:
		wr.Resource.JSON = []byte(fhir.Prefix("Observation", id) +
			`},"status":"amended","code":{"coding":[{"system":"http://loinc.org","code":"c1"}]},"subject":{"reference":"Patient/p1"},"effectiveDateTime":"2026-01-01T02:00:00Z","valueQuantity":{"value":5}}`)
	}
	b := &store.Batch{Writes: []store.Write{wr}}
	if w.rnd.IntN(2) == 0 {
		other := w.ids[w.rnd.IntN(len(w.ids))]
		if other != id {
			b.Writes = append(b.Writes, store.Write{Op: store.Remove,
				Resource: fhir.Resource{Type: "Observation", ID: other}})
		}
	}
	w.commit(b)
}

func all() access.Filter { return access.All().Filter(access.Search) }

func rendering(f *store.Found) string {
	return fmt.Sprintf("%s %s v%d %s %s %v %s", f.Pos, f.Resource.ID, f.Resource.Version, f.Facts.Patient,
		f.Facts.Vendor, f.Facts.Categories, f.Resource.JSON)
}

func (w *world) find(s store.Store, req store.Find) []string {
	var out []string
	err := s.Find(context.Background(), req, func(x *store.Found) bool { out = append(out, rendering(x)); return true })
	if err != nil {
		w.t.Fatal(err)
	}
	return out
}

func (w *world) query() string {
	r := w.rnd
	var q []string
	add := func(chance int, s ...string) {
		if r.IntN(chance) == 0 {
			q = append(q, s[r.IntN(len(s))])
		}
	}
	add(2, "patient=p1", "patient=p2", "subject=Patient/p1,Patient/p2")
	add(2, "code=c1", "code=http://loinc.org|c2", "code=c1,c2", "code=vc11", "code=urn:v|vc12,c2", "code:not=c1")
	add(2, "date=ge2026-01-01T02:00:00Z", "date=lt2026-01-01T03:00:00Z", "date=2026-01-01",
		"date=gt2026-01-01T01:00:00Z&date=le2026-01-01T09:00:00Z", "date=eb2026-01-01T04:00",
		"date=sa2026-01-01T04:00:00Z", "date=ne2026-01-01", "date=lt2000")
	add(5, "value-quantity=gt50", "value-quantity=lt5||/min", "value-quantity=5", "component-value-quantity=gt3",
		"combo-value-quantity=lt10")
	add(8, "_lastUpdated=gt2026-01-01T00:00:00.020Z", "_lastUpdated=lt2026-01-01T00:00:00.030Z")
	add(8, "device=Device/dp1", "device=Device/dp2,Device/dp1", "identifier=urn:s|stream-p1c1", "status=final",
		"category=vital-signs", "identifier=stream-p2c2,stream-p1c1")
	if len(w.ids) > 0 {
		id := w.ids[r.IntN(len(w.ids))]
		add(12, "_id="+id, "identifier="+id, "identifier=urn:x|"+id+",stream-p1c1",
			"_id="+id+","+w.ids[r.IntN(len(w.ids))])
	}
	// Parameters defined at run time.
	add(8, "worn=Device/dp1", "worn:missing=true", "above=true", "above:not=true", "worn=Device/dp2&above=true",
		"_filter=above eq true")
	add(2, "_sort=-above,date", "_sort=worn,-date", "_sort=date", "_sort=-date", "_sort=-date,code", "_sort=value-quantity", "_sort=-_lastUpdated", "_sort=_id")
	return strings.Join(q, "&")
}

// worn returns a registry with parameters defined at run time: one whose values a series
// shares, and one whose values its samples decide.
func worn(t *testing.T) *search.Registry {
	var ds []*search.Definition
	for code, def := range map[string]string{
		"worn":  `"type":"reference","expression":"Observation.device"`,
		"above": `"type":"token","expression":"Observation.select(value.value > 50)"`,
	} {
		d, err := search.ParseDefinition([]byte(`{"url":"urn:test:` + code + `","status":"active","code":"` + code +
			`","base":["Observation"],` + def + `}`))
		if err != nil {
			t.Fatal(err)
		}
		ds = append(ds, d)
	}
	return search.Builtin().With(ds...)
}

func (w *world) compare() {
	t := w.t
	raw := w.query()
	pairs, err := search.Pairs(raw)
	if err != nil {
		t.Fatal(err)
	}
	q, err := search.Parse("Observation", pairs, search.ParseOptions{Registry: worn(t)})
	if err != nil {
		t.Fatal(raw, err)
	}
	req := store.Find{Query: q, Filter: all()}
	if w.rnd.IntN(4) == 0 { // a granular scope reads R4's parameters first
		req.Filter = (&access.Grant{AllPatients: true, Rules: []access.Rule{{Type: "*", May: access.Search,
			Params: []access.Param{{Name: "status", Any: []access.Token{{Code: "final"}}}}}}}).Filter(access.Search)
	}
	if len(w.pins) > 0 && w.rnd.IntN(2) == 0 {
		req.At = w.pins[w.rnd.IntN(len(w.pins))]
	}
	x, y := w.find(w.a, req), w.find(w.b, req)
	w.same(raw, x, y)
	if len(x) > 0 {
		req.After = strings.Split(x[w.rnd.IntN(len(x))], " ")[0]
		req.Limit = 20
		w.same(raw+" after", w.find(w.a, req), w.find(w.b, req))
		req.After = ""
	}
	na, _ := w.a.Count(context.Background(), req)
	nb, _ := w.b.Count(context.Background(), req)
	if na != nb {
		t.Fatalf("%s: count %d %d", raw, na, nb)
	}
}

func (w *world) same(what string, x, y []string) {
	w.t.Helper()
	for i := range max(len(x), len(y)) {
		if i >= len(x) || i >= len(y) || x[i] != y[i] {
			var a, b string
			if i < len(x) {
				a = x[i]
			}
			if i < len(y) {
				b = y[i]
			}
			w.t.Fatalf("%s: %d and %d answers, from %d on:\n%s\n%s", what, len(x), len(y), i, a, b)
		}
	}
}

func (w *world) others() {
	ctx := context.Background()
	var at store.Seq
	if len(w.pins) > 0 {
		at = w.pins[w.rnd.IntN(len(w.pins))]
	}
	for name, fn := range map[string]func(store.Store) []string{
		"scan": func(s store.Store) (out []string) {
			r := store.ScanRange{Types: []string{"Observation"}, At: at, Filter: all(), Deleted: true}
			if w.rnd.IntN(2) == 0 {
				r.Patient = "p1"
			}
			_ = s.Scan(ctx, r, func(f *store.Found) bool { out = append(out, rendering(f)); return true })
			return out
		},
		"since": func(s store.Store) (out []string) {
			_ = s.Scan(ctx, store.ScanRange{Types: []string{"Observation"}, At: at, Filter: all(),
				Since: time.UnixMilli(1767225600020)},
				func(f *store.Found) bool { out = append(out, rendering(f)); return true })
			return out
		},
		"changes": func(s store.Store) (out []string) {
			_ = s.Changes(ctx, at, func(c *store.Change) bool {
				out = append(out, fmt.Sprint(c.Seq, c.Ref, c.Version, c.Created, c.Deleted, c.Facts.Patient,
					c.Facts.Categories, c.Facts.Vendor, c.Facts.Author))
				return true
			})
			return out
		},
	} {
		seed := w.rnd.Uint64()
		w.rnd = rand.New(rand.NewPCG(seed, 2))
		x := fn(w.a)
		w.rnd = rand.New(rand.NewPCG(seed, 2))
		w.same(name, x, fn(w.b))
	}
	for range 3 {
		if len(w.ids) == 0 {
			return
		}
		ref := fhir.Ref{Type: "Observation", ID: w.ids[w.rnd.IntN(len(w.ids))]}
		hist := func(s store.Store) (out []string) {
			if err := s.History(ctx, ref, at, 0, func(r fhir.Resource, f *access.Facts) bool {
				out = append(out, fmt.Sprint(r.Version, r.Deleted, f.Patient, string(r.JSON)))
				return true
			}); err != nil {
				w.t.Fatal(err)
			}
			r, f, err := s.Read(ctx, ref, at)
			out = append(out, fmt.Sprint(r.Version, string(r.JSON), fhir.KindOf(err), f != nil))
			r, _, err = s.ReadVersion(ctx, ref, 1)
			return append(out, fmt.Sprint(r.Version, string(r.JSON), fhir.KindOf(err)))
		}
		w.same("history", hist(w.a), hist(w.b))
		ha, _ := w.a.Heads(ctx, []fhir.Ref{ref})
		hb, _ := w.b.Heads(ctx, []fhir.Ref{ref})
		if ha[0] != hb[0] {
			w.t.Fatalf("heads %+v %+v", ha, hb)
		}
	}
}

var rounds = flag.Int("tier", 3, "random lives of TestTier")

// TestTier checks that the sample tier cannot be distinguished from documents.
func TestTier(t *testing.T) {
	rounds, steps := *rounds, 60
	if testing.Short() {
		rounds, steps = 1, 30
	}
	for i := range rounds {
		seed := rapidtest.Seed(0) + uint64(i)
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			w := newWorld(t, seed)
			for range steps {
				switch w.rnd.IntN(8) {
				case 0, 1, 2:
					w.stream()
				case 3:
					w.edit()
				case 4:
					w.others()
				case 5:
					if w.rnd.IntN(4) == 0 {
						if err := w.b.Compact(context.Background()); err != nil {
							t.Fatal(err)
						}
					}
				default:
					w.compare()
				}
			}
			for _, s := range []store.Store{w.b} {
				if err := s.Check(context.Background(), func(p string) { t.Error(p) }); err != nil {
					t.Error(err)
				}
			}
		})
	}
}
