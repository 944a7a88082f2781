package storetest

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/series"
	"pulsegate/fhir/store"
)

// noon is the start of the streams of these tests, in Unix microseconds.
var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC).UnixMicro()

// pulse returns a template of instants of p1 with code c1 and one value.
func pulse(device string) *series.Template {
	t := &series.Template{Patient: "p1", Vendor: "apple", Categories: []string{"vital-signs"}, Values: 1,
		Slots: []series.Slot{series.SlotID, series.SlotEffective, series.SlotValue},
		Parts: [][]byte{
			[]byte(`},"identifier":[{"system":"urn:x","value":"`),
			[]byte(`"}],"status":"final","category":[{"coding":[{"system":"urn:category","code":"vital-signs"}]}],"code":{"coding":[{"system":"` + sys + `","code":"c1"}]},"subject":{"reference":"Patient/p1"},`),
			[]byte(`,"valueQuantity":{"value":`),
			[]byte(`,"unit":"/min","system":"http://unitsofmeasure.org","code":"/min"},"device":{"reference":"Device/` + device + `"}}`),
		}}
	copy(t.Identity[:], "pulse p1")
	return t
}

// every returns n samples of t, a minute apart, with values starting at v.
func every(t *series.Template, from int64, n, v int) store.SeriesWrite {
	c := &series.Columns{}
	for i := range n {
		s := series.Sample{Start: from + int64(i)*60e6, End: series.NoEnd, Off: 60}
		s.Values[0] = series.Decimal{Mant: int64(v + i)}
		c.Append(&s, 1)
	}
	return store.SeriesWrite{Template: t, Columns: c}
}

// idsOf returns the ids of the samples of w.
func idsOf(w store.SeriesWrite) (ids []string) {
	for i := range w.Columns.Len() {
		s := w.Columns.At(i)
		k := w.Template.Key(&s)
		ids = append(ids, k.ID())
	}
	return ids
}

func probe(t fataler, s store.Store, ws ...store.SeriesWrite) (store.Seq, [][]store.Presence) {
	t.Helper()
	at, found, err := s.Probe(context.Background(), ws)
	if err != nil || at != s.LastSeq() || len(found) != len(ws) {
		t.Fatalf("probe as of %d of %d: %d answers, %v", at, s.LastSeq(), len(found), err)
	}
	return at, found
}

// sampled probes ws, which the store must not have, and commits them.
func sampled(t fataler, s store.Store, ws ...store.SeriesWrite) store.Result {
	t.Helper()
	at, found := probe(t, s, ws...)
	for i := range found {
		for j, p := range found[i] {
			if p != store.Missing {
				t.Fatalf("sample %d of series %d is said to be there: %d", j, i, p)
			}
		}
	}
	r, err := s.Commit(context.Background(), &store.Batch{Series: ws, Probed: at})
	if err != nil || r.Seq != at+1 {
		t.Fatalf("commit %d after %d: %v", r.Seq, at, err)
	}
	return r
}

// stamped returns the bytes that the store must return for sample i of w.
func stamped(w store.SeriesWrite, i int, at store.Seq, updated time.Time) []byte {
	s := w.Columns.At(i)
	s.Commit = series.Commit{Seq: uint64(at), Updated: updated.UnixMilli()}
	return w.Template.Append(nil, &s)
}

