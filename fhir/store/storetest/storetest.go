package storetest

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/search"
	"pulsegate/fhir/store"
)

// Driver opens the stores under test.
type Driver struct {
	// Open creates an empty store, which the suite closes. The store takes
	// lastUpdated from clock. If clock is nil, the store uses the machine's clock.
	Open func(t testing.TB, clock func() time.Time) store.Store
	// Reopen closes s and opens the same data again, with the same clock.
	Reopen func(t testing.TB, s store.Store) store.Store
	// Crash opens the data that a kill of s at this moment leaves, and abandons s.
	// It is nil if the driver has no such file system.
	Crash func(t testing.TB, s store.Store) store.Store
	// Lives limits the time in which new random lives are started in the comparison
	// of two stores. Zero means 5 s. Under -short it is at most 1 s.
	Lives time.Duration

	documents bool // both stores would have documents
}

// AsDocuments returns d with samples written as the documents for which they stand.
// The same suite applies to it.
func AsDocuments(d Driver) Driver {
	around := func(again func(testing.TB, store.Store) store.Store) func(testing.TB, store.Store) store.Store {
		if again == nil {
			return nil
		}
		return func(t testing.TB, s store.Store) store.Store {
			return store.Documents{Store: again(t, s.(store.Documents).Store)}
		}
	}
	return Driver{
		Open: func(t testing.TB, clock func() time.Time) store.Store {
			return store.Documents{Store: d.Open(t, clock)}
		},
		Reopen: around(d.Reopen), Crash: around(d.Crash), documents: true,
	}
}

// Run runs the suite.
func Run(t *testing.T, d Driver) {
	for name, fn := range map[string]func(*testing.T, store.Store){
		"versions": testVersions, "preconditions": testPreconditions, "same": testSkipSame, "state": testState,
		"changes": testChanges, "watch": testWatch, "watch tokens": testWatchTokens, "log": testLog,
		"filter": testFilter, "closed": testClosed,
		"samples": testSamples, "samples found": testSamplesFound, "samples moved": testSamplesMoved,
		"samples conflict": testSamplesConflict,
		"guards":           testGuards, "guards forgotten": testGuardsForgotten, "consent guard": testConsentGuard,
		"type guard": testTypeGuard,
		"batch id":   testBatchID, "versions of many": testVersionsOfMany, "every type": testEveryType,
	} {
		t.Run(name, func(t *testing.T) {
			s := d.Open(t, nil)
			defer shut(t, s)
			fn(t, s)
		})
	}
	t.Run("reopen", func(t *testing.T) { testReopen(t, d) })
	t.Run("samples reopen", func(t *testing.T) { testSamplesReopen(t, d) })
	t.Run("guards reopen", func(t *testing.T) { testGuardsReopen(t, d) })
	t.Run("batch id reopen", func(t *testing.T) { testBatchIDReopen(t, d) })
	t.Run("find", func(t *testing.T) { testFind(t, d) })
	t.Run("find generic", func(t *testing.T) { testFindGeneric(t, d) })
	if !d.documents {
		t.Run("pair", func(t *testing.T) { testPair(t, d) })
	}
}

