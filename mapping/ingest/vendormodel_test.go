package ingest

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"pulsegate/fhir/store"
	"pulsegate/mapping/sample"
)

// vendorModel is a vendor that creates, restates and deletes objects, and the
// chart that should result. An object consists of the samples that a payload
// states of it.
type vendorModel struct {
	t     *rapid.T
	world *world
	// held holds the objects of the vendor by their names.
	held map[string][]any
	// chart holds the Observations by metric and vendor's id or time.
	chart map[string]*charted
}

// charted is an Observation as the chart should show it.
type charted struct {
	sample  sample.Sample
	object  string
	status  string
	version int
}

func (c *charted) String() string {
	s := c.sample
	text := fmt.Sprint(c.status, " v", c.version, " ", s.Value.Num)
	if s.Value.Series != nil {
		text += s.Value.Series.Data
	}
	if s.Day.IsZero() {
		return text + " " + s.Start.UTC().Format(time.DateTime)
	}
	return text + fmt.Sprintf(" %d-%02d-%02d", s.Day.Year, s.Day.Month, s.Day.Day)
}

func chartKey(s *sample.Sample) string {
	if s.VendorID != "" {
		return s.Metric + " " + s.VendorID
	}
	return s.Metric + " " + s.Start.UTC().Format("02T15:04:05")
}

// state records that a payload states the samples of an object.
func (m *vendorModel) state(object string, samples []any) {
	for _, item := range samples {
		s := item.(sample.Sample)
		key := chartKey(&s)
		before := m.chart[key]
		after := &charted{sample: s, object: object, status: "final", version: 1}
		if before != nil {
			after.status, after.version = before.status, before.version
			if after.String() == before.String() && before.status != statusRetracted {
				continue
			}
			after.status, after.version = "amended", before.version+1
		}
		m.chart[key] = after
	}
}

// retract records that the vendor no longer holds an Observation.
func (m *vendorModel) retract(c *charted) {
	if c.status != statusRetracted {
		c.status, c.version = statusRetracted, c.version+1
	}
}

// within reports whether the object of an Observation lies in a window: by the
// night or the daily value, if it is a part of one.
func (m *vendorModel) within(c *charted, w *Window) bool {
	main := c.sample
	switch {
	case strings.HasPrefix(main.Metric, "sleep."):
		main = m.chart["sleep "+main.VendorID].sample
	case main.Metric == "daily_activity.met":
		main = m.chart["daily_activity.steps "+main.VendorID].sample
	}
	if !main.Day.IsZero() {
		at := time.Date(main.Day.Year, main.Day.Month, main.Day.Day, 0, 0, 0, 0, october.Location())
		return w.Days && !at.Before(w.From) && at.Before(w.To)
	}
	if w.Days { // with a margin
		return !main.Start.AddDate(0, 0, -1).Before(w.From) && main.End.AddDate(0, 0, 1).Before(w.To)
	}
	at := main.Start
	if w.ByEnd && !main.End.IsZero() {
		at = main.End
	}
	return !at.Before(w.From) && at.Before(w.To)
}

// files reports whether a vendor answers with an object if it is asked for a
// window. It files nights under the day of waking.
func (m *vendorModel) files(first sample.Sample, w *Window) bool {
	if w.Days && first.Metric == "sleep" {
		return !first.End.Before(w.From) && first.End.Before(w.To)
	}
	return m.within(&charted{sample: first}, w)
}

func belongs(metric string, types []string) bool {
	return slices.ContainsFunc(types, func(t string) bool { return metric == t || strings.HasPrefix(metric, t+".") })
}

// draw returns an object, new or restated, and its name.
func (m *vendorModel) draw() (name string, samples []any) {
	number := rapid.IntRange(1, 3).Draw(m.t, "number")
	value := rapid.IntRange(50, 52).Draw(m.t, "value")
	switch rapid.SampledFrom([]string{"pulse", "night", "day"}).Draw(m.t, "kind") {
	case "night":
		start := oct(rapid.IntRange(1, 4).Draw(m.t, "night"), 20)
		hrv := rapid.SampledFrom([]int{0, 40}).Draw(m.t, "variability")
		return fmt.Sprint("n", number), sleepDocument(fmt.Sprint("n", number), start, value, hrv)
	case "day":
		samples = activityDocument(fmt.Sprint("a", number), oct(number, 0), value)
		return fmt.Sprint("a", number), samples[:rapid.IntRange(1, 2).Draw(m.t, "parts")]
	}
	p := pulse(oct(number, 10+rapid.IntRange(0, 2).Draw(m.t, "hour")), value)
	return chartKey(&p), []any{p}
}