// testSamples checks that every read shows a sample as the Observation for which it
// stands.
func testSamples(t *testing.T, s store.Store) {
	ctx := context.Background()
	var seen []store.Commit
	stop := s.Watch(func(c store.Commit) { seen = append(seen, c) })
	defer stop()
	commit(t, s, put("Patient", "p1", ""))
	w := every(pulse("d1"), noon, 5, 60)
	ids := idsOf(w)
	r := sampled(t, s, w)
	if got := seen[len(seen)-1]; got.Seq != r.Seq || got.Samples+len(got.Changes) != 5 {
		t.Fatalf("watched %d changes and %d samples of commit %d", len(got.Changes), got.Samples, got.Seq)
	}
	var updated time.Time
	for i, id := range ids {
		ref := fhir.Ref{Type: "Observation", ID: id}
		res, f, err := s.Read(ctx, ref, 0)
		updated = res.LastUpdated
		if err != nil || res.Version != 1 || res.Deleted || !bytes.Equal(res.JSON, stamped(w, i, r.Seq, updated)) {
			t.Fatalf("read %+v %s: %v", res, res.JSON, err)
		}
		if f.Patient != "p1" || f.Vendor != "apple" || f.Author != "" || f.ID != id ||
			!slices.Equal(f.Categories, []string{"vital-signs"}) {
			t.Fatalf("facts %+v", f)
		}
		if got := f.Tokens("code"); len(got) != 1 || got[0] != (access.Token{System: sys, Code: "c1"}) {
			t.Fatalf("tokens %+v", got)
		}
		again, _, err := s.ReadVersion(ctx, ref, 1)
		if err != nil || !bytes.Equal(again.JSON, res.JSON) {
			t.Fatalf("version 1: %+v %v", again, err)
		}
		if _, _, err := s.ReadVersion(ctx, ref, 2); fhir.KindOf(err) != fhir.NotFound {
			t.Fatalf("version 2: %v", err)
		}
		if _, _, err := s.Read(ctx, ref, r.Seq-1); fhir.KindOf(err) != fhir.NotFound {
			t.Fatalf("before it was written: %v", err)
		}
		n := 0
		err = s.History(ctx, ref, 0, 0, func(v fhir.Resource, f *access.Facts) bool {
			n++
			return v.Version == 1 && bytes.Equal(v.JSON, res.JSON) && f.Patient == "p1"
		})
		if err != nil || n != 1 {
			t.Fatalf("history of %d: %v", n, err)
		}
		hs, err := s.Heads(ctx, []fhir.Ref{{Type: "Observation", ID: "none"}, ref})
		if x := w.Columns.At(i); err != nil || hs[0] != (store.Head{}) ||
			hs[1] != (store.Head{Version: 1, Seq: r.Seq, Hash: store.ContentHash(w.Template.Append(nil, &x))}) {
			t.Fatalf("heads %+v %v", hs, err)
		}
	}
	// Another instant of the same stream, and ids that resemble it.
	for _, id := range []string{idsOf(every(w.Template, noon+1, 1, 60))[0], strings.Repeat("v", 32), ids[0][:31],
		ids[0] + "0"} {
		if _, _, err := s.Read(ctx, fhir.Ref{Type: "Observation", ID: id}, 0); fhir.KindOf(err) != fhir.NotFound {
			t.Fatalf("%s: %v", id, err)
		}
	}
	var got []string
	err := s.Changes(ctx, r.Seq-1, func(c *store.Change) bool {
		if c.Seq != r.Seq || c.Version != 1 || !c.Created || c.Deleted || c.Facts.Patient != "p1" ||
			c.Facts.Vendor != "apple" || len(c.Facts.Tokens("code")) != 1 {
			t.Errorf("change %+v", c)
		}
		got = append(got, strings.Clone(c.Ref.ID))
		return true
	})
	if err != nil || !slices.Equal(got, ids) {
		t.Fatalf("changes %v %v", got, err)
	}
	if n := s.Stats(); n.Resources != 6 {
		t.Errorf("%d resources", n.Resources)
	}
	sound(t, s)
}

