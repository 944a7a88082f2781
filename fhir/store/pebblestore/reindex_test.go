package pebblestore_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"pgregory.net/rapid"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/element"
	"pulsegate/fhir/search"
	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore"
)

// definable holds parameters that the tests define at run time.
var definable = []search.Param{ // read only
	{ResourceType: "Patient", Code: "nick", Type: search.TypeString, URL: "urn:test:nick",
		Paths: []search.Path{{Steps: []string{"name", "given"}, Type: "string"}}},
	{ResourceType: "Patient", Code: "weight", Type: search.TypeQuantity, URL: "urn:test:weight",
		Paths: []search.Path{{Steps: []string{"extension", "valueQuantity"}, Type: "Quantity"}}},
	{ResourceType: "Patient", Code: "births", Type: search.TypeNumber, URL: "urn:test:births",
		Paths: []search.Path{{Steps: []string{"multipleBirthInteger"}, Type: "integer"}}},
	// Another definition of the first one, under its URL.
	{ResourceType: "Patient", Code: "nick", Type: search.TypeString, URL: "urn:test:nick",
		Paths: []search.Path{{Steps: []string{"name", "family"}, Type: "string"}}},
}

// defined returns the registry with some of the parameters.
func defined(which ...int) *search.Registry {
	var ps []search.Param
	for _, i := range which {
		ps = append(ps, definable[i])
	}
	return search.Builtin().Extend(ps...)
}

var everything = access.All().Filter(access.Search | access.Read)

func somebody(rt *rapid.T, id string) store.Write {
	rest := rapid.SampledFrom([]string{"", `,"name":[{"family":"Berg","given":["Ann"]}]`,
		`,"name":[{"family":"Anders","given":["Bo","Berg"]}]`}).Draw(rt, "name") +
		rapid.SampledFrom([]string{"", `,"multipleBirthInteger":2`, `,"multipleBirthInteger":3`}).Draw(rt, "births") +
		rapid.SampledFrom([]string{"", `,"extension":[{"url":"urn:w","valueQuantity":{"value":70,"system":"` +
			element.UCUM +
			`","code":"kg"}}]`, `,"extension":[{"url":"urn:w","valueQuantity":{"value":80000,"system":"` +
			element.UCUM +
			`","code":"g"}}]`}).Draw(rt, "weight")
	return store.Write{Resource: fhir.Resource{Type: "Patient", ID: id,
		JSON: []byte(fhir.Prefix("Patient", id) + "}" + rest + "}")}}
}

// people is a store and its model.
type people struct {
	rt       *rapid.T
	d        *pebblestore.DB
	registry atomic.Pointer[search.Registry]
	now      map[string][]byte
	at       map[store.Seq]map[string][]byte
}

func (p *people) write() {
	id := fmt.Sprint("p", rapid.IntRange(0, 7).Draw(p.rt, "id"))
	w := somebody(p.rt, id)
	if rapid.IntRange(0, 5).Draw(p.rt, "remove") == 0 {
		w = store.Write{Op: store.Remove, Resource: fhir.Resource{Type: "Patient", ID: id}}
	}
	r, err := p.d.Commit(context.Background(), batchOf(w))
	if err != nil {
		p.rt.Fatal(err)
	}
	if o := r.Outcomes[0]; o.JSON != nil {
		p.now[id] = o.JSON
	} else if o.Deleted {
		delete(p.now, id)
	}
	if r.Seq != 0 {
		p.at[r.Seq] = maps.Clone(p.now)
	}
}

