package preferred

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"pulsegate/fhir/access"
	"pulsegate/fhir/interaction"
	"pulsegate/mapping"
	"pulsegate/mapping/sample"
	"pulsegate/mapping/table"
)

var documentMapper = sync.OnceValues(func() (*mapping.Mapper, error) {
	return mapping.New(table.Builtin(), mapping.Options{Key: testKey, SeriesFrom: -1})
})

// stepsOf is one interval with steps, or a stated total of a day, in the model.
type stepsOf struct {
	source int
	at     time.Time // of an interval
	day    int       // of a total; -1 for an interval
	n      int
}

// model holds the steps that the vendors hold.
type model map[string]*stepsOf

// daySources are the sources of the model. The places of their kinds follow the built-in
// policy.
var daySources = []struct {
	vendor string
	device sample.Device
	rank   int
}{
	{"apple", watch, 0}, {"apple", phone, 3}, {"fitbit", tracker, 0},
	{"oura", sample.Device{Name: "Oura Ring", Manufacturer: "Oura", Kind: "ring"}, 0}, {"oura", sample.Device{}, 2},
}

// days returns the preferred steps by day among the visible vendors, and the samples of the
// preferred sources, slowly.
func (m model) days(visible func(vendor string) bool) (values map[string]int, samples int) {
	type candidate struct {
		source, stated, sum, samples int
		hours                        map[int]bool
	}
	byDay := map[string]map[int]*candidate{}
	for _, s := range m {
		if !visible(daySources[s.source].vendor) {
			continue
		}
		date := s.at.Format(time.DateOnly)
		if s.day >= 0 {
			date = noon.AddDate(0, 0, s.day).Format(time.DateOnly)
		}
		if byDay[date] == nil {
			byDay[date] = map[int]*candidate{}
		}
		c := byDay[date][s.source]
		if c == nil {
			c = &candidate{source: s.source, stated: -1, hours: map[int]bool{}}
			byDay[date][s.source] = c
		}
		if s.day >= 0 {
			c.stated = s.n
			continue
		}
		c.sum += s.n
		c.samples++
		c.hours[s.at.Hour()] = true
	}
	values = map[string]int{}
	for date, list := range byDay {
		var best *candidate
		better := func(a, b *candidate) bool {
			stated := func(c *candidate) int { return min(c.stated, 0) } // -1 or 0
			sums := 0
			if a.stated < 0 {
				sums = cmp.Or(cmp.Compare(len(b.hours), len(a.hours)), cmp.Compare(b.samples, a.samples))
			}
			return cmp.Or(cmp.Compare(daySources[a.source].rank, daySources[b.source].rank),
				cmp.Compare(stated(b), stated(a)), sums,
				cmp.Compare(daySources[a.source].vendor, daySources[b.source].vendor)) < 0
		}
		for _, c := range list {
			if best == nil || better(c, best) {
				best = c
			}
		}
		values[date] = best.sum
		if best.stated >= 0 {
			values[date] = best.stated
		}
		samples += best.samples
	}
	return values, samples
}

// TestDaysAgainstReference delivers, restates, retracts and erases steps of several sources,
// and compares the preferred values and the view with a slow reference.
func TestDaysAgainstReference(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w, done := newWorldOf(t)
		defer done()
		if rapid.Bool().Draw(t, "documents") {
			var err error
			if w.pipeline.Mapper, err = documentMapper(); err != nil {
				t.Fatal(err)
			}
		}
		m := model{}
		for range rapid.IntRange(1, 25).Draw(t, "changes") {
			m.change(t, w)
			if rapid.IntRange(0, 3).Draw(t, "sync") == 0 {
				w.sync()
				w.checkDays(m)
			}
		}
		w.sync()
		w.checkDays(m)
		hidden := rapid.SampledFrom([]string{"apple", "fitbit", "oura"}).Draw(t, "hidden")
		w.consents.denied[hidden] = true
		w.checkView(w.client(), m, func(v string) bool { return v != hidden })
	})
}

