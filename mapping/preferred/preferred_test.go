package preferred

import (
	"context"
	"strings"
	"testing"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/search"
	"pulsegate/fhir/store"
	"pulsegate/mapping/sample"
)

const (
	stepsOfInterval = "http://loinc.org|55423-8"
	stepsOfDay      = "http://loinc.org|41950-7"
)

// TestStepsOfWatchAndPhone checks that the steps of a phone and of a watch are never added
// up, and that the phone's count when the watch's are erased.
func TestStepsOfWatchAndPhone(t *testing.T) {
	w := newWorld(t)
	w.deliver("apple", steps("apple", phone, noon, 900), steps("apple", phone, noon.Add(time.Hour), 100))
	w.deliver("fitbit", steps("fitbit", tracker, noon, 1000), steps("fitbit", tracker, noon.Add(2*time.Hour), 234))
	w.sync()
	got := w.value("preferred-steps")
	if got.ValueQuantity.Value != "1234" || got.Vendor != "fitbit" || got.Status != "final" ||
		got.EffectiveDateTime != "2026-10-01" || got.ValueQuantity.Code != "/d" {
		t.Errorf("preferred steps: %+v", got)
	}
	if len(got.DerivedFrom) != 1 || !strings.HasSuffix(got.DerivedFrom[0].Identifier.System, "/identifier/series") ||
		got.Device.Reference == "" || !strings.Contains(got.Method.Text, "sum of the samples") {
		t.Errorf("preferred steps: %+v", got)
	}
	all := access.All()
	check := func(what, got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("%s: %s, want %s", what, got, want)
		}
	}
	check("sum", w.stats(all, stepsOfInterval, "sum"), "2234")
	check("preferred sum", w.stats(all, stepsOfInterval, "sum", viaPreferred), "1234")
	check("preferred count", w.stats(all, stepsOfInterval, "count", viaPreferred), "2")
	check("preferred day", w.stats(all, stepsOfDay, "sum", viaPreferred), "1234")
	check("plain day", w.stats(all, stepsOfDay, "count"), "0")

	w.erase("fitbit")
	check("preferred sum without the watch", w.stats(all, stepsOfInterval, "sum", viaPreferred), "1000")
	w.sync()
	next := w.value("preferred-steps")
	if next.ValueQuantity.Value != "1000" || next.Vendor != "apple" || next.ID != got.ID ||
		next.Version <= got.Version {
		t.Errorf("after the erasure: %+v", next)
	}
	w.erase("apple")
	w.sync()
	if list := w.preferred("preferred-steps"); len(list) != 0 {
		t.Errorf("after all is erased: %+v", list)
	}
}

// scanning is a store that calls a function before it lists resources of a type.
type scanning struct {
	store.Store
	before func(typ string)
}

func (s *scanning) Scan(ctx context.Context, r store.ScanRange, fn func(*store.Found) bool) error {
	s.before(r.Types[0])
	return s.Store.Scan(ctx, r, fn)
}

// TestDeriveDuringErasure checks a value that a step commits while its inputs are erased:
// it goes too, and keeps no Device.
func TestDeriveDuringErasure(t *testing.T) {
	w := newWorld(t)
	w.deliver("fitbit", steps("fitbit", tracker, noon, 1000))
	w.sync()
	ref := fhir.Ref{Type: "Observation", ID: w.value("preferred-steps").ID}
	derived, facts, err := w.db.Read(t.Context(), ref, 0)
	if err != nil {
		t.Fatal(err)
	}
	written := false
	w.pipeline.Store = &scanning{w.db, func(typ string) {
		if typ == "Device" && !written { // after the Observations
			written = true
			w.write(fhir.Resource{Type: "Observation", ID: derived.ID, JSON: unstamped(&derived)}, facts.Vendor)
		}
	}}
	w.erase("fitbit")
	w.sync()
	for _, typ := range []string{"Observation", "Device"} {
		q, err := search.Parse(typ, nil, search.ParseOptions{})
		if err != nil {
			t.Fatal(err)
		}
		n, err := w.db.Count(t.Context(), store.Find{Query: q, Filter: access.All().Filter(access.Search)})
		if err != nil || n != 0 {
			t.Errorf("%d %s after the erasure: %v", n, typ, err)
		}
	}
	if !written {
		t.Error("nothing was written during the erasure")
	}
}