func shut(t testing.TB, s store.Store) {
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

var all = access.All().Filter(access.Search | access.Read)

func body(typ, id, rest string) fhir.Resource {
	if rest != "" {
		rest = "," + rest
	}
	return fhir.Resource{Type: typ, ID: id, JSON: []byte(fhir.Prefix(typ, id) + "}" + rest + "}")}
}

func put(typ, id, rest string) store.Write { return store.Write{Resource: body(typ, id, rest)} }

func remove(typ, id string) store.Write {
	return store.Write{Op: store.Remove, Resource: fhir.Resource{Type: typ, ID: id}}
}

func commit(t testing.TB, s store.Store, ws ...store.Write) store.Result {
	t.Helper()
	r, err := s.Commit(context.Background(), &store.Batch{Writes: ws})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func fails(t testing.TB, s store.Store, b *store.Batch, kind fhir.Kind) {
	t.Helper()
	at := s.LastSeq()
	if _, err := s.Commit(context.Background(), b); err == nil || fhir.KindOf(err) != kind {
		t.Fatalf("got %v, want kind %d", err, kind)
	}
	if s.LastSeq() != at {
		t.Fatal("a refused batch moved T")
	}
}

func testVersions(t *testing.T, s store.Store) {
	ctx := context.Background()
	ref := fhir.Ref{Type: "Patient", ID: "p1"}
	r1 := commit(t, s, put("Patient", "p1", `"gender":"female"`))
	r2 := commit(t, s, put("Patient", "p1", `"gender":"male"`))
	r3 := commit(t, s, remove("Patient", "p1"))
	r4 := commit(t, s, put("Patient", "p1", `"gender":"other"`))
	if o := r1.Outcomes[0]; !o.Created || o.Version != 1 || !bytes.Contains(o.JSON, []byte(`"versionId":"1"`)) {
		t.Fatalf("outcome %+v", o)
	}
	if !r3.Outcomes[0].Deleted || !r4.Outcomes[0].Created || r4.Outcomes[0].Version != 4 {
		t.Fatalf("outcomes %+v %+v", r3.Outcomes[0], r4.Outcomes[0])
	}
	if !r2.Outcomes[0].LastUpdated.After(r1.Outcomes[0].LastUpdated) {
		t.Fatal("lastUpdated did not grow")
	}
	for i, want := range []string{"female", "male", "", "other"} {
		for _, read := range []func() (fhir.Resource, *access.Facts, error){
			func() (fhir.Resource, *access.Facts, error) { return s.Read(ctx, ref, r1.Seq+store.Seq(i)) },
			func() (fhir.Resource, *access.Facts, error) { return s.ReadVersion(ctx, ref, uint64(i+1)) },
		} {
			r, f, err := read()
			if err != nil || r.Version != uint64(i+1) || r.Deleted != (want == "") || f.Patient != "p1" ||
				!bytes.Contains(r.JSON, []byte(want)) {
				t.Fatalf("version %d: %+v %v", i+1, r, err)
			}
		}
	}
	var got []uint64
	collect := func(r fhir.Resource, _ *access.Facts) bool { got = append(got, r.Version); return true }
	if err := s.History(ctx, ref, r3.Seq, 3, collect); err != nil || !slices.Equal(got, []uint64{2, 1}) {
		t.Fatalf("history %v %v", got, err)
	}
	if _, _, err := s.Read(ctx, fhir.Ref{Type: "Patient", ID: "p2"}, 0); fhir.KindOf(err) != fhir.NotFound {
		t.Fatal(err)
	}
	if _, _, err := s.ReadVersion(ctx, ref, 9); fhir.KindOf(err) != fhir.NotFound {
		t.Fatal(err)
	}
	hs, err := s.Heads(ctx, []fhir.Ref{ref, {Type: "Patient", ID: "p2"}})
	if err != nil || hs[0].Version != 4 || hs[1] != (store.Head{}) {
		t.Fatalf("heads %+v %v", hs, err)
	}
}

func testPreconditions(t *testing.T, s store.Store) {
	with := func(w store.Write, e store.Expect, v uint64) *store.Batch {
		w.Expect, w.IfVersion = e, v
		return &store.Batch{Writes: []store.Write{put("Patient", "beside", ""), w}}
	}
	fails(t, s, with(put("Device", "d", ""), store.Existing, 0), fhir.NotFound)
	commit(t, s, put("Device", "d", ""))
	fails(t, s, with(put("Device", "d", ""), store.Absent, 0), fhir.Conflict)
	fails(t, s, with(put("Device", "d", ""), store.Version, 2), fhir.PreconditionFailed)
	commit(t, s, remove("Device", "d"))
	fails(t, s, with(put("Device", "d", ""), store.Existing, 0), fhir.Gone)
	fails(t, s, with(put("Device", "d", ""), store.Absent, 0), fhir.Conflict)
	if _, _, err := s.Read(context.Background(), fhir.Ref{Type: "Patient", ID: "beside"},
		0); fhir.KindOf(err) != fhir.NotFound {
		t.Fatalf("a refused batch left something: %v", err)
	}
	// Of many writers that saw the same version, one wins.
	r := commit(t, s, put("Device", "d", ""))
	won := make(chan bool, 16)
	for range cap(won) {
		go func() {
			w := put("Device", "d", `"lotNumber":"1"`)
			w.Expect, w.IfVersion = store.Version, r.Outcomes[0].Version
			_, err := s.Commit(context.Background(), &store.Batch{Writes: []store.Write{w}})
			won <- err == nil
		}()
	}
	n := 0
	for range cap(won) {
		if <-won {
			n++
		}
	}
	if n != 1 {
		t.Fatalf("%d of %d writers won", n, cap(won))
	}
}

func testSkipSame(t *testing.T, s store.Store) {
	w := put("Device", "d", `"lotNumber":"1"`)
	w.SkipSame = true
	commit(t, s, w)
	r := commit(t, s, w)
	if r.Seq != 0 || !r.Outcomes[0].Unchanged || r.Outcomes[0].Version != 1 {
		t.Fatalf("%+v", r)
	}
	commit(t, s, remove("Device", "d"))
	if r = commit(t, s, remove("Device", "d")); r.Seq != 0 || !r.Outcomes[0].Unchanged {
		t.Fatalf("%+v", r)
	}
	if r = commit(t, s, w); r.Outcomes[0].Version != 3 || !r.Outcomes[0].Created {
		t.Fatalf("%+v", r)
	}
}

func testState(t *testing.T, s store.Store) {
	ctx := context.Background()
	state := func(ws ...store.StateWrite) *store.Batch { return &store.Batch{State: ws} }
	must := func(b *store.Batch) {
		t.Helper()
		if _, err := s.Commit(ctx, b); err != nil {
			t.Fatal(err)
		}
	}
	must(state(store.StateWrite{Key: "jti/a", Value: []byte("1"), Expect: store.StateAbsent}))
	fails(t, s, state(store.StateWrite{Key: "jti/a", Value: []byte("2"), Expect: store.StateAbsent}), fhir.Conflict)
	fails(t, s, state(store.StateWrite{Key: "x", Value: []byte("2")},
		store.StateWrite{Key: "jti/a", Value: []byte("2"), Expect: store.StateEquals, Old: []byte("0")}), fhir.Conflict)
	must(state(store.StateWrite{Key: "jti/a", Value: []byte("2"), Expect: store.StateEquals, Old: []byte("1")},
		store.StateWrite{Key: "jti/b", Value: []byte{}}, store.StateWrite{Key: "jtj", Value: []byte("9")}))
	got := map[string]string{}
	err := s.List(ctx, "jti/", func(k string, v []byte) bool { got[k] = string(v); return true })
	if err != nil || len(got) != 2 || got["jti/a"] != "2" {
		t.Fatalf("%v %v", got, err)
	}
	for from, want := range map[string]string{"": "jti/a jti/b", "jti/a": "jti/a jti/b", "jti/a0": "jti/b",
		"jti/c": "", "jtj": "", "x": ""} {
		var keys []string
		err := s.ListFrom(ctx, "jti/", from, func(k string, _ []byte) bool { keys = append(keys, k); return true })
		if list := strings.Join(keys, " "); err != nil || list != want {
			t.Errorf("from %q: %s %v", from, list, err)
		}
	}
	must(state(store.StateWrite{Key: "jti/a"}))
	if v, err := s.Get(ctx, "jti/a"); v != nil || err != nil {
		t.Fatalf("%q %v", v, err)
	}
	if v, err := s.Get(ctx, "x"); v != nil || err != nil {
		t.Fatalf("a refused batch left state: %q %v", v, err)
	}
	if v, err := s.Get(ctx, "jti/b"); v == nil || err != nil {
		t.Fatalf("an empty value is not absence: %v", err)
	}
}

func testChanges(t *testing.T, s store.Store) {
	done := make(chan error, 8)
	for w := range cap(done) {
		go func() {
			for i := range 20 {
				_, err := s.Commit(context.Background(), &store.Batch{Writes: []store.Write{
					put("Device", fmt.Sprintf("d%d-%d", w, i), ""),
					put("Patient", fmt.Sprintf("p%d", w), fmt.Sprintf(`"multipleBirthInteger":%d`, i)),
				}})
				if err != nil {
					done <- err
					return
				}
			}
			done <- nil
		}()
	}
	for range cap(done) {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	r := commit(t, s, put("AuditEvent", "a1", ""), remove("Device", "d0-0"))
	var last store.Seq
	n := 0
	err := s.Changes(context.Background(), 0, func(c *store.Change) bool {
		if c.Seq != last && c.Seq != last+1 || c.Ref.Type == "AuditEvent" || c.Facts.Tokens == nil {
			t.Errorf("change %+v after T %d", c, last)
		}
		last = c.Seq
		n++
		return true
	})
	if err != nil || n != 8*20*2+1 || last != r.Seq || s.LastSeq() != r.Seq {
		t.Fatalf("%d changes to T %d of %d: %v", n, last, r.Seq, err)
	}
}

// testWatchTokens checks that the Facts of a change hold every parameter that a
// granular scope may name, on several goroutines, and also after the commit.
func testWatchTokens(t *testing.T, s store.Store) {
	var seen []store.Change
	stop := s.Watch(func(c store.Commit) {
		seen = append(seen, c.Changes...)
	})
	defer stop()
	const rest = `"status":"final","category":[{"coding":[{"system":"urn:c","code":"vital-signs"}]}],"code":{"coding":[{"system":"urn:s","code":"a"}]},` +
		`"subject":{"reference":"Patient/p1"},"performer":[{"reference":"Patient/p1"}],"identifier":[{"system":"urn:i","value":"x"}],` +
		`"method":{"coding":[{"system":"urn:m","code":"m1"}]},"effectiveDateTime":"2026-03-01",` +
		`"component":[{"code":{"coding":[{"system":"urn:s","code":"b"}]},"valueQuantity":{"value":1,"system":"http://unitsofmeasure.org","code":"1"}}]`
	w := put("Observation", "o1", rest)
	commit(t, s, w)
	commit(t, s, w)
	commit(t, s, remove("Observation", "o1"))
	if len(seen) != 3 {
		t.Fatalf("%d changes", len(seen))
	}
	all, err := search.Extract("Observation", w.Resource.JSON)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	some := 0
	for _, p := range search.Params("Observation") {
		if p.Type != search.TypeToken && p.Type != search.TypeReference || p.Code == "_id" {
			continue
		}
		want := len(all.ByParam[p.Code])
		some += want
		for i := range seen {
			wg.Go(func() {
				if got := seen[i].Facts.Tokens(p.Code); len(got) != want {
					t.Errorf("change %d: %s has the tokens %v, want %d", i, p.Code, got, want)
				}
			})
		}
	}
	wg.Wait()
	if some < 9 {
		t.Fatalf("the Observation has %d tokens only", some)
	}
}

func testWatch(t *testing.T, s store.Store) {
	var seen []store.Commit
	stop := s.Watch(func(c store.Commit) { seen = append(seen, c) })
	for i := range 5 {
		r := commit(t, s, put("Patient", fmt.Sprintf("p%d", i), ""), put("AuditEvent", fmt.Sprintf("a%d", i), ""))
		// The watcher ran before the answer, so that this read is ordered after it.
		if len(seen) != i+1 || seen[i].Seq != r.Seq || len(seen[i].Changes) != 1 ||
			seen[i].Changes[0].Ref.Type != "Patient" {
			t.Fatalf("after commit %d: %+v", i, seen)
		}
	}
	stop()
	commit(t, s, put("Patient", "p9", ""))
	if len(seen) != 5 {
		t.Fatal("called after stop")
	}
}

func testLog(t *testing.T, s store.Store) {
	var hs []tlog.Hash
	for i := range 20 {
		var b store.Batch
		for j := range i % 4 {
			b.Leaves = append(b.Leaves, store.Leaf(fmt.Sprintf("leaf %d %d", i, j)))
		}
		b.State = []store.StateWrite{{Key: "k", Value: []byte{1}}}
		r, err := s.Commit(context.Background(), &b)
		if err != nil || r.LeafIndex != s.Log().Size()-uint64(len(b.Leaves)) {
			t.Fatalf("%+v %v", r, err)
		}
	}
	mem := tlog.HashReaderFunc(func(xs []int64) ([]tlog.Hash, error) {
		out := make([]tlog.Hash, len(xs))
		for i, x := range xs {
			out[i] = hs[x]
		}
		return out, nil
	})
	for i := range s.Log().Size() {
		l, err := s.Log().Leaf(i)
		if err != nil {
			t.Fatal(err)
		}
		h, err := tlog.StoredHashes(int64(i), l, mem)
		if err != nil {
			t.Fatal(err)
		}
		hs = append(hs, h...)
		want, err := tlog.TreeHash(int64(i)+1, mem)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := s.Log().Root(i + 1); err != nil || got != want {
			t.Fatalf("root of %d: %v", i+1, err)
		}
	}
	if s.Log().Size() != 30 {
		t.Fatalf("size %d", s.Log().Size())
	}
}

func testFilter(t *testing.T, s store.Store) {
	ctx := context.Background()
	commit(t, s, put("Observation", "o1", observation("p1", 0, "2026-01-01T10:00:00Z", "")),
		put("Observation", "o2", observation("p1", 1, "2026-01-01T11:00:00Z", "")))
	g := access.Grant{AllPatients: true, Rules: []access.Rule{{Type: "Observation", May: access.Search,
		Params: []access.Param{{Name: "code", Any: []access.Token{{System: sys, Code: "c1"}}}}}}}
	for name, q := range map[string]string{"patient": "patient=p1", "all": "", "sorted": "patient=p1&_sort=-date",
		"collected": "_sort=_id"} {
		query := parse(t, "Observation", q)
		got := found(t, s, store.Find{Query: query, Filter: g.Filter(access.Search)})
		n, err := s.Count(ctx, store.Find{Query: query, Filter: g.Filter(access.Search)})
		if err != nil || n != 1 || !slices.Equal(got, []string{"o2"}) {
			t.Errorf("%s: %v %d %v", name, got, n, err)
		}
		if got := found(t, s, store.Find{Query: query}); len(got) != 0 {
			t.Errorf("%s: the zero filter let %v through", name, got)
		}
	}
	end, stop := context.WithCancel(ctx)
	stop()
	if _, err := s.Commit(end, &store.Batch{Writes: []store.Write{put("Patient", "p",
		"")}}); fhir.KindOf(err) != fhir.Unavailable {
		t.Error(err)
	}
}

func testClosed(t *testing.T, s store.Store) {
	shut(t, s)
	if _, err := s.Commit(context.Background(), &store.Batch{}); fhir.KindOf(err) != fhir.Unavailable {
		t.Error(err)
	}
	if _, _, err := s.Read(context.Background(), fhir.Ref{Type: "Patient", ID: "p"},
		0); fhir.KindOf(err) != fhir.Unavailable {
		t.Error(err)
	}
}

func testReopen(t *testing.T, d Driver) {
	ctx := context.Background()
	s := d.Open(t, nil)
	r, err := s.Commit(ctx, &store.Batch{Writes: []store.Write{put("Patient", "p1", "")},
		Leaves: []store.Leaf{store.Leaf("x"), store.Leaf("y"), store.Leaf("z")},
		State:  []store.StateWrite{{Key: "k", Value: []byte("v"), Expires: time.Now().Add(time.Hour)}}})
	if err != nil {
		t.Fatal(err)
	}
	root, err := s.Log().Root(3)
	if err != nil {
		t.Fatal(err)
	}
	s = d.Reopen(t, s)
	defer shut(t, s)
	if again, err := s.Log().Root(3); err != nil || again != root || s.LastSeq() != r.Seq {
		t.Fatalf("T %d of %d, %v", s.LastSeq(), r.Seq, err)
	}
	r2, err := s.Commit(ctx, &store.Batch{Writes: []store.Write{put("Patient", "p1", `"active":true`)},
		Leaves: []store.Leaf{store.Leaf("w")}})
	if err != nil || r2.Seq != r.Seq+1 || r2.Outcomes[0].Version != 2 || r2.LeafIndex != 3 ||
		!r2.Outcomes[0].LastUpdated.After(r.Outcomes[0].LastUpdated) {
		t.Fatalf("%+v %v", r2, err)
	}
	if v, err := s.Get(ctx, "k"); err != nil || string(v) != "v" {
		t.Fatalf("%q %v", v, err)
	}
	sound(t, s)
}

func sound(t interface {
	Helper()
	Error(...any)
}, s store.Store) {
	t.Helper()
	if err := s.Check(context.Background(), func(p string) { t.Error(p) }); err != nil {
		t.Error(err)
	}
}