// search compares searches by the parameters of the registry with the model.
func (p *people) search() {
	reg := p.registry.Load()
	for _, raw := range []string{"nick=berg", "nick=ann", "weight=ge75||kg", "weight=80|" + element.UCUM + "|kg",
		"births=2",
		"births=gt2&nick=bo", "_sort=nick", "_sort=-births,nick", "nick=an,b&_sort=-weight", "name=berg"} {
		pairs, err := search.Pairs(raw)
		if err != nil {
			p.rt.Fatal(err)
		}
		q, err := search.Parse("Patient", pairs, search.ParseOptions{Registry: reg})
		if err != nil {
			continue // the parameter is not defined
		}
		q.Registry = reg
		seqs := slices.Sorted(maps.Keys(p.at))
		at := rapid.SampledFrom(seqs).Draw(p.rt, "at")
		var want, got []string
		for id, body := range p.at[at] {
			v, err := search.Extractor{Registry: reg}.Extract("Patient", body)
			if err != nil {
				p.rt.Fatal(err)
			}
			if search.Match(q, v) {
				want = append(want, id)
			}
		}
		err = p.d.Find(context.Background(), store.Find{Query: q, Filter: everything, At: at},
			func(f *store.Found) bool {
				got = append(got, f.Resource.ID)
				return true
			})
		if err != nil {
			p.rt.Fatal(err)
		}
		slices.Sort(want)
		slices.Sort(got)
		if !slices.Equal(got, want) {
			p.rt.Fatalf("%s at %d: got %v, want %v", raw, at, got, want)
		}
	}
}

func (p *people) open(fs vfs.FS) {
	d, err := pebblestore.Open("", pebblestore.Options{FS: fs, CacheBytes: 8 << 20, Registry: p.registry.Load})
	if err != nil {
		p.rt.Fatal(err)
	}
	p.d = d
}

// TestRuntimeParameters defines and removes parameters while documents are written,
// their index is built, and the store is opened again. Searches must be right at any
// moment, and at last the index must be whole.
func TestRuntimeParameters(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		p := &people{rt: rt, now: map[string][]byte{}, at: map[store.Seq]map[string][]byte{}}
		p.registry.Store(search.Builtin())
		fs := vfs.NewMem()
		p.open(fs)
		p.write()
		for range rapid.IntRange(5, 40).Draw(rt, "steps") {
			switch rapid.IntRange(0, 9).Draw(rt, "step") {
			case 0:
				p.registry.Store(defined(rapid.SliceOfNDistinct(rapid.IntRange(0, 2), 0, 3, rapid.ID[int]).Draw(rt,
					"defined")...))
			case 1:
				p.registry.Store(defined(3))
			case 2:
				if err := p.d.Close(); err != nil {
					rt.Fatal(err)
				}
				p.open(fs)
			case 3, 4, 5:
				if _, err := p.d.Reindex(context.Background(), rapid.IntRange(1, 4).Draw(rt, "limit")); err != nil {
					rt.Fatal(err)
				}
			case 6:
				if len(p.at) > 0 {
					p.search()
				}
			default:
				p.write()
			}
		}
		finish(rt, p.d, 3)
		for i := range definable {
			q, ok := p.registry.Load().Lookup("Patient", definable[i].Code)
			if !ok {
				continue
			}
			if s, err := p.d.IndexState(context.Background(), q); err != nil || !s.Ready {
				rt.Errorf("%s: %+v, %v", q.Code, s, err)
			}
		}
		if len(p.at) > 0 {
			p.search()
		}
		p.registry.Store(search.Builtin())
		finish(rt, p.d, 100)
		if n := pebblestore.RuntimeRows(p.d); n != 0 {
			rt.Errorf("%d rows are left of parameters that are gone", n)
		}
		if err := p.d.Close(); err != nil {
			rt.Error(err)
		}
	})
}

// finish builds the index and checks the store.
func finish(t interface {
	Fatal(...any)
	Errorf(string, ...any)
}, d *pebblestore.DB, limit int) {
	for i := 0; ; i++ {
		more, err := d.Reindex(context.Background(), limit)
		if err != nil || i == 10_000 {
			t.Fatal("the index is not complete: ", err)
		}
		if !more {
			break
		}
	}
	if err := d.Check(context.Background(), func(p string) { t.Errorf("%s", p) }); err != nil {
		t.Fatal(err)
	}
	err := d.Inspect(context.Background(), "Patient", 0, func(*store.Row) {},
		func(id, p string) { t.Errorf("%s: %s", id, p) })
	if err != nil {
		t.Fatal(err)
	}
}

