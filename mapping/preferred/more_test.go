package preferred

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/interaction"
	"pulsegate/fhir/r4"
	"pulsegate/fhir/search"
	"pulsegate/fhir/store"
	"pulsegate/mapping/sample"
)

func paris(t *testing.T) *time.Location {
	t.Helper()
	l, err := time.LoadLocation("Europe/Paris")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// TestNightOfTwoHalves checks the night in which summer time ends: a tracker sees two
// halves and a nap, a phone one long night. Then the halves become one session.
func TestNightOfTwoHalves(t *testing.T) {
	w := newWorld(t)
	at := func(day, hour, minute int) time.Time { return time.Date(2026, 10, day, hour, minute, 0, 0, paris(t)) }
	mobile := sample.Device{Name: "Phone", Manufacturer: "Maker", Kind: "phone"}
	first := session{vendor: "fitbit", device: tracker, id: "a", from: at(24, 22, 0), to: at(25, 1, 0), minutes: 170,
		deep: 40}
	second := session{vendor: "fitbit", device: tracker, id: "b", from: at(25, 4, 0), to: at(25, 7, 0), minutes: 160,
		deep: 30}
	nap := session{vendor: "fitbit", device: tracker, id: "c", from: at(25, 15, 0), to: at(25, 16, 0), minutes: 50,
		deep: -1}
	long := session{vendor: "fitbit", device: mobile, id: "d", from: at(24, 21, 30), to: at(25, 8, 0), minutes: 600,
		deep: -1}
	for _, s := range []session{first, second, nap, long} {
		w.deliver(s.vendor, s.sample())
	}
	w.sync()
	list := w.preferred("preferred-sleep")
	if len(list) != 2 || list[0].ValueQuantity.Value != "330" || list[1].ValueQuantity.Value != "50" ||
		list[0].EffectivePeriod.Start != "2026-10-24T22:00:00+02:00" ||
		list[0].EffectivePeriod.End != "2026-10-25T07:00:00+01:00" || len(list[0].DerivedFrom) != 2 {
		t.Fatalf("nights: %+v", list)
	}
	if c := list[0].Component; len(c) != 1 || c[0].ValueQuantity.Value != "70" ||
		c[0].Code.Coding[0].Code != "93831-6" {
		t.Errorf("stages: %+v", c)
	}
	// The vendor joins the halves: one grows, the other one goes.
	first.to, first.minutes = at(25, 7, 0), 350
	gone := second.sample()
	gone.Status = sample.Retracted
	w.deliver("fitbit", first.sample(), gone)
	w.sync()
	next := w.preferred("preferred-sleep")
	if len(next) != 2 || next[0].ID != list[0].ID || next[0].ValueQuantity.Value != "350" ||
		next[0].Status != "amended" || len(next[0].DerivedFrom) != 1 || next[1].Version != 1 {
		t.Errorf("joined: %+v", next)
	}
}

// TestNightValues checks a stated value of a night, and the mean of samples within the own
// night of a vendor.
func TestNightValues(t *testing.T) {
	w := newWorld(t)
	at := func(day, hour int) time.Time { return time.Date(2026, 10, day, hour, 0, 0, 0, paris(t)) }
	spo2 := func(hour int, v string) sample.Sample {
		return sample.Sample{Metric: "oxygen-saturation", Channel: "v4", Start: at(2, hour), Device: tracker,
			Value: number(v, "%")}
	}
	w.deliver("fitbit", spo2(1, "95"), spo2(3, "97"), spo2(12, "90"))
	w.sync()
	if list := w.preferred("preferred-oxygen-saturation"); len(list) != 0 {
		t.Fatalf("without a night: %+v", list)
	}
	night := session{vendor: "fitbit", device: tracker, id: "n", from: at(1, 23), to: at(2, 7), minutes: 400, deep: -1}
	w.deliver("fitbit", night.sample())
	w.sync()
	got := w.value("preferred-oxygen-saturation")
	if got.ValueQuantity.Value != "96" || got.EffectiveDateTime != "2026-10-02" || len(got.DerivedFrom) != 1 {
		t.Errorf("mean of the samples: %+v", got)
	}
	w.deliver("oura", sample.Sample{Metric: "daily_spo2.spo2_percentage", Channel: "v2", VendorID: "s1",
		Day: sample.Date{Year: 2026, Month: 10, Day: 2}, Value: number("98.1", "%"),
		Device: sample.Device{Name: "Ring", Kind: "ring"}})
	w.sync()
	if got := w.value("preferred-oxygen-saturation"); got.ValueQuantity.Value != "98.1" || got.Vendor != "oura" {
		t.Errorf("stated value: %+v", got)
	}
	if got := w.stats(access.All(), "http://loinc.org|2708-6", "average", viaPreferred); got != "98.1" {
		t.Errorf("average %s", got)
	}
}

// TestRanksOfConcept checks that the ranks of a concept replace those of the policy.
func TestRanksOfConcept(t *testing.T) {
	w := newWorld(t)
	weight := func(d sample.Device, hour int, v string) sample.Sample {
		return sample.Sample{Metric: "weight", Channel: "v4", Start: noon.Add(time.Duration(hour) * time.Hour),
			Device:   d,
			VendorID: d.Name + v, Value: number(v, "kg")}
	}
	scale := sample.Device{Name: "Aria Air", Manufacturer: "Fitbit"}
	w.deliver("fitbit", weight(tracker, 5, "70"), weight(scale, 0, "72.4"), weight(scale, 2, "72.1"))
	w.sync()
	if got := w.value("preferred-weight"); got.ValueQuantity.Value != "72.1" || len(got.DerivedFrom) != 1 {
		t.Errorf("weight: %+v", got)
	}
}

// TestRecords checks that a value is written with its Provenance and AuditEvent, and that
// the follower's own writes lead to no further ones.
func TestRecords(t *testing.T) {
	w := newWorld(t)
	w.deliver("fitbit", steps("fitbit", tracker, noon, 10))
	before := w.db.LastSeq()
	w.sync()
	after := w.db.LastSeq()
	if after != before+1 {
		t.Errorf("%d commits, want 1", after-before)
	}
	for range 3 {
		w.sync()
	}
	w.engine.Close()
	w.start()
	w.sync()
	if w.db.LastSeq() != after {
		t.Errorf("%d commits without a change", w.db.LastSeq()-after)
	}
	id := w.value("preferred-steps").ID
	for typ, param := range map[string]string{"Provenance": "target", "AuditEvent": "entity"} {
		q, err := search.Parse(typ, [][2]string{{param, "Observation/" + id}}, search.ParseOptions{})
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		err = w.db.Find(t.Context(), store.Find{Query: q, Filter: access.All().Filter(access.Search)},
			func(f *store.Found) bool {
				n++
				if typ == "Provenance" && (f.Facts.Vendor != "fitbit" || !strings.Contains(string(f.Resource.JSON),
					"/identifier/series")) {
					t.Errorf("Provenance of %q: %s", f.Facts.Vendor, f.Resource.JSON)
				}
				return true
			})
		if err != nil || n != 1 {
			t.Errorf("%d %s, want 1: %v", n, typ, err)
		}
	}
	q, err := search.Parse("Observation", [][2]string{{"patient", "p1"}, {"_tag:not", measures + "|" + Tag}},
		search.ParseOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if n, err := w.db.Count(t.Context(),
		store.Find{Query: q, Filter: access.All().Filter(access.Search)}); err != nil ||
		n != 1 {
		t.Errorf("%d Observations without the tag, want 1: %v", n, err)
	}
}

// TestValid checks that everything that the Engine writes is valid R4.
func TestValid(t *testing.T) {
	w := newWorld(t)
	night := session{vendor: "fitbit", device: tracker, id: "n", from: noon.Add(-13 * time.Hour),
		to: noon.Add(-5 * time.Hour), minutes: 400, deep: 50}
	w.deliver("fitbit", steps("fitbit", tracker, noon, 10), night.sample(), sample.Sample{Channel: "v4",
		Metric: "daily-resting-heart-rate", Day: sample.Date{Year: 2026, Month: 10, Day: 1},
		Value: number("61", "/min")})
	before := w.db.LastSeq()
	w.sync()
	validator, err := r4.New(r4.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	types := map[string]int{}
	refs := map[fhir.Ref]bool{}
	err = w.db.Changes(t.Context(), before, func(c *store.Change) bool {
		refs[c.Ref] = true
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	for ref := range refs {
		res, _, err := w.db.Read(t.Context(), ref, 0)
		if err != nil {
			t.Fatal(err)
		}
		types[ref.Type]++
		canonical, err := validator.Resource(ref.Type, res.JSON, ref.ID)
		if err != nil {
			t.Errorf("%s: %s", res.JSON, r4.OutcomeJSON(err))
		} else if got, want := string(unstamped(&res)), string(canonical.JSON); got != want {
			t.Errorf("not canonical:\n%s\nwant:\n%s", got, want)
		}
	}
	if types["Observation"] != 3 || types["Provenance"] != 1 {
		t.Errorf("written: %v", types)
	}
}

// flaky is a store that fails some commits, as other writers or a full disk make it.
type flaky struct {
	store.Store
	fail func() error
}

func (s *flaky) Commit(ctx context.Context, b *store.Batch) (store.Result, error) {
	if len(b.Leaves) > 0 {
		if err := s.fail(); err != nil {
			return store.Result{}, err
		}
	}
	return s.Store.Commit(ctx, b)
}

// TestInterrupted checks that a step with failing commits is repeated with the same result,
// also by another Engine.
func TestInterrupted(t *testing.T) {
	w := newWorld(t)
	for day := range 300 {
		w.deliver("fitbit", steps("fitbit", tracker, noon.AddDate(0, 0, -day), 10+day))
	}
	w.engine.Close()
	n := 0
	s := &flaky{Store: w.db, fail: func() error {
		switch n++; {
		case n == 1:
			return fhir.Errorf(fhir.Conflict, "test", "another writer")
		case n == 3:
			return errors.New("the disk is full")
		}
		return nil
	}}
	o := w.options
	o.Store = s
	e, err := New(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Sync(t.Context()); err == nil {
		t.Fatal("no error")
	}
	if f := e.role.Current(); e.Lag() < 0 || f.cursor != 0 {
		t.Errorf("cursor %d after an error", f.cursor)
	}
	e.Close()
	written := len(w.preferred("preferred-steps"))
	if written == 0 || written == 300 {
		t.Fatalf("%d values before the error", written)
	}
	w.start()
	w.sync()
	list := w.preferred("preferred-steps")
	if len(list) != 300 {
		t.Fatalf("%d values, want 300", len(list))
	}
	for _, v := range list {
		if v.Version != 1 {
			t.Errorf("%s has version %d", v.EffectiveDateTime, v.Version)
		}
	}
}

// TestLagOfFailures checks that the lag counts from the first change while every step fails,
// and ends when a step succeeds.
func TestLagOfFailures(t *testing.T) {
	w := newWorld(t)
	w.engine.Close()
	var failing atomic.Bool
	o := w.options
	o.Delay = time.Hour // only Sync takes steps
	o.Store = &flaky{Store: w.db, fail: func() error {
		if failing.Load() {
			return errors.New("the disk is full")
		}
		return nil
	}}
	e, err := New(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	if err := e.Sync(t.Context()); err != nil || e.Lag() != 0 {
		t.Fatalf("lag %v before a change, %v", e.Lag(), err)
	}
	failing.Store(true)
	w.deliver("fitbit", steps("fitbit", tracker, noon, 10))
	for minute := range 5 {
		w.clock.Add(time.Minute)
		if err := e.Sync(t.Context()); err == nil {
			t.Fatal("no error")
		}
		if want := time.Duration(minute+1) * time.Minute; e.Lag() != want {
			t.Errorf("lag %v, want %v", e.Lag(), want)
		}
	}
	failing.Store(false)
	for range 2 { // the second call processes the values that the first has written
		if err := e.Sync(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if w.clock.Add(time.Minute); e.Lag() != 0 {
		t.Errorf("lag %v although all is processed", e.Lag())
	}
}

// TestPolicyChange checks that a changed policy derives all values again.
func TestPolicyChange(t *testing.T) {
	w := newWorld(t)
	w.deliver("apple", steps("apple", phone, noon, 900))
	w.deliver("fitbit", steps("fitbit", tracker, noon, 1000))
	w.sync()
	w.engine.Close()
	file := filepath.Join(t.TempDir(), "policy.yaml")
	changed := strings.Replace(string(builtin), "[phone], [app]]", "[app]]", 1)
	changed = strings.Replace(changed, "ranks: [[watch", "ranks: [[phone], [watch", 1)
	if err := os.WriteFile(file, []byte(strings.Replace(changed, "version: 1.0.0", "version: 1.1.0", 1)),
		0o600); err != nil {
		t.Fatal(err)
	}
	var err error
	if w.options.Policy, err = Load(file); err != nil {
		t.Fatal(err)
	}
	w.start()
	w.sync()
	if got := w.value("preferred-steps"); got.ValueQuantity.Value != "900" ||
		!strings.Contains(got.Method.Text, "1.1.0") {
		t.Errorf("by the new policy: %+v", got)
	}
}

// TestLoadRefuses checks that the errors of a policy file name the place.
func TestLoadRefuses(t *testing.T) {
	for name, c := range map[string][3]string{
		"version":      {"version: 1.0.0", "version: one", "version"},
		"field":        {"kind: day-total", "kynd: day-total", "kynd"},
		"kind":         {"kind: day-total", "kind: week", "preferred-steps"},
		"code":         {"samples: [loinc 55423-8]", "samples: [55423-8]", "preferred-steps"},
		"rank":         {"[phone], [app]]", "[phone]]", "app"},
		"unknown rank": {"[phone], [app]]", "[phone], [app], [hat]]", "hat"},
		"twice":        {"name: preferred-distance", "name: preferred-steps", "defined twice"},
		"name":         {"name: preferred-distance", "name: distance", "name"},
		"no inputs":    {"samples: [loinc 29463-7]", "samples: []", "inputs"},
		"unit":         {"unit: /d", "unit: \"\"", "unit"},
	} {
		_, err := parsePolicy([]byte(strings.Replace(string(builtin), c[0], c[1], 1)))
		if err == nil || !strings.Contains(err.Error(), c[2]) {
			t.Errorf("%s: %v, want an error that names %s", name, err, c[2])
		}
	}
	if _, err := Load(filepath.Join(t.TempDir(), "none.yaml")); err == nil {
		t.Error("a missing file was accepted")
	}
}

// TestStatsRefuses checks requests that the view cannot answer.
func TestStatsRefuses(t *testing.T) {
	w := newWorld(t)
	for name, ps := range map[string][]interaction.Parameter{
		"code without a concept": {{Name: "coding", Value: "http://loinc.org|8302-2"}, viaPreferred},
		"include": {{Name: "coding", Value: stepsOfDay}, viaPreferred, {Name: "include",
			Value: "true"}},
		"not a boolean": {{Name: "coding", Value: stepsOfDay}, {Name: "preferred", Value: "yes"}},
	} {
		rq := &interaction.Request{Caller: operator()}
		_, err := w.service.Stats(t.Context(), rq,
			append(ps, interaction.Parameter{Name: "subject", Value: "Patient/p1"},
				interaction.Parameter{Name: "statistic", Value: "sum"}))
		if fhir.KindOf(err) != fhir.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestFollower checks that the follower writes values without a call of Sync.
func TestFollower(t *testing.T) {
	w := newWorld(t)
	w.engine.Close()
	w.options.Delay = time.Millisecond
	written := make(chan struct{}, 64)
	defer w.db.Watch(func(c store.Commit) {
		for _, change := range c.Changes {
			if change.Ref.ID == w.engine.id("p1", &w.options.Policy.Concepts[0], dayOf(noon), 0) {
				written <- struct{}{}
			}
		}
	})()
	w.start()
	w.deliver("fitbit", steps("fitbit", tracker, noon, 10))
	select {
	case <-written:
	case <-time.After(2 * time.Minute):
		t.Fatal("no value was written")
	}
}
