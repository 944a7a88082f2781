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
	"pulsegate/fhir/series"
	"pulsegate/fhir/store"
)

// twins are the same random life in two stores of one driver: the first has
// samples as documents, the second as it likes. Nothing may tell them apart.
type twins struct {
	rt   *rapid.T
	t    *testing.T
	d    [2]Driver
	s    [2]store.Store
	now  time.Time
	rnd  *rand.Rand // for what is too much to be drawn one by one
	tpls []*series.Template
	ids  []string // of Observations, samples or not
	pins []store.Seq
	seen [2][]store.Commit
	stop [2]func()
	old  *pending
}

// pending is a batch that was probed and waits.
type pending struct {
	w  store.SeriesWrite
	at store.Seq
}

func testTwins(t *testing.T, d Driver) {
	if d.Lives == 0 {
		d.Lives = 10 * time.Second
	}
	end, failing := time.Now().Add(d.Lives), false
	rapid.Check(t, func(rt *rapid.T) {
		// rapid counts lives, not time; what failed is had again to make it small.
		if time.Now().After(end) && !failing {
			return
		}
		defer func() { failing = failing || rt.Failed() }()
		w := &twins{rt: rt, t: t, d: [2]Driver{AsDocuments(d), d}, now: time.Date(2026, 2, 1, 8, 0, 0, 0, time.UTC),
			rnd: rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "seed"), 1)), tpls: streams()}
		for i := range w.s {
			w.s[i] = w.d[i].Open(t, func() time.Time { return w.now })
			w.watch(i)
		}
		defer func() {
			for _, s := range w.s {
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
			"changes": func(*rapid.T) { w.changes() },
		})
		sound(rt, w.s[0])
		sound(rt, w.s[1])
	})
}

func (w *twins) n(n int, what string) int { return rapid.IntRange(0, n-1).Draw(w.rt, what) }
func (w *twins) one(in int, what string) bool {
	return rapid.IntRange(1, in).Draw(w.rt, what) == in // shrinks to no
}

func (w *twins) of(what string, s ...string) string {
	return rapid.SampledFrom(s).Draw(w.rt, what)
}

// watch begins to listen to a store.
func (w *twins) watch(i int) {
	w.stop[i] = w.s[i].Watch(func(c store.Commit) { w.seen[i] = append(w.seen[i], c) })
}