// put creates or restates objects and delivers them in one or more payloads.
func (m *vendorModel) put() {
	payload := map[string][]any{}
	for range rapid.IntRange(1, 5).Draw(m.t, "objects") {
		name, samples := m.draw()
		payload[name] = samples
	}
	var items []any
	for _, name := range slices.Sorted(maps.Keys(payload)) {
		m.held[name] = payload[name]
		m.state(name, payload[name])
		items = append(items, payload[name]...)
	}
	items = rapid.Permutation(items).Draw(m.t, "order")
	for chunk := range slices.Chunk(items, rapid.IntRange(1, len(items)).Draw(m.t, "split")) {
		m.deliver(nil, chunk)
	}
}

func (m *vendorModel) deliver(complete *Window, items []any) {
	if _, err := m.world.deliver("oura", complete, items...); err != nil {
		m.t.Fatal(err)
	}
}

// remove deletes an object. The vendor may report the object, its time, or
// nothing.
func (m *vendorModel) remove() {
	if len(m.held) == 0 {
		return
	}
	name := rapid.SampledFrom(slices.Sorted(maps.Keys(m.held))).Draw(m.t, "object")
	first := m.held[name][0].(sample.Sample)
	delete(m.held, name)
	r := Retraction{Patient: "p1", Vendor: "oura", Caller: operator()}
	switch report := rapid.SampledFrom([]string{"nothing", "object", "time"}).Draw(m.t, "report"); {
	case report == "object" && first.VendorID != "":
		r.Types, r.VendorID = []string{strings.Split(first.Metric, ".")[0]}, first.VendorID
		for _, c := range m.chart {
			if c.object == name {
				m.retract(c)
			}
		}
	case report == "time" && first.Metric == "heartrate":
		r.Types, r.From, r.To = []string{"heartrate"}, first.Start, first.Start.Add(time.Second)
		m.retract(m.chart[name])
	default:
		return
	}
	m.call(r)
}

func (m *vendorModel) call(r Retraction) {
	for range rapid.IntRange(1, 2).Draw(m.t, "calls") {
		if _, err := m.world.pipeline.Retract(m.t.Context(), r); err != nil {
			m.t.Fatal(err)
		}
	}
}

// window draws a window. Its payload can state what it holds.
func (m *vendorModel) window() *Window {
	from := rapid.IntRange(0, 5).Draw(m.t, "from")
	w := &Window{From: oct(from, 0), To: oct(from+rapid.IntRange(1, 6).Draw(m.t, "length"), 0)}
	switch rapid.IntRange(0, 3).Draw(m.t, "window") {
	case 0:
		w.Types, w.Days = []string{"daily_activity", "sleep"}, true
	case 1:
		w.Types, w.ByEnd = []string{"sleep"}, true
	case 2:
		w.Types, w.From = []string{"heartrate"}, w.From.Add(11*time.Hour)
	default:
		w.Types = []string{"heartrate", "sleep", "daily_activity"}
	}
	return w
}

// heldIn returns the objects of the vendor that lie in a window.
func (m *vendorModel) heldIn(w *Window) (names []string, items []any) {
	for _, name := range slices.Sorted(maps.Keys(m.held)) {
		first := m.held[name][0].(sample.Sample)
		if belongs(first.Metric, w.Types) && m.files(first, w) {
			names, items = append(names, name), append(items, m.held[name]...)
		}
	}
	return names, items
}

