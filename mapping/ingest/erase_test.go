package ingest

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	"pulsegate/adapters"
	"pulsegate/adapters/apple"
	"pulsegate/adapters/oura"
	"pulsegate/fhir"
	"pulsegate/fhir/store"
	"pulsegate/mapping/sample"
)

// feedBoth ingests data of Apple through two channels, with nights, duplicates
// and items in quarantine, and, unless only is set, data of Oura. It uses
// prepared samples of both.
func (w *world) feedBoth(only bool) {
	w.t.Helper()
	apples := []any{heartRate(oct(1, 8), "62"), heartRate(oct(1, 9), "63")}
	steps := heartRate(oct(1, 10), "10")
	steps.Metric, steps.Value.Unit = stepCountType, "count"
	merged := steps
	merged.Coarse, merged.Device = true, sample.Device{}
	workout := sample.Sample{Metric: "HKWorkoutTypeIdentifier", Channel: "hae", VendorID: "w1", Coarse: true,
		Start: oct(1, 8), End: oct(1, 9), Value: sample.Value{Kind: sample.Code, Text: "HKWorkoutActivityTypeRunning"},
		Source: sample.Source{Name: "Watch"}, Revision: 7}
	fine := workout
	fine.Coarse, fine.VendorID, fine.Device, fine.Revision = false, "", steps.Device, 0
	segment := heartRate(oct(1, 23), "")
	segment.Metric, segment.KeyValue, segment.End = "HKCategoryTypeIdentifierSleepAnalysis", false, oct(2, 1)
	segment.Value = sample.Value{Kind: sample.Code, Text: "HKCategoryValueSleepAnalysisAsleepCore"}
	unmapped := heartRate(oct(1, 9), "1")
	unmapped.Metric, unmapped.VendorID = "HKQuantityTypeIdentifierUnheardOf", "u1"
	apples = append(apples, steps, fine, segment, unmapped)
	for _, payload := range [][]any{apples, {merged, workout}, {merged, workout}} {
		if _, err := w.deliver("apple", nil, payload...); err != nil {
			w.t.Fatal(err)
		}
	}
	if only {
		return
	}
	night := sleepDocument("n1", oct(1, 23), 400, 41)
	revised := night[0].(sample.Sample)
	revised.Revision = 5
	night[0] = revised
	if _, err := w.deliver("oura", nil, append(night, pulse(oct(1, 8), 60), pulse(oct(1, 9), 61),
		sample.Reject{Metric: "sleep", VendorID: "n2", Reason: sample.ReasonBadTime,
			Raw: []byte("x")})...); err != nil {
		w.t.Fatal(err)
	}
}

// erase erases the data of a vendor.
func (w *world) erase(vendor string) (Summary, error) {
	w.pipeline.Adapters = []adapters.Adapter{apple.New(), oura.New()}
	return w.pipeline.Erase(w.t.Context(), Erasure{Patient: "p1", Vendor: vendor, Caller: operator()})
}

// keys returns the state that ingest keeps.
func (w *world) keys() []string {
	w.t.Helper()
	var out []string
	for _, prefix := range []string{"ingest/", "quarantine/"} {
		if err := w.pipeline.Store.List(w.t.Context(), prefix, func(key string, _ []byte) bool {
			out = append(out, key)
			return true
		}); err != nil {
			w.t.Fatal(err)
		}
	}
	return out
}

func (w *world) ids() []string {
	return slices.Sorted(maps.Keys(mergedMaps(w.all("Observation"), w.all("Device"))))
}

func mergedMaps[V any](a, b map[string]V) map[string]V {
	out := maps.Clone(a)
	maps.Copy(out, b)
	return out
}