// streams are templates of many forms. Some share an identity, some a code
// with each other and with plain documents.
func streams() (out []*series.Template) {
	add := func(identity, patient string, class series.Class, code int, form string) {
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
		switch form {
		case "key":
			t.KeyValue = true
		case "bare": // no category, device or unit; a status of its own
			category, end, tail, t.Categories = "", "}", "", nil
			rest = strings.Replace(rest, "final", "preliminary", 1)
		case "profile":
			head = `"profile":["http://hl7.org/fhir/StructureDefinition/heartrate"],"tag":[{"system":"urn:tag","code":"t"}]` + head
			category = `,"category":[{"coding":[{"system":"urn:category","code":"activity"}]},{"coding":[{"system":"urn:category","code":"vital-signs"}]}]`
			t.Categories = []string{"activity", "vital-signs"}
		case "two", "three":
			t.Values = map[string]int{"two": 2, "three": 3}[form]
		}
		mid := rest + category + fmt.Sprintf(
			`,"code":{"coding":[{"system":"%s","code":"c%d"},{"system":"urn:other","code":"c%d"}],"text":"Rate"}`,
			sys, code, code+1) + subject + ","
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
	add("heart p1", "p1", series.Instant, 2, "bare") // the same stream in another form
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

// components gives t its values as components.
func components(t *series.Template, tail string) {
	between := tail + `,"component":[`
	for v := range t.Values {
		last := t.Parts[len(t.Parts)-1]
		part := between + fmt.Sprintf(`{"code":{"coding":[{"system":"urn:part","code":"part%d"}]},"valueQuantity":{"value":`, v)
		if v == 0 { // the member before is the effective time
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

// moments around which samples lie: those of the documents, before 1970, the
// bounds of what an id can say, a clock that is years ahead.
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

// number is one of few, so that values meet, or any.
func number(r *rand.Rand) series.Decimal {
	if r.IntN(12) == 0 {
		return series.Decimal{Mant: r.Int64N(2e17) - 1e17, Scale: uint8(r.IntN(19))}
	}
	return []series.Decimal{{Mant: 62}, {Mant: 620, Scale: 1}, {Mant: 5, Scale: 1}, {Mant: 50, Scale: 2}, {},
		{Scale: 2}, {Mant: -3}, {Mant: -35, Scale: 1}, {Mant: 100}, {Mant: 61}, {Mant: 63}}[r.IntN(11)]
}

func (w *twins) run(t *series.Template, n int, at int64) store.SeriesWrite {
	return samplesOf(w.rnd, t, n, at)
}

// samplesOf makes at most n samples of t.
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

func (w *twins) template() *series.Template { return w.tpls[w.n(len(w.tpls), "template")] }
func (w *twins) moment() int64 {
	return moments[w.n(len(moments), "moment")] + int64(w.n(20, "second"))*1e6
}

// missing probes in both and returns what is new of ws, what else is there,
// and as of when.
func (w *twins) missing(ws []store.SeriesWrite) (fresh []store.SeriesWrite, others []store.Write, at store.Seq) {
	at, want := probe(w.rt, w.s[0], ws...)
	at2, got := probe(w.rt, w.s[1], ws...)
	if at != at2 {
		w.rt.Fatalf("probed as of %d and %d", at, at2)
	}
	told := map[string]bool{}
	for i := range ws {
		c := &series.Columns{}
		for j, id := range idsOf(ws[i]) {
			if want[i][j] != got[i][j] {
				w.rt.Fatalf("probe of %s (%s): %d as documents, %d as samples", id, ws[i].Template.Identity,
					want[i][j], got[i][j])
			}
			if told[id] { // under another template of this batch
				continue
			}
			told[id] = true
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

// append takes samples in as ingest does: what is new as samples, what is
// there with other content as the next version.
func (w *twins) append() {
	var ws []store.SeriesWrite
	used := map[*series.Template]bool{}
	for range 1 + w.n(3, "series") {
		t := w.template()
		if x := w.run(t, 1+w.n(12, "samples"), w.moment()); x.Columns.Len() > 0 && !used[t] {
			used[t] = true
			ws = append(ws, x)
		}
	}
	w.take(ws)
}

func (w *twins) take(ws []store.SeriesWrite) {
	fresh, others, at := w.missing(ws)
	b := store.Batch{Series: fresh, Probed: at, Writes: others}
	if w.one(3, "beside") {
		b.Writes = append(b.Writes, anyWrite(w.rt, w.n(16, "document")))
		b.Leaves = []store.Leaf{store.Leaf(fmt.Sprint("leaf ", at))}
	}
	w.commit(&b)
}

// large writes blocks that are full.
func (w *twins) large() {
	if w.one(4, "large") {
		w.take([]store.SeriesWrite{w.run(w.template(), 2000+w.rnd.IntN(8000), w.moment())})
	}
}

// commit has b in both.
func (w *twins) commit(b *store.Batch) {
	w.now = w.now.Add(20 * time.Millisecond)
	for i := range w.seen {
		w.seen[i] = nil
	}
	var rs [2]store.Result
	var es [2]error
	for i, s := range w.s {
		x := *b
		rs[i], es[i] = s.Commit(context.Background(), &x)
	}
	if (es[0] == nil) != (es[1] == nil) || fhir.KindOf(es[0]) != fhir.KindOf(es[1]) {
		w.rt.Fatalf("commit: as documents %v, as samples %v", es[0], es[1])
	}
	w.same("outcome", fmt.Sprint(rs[0].Seq, rs[0].LeafIndex, outcomes(rs[0])),
		fmt.Sprint(rs[1].Seq, rs[1].LeafIndex, outcomes(rs[1])))
	x, y := w.s[0].Stats(), w.s[1].Stats()
	if x.Resources != y.Resources || x.Seq != y.Seq || x.Log != y.Log {
		w.rt.Fatalf("stats %+v, %+v", x, y)
	}
	if es[0] != nil || rs[0].Seq == 0 {
		return
	}
	w.pins = append(w.pins, rs[0].Seq)
	w.watched(rs[0].Seq)
	for i := range b.Series {
		ids := idsOf(b.Series[i])
		w.ids = append(w.ids, ids[:min(len(ids), 200)]...)
	}
	for i := range b.Writes {
		if r := b.Writes[i].Resource; r.Type == "Observation" && !slices.Contains(w.ids, r.ID) {
			w.ids = append(w.ids, r.ID)
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

// watched holds what the watchers learned of a commit against each other.
func (w *twins) watched(at store.Seq) {
	var heard [2]store.Commit
	for i, seen := range w.seen {
		if len(seen) != 1 || seen[0].Seq != at {
			w.rt.Fatalf("watchers of %d heard %+v", i, seen)
		}
		heard[i] = seen[0]
	}
	x, y := heard[0], heard[1]
	if len(x.Changes)+x.Samples != len(y.Changes)+y.Samples {
		w.rt.Fatalf("commit %d: %d and %d changes, %d and %d samples", at, len(x.Changes), len(y.Changes),
			x.Samples, y.Samples)
	}
	i := 0
	for k := range y.Changes {
		for i < len(x.Changes) && change(&x.Changes[i]) != change(&y.Changes[k]) {
			i++
		}
		if i++; i > len(x.Changes) {
			w.rt.Fatalf("commit %d: a change that documents have not: %s", at, change(&y.Changes[k]))
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

// same ends the life at a difference.
func (w *twins) same(what, x, y string) {
	w.rt.Helper()
	if x == y {
		return
	}
	i := 0
	for i < min(len(x), len(y)) && x[i] == y[i] {
		i++
	}
	around := func(s string) string { return s[max(0, min(i, len(s))-200):min(len(s), i+200)] }
	w.rt.Fatalf("%s: from byte %d on\nas documents: %s\nas samples:   %s", what, i, around(x), around(y))
}