// TestHiddenSource checks that a source that a client may not see is neither used nor
// revealed.
func TestHiddenSource(t *testing.T) {
	w := newWorld(t)
	w.deliver("apple", steps("apple", phone, noon, 900))
	w.deliver("fitbit", steps("fitbit", tracker, noon, 1000))
	w.sync()
	w.consents.denied["fitbit"] = true
	if list := w.preferredOf(w.client(), "preferred-steps"); len(list) != 0 {
		t.Errorf("the client sees %+v", list)
	}
	if got := w.stats(w.client(), stepsOfInterval, "sum", viaPreferred); got != "900" {
		t.Errorf("the preferred steps are %s, want those of the only visible source, 900", got)
	}
	w.consents.denied = map[string]bool{"apple": true}
	list := w.preferredOf(w.client(), "preferred-steps")
	if len(list) != 1 || strings.Contains(strings.ToLower(list[0].Method.Text), "apple") {
		t.Errorf("the client sees %+v", list)
	}
}

// TestDayGrows checks that the value of a day is preliminary until the day is over, and
// amended when it changes afterwards.
func TestDayGrows(t *testing.T) {
	w := newWorld(t)
	w.clock.Set(noon.Add(time.Hour))
	w.deliver("apple", steps("apple", watch, noon, 500))
	w.sync()
	first := w.value("preferred-steps")
	if first.Status != "preliminary" {
		t.Fatalf("during the day: %+v", first)
	}
	w.sync()
	if again := w.value("preferred-steps"); again.Version != first.Version {
		t.Errorf("version %d without a change, want %d", again.Version, first.Version)
	}
	w.deliver("apple", steps("apple", watch, noon.Add(20*time.Minute), 50))
	w.sync()
	if got := w.value("preferred-steps"); got.Status != "preliminary" || got.ValueQuantity.Value != "550" {
		t.Errorf("after more steps: %+v", got)
	}
	w.clock.Set(noon.Add(12 * time.Hour)) // midnight
	w.sync()
	if got := w.value("preferred-steps"); got.Status != "final" {
		t.Errorf("after midnight: %+v", got)
	}
	w.deliver("apple", steps("apple", watch, noon.Add(40*time.Minute), 5))
	w.sync()
	got := w.value("preferred-steps")
	if got.Status != "amended" || got.ValueQuantity.Value != "555" {
		t.Errorf("after a late delivery: %+v", got)
	}
	w.engine.Close()
	w.start()
	w.sync()
	if again := w.value("preferred-steps"); again.Version != got.Version {
		t.Errorf("version %d after a restart, want %d", again.Version, got.Version)
	}
}

// TestStatedBeforeSum checks that a stated total counts before a sum of the same rank, and
// that its retraction makes the next source count, or leaves a value entered in error.
func TestStatedBeforeSum(t *testing.T) {
	w := newWorld(t)
	day := sample.Date{Year: 2026, Month: 10, Day: 1}
	stated := sample.Sample{Metric: "daily_activity.steps", Channel: "v2", Day: day, VendorID: "d1",
		Value: number("4000", "count"), Device: sample.Device{Name: "Ring", Kind: "ring"}}
	w.deliver("oura", stated)
	w.deliver("apple", steps("apple", watch, noon, 5000))
	w.sync()
	got := w.value("preferred-steps")
	if got.ValueQuantity.Value != "4000" || len(got.DerivedFrom) != 1 || got.DerivedFrom[0].Reference == "" {
		t.Errorf("preferred: %+v", got)
	}
	stated.Status = sample.Retracted
	w.deliver("oura", stated)
	w.sync()
	if got := w.value("preferred-steps"); got.ValueQuantity.Value != "5000" || got.Status != "amended" {
		t.Errorf("after the retraction: %+v", got)
	}
	gone := steps("apple", watch, noon, 5000)
	gone.Status = sample.Retracted
	w.deliver("apple", gone)
	w.sync()
	if got := w.value("preferred-steps"); got.Status != statusRetracted || got.ValueQuantity.Value != "5000" {
		t.Errorf("without a source: %+v", got)
	}
}