// TestErase checks that an erasure leaves the resources and the state that there
// would be if the vendor had never delivered, for either vendor; that Provenances
// remain and hold no values; and that it is repeatable.
func TestErase(t *testing.T) {
	inEveryTier(t, func(t *testing.T, w *world) {
		other := newWorld(t)
		other.pipeline.Store = store.Documents{Store: other.pipeline.Store}
		other.feedBoth(true)
		w.feedBoth(false)
		total, provenances, events := len(w.ids()), w.content("Provenance"), len(w.all("AuditEvent"))
		var progress []int
		w.pipeline.Adapters = []adapters.Adapter{apple.New(), oura.New()}
		sum, err := w.pipeline.Erase(t.Context(), Erasure{Patient: "p1", Vendor: "Oura", Caller: operator(),
			Progress: func(n int) { progress = append(progress, n) }})
		if err != nil || sum.Erased != 6 || len(progress) != 2 || progress[1] != 6 {
			t.Errorf("%+v %v %v", sum, progress, err)
		}
		if got, want := w.ids(), other.ids(); !slices.Equal(got, want) || len(got) != total-6 {
			t.Errorf("%v, want %v", got, want)
		}
		if got, want := w.keys(), other.keys(); !slices.Equal(got, want) {
			t.Errorf("%q\nwant\n%q", got, want)
		}
		if !maps.Equal(w.content("Provenance"), provenances) {
			t.Error("Provenances changed")
		}
		for _, r := range w.all("Provenance") {
			if bytes.Contains(r.JSON, []byte("value")) && bytes.Contains(r.JSON, []byte("Quantity")) {
				t.Errorf("%s", r.JSON)
			}
		}
		if n := len(w.all("AuditEvent")); n <= events {
			t.Errorf("%d AuditEvents became %d", events, n)
		}
		events = len(w.all("AuditEvent"))
		if sum, err := w.erase("oura"); err != nil || sum.Erased != 0 || len(w.all("AuditEvent")) != events+1 {
			t.Errorf("again: %+v %v", sum, err)
		}
		if sum, err := w.erase("apple"); err != nil || sum.Erased != total-6 {
			t.Errorf("the other vendor: %+v %v", sum, err)
		}
		if ids, keys := w.ids(), w.keys(); len(ids)+len(keys) != 0 {
			t.Errorf("%v and %v are left", ids, keys)
		}
		w.feedBoth(false)
		if n := len(w.ids()); n != total {
			t.Errorf("delivered again: %d resources, want %d", n, total)
		}
	})
}

// TestEraseKeepsDevicesInUse checks that a Device stays that an Observation of
// another origin names, and that other patients keep their data.
func TestEraseKeepsDevicesInUse(t *testing.T) {
	w := newWorld(t)
	w.othersWrite = true
	w.feedBoth(false)
	var device string
	for id, r := range w.all("Device") {
		if bytes.Contains(r.JSON, []byte("Oura")) {
			device = id
		}
	}
	foreign := fhir.Resource{Type: "Observation", ID: "foreign", JSON: []byte(fhir.Prefix("Observation", "foreign") +
		`},"status":"final","code":{"text":"x"},"subject":{"reference":"Patient/p1"},"device":{"reference":"Device/` +
		device + `"}}`)}
	second := fhir.Resource{Type: "Patient", ID: "p2", JSON: []byte(fhir.Prefix("Patient", "p2") + `}}`)}
	if _, err := w.pipeline.Store.Commit(t.Context(), &store.Batch{Writes: []store.Write{{Resource: foreign},
		{Resource: second}}}); err != nil {
		t.Fatal(err)
	}
	w.pipeline.Adapters = []adapters.Adapter{page{"oura", []any{pulse(oct(1, 8), 60)}}}
	if _, err := w.pipeline.Run(t.Context(), Request{Patient: "p2", Vendor: "oura", Format: "page",
		Body: strings.NewReader("page"), Caller: operator()}); err != nil {
		t.Fatal(err)
	}
	if sum, err := w.erase("oura"); err != nil || sum.Erased != 5 {
		t.Errorf("%+v %v", sum, err)
	}
	left := map[string]int{}
	for _, typ := range []string{"Observation", "Device"} {
		for id, r := range w.all(typ) {
			switch {
			case id == device || id == "foreign":
				left["kept"]++
			case bytes.Contains(r.JSON, []byte("/identifier/oura")):
				left["oura"]++ // of p2
			}
		}
	}
	if left["kept"] != 2 || left["oura"] != 2 {
		t.Errorf("%v", left)
	}
}

// brokenStore fails the commit with a number.
type brokenStore struct {
	store.Store
	at int
}

func (s *brokenStore) Commit(ctx context.Context, b *store.Batch) (store.Result, error) {
	if s.at--; s.at == 0 {
		return store.Result{}, errors.New("the disk is full")
	}
	return s.Store.Commit(ctx, b)
}

