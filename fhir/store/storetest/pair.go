package storetest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/clocktest"
	"pulsegate/fhir/series"
	"pulsegate/fhir/store"
)

// pair runs the same random life in two stores of one driver. The first stores
// samples as documents, the second as series. No answer may differ.
type pair struct {
	rt     *rapid.T
	test   *testing.T
	driver [2]Driver
	stores [2]store.Store
	clock  *clocktest.Clock
	rnd    *rand.Rand // for data too large to be drawn one by one
	tpls   []*series.Template
	ids    []string // of Observations, whether samples or not
	pins   []store.Seq
	seen   [2][]store.Commit
	stop   [2]func()
	old    *pending
}

// pending is a batch that was probed and not committed yet.
type pending struct {
	write store.SeriesWrite
	at    store.Seq
}

func testPair(t *testing.T, d Driver) {
	if d.Lives == 0 {
		d.Lives = 5 * time.Second
	}
	if testing.Short() {
		d.Lives = min(d.Lives, time.Second)
	}
	end, failing := time.Now().Add(d.Lives), false
	rapid.Check(t, func(rt *rapid.T) {
		// rapid bounds the number of lives, not the time. While it shrinks a
		// failure, time does not matter.
		if time.Now().After(end) && !failing {
			return
		}
		defer func() { failing = failing || rt.Failed() }()
		w := &pair{rt: rt, test: t, driver: [2]Driver{AsDocuments(d), d},
			clock: clocktest.At(time.Date(2026, 2, 1, 8, 0, 0, 0, time.UTC)),
			rnd:   rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "seed"), 1)), tpls: streams()}
		for i := range w.stores {
			w.stores[i] = w.driver[i].Open(t, w.clock.Now)
			w.watch(i)
		}
		defer func() {
			for _, s := range w.stores {
				shut(t, s)
			}
		}()
		w.append()
		rt.Repeat(map[string]func(*rapid.T){
			"append": func(*rapid.T) { w.append() }, "append again": func(*rapid.T) { w.append() },
			"large": func(*rapid.T) { w.large() }, "write": func(*rapid.T) { w.write() },
			"write again": func(*rapid.T) { w.write() },
			"before":      func(*rapid.T) { w.before() }, "probe": func(*rapid.T) { w.probe() },
			"late":    func(*rapid.T) { w.late() },
			"compact": func(*rapid.T) { w.compact() }, "reopen": func(*rapid.T) { w.again() },
			"find": func(*rapid.T) { w.find() }, "find more": func(*rapid.T) { w.find() },
			"find most": func(*rapid.T) { w.find() },
			"read":      func(*rapid.T) { w.read() }, "scan": func(*rapid.T) { w.scan() },
			"changes": func(*rapid.T) { w.changes() }, "versions": func(*rapid.T) { w.versions() },
		})
		sound(rt, w.stores[0])
		sound(rt, w.stores[1])
	})
}

func (pr *pair) n(n int, what string) int { return rapid.IntRange(0, n-1).Draw(pr.rt, what) }
func (pr *pair) one(in int, what string) bool {
	return rapid.IntRange(1, in).Draw(pr.rt, what) == in // shrinks to false
}

func (pr *pair) of(what string, s ...string) string {
	return rapid.SampledFrom(s).Draw(pr.rt, what)
}

// watch registers a watcher with a store.
func (pr *pair) watch(i int) {
	pr.stop[i] = pr.stores[i].Watch(func(c store.Commit) { pr.seen[i] = append(pr.seen[i], c) })
}

// performers holds the performers of some streams: the patient, another patient, and others.
var performers = map[string]string{ // read only
	"heart p2": `,"performer":[{"reference":"Patient/p2"}]`,
	"sleep p2": `,"performer":[{"reference":"Practitioner/x"},{"reference":"Patient/p1"}]`,
	"nobody":   `,"encounter":{"reference":"Encounter/e"},"performer":[{"reference":"Patient/p1"}]`,
}

