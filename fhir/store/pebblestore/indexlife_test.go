package pebblestore

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/search"
	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore/internal/rows"
)

var indexSeed = flag.Uint64("indexseed", 0, "seed of the tests of crashes and salvages of an index; 0 draws one")

// later holds parameters that the tests below define at run time. The last one is
// another definition of the first.
var later = []search.Param{ // read only
	{ResourceType: "Patient", Code: "nick", Type: search.TypeString, URL: "urn:test:nick",
		Paths: []search.Path{{Steps: []string{"name", "given"}, Type: "string"}}},
	{ResourceType: "Patient", Code: "births", Type: search.TypeNumber, URL: "urn:test:births",
		Paths: []search.Path{{Steps: []string{"multipleBirthInteger"}, Type: "integer"}}},
	{ResourceType: "Patient", Code: "nick", Type: search.TypeString, URL: "urn:test:nick",
		Paths: []search.Path{{Steps: []string{"name", "family"}, Type: "string"}}},
}

func registryOf(which ...int) *search.Registry {
	var ps []search.Param
	for _, i := range which {
		ps = append(ps, later[i])
	}
	return search.Builtin().Extend(ps...)
}

// registries holds the registries that the tests use in turn.
var registries = []*search.Registry{registryOf(0, 1), registryOf(1), registryOf(2), registryOf(0), search.Builtin(),
	registryOf(1, 2)}

// indexed is a store with an index that changes.
type indexed struct {
	t        *testing.T
	rnd      *rand.Rand
	d        *DB
	fs       vfs.FS
	registry atomic.Pointer[search.Registry]
}

func newIndexed(t *testing.T, fs vfs.FS) *indexed {
	t.Helper()
	n := *indexSeed
	if n == 0 {
		n = rand.Uint64()
	}
	t.Logf("-indexseed %d", n)
	x := &indexed{t: t, rnd: rand.New(rand.NewPCG(n, 1)), fs: fs}
	x.registry.Store(registries[0])
	x.d = x.open(fs, "s")
	return x
}

func (x *indexed) open(fs vfs.FS, dir string) *DB {
	x.t.Helper()
	d, err := Open(dir, Options{FS: fs, CacheBytes: 1 << 20, Registry: x.registry.Load})
	if err != nil {
		x.t.Fatal(err)
	}
	return d
}

// write commits new versions of some Patients, and deletions.
func (x *indexed) write(n int) {
	x.t.Helper()
	var b store.Batch
	for _, i := range x.rnd.Perm(24)[:n] {
		id := fmt.Sprintf("p%02d", i)
		if x.rnd.IntN(8) == 0 {
			b.Writes = append(b.Writes, store.Write{Op: store.Remove, Resource: fhir.Resource{Type: "Patient", ID: id}})
			continue
		}
		b.Writes = append(b.Writes, person(id, fmt.Sprintf(
			`,"name":[{"family":"F%d","given":["Ann","G%d"]}],"birthDate":"19%02d-01-01","multipleBirthInteger":%d`,
			x.rnd.IntN(5), x.rnd.IntN(5), 40+x.rnd.IntN(20), x.rnd.IntN(4))))
	}
	if _, err := x.d.Commit(context.Background(), &b); err != nil {
		x.t.Fatal(err)
	}
}

// step builds or drops a part of the index. It reports whether there is more to do.
func (x *indexed) step(limit int) bool {
	x.t.Helper()
	more, err := x.d.Reindex(context.Background(), limit)
	if err != nil {
		x.t.Fatal(err)
	}
	return more
}

// differs returns the first search whose result is not that of an evaluation of all
// documents, or "".
func (x *indexed) differs(d *DB) string {
	x.t.Helper()
	ctx, reg := context.Background(), x.registry.Load()
	filter := access.All().Filter(access.Search | access.Read)
	for _, raw := range []string{"nick=ann", "nick=g1", "nick=f2,f3", "nick:missing=true", "births=2", "births=gt1",
		"births=gt0&births=lt3", "nick=g2&births=1", "_sort=nick", "_sort=-births", "name=f1", "birthdate=ge1950",
		"_sort=birthdate"} {
		pairs, err := search.Pairs(raw)
		if err != nil {
			x.t.Fatal(err)
		}
		q, err := search.Parse("Patient", pairs, search.ParseOptions{Registry: reg})
		if err != nil {
			continue // the parameter is not defined
		}
		q.Registry = reg
		var got, want []string
		if err := d.Find(ctx, store.Find{Query: q, Filter: filter}, func(f *store.Found) bool {
			got = append(got, f.Resource.ID)
			return true
		}); err != nil {
			x.t.Fatal(err)
		}
		if err := d.Scan(ctx, store.ScanRange{Types: []string{"Patient"}, Filter: filter}, func(f *store.Found) bool {
			v, err := search.Extractor{Registry: reg}.Extract("Patient", f.Resource.JSON)
			if err != nil {
				x.t.Fatal(err)
			}
			if search.Match(q, v) {
				want = append(want, f.Resource.ID)
			}
			return true
		}); err != nil {
			x.t.Fatal(err)
		}
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			return fmt.Sprintf("%s: got %v, want %v", raw, got, want)
		}
	}
	return ""
}