// TestEraseContinues checks that an erasure that fails at any commit leaves
// nothing behind when it is called again.
func TestEraseContinues(t *testing.T) {
	for at := 1; ; at++ {
		w := newWorld(t)
		w.feedBoth(false)
		plain := w.pipeline.Store
		failing := &brokenStore{plain, at}
		w.pipeline.Store = failing
		_, err := w.erase("apple")
		w.pipeline.Store = plain
		if _, err2 := w.erase("apple"); err2 != nil {
			t.Fatal(err2)
		}
		for _, key := range w.keys() {
			if strings.Contains(key, "apple") {
				t.Errorf("commit %d: %s is left", at, key)
			}
		}
		if _, err := w.erase("oura"); err != nil || len(w.ids())+len(w.keys()) != 0 {
			t.Errorf("commit %d: %v and %v are left: %v", at, w.ids(), w.keys(), err)
		}
		if failing.at > 0 {
			if at < 3 || err != nil {
				t.Errorf("%d commits, %v", at-1, err)
			}
			return
		}
	}
}

// TestEraseExcludesDeliveries checks that a delivery that overlaps with an
// erasure fails and leaves nothing, and that deliveries of others go on.
func TestEraseExcludesDeliveries(t *testing.T) {
	w := newWorld(t)
	w.feedBoth(false)
	deliver := func(vendor string) error {
		_, err := w.deliver(vendor, nil, pulse(oct(3, 8), 60))
		return err
	}
	began := make(chan bool)
	proceed := make(chan bool)
	done := make(chan error)
	slow := waiting{page{"oura", []any{pulse(oct(4, 8), 60)}}, began, proceed}
	w.pipeline.Adapters = []adapters.Adapter{slow, apple.New()}
	go func() {
		_, err := w.pipeline.Run(t.Context(), Request{Patient: "p1", Vendor: "oura", Format: "page",
			Body: strings.NewReader("page"), Caller: operator()})
		done <- err
	}()
	<-began
	during := 0
	if _, err := w.pipeline.Erase(t.Context(), Erasure{Patient: "p1", Vendor: "oura", Caller: operator(),
		Progress: func(int) {
			if during++; during == 1 {
				if err := deliver("oura"); fhir.KindOf(err) != fhir.Unavailable {
					t.Errorf("during the erasure: %v", err)
				}
				if err := deliver("apple"); err != nil {
					t.Error(err)
				}
			}
		}}); err != nil {
		t.Fatal(err)
	}
	close(proceed)
	if err := <-done; fhir.KindOf(err) != fhir.Unavailable {
		t.Errorf("begun before the erasure: %v", err)
	}
	for _, r := range w.all("Observation") {
		if bytes.Contains(r.JSON, []byte("/identifier/oura")) {
			t.Errorf("%s", r.JSON)
		}
	}
	if err := deliver("oura"); err != nil || during == 0 {
		t.Errorf("after the erasure: %v", err)
	}
}

// waiting is an adapter that waits before it emits.
type waiting struct {
	page
	began, proceed chan bool
}

func (x waiting) Decode(ctx context.Context, in adapters.Input, sink adapters.Sink) error {
	x.began <- true
	<-x.proceed
	return x.page.Decode(ctx, in, sink)
}

// TestBadErasures checks that an erasure of an unknown vendor or an invalid
// patient is refused, and that a canceled one says that it can be continued.
func TestBadErasures(t *testing.T) {
	w := newWorld(t)
	w.feedBoth(false)
	w.pipeline.Adapters = []adapters.Adapter{oura.New()}
	for _, e := range []Erasure{{Patient: "p1", Vendor: "acme"}, {Patient: "a/b", Vendor: "oura"}} {
		e.Caller = operator()
		if _, err := w.pipeline.Erase(t.Context(), e); fhir.KindOf(err) != fhir.Invalid {
			t.Errorf("%+v: %v", e, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	_, err := w.pipeline.Erase(ctx, Erasure{Patient: "p1", Vendor: "oura", Caller: operator(),
		Progress: func(int) { cancel() }})
	if fhir.KindOf(err) != fhir.Unavailable {
		t.Error(err)
	}
	if _, err := w.erase("oura"); err != nil {
		t.Error(err)
	}
}