// streams returns templates of many types. Some share an identity, some share a
// code with each other or with documents.
func streams() (out []*series.Template) {
	add := func(identity, patient string, class series.Class, code int, variant string) {
		t := &series.Template{Class: class, Patient: patient, Vendor: []string{"apple", "oura"}[code%2], Values: 1,
			Seed: uint64(code)}
		copy(t.Identity[:], identity)
		head, subject, tail := `},"identifier":[{"system":"urn:x","value":"`, "", ""
		rest := `"},{"system":"urn:s","value":"` + identity + `"}],"status":"final"`
		if patient != "" {
			subject = `,"subject":{"reference":"Patient/` + patient + `"}`
		}
		category := `,"category":[{"coding":[{"system":"urn:category","code":"vital-signs"}]}]`
		t.Categories = []string{"vital-signs"}
		value, end := `,"valueQuantity":{"value":`,
			`,"unit":"per minute","system":"http://unitsofmeasure.org","code":"/min"}`
		tail = fmt.Sprintf(`,"device":{"reference":"Device/d%d"}`, code)
		switch variant {
		case "key":
			t.KeyValue = true
		case "bare": // without category, device or unit, and with another status
			category, end, tail, t.Categories = "", "}", "", nil
			rest = strings.Replace(rest, "final", "preliminary", 1)
		case "profile":
			head = `"profile":["http://hl7.org/fhir/StructureDefinition/heartrate"],"tag":[{"system":"urn:tag","code":"t"}]` + head
			category = `,"category":[{"coding":[{"system":"urn:category","code":"activity"}]},{"coding":[{"system":"urn:category","code":"vital-signs"}]}]`
			t.Categories = []string{"activity", "vital-signs"}
		case "two", "three":
			t.Values = map[string]int{"two": 2, "three": 3}[variant]
		}
		mid := rest + category + fmt.Sprintf(
			`,"code":{"coding":[{"system":"%s","code":"c%d"},{"system":"urn:other","code":"c%d"}],"text":"Rate"}`,
			sys, code, code+1) + subject + performers[identity] + ","
		t.Slots = []series.Slot{series.SlotID, series.SlotEffective}
		t.Parts = [][]byte{[]byte(head), []byte(mid)}
		if t.Values == 1 {
			t.Parts, t.Slots = append(t.Parts, []byte(value), []byte(end+tail+"}")), append(t.Slots, series.SlotValue)
		} else {
			components(t, tail)
		}
		out = append(out, t)
	}
	add("heart p1", "p1", series.Instant, 1, "")
	add("heart p1", "p1", series.Instant, 2, "bare") // the same stream with another template
	add("heart p1", "p1", series.Instant, 1, "profile")
	add("heart p2", "p2", series.Instant, 1, "")
	for class := series.Instant; class <= series.Long; class++ {
		add("steps p1", "p1", class, 0, "")
		add("sleep p2", "p2", class, 2, "key")
	}
	add("keyed p1", "p1", series.Instant, 1, "key")
	add("keyed p1", "p1", series.Instant, 2, "key")
	add("bp p2", "p2", series.Instant, 0, "two")
	add("three p1", "p1", series.Hour, 2, "three")
	add("nobody", "", series.Instant, 1, "")
	return out
}

// components makes the values of t components.
func components(t *series.Template, tail string) {
	between := tail + `,"component":[`
	for v := range t.Values {
		last := t.Parts[len(t.Parts)-1]
		part := between + fmt.Sprintf(`{"code":{"coding":[{"system":"urn:part","code":"part%d"}]},"valueQuantity":{"value":`, v)
		if v == 0 { // follows the effective time
			t.Parts = append(t.Parts, []byte(part))
		} else {
			t.Parts[len(t.Parts)-1] = append(last, part...)
		}
		t.Slots = append(t.Slots, series.SlotValue+series.Slot(v))
		t.Parts = append(t.Parts, []byte(`,"unit":"mmHg","system":"http://unitsofmeasure.org","code":"mm[Hg]"}}`))
		between = ","
	}
	t.Parts[len(t.Parts)-1] = append(t.Parts[len(t.Parts)-1], "]}"...)
}

// moments around which samples lie: those of the documents, before 1970, the bounds
// of ids, and a clock that is years ahead.
var moments = []int64{
	time.Date(2026, 1, 1, 8, 0, 0, 0, time.UTC).UnixMicro(), time.Date(2026, 1, 2, 23, 59, 58, 0, time.UTC).UnixMicro(),
	time.Date(2026, 1, 3, 5, 0, 0, 0, time.UTC).UnixMicro(), time.Date(2026, 1, 3, 5, 0, 0, 0, time.UTC).UnixMicro(),
	0, -1e6, time.Date(1926, 10, 1, 12, 0, 0, 0, time.UTC).UnixMicro(), series.MinStart,
	time.Date(2051, 1, 1, 0, 0, 0, 0, time.UTC).UnixMicro(), series.MaxStart - 100e6,
}

var (
	steps   = []int64{0, 1, 999, 1000, 250_000, 1e6, 5e6, 60e6, 3600e6}
	offsets = []int16{0, 0, 60, 120, -300, 345, -840, 840}
	lasting = []int64{0, 1000, 30e6, 59e6, 60e6, 300e6, 3599e6, 7200e6, 30 * 3600e6, 47 * 3600e6, 49 * 3600e6,
		400 * 3600e6}
)