// whole checks that searches of a store are right at once, while its index is built
// further, and when it is complete.
func (x *indexed) whole(d *DB, when string) {
	x.t.Helper()
	ctx := context.Background()
	sound(x.t, d)
	for more, n := true, 0; more; n++ {
		if diff := x.differs(d); diff != "" {
			x.t.Fatalf("%s, after %d steps: %s", when, n, diff)
		}
		var err error
		if more, err = d.Reindex(ctx, 20+x.rnd.IntN(100)); err != nil {
			x.t.Fatalf("%s: %v", when, err)
		}
	}
	if diff := x.differs(d); diff != "" {
		x.t.Fatalf("%s, at the end: %s", when, diff)
	}
	sound(x.t, d)
	for i := range later {
		if p, ok := x.registry.Load().Lookup("Patient", later[i].Code); ok {
			if s, err := d.IndexState(ctx, p); err != nil || !s.Ready {
				x.t.Errorf("%s: the index of %s: %+v, %v", when, p.Code, s, err)
			}
		}
	}
	want := 0
	for _, ps := range rows.RuntimeParams(x.registry.Load()) {
		want += len(ps)
	}
	c, err := rows.ReadCatalog(d.pdb, nil, nil)
	if err != nil || len(c.Runtime) != want {
		x.t.Errorf("%s: there are %d indexes of parameters defined at run time, want %d; %v", when, len(c.Runtime),
			want, err)
	}
}

// claim marks the incomplete indexes of the store as complete. It reports false if there
// are none.
func (x *indexed) claim(d *DB) bool {
	x.t.Helper()
	c, err := rows.ReadCatalog(d.pdb, nil, nil)
	if err != nil {
		x.t.Fatal(err)
	}
	claimed := false
	for key, at := range c.Runtime {
		if at.Done || at.Dropping {
			continue
		}
		at.Done, at.Stale, at.Cursor, claimed = true, false, nil, true
		v, err := json.Marshal(at)
		if err != nil {
			x.t.Fatal(err)
		}
		if _, err := d.Commit(context.Background(),
			&store.Batch{State: []store.StateWrite{{Key: key, Value: v}}}); err != nil {
			x.t.Fatal(err)
		}
	}
	return claimed
}

// crashed is a copy of the file system at the moment of a crash.
type crashed struct {
	fs       vfs.FS
	registry *search.Registry
}

// crashes takes crash clones of a file system at random writes and syncs.
type crashes struct {
	mem      *vfs.MemFS
	registry *atomic.Pointer[search.Registry]

	mu     sync.Mutex // protects the fields below
	rnd    *rand.Rand
	armed  bool
	left   int // operations until the next clone
	clones []crashed
}

const mostClones = 24

func (c *crashes) arm(on bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.armed = on
}

// MaybeError implements errorfs.Injector. It never injects an error.
func (c *crashes) MaybeError(op errorfs.Op) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.armed || op.Kind.ReadOrWrite() != errorfs.OpIsWrite || len(c.clones) == mostClones {
		return nil
	}
	if c.left--; c.left < 0 {
		c.clones = append(c.clones, crashed{c.mem.CrashClone(vfs.CrashCloneCfg{
			UnsyncedDataPercent: c.rnd.IntN(101), RNG: c.rnd}), c.registry.Load()})
		c.left = c.rnd.IntN(16)
	}
	return nil
}

func (*crashes) String() string { return "crashes" }