// change makes one change of what the vendors hold, and delivers it.
func (m model) change(t *rapid.T, w *world) {
	i := rapid.IntRange(0, len(daySources)-1).Draw(t, "source")
	src := daySources[i]
	day := rapid.IntRange(0, 3).Draw(t, "day")
	switch kind := rapid.IntRange(0, 9).Draw(t, "kind"); {
	case kind == 0:
		w.erase(src.vendor)
		for key, s := range m {
			if daySources[s.source].vendor == src.vendor {
				delete(m, key)
			}
		}
	case src.vendor == "oura":
		s := stepsOf{source: i, day: day, n: rapid.IntRange(1, 9000).Draw(t, "n")}
		key := fmt.Sprintf("total %d %d", i, day)
		date := noon.AddDate(0, 0, day)
		smp := sample.Sample{Metric: "daily_activity.steps", Channel: "v2", VendorID: key, Device: src.device,
			Day: sample.Date{Year: date.Year(), Month: date.Month(), Day: date.Day()}}
		m.deliver(w, key, &s, smp, kind == 1)
	default:
		at := noon.AddDate(0, 0, day).Add(time.Duration(rapid.IntRange(-70, 70).Draw(t, "at")) * 10 * time.Minute)
		s := stepsOf{source: i, at: at, day: -1, n: rapid.IntRange(1, 900).Draw(t, "n")}
		m.deliver(w, fmt.Sprintf("%d %s", i, at), &s, steps(src.vendor, src.device, at, s.n), kind == 1)
	}
}

// deliver delivers a sample, or its retraction if it was delivered before.
func (m model) deliver(w *world, key string, s *stepsOf, smp sample.Sample, retract bool) {
	if old := m[key]; retract && old != nil {
		smp.Value = number(strconv.Itoa(old.n), "count")
		smp.Status = sample.Retracted
		delete(m, key)
	} else {
		smp.Value = number(strconv.Itoa(s.n), "count")
		m[key] = s
	}
	w.deliver(daySources[s.source].vendor, smp)
}

// checkDays compares the stored values and the operator's view with the reference.
func (w *world) checkDays(m model) {
	w.t.Helper()
	all := func(string) bool { return true }
	values, _ := m.days(all)
	var got, want []string
	for _, v := range w.preferred("preferred-steps") {
		if v.Status != statusRetracted {
			got = append(got, v.EffectiveDateTime+" "+v.ValueQuantity.Value.String())
		}
	}
	for date, n := range values {
		want = append(want, date+" "+strconv.Itoa(n))
	}
	slices.Sort(want)
	if !slices.Equal(got, want) {
		w.t.Fatalf("preferred steps:\n  %s\nwant:\n  %s", strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
	w.checkView(access.All(), m, all)
}

// checkView compares $stats over the preferred sources with the reference.
func (w *world) checkView(g *access.Grant, m model, visible func(vendor string) bool) {
	w.t.Helper()
	values, samples := m.days(visible)
	sum := 0
	for _, n := range values {
		sum += n
	}
	if got := w.stats(g, stepsOfDay, "sum", viaPreferred); got != strconv.Itoa(sum) {
		w.t.Fatalf("sum of the preferred days: %s, want %d", got, sum)
	}
	if got := w.stats(g, stepsOfInterval, "count", viaPreferred); got != strconv.Itoa(samples) {
		w.t.Fatalf("samples of the preferred sources: %s, want %d", got, samples)
	}
	day := noon.Format(time.DateOnly)
	period := interaction.Parameter{Name: "period", Value: day + "/" + day}
	if got, want := w.stats(g, stepsOfDay, "sum", viaPreferred, period), strconv.Itoa(values[day]); got != want {
		w.t.Fatalf("steps of %s: %s, want %s", day, got, want)
	}
}

// TestImport checks that the values of a long import are derived in parts, and that nothing
// is left to do afterwards.
func TestImport(t *testing.T) {
	w := newWorld(t)
	const days, perDay = 700, 48
	var list []sample.Sample
	for day := range days {
		for i := range perDay {
			at := noon.AddDate(0, 0, -day).Add(time.Duration(i-perDay/2) * 15 * time.Minute)
			list = append(list, steps("apple", watch, at, 10+day%7), steps("apple", phone, at, 7))
		}
	}
	w.deliver("apple", list...)
	before := w.db.LastSeq()
	w.sync()
	got := w.preferred("preferred-steps")
	if len(got) < days || len(got) > days+1 {
		t.Fatalf("%d values, want %d", len(got), days)
	}
	if n := w.db.LastSeq() - before; n < days/(2*batchSize) || n > days/chunk {
		t.Errorf("%d commits", n)
	}
	if v := got[len(got)-1]; v.ValueQuantity.Value != "480" || v.EffectiveDateTime != "2026-10-01" {
		t.Errorf("the last day: %+v", v)
	}
	if w.engine.Lag() != 0 {
		t.Errorf("lag %v", w.engine.Lag())
	}
}