// testSamplesFound checks that searches find samples among documents, in either
// direction, with positions.
func testSamplesFound(t *testing.T, s store.Store) {
	w := every(pulse("d1"), noon, 5, 60)
	ids := idsOf(w)
	r0 := commit(t, s, put("Observation", "o1", observation("p1", 1, "2026-01-02T12:01:30Z", "")),
		put("Observation", "o2", observation("p1", 1, "2026-01-02T11:00:00Z", "")))
	r := sampled(t, s, w)
	commit(t, s, put("Observation", "o3", observation("p1", 1, "2026-01-02T12:10:00Z", "")))
	asc := []string{"o2", ids[0], ids[1], "o1", ids[2], ids[3], ids[4], "o3"}
	desc := slices.Clone(asc)
	slices.Reverse(desc)
	for raw, want := range map[string][]string{
		"patient=p1&code=c1&_sort=date": asc, "patient=p1&code=c1&_sort=-date": desc,
		"patient=p1&_sort=-date": desc, "_sort=date": asc,
		"patient=p1&code=" + sys + "|c1&date=ge2026-01-02T12:01:00Z&date=lt2026-01-02T12:03:00Z&_sort=date": {ids[1], "o1", ids[2]},
		"patient=p1&value-quantity=gt62&_sort=-value-quantity":                                              {ids[4], ids[3]},
		"_id=" + ids[3]: {ids[3]}, "identifier=urn:x|" + ids[2]: {ids[2]}, "device=Device/d2": nil,
		"patient=p1&code=c1&category=vital-signs&_sort=date": ids, "patient=p2": nil, "patient=p1&code=c0": nil,
	} {
		f := store.Find{Query: parse(t, "Observation", raw), Filter: all}
		got := found(t, s, f)
		if !slices.Equal(got, want) {
			t.Errorf("%s: got %v, want %v", raw, got, want)
		}
		for n := range 3 {
			if p := paged(t, s, f, n+1); !slices.Equal(p, want) {
				t.Errorf("%s: pages of %d give %v", raw, n+1, p)
			}
		}
		if n, err := s.Count(t.Context(), f); err != nil || n != uint64(len(want)) {
			t.Errorf("%s: count %d %v", raw, n, err)
		}
		f.Filter = access.Filter{}
		if got := found(t, s, f); len(got) != 0 {
			t.Errorf("%s: the zero filter let %v through", raw, got)
		}
	}
	q := parse(t, "Observation", "patient=p1&code=c1&_sort=date")
	for at, want := range map[store.Seq][]string{r0.Seq: {"o2", "o1"}, r.Seq: asc[:7]} {
		if got := found(t, s, store.Find{Query: q, Filter: all, At: at}); !slices.Equal(got, want) {
			t.Errorf("at %d: %v", at, got)
		}
	}
	first, _, err := s.Read(t.Context(), fhir.Ref{Type: "Observation", ID: "o1"}, 0)
	if err != nil {
		t.Fatal(err)
	}
	for since, want := range map[time.Time]int{{}: 8, first.LastUpdated: 6} {
		n := 0
		err := s.Scan(t.Context(), store.ScanRange{Types: []string{"Observation"}, Patient: "p1", Since: since,
			At: s.LastSeq(), Filter: all}, func(*store.Found) bool { n++; return true })
		if err != nil || n != want {
			t.Errorf("scan since %v: %d %v", since, n, err)
		}
	}
	sound(t, s)
}