// number returns a number, often one of a few, so that values are equal.
func number(r *rand.Rand) series.Decimal {
	if r.IntN(12) == 0 {
		return series.Decimal{Mant: r.Int64N(2e17) - 1e17, Scale: uint8(r.IntN(19))}
	}
	return []series.Decimal{{Mant: 62}, {Mant: 620, Scale: 1}, {Mant: 5, Scale: 1}, {Mant: 50, Scale: 2}, {},
		{Scale: 2}, {Mant: -3}, {Mant: -35, Scale: 1}, {Mant: 100}, {Mant: 61}, {Mant: 63}}[r.IntN(11)]
}

func (pr *pair) run(t *series.Template, n int, at int64) store.SeriesWrite {
	return samplesOf(pr.rnd, t, n, at)
}

// samplesOf returns at most n samples of t.
func samplesOf(r *rand.Rand, t *series.Template, n int, at int64) store.SeriesWrite {
	c := &series.Columns{}
	step := steps[r.IntN(len(steps))]
	for range n {
		if r.IntN(8) == 0 {
			step = steps[r.IntN(len(steps))]
		}
		at += step
		if r.IntN(40) == 0 {
			at -= 2 * step
		}
		s := series.Sample{Start: at, End: series.NoEnd, Off: offsets[r.IntN(len(offsets))]}
		if t.Class > series.Instant || r.IntN(4) == 0 {
			s.End, s.EndOff = at+lasting[r.IntN(len(lasting))], offsets[r.IntN(len(offsets))]
			for tries := 0; s.Class() != t.Class && tries < 20; tries++ {
				s.End = at + lasting[r.IntN(len(lasting))]
			}
		}
		if s.Class() != t.Class || s.Start < series.MinStart || s.Start > series.MaxStart {
			continue
		}
		for v := range t.Values {
			s.Values[v] = number(r)
		}
		c.Append(&s, t.Values)
	}
	if c.Len() > 0 {
		c.Sort(t)
	}
	return store.SeriesWrite{Template: t, Columns: c}
}

func (pr *pair) template() *series.Template { return pr.tpls[pr.n(len(pr.tpls), "template")] }
func (pr *pair) moment() int64 {
	return moments[pr.n(len(moments), "moment")] + int64(pr.n(20, "second"))*1e6
}

// missing probes both stores. It returns the new samples of ws, the existing ones
// that differ, and the commit at which it probed.
func (pr *pair) missing(ws []store.SeriesWrite) (fresh []store.SeriesWrite, others []store.Write, at store.Seq) {
	at, want := probe(pr.rt, pr.stores[0], ws...)
	at2, got := probe(pr.rt, pr.stores[1], ws...)
	if at != at2 {
		pr.rt.Fatalf("probed as of %d and %d", at, at2)
	}
	seen := map[string]bool{}
	for i := range ws {
		c := &series.Columns{}
		for j, id := range idsOf(ws[i]) {
			if want[i][j] != got[i][j] {
				pr.rt.Fatalf("probe of %s (%s): %d as documents, %d as samples", id, ws[i].Template.Identity,
					want[i][j], got[i][j])
			}
			if seen[id] { // occurs under another template of this batch
				continue
			}
			seen[id] = true
			s := ws[i].Columns.At(j)
			switch got[i][j] {
			case store.Missing:
				c.Append(&s, ws[i].Template.Values)
			case store.Other:
				if len(others) < 10 {
					others = append(others, store.Write{Vendor: ws[i].Template.Vendor, SkipSame: true,
						Resource: fhir.Resource{Type: "Observation", ID: id, JSON: ws[i].Template.Append(nil, &s)}})
				}
			}
		}
		if c.Len() > 0 {
			fresh = append(fresh, store.SeriesWrite{Template: ws[i].Template, Columns: c})
		}
	}
	return fresh, others, at
}

// append writes samples as package ingest does: new ones as samples, existing ones
// with other content as the next version.
func (pr *pair) append() {
	var ws []store.SeriesWrite
	used := map[*series.Template]bool{}
	for range 1 + pr.n(3, "series") {
		t := pr.template()
		if x := pr.run(t, 1+pr.n(12, "samples"), pr.moment()); x.Columns.Len() > 0 && !used[t] {
			used[t] = true
			ws = append(ws, x)
		}
	}
	pr.take(ws)
}