// reconcile delivers everything that the vendor holds in a window, or retracts a
// window in which it holds nothing.
func (m *vendorModel) reconcile(w *Window) {
	names, items := m.heldIn(w)
	stated := map[string]bool{}
	for _, name := range names {
		m.state(name, m.held[name])
	}
	for _, item := range items {
		s := item.(sample.Sample)
		stated[chartKey(&s)] = true
	}
	for key, c := range m.chart {
		if belongs(c.sample.Metric, w.Types) && !stated[key] &&
			(m.within(c, w) || slices.Contains(names, c.object)) {
			m.retract(c)
		}
	}
	if len(items) == 0 && rapid.Bool().Draw(m.t, "as a retraction") {
		m.call(Retraction{Patient: "p1", Vendor: "oura", Types: w.Types, From: w.From, To: w.To, Days: w.Days,
			ByEnd: w.ByEnd, Caller: operator()})
		return
	}
	for range rapid.IntRange(1, 2).Draw(m.t, "repeated") {
		m.deliver(w, items)
	}
}

// check compares the store with the chart.
func (m *vendorModel) check(after string) {
	got := map[string]string{}
	for _, r := range m.world.all("Observation") {
		d := &delivery{pipeline: m.world.pipeline, request: Request{Vendor: "oura"}}
		obs, err := d.statement(r.JSON)
		if err != nil {
			m.t.Fatal(err)
		}
		label := strings.Split(strings.TrimPrefix(labelOf(m.t, m.world.pipeline.Mapper, &r), "-"), " ")
		value := ""
		if len(label) > 2 {
			value = label[2]
		}
		at := obs.EffectiveDateTime
		if from, _, ok := obs.effective(); ok && !obs.isDay() {
			at = from.UTC().Format(time.DateTime)
		}
		got[label[0]+" "+label[1]] = fmt.Sprint(obs.Status, " v", r.Version, " ", value, " ", at)
	}
	want := map[string]string{}
	for key, c := range m.chart {
		shown := *c
		if shown.sample.Value.Series != nil {
			shown.sample.Value = sample.Value{}
		}
		if shown.sample.Metric == "sleep" { // the chart has minutes
			shown.sample.Value.Num = strings.Split(key, " ")[0]
		}
		want[key] = shown.String()
		if shown.sample.Metric == "sleep" {
			var seconds int
			if _, err := fmt.Sscan(c.sample.Value.Num, &seconds); err != nil {
				m.t.Fatal(err)
			}
			want[key] = strings.Replace(want[key], "sleep", fmt.Sprint(seconds/60), 1)
		}
	}
	if !maps.Equal(got, want) {
		for key := range want {
			if got[key] != want[key] {
				m.t.Errorf("%s: %q, want %q", key, got[key], want[key])
			}
		}
		m.t.Fatalf("after %s: %d Observations, want %d", after, len(got), len(want))
	}
}

// TestVendorModel checks that the store has the content of a vendor that creates,
// restates and deletes objects, with the right versions and statuses, in any
// order and split of payloads, and that a last reconciliation of everything
// leaves exactly what the vendor holds.
func TestVendorModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w, done := newWorldOf(t)
		defer done()
		if rapid.Bool().Draw(t, "documents") {
			w.pipeline.Store = store.Documents{Store: w.pipeline.Store}
		}
		limit := rapid.SampledFrom([]int{0, 2}).Draw(t, "limit")
		w.pipeline.Limits.Samples, w.pipeline.Limits.Batch = limit, limit
		m := &vendorModel{t: t, world: w, held: map[string][]any{}, chart: map[string]*charted{}}
		steps := map[string]func(){"put": m.put, "remove": m.remove, "reconcile": func() { m.reconcile(m.window()) }}
		for range rapid.IntRange(1, 8).Draw(t, "steps") {
			step := rapid.SampledFrom([]string{"put", "put", "remove", "reconcile"}).Draw(t, "step")
			steps[step]()
			m.check(step)
		}
		m.reconcile(&Window{Types: []string{"heartrate", "sleep"}, From: oct(1, 0), To: oct(20, 0)})
		m.reconcile(&Window{Types: []string{"daily_activity"}, From: oct(1, 0), To: oct(20, 0), Days: true})
		m.check("the last reconciliation")
		held := map[string]bool{}
		for _, samples := range m.held {
			for _, item := range samples {
				s := item.(sample.Sample)
				held[chartKey(&s)] = true
			}
		}
		w.checkKept("oura")
		for key, c := range m.chart {
			if held[key] != (c.status != statusRetracted) {
				t.Errorf("%s is %s", key, c.status)
			}
		}
	})
}