// testSamplesMoved checks that a write with the id of a sample takes it out of its
// series, and that reads at an earlier commit see it as before.
func testSamplesMoved(t *testing.T, s store.Store) {
	ctx := t.Context()
	w := every(pulse("d1"), noon, 5, 60)
	ids := idsOf(w)
	r := sampled(t, s, w)
	q := parse(t, "Observation", "patient=p1&code=c1&_sort=date")
	edit := put("Observation", ids[1], observation("p1", 1, "2026-01-02T13:00:00Z", ""))
	edit.Expect, edit.IfVersion = store.Version, 1
	absent := put("Observation", ids[1], "")
	absent.Expect = store.Absent
	fails(t, s, &store.Batch{Writes: []store.Write{absent}}, fhir.Conflict)
	same := store.Write{Resource: fhir.Resource{Type: "Observation", ID: ids[2]}, SkipSame: true}
	x := w.Columns.At(2)
	same.Resource.JSON = w.Template.Append(nil, &x)
	r2 := commit(t, s, edit, remove("Observation", ids[3]), same)
	if o := r2.Outcomes; o[0].Version != 2 || o[0].Created || o[1].Version != 2 || !o[1].Deleted ||
		!o[2].Unchanged || o[2].Version != 1 {
		t.Fatalf("outcomes %+v", o)
	}
	for _, look := range []struct {
		at   store.Seq
		want []string
	}{{r.Seq, ids}, {r2.Seq, []string{ids[0], ids[2], ids[4], ids[1]}}, {0, []string{ids[0], ids[2], ids[4], ids[1]}}} {
		if got := found(t, s, store.Find{Query: q, Filter: all, At: look.at}); !slices.Equal(got, look.want) {
			t.Errorf("at %d: %v, want %v", look.at, got, look.want)
		}
		for i, id := range ids {
			res, _, err := s.Read(ctx, fhir.Ref{Type: "Observation", ID: id}, look.at)
			version := uint64(1)
			if look.at != r.Seq && (i == 1 || i == 3) {
				version = 2
			}
			if err != nil || res.Version != version || res.Deleted != (i == 3 && version == 2) {
				t.Errorf("%d at %d: %+v %v", i, look.at, res, err)
			}
		}
	}
	for i, want := range [][]uint64{{1}, {2, 1}, {1}, {2, 1}, {1}} {
		var got []uint64
		err := s.History(ctx, fhir.Ref{Type: "Observation", ID: ids[i]}, 0, 0,
			func(v fhir.Resource, _ *access.Facts) bool {
				if v.Version == 1 && !bytes.Equal(v.JSON, stamped(w, i, r.Seq, v.LastUpdated)) {
					t.Errorf("version 1 of %d became %s", i, v.JSON)
				}
				got = append(got, v.Version)
				return true
			})
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("history of %d: %v %v", i, got, err)
		}
	}
	var log []string
	if err := s.Changes(ctx, 0, func(c *store.Change) bool {
		log = append(log, fmt.Sprintf("%d %d v%d %v %v", c.Seq, slices.Index(ids, c.Ref.ID), c.Version, c.Created,
			c.Deleted))
		return true
	}); err != nil {
		t.Fatal(err)
	}
	want := []string{"1 0 v1 true false", "1 1 v1 true false", "1 2 v1 true false", "1 3 v1 true false",
		"1 4 v1 true false", "2 1 v2 false false", "2 3 v2 false true"}
	if !slices.Equal(log, want) {
		t.Errorf("change log %v", log)
	}
	// The same samples come again; two of them have changed since.
	if _, f := probe(t, s, w); !slices.Equal(f[0],
		[]store.Presence{store.Same, store.Other, store.Same, store.Other, store.Same}) {
		t.Errorf("probe %v", f)
	}
	back := commit(t, s, put("Observation", ids[3], observation("p1", 1, "2026-01-02T14:00:00Z", "")))
	if o := back.Outcomes[0]; o.Version != 3 || !o.Created {
		t.Errorf("after the deletion: %+v", o)
	}
	if err := s.Compact(ctx); err != nil {
		t.Fatal(err)
	}
	if got := found(t, s, store.Find{Query: q, Filter: all, At: r.Seq}); !slices.Equal(got, ids) {
		t.Errorf("after compaction at %d: %v", r.Seq, got)
	}
	sound(t, s)
}