// TestIndexSurvivesCrashes takes crash clones at random operations of the file system
// while indexes of parameters defined at run time are built, dropped and replaced, and
// documents written. In each clone, searches must be right at once and at any later step,
// and the index must become complete, whether the process knows the same parameters as
// before the crash or others.
func TestIndexSurvivesCrashes(t *testing.T) {
	mem := vfs.NewCrashableMem()
	c := &crashes{mem: mem}
	x := newIndexed(t, errorfs.Wrap(mem, c))
	c.rnd, c.registry = rand.New(rand.NewPCG(x.rnd.Uint64(), 2)), &x.registry
	rnd := x.rnd
	for range 6 {
		x.write(16)
	}
	if err := x.d.Compact(context.Background()); err != nil {
		t.Fatal(err)
	}
	for _, reg := range slices.Concat(registries, registries) {
		x.registry.Store(reg)
		for n := range 40 {
			c.arm(true)
			more := x.step(1 + rnd.IntN(12))
			if n%4 == 0 {
				x.write(1 + rnd.IntN(4))
			}
			if n%11 == 10 {
				if err := x.d.pdb.Flush(); err != nil {
					t.Fatal(err)
				}
			}
			c.arm(false)
			if !more || n > 4 && rnd.IntN(12) == 0 { // the next registry may come before the index is complete
				break
			}
		}
	}
	if err := x.d.Close(); err != nil {
		t.Fatal(err)
	}
	clones := c.clones
	t.Logf("%d clones", len(clones))
	if len(clones) < mostClones/2 {
		t.Fatalf("%d crash clones are too few", len(clones))
	}
	for i, c := range clones {
		x.registry.Store(c.registry)
		if i%3 == 2 {
			x.registry.Store(registries[rnd.IntN(len(registries))])
		}
		d := x.open(c.fs, "s")
		x.whole(d, fmt.Sprint("clone ", i))
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestIndexClaim is the control of the tests of crashes and salvages: an incomplete index
// that claims to be complete must be found.
func TestIndexClaim(t *testing.T) {
	x := newIndexed(t, vfs.NewMem())
	defer x.d.Close()
	x.write(24)
	x.write(24)
	for range 4 {
		x.step(8)
	}
	if diff := x.differs(x.d); diff != "" {
		t.Fatal(diff)
	}
	if !x.claim(x.d) || x.differs(x.d) == "" {
		t.Error("an index that claims to be complete is not found: the tests prove nothing")
	}
}

// TestSalvageOfIndex salvages stores whose indexes of parameters defined at run time are
// complete, in the middle of their building or of their removal, or stale, with and
// without a damaged file. In the new store, searches must be right at once, and the index
// must become complete.
func TestSalvageOfIndex(t *testing.T) {
	for _, c := range []struct {
		name string
		do   func(x *indexed)
	}{
		{"complete", func(x *indexed) {
			for x.step(100) {
			}
		}},
		{"building", func(x *indexed) { x.step(10); x.step(10) }},
		{"dropping", func(x *indexed) {
			for x.step(100) {
			}
			x.registry.Store(registries[4])
			x.step(10)
			x.step(10)
		}},
		{"stale", func(x *indexed) {
			for x.step(100) {
			}
			x.registry.Store(registries[4]) // a process that lacks the parameters writes
			x.write(5)
			x.registry.Store(registries[0])
		}},
		{"replaced", func(x *indexed) {
			for x.step(100) {
			}
			x.registry.Store(registries[2])
			x.step(10)
		}},
	} {
		for _, damaged := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/damaged=%t", c.name, damaged), func(t *testing.T) { salvageIndex(t, c.do, damaged) })
		}
	}
}

func salvageIndex(t *testing.T, do func(x *indexed), damaged bool) {
	mem := vfs.NewMem()
	x := newIndexed(t, mem)
	for range 8 {
		x.write(16)
	}
	do(x)
	if err := x.d.Compact(context.Background()); err != nil {
		t.Fatal(err)
	}
	if err := x.d.Close(); err != nil {
		t.Fatal(err)
	}
	if damaged {
		s := &damagedStore{t: t, fs: mem}
		s.flip(x.rnd.Float64())
	}
	opts := Options{FS: mem, CacheBytes: 1 << 20, Registry: x.registry.Load}
	report, err := Salvage(context.Background(), "s", "new", opts)
	if err != nil {
		t.Fatal(err)
	}
	if !damaged && (!report.Complete() || len(report.Problems) > 0) {
		t.Errorf("a salvage of a store without damage: %s", report)
	}
	d := x.open(mem, "new")
	defer d.Close()
	if damaged && len(report.Problems) > 0 { // the loss itself is reported, and not a fault of the index
		if diff := x.differs(d); diff != "" {
			t.Fatal(diff)
		}
		return
	}
	x.whole(d, "after the salvage")
	x.d = d
	x.write(10)
	x.whole(d, "after a write to the new store")
}