func (pr *pair) take(ws []store.SeriesWrite) {
	fresh, others, at := pr.missing(ws)
	b := store.Batch{Series: fresh, Probed: at, Writes: others}
	if pr.one(3, "beside") {
		b.Writes = append(b.Writes, anyWrite(pr.rt, pr.n(16, "document")))
		b.Leaves = []store.Leaf{store.Leaf(fmt.Sprint("leaf ", at))}
	}
	pr.commit(&b)
}

// large writes full blocks.
func (pr *pair) large() {
	if pr.one(4, "large") {
		pr.take([]store.SeriesWrite{pr.run(pr.template(), 2000+pr.rnd.IntN(8000), pr.moment())})
	}
}

// commit commits b to both stores.
func (pr *pair) commit(b *store.Batch) {
	pr.clock.Add(20 * time.Millisecond)
	for i := range pr.seen {
		pr.seen[i] = nil
	}
	var rs [2]store.Result
	var es [2]error
	for i, s := range pr.stores {
		x := *b
		rs[i], es[i] = s.Commit(context.Background(), &x)
	}
	if (es[0] == nil) != (es[1] == nil) || fhir.KindOf(es[0]) != fhir.KindOf(es[1]) {
		pr.rt.Fatalf("commit: as documents %v, as samples %v", es[0], es[1])
	}
	pr.same("outcome", fmt.Sprint(rs[0].Seq, rs[0].LeafIndex, outcomes(rs[0])),
		fmt.Sprint(rs[1].Seq, rs[1].LeafIndex, outcomes(rs[1])))
	x, y := pr.stores[0].Stats(), pr.stores[1].Stats()
	if x.Resources != y.Resources || x.Seq != y.Seq || x.Log != y.Log {
		pr.rt.Fatalf("stats %+v, %+v", x, y)
	}
	if es[0] != nil || rs[0].Seq == 0 {
		return
	}
	pr.pins = append(pr.pins, rs[0].Seq)
	pr.watched(rs[0].Seq)
	for i := range b.Series {
		ids := idsOf(b.Series[i])
		pr.ids = append(pr.ids, ids[:min(len(ids), 200)]...)
	}
	for i := range b.Writes {
		if r := b.Writes[i].Resource; r.Type == "Observation" && !slices.Contains(pr.ids, r.ID) {
			pr.ids = append(pr.ids, r.ID)
		}
	}
}

func outcomes(r store.Result) (out []string) {
	for _, o := range r.Outcomes {
		out = append(out, fmt.Sprintf("%s v%d %v %v %v %v %s\n", o.Ref, o.Version, o.LastUpdated, o.Created,
			o.Unchanged, o.Deleted, o.JSON))
	}
	return out
}

// watched compares the commits that both watchers saw.
func (pr *pair) watched(at store.Seq) {
	var heard [2]store.Commit
	for i, seen := range pr.seen {
		if len(seen) != 1 || seen[0].Seq != at {
			pr.rt.Fatalf("watchers of %d heard %+v", i, seen)
		}
		heard[i] = seen[0]
	}
	x, y := heard[0], heard[1]
	if len(x.Changes)+x.Samples != len(y.Changes)+y.Samples {
		pr.rt.Fatalf("commit %d: %d and %d changes, %d and %d samples", at, len(x.Changes), len(y.Changes),
			x.Samples, y.Samples)
	}
	i := 0
	for k := range y.Changes {
		for i < len(x.Changes) && change(&x.Changes[i]) != change(&y.Changes[k]) {
			i++
		}
		if i++; i > len(x.Changes) {
			pr.rt.Fatalf("commit %d: a change that documents have not: %s", at, change(&y.Changes[k]))
		}
	}
}

func tokens(f *access.Facts) string {
	return fmt.Sprint(f.Patient, f.Vendor, f.Author, f.Categories, f.Tokens("code"), f.Tokens("category"),
		f.Tokens("status"), f.Tokens("identifier"))
}

func change(c *store.Change) string {
	return fmt.Sprintf("%d %s v%d %v %v %s", c.Seq, c.Ref, c.Version, c.Created, c.Deleted, tokens(&c.Facts))
}

// same fails the test if the answers differ.
func (pr *pair) same(what, x, y string) {
	pr.rt.Helper()
	if x == y {
		return
	}
	i := 0
	for i < min(len(x), len(y)) && x[i] == y[i] {
		i++
	}
	around := func(s string) string { return s[max(0, min(i, len(s))-200):min(len(s), i+200)] }
	pr.rt.Fatalf("%s: from byte %d on\nas documents: %s\nas samples:   %s", what, i, around(x), around(y))
}