// testSamplesConflict checks Probe, and that a commit based on an outdated answer
// fails without a trace and succeeds after another Probe.
func testSamplesConflict(t *testing.T, s store.Store) {
	one, other := pulse("d1"), pulse("d2") // two templates of one identity
	w := every(one, noon, 4, 60)
	sampled(t, s, w)
	restated, elsewhere, later := every(one, noon, 4, 60), every(other, noon, 4, 60), every(one, noon+60e6, 6, 61)
	restated.Columns.Values[0][2] = series.Decimal{Mant: 620, Scale: 1} // 62.0 differs from 62
	_, f := probe(t, s, restated, elsewhere, later)
	if !slices.Equal(f[0], []store.Presence{store.Same, store.Same, store.Other, store.Same}) ||
		!slices.Equal(f[1], []store.Presence{store.Other, store.Other, store.Other, store.Other}) ||
		!slices.Equal(f[2], []store.Presence{store.Same, store.Same, store.Same, store.Missing, store.Missing,
			store.Missing}) {
		t.Fatalf("probe %v", f)
	}
	// The commit in between writes the same samples, one of them as a document, or
	// the stream with another template.
	for i, between := range []func(w store.SeriesWrite){
		func(w store.SeriesWrite) { sampled(t, s, w) },
		func(w store.SeriesWrite) {
			commit(t, s, put("Observation", idsOf(w)[1], observation("p1", 1, "2026-01-02T13:00:00Z", "")))
		},
		func(w store.SeriesWrite) { sampled(t, s, every(other, w.Columns.Start[2], 1, 99)) },
		func(w store.SeriesWrite) {
			id := idsOf(w)[0]
			commit(t, s, put("Observation", id, ""))
			commit(t, s, remove("Observation", id))
		},
	} {
		w := every(one, noon+int64(i+1)*3600e6, 3, 70)
		at, _ := probe(t, s, w)
		between(w)
		before := s.Stats()
		b := &store.Batch{Series: []store.SeriesWrite{w}, Probed: at,
			Writes: []store.Write{put("Device", "beside", "")}, Leaves: []store.Leaf{store.Leaf("l")}}
		fails(t, s, b, fhir.Conflict)
		if after := s.Stats(); after.Resources != before.Resources || after.Log != before.Log {
			t.Fatalf("%d: a refused batch left something: %+v %+v", i, before, after)
		}
		at, f := probe(t, s, w)
		fresh := &series.Columns{}
		for j, p := range f[0] {
			if x := w.Columns.At(j); p == store.Missing {
				fresh.Append(&x, 1)
			}
		}
		if want := []int{0, 2, 2, 2}[i]; fresh.Len() != want {
			t.Fatalf("%d: %v", i, f)
		}
		if fresh.Len() > 0 {
			b = &store.Batch{Series: []store.SeriesWrite{{Template: one, Columns: fresh}}, Probed: at}
			if _, err := s.Commit(t.Context(), b); err != nil {
				t.Fatal(err)
			}
		}
		for _, id := range idsOf(w) {
			if _, _, err := s.Read(t.Context(), fhir.Ref{Type: "Observation", ID: id}, 0); err != nil {
				t.Errorf("%d: %v", i, err)
			}
		}
	}
	sound(t, s)
}

// testSamplesReopen checks that samples, moved samples and snapshots survive a
// restart and a kill.
func testSamplesReopen(t *testing.T, d Driver) {
	for name, again := range map[string]func(testing.TB, store.Store) store.Store{"restart": d.Reopen,
		"kill": d.Crash} {
		if again == nil {
			continue
		}
		t.Run(name, func(t *testing.T) {
			s := d.Open(t, nil)
			defer func() { shut(t, s) }()
			w := every(pulse("d1"), noon, 300, 60)
			ids := idsOf(w)
			r := sampled(t, s, w)
			commit(t, s, remove("Observation", ids[7]))
			s = again(t, s)
			r2 := sampled(t, s, every(w.Template, noon-3600e6, 20, 50))
			q := parse(t, "Observation", "patient=p1&code=c1&_sort=date")
			for at, want := range map[store.Seq]int{r.Seq: 300, r.Seq + 1: 299, r2.Seq: 319} {
				if n := len(found(t, s, store.Find{Query: q, Filter: all, At: at})); n != want {
					t.Errorf("at %d: %d", at, n)
				}
			}
			if got := found(t, s, store.Find{Query: q, Filter: all, At: r.Seq}); !slices.Equal(got, ids) {
				t.Errorf("at %d: %v", r.Seq, got)
			}
			_, f := probe(t, s, w)
			if f[0][7] != store.Other || f[0][8] != store.Same {
				t.Errorf("probe %v", f[0][6:9])
			}
			sound(t, s)
		})
	}
}