// TestReindexCluster raises the row schema of a cluster while documents are written, and
// builds the index from several processes. The copies must stay
// equal, which closing them checks.
func TestReindexCluster(t *testing.T) {
	var registry atomic.Pointer[search.Registry]
	registry.Store(search.Builtin())
	_, _, dbs := lazy(t, 3, func(p *process) {
		p.opts.Registry = registry.Load
		p.change = func(s *pebblestore.Shared) { s.Identity.Schema = 4 }
	})
	ctx := context.Background()
	name := func(i, version int) store.Write {
		id := fmt.Sprint("p", i)
		return store.Write{Resource: fhir.Resource{Type: "Patient", ID: id, JSON: []byte(fhir.Prefix("Patient", id) +
			fmt.Sprintf(`},"name":[{"family":"Berg","given":["N%d"]}],"birthDate":"19%02d-01-01"}`, version, i+10))}}
	}
	count := func(d *pebblestore.DB, reg *search.Registry, raw string) int {
		t.Helper()
		pairs, _ := search.Pairs(raw)
		q, err := search.Parse("Patient", pairs, search.ParseOptions{Registry: reg})
		if err != nil {
			t.Fatal(err)
		}
		synced(t, d)
		q.Registry = reg
		n, err := d.Count(ctx, store.Find{Query: q, Filter: everything})
		if err != nil {
			t.Fatal(err)
		}
		return int(n)
	}
	for i := range 20 {
		must(t, dbs[i%3], batchOf(name(i, 1)))
	}
	if more, err := dbs[0].Reindex(ctx, 5); more || err != nil {
		t.Fatalf("schema 4 is indexed: %v, %v", more, err)
	}
	if n := count(dbs[1], nil, "name=berg&birthdate=ge1920"); n != 10 {
		t.Errorf("before the raise: %d", n)
	}
	checked(t, dbs[1])
	if err := dbs[1].RaiseSchema(pebblestore.OrderedSchema); err != nil {
		t.Fatal(err)
	}
	must(t, dbs[1], batchOf(name(0, 2)))
	for i := 0; ; i++ {
		d := dbs[i%3]
		synced(t, d)
		more, err := d.Reindex(ctx, 3)
		if err != nil {
			t.Fatal(err)
		}
		must(t, dbs[(i+1)%3], batchOf(name(i%20, 3+i)))
		if n := count(d, nil, "name=berg&birthdate=ge1920"); n != 10 {
			t.Fatalf("while the index is built: %d", n)
		}
		if !more {
			break
		}
	}
	registry.Store(defined(0))
	must(t, dbs[2], batchOf(name(20, 1)))
	for _, d := range dbs {
		synced(t, d)
		finish(t, d, 4)
	}
	if n, want := count(dbs[2], registry.Load(), "nick=n1"), countOf(dbs[2], "n1", t, registry.Load()); n != want ||
		n == 0 {
		t.Errorf("%d by a parameter defined at run time, want %d", n, want)
	}
	for _, d := range dbs {
		p, _ := registry.Load().Lookup("Patient", "nick")
		if s, err := d.IndexState(ctx, p); err != nil || !s.Ready {
			t.Errorf("%+v, %v", s, err)
		}
	}
}

// countOf counts the Patients with a given name by reading all.
func countOf(d *pebblestore.DB, prefix string, t *testing.T, reg *search.Registry) (n int) {
	t.Helper()
	pairs, _ := search.Pairs("given=" + prefix)
	q, err := search.Parse("Patient", pairs, search.ParseOptions{Registry: reg})
	if err != nil {
		t.Fatal(err)
	}
	err = d.Scan(context.Background(), store.ScanRange{Types: []string{"Patient"}, Filter: everything},
		func(f *store.Found) bool {
			v, err := search.Extract("Patient", f.Resource.JSON)
			if err != nil {
				t.Fatal(err)
			}
			if search.Match(q, v) {
				n++
			}
			return true
		})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// checked checks a store.
func checked(t *testing.T, d *pebblestore.DB) {
	t.Helper()
	synced(t, d)
	if err := d.Check(context.Background(), func(p string) { t.Error(p) }); err != nil {
		t.Fatal(err)
	}
}
