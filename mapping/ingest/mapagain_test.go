package ingest

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"pulsegate/adapters"
	"pulsegate/adapters/apple"
	"pulsegate/adapters/fitbit"
	"pulsegate/adapters/oura"
	"pulsegate/adapters/withings"
	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/store"
)

// checkKept checks that the stored Observations of a vendor have kept samples, that they
// map to its content, and that EachKept finds each once and Kept the same. It checks a
// limited number. It returns how many it has checked and how many are rows of series.
func (w *world) checkKept(vendor string) (all, rows int) {
	w.t.Helper()
	const some, many = 30, 500
	seen := map[string]bool{}
	from := ""
	for more := true; more; {
		more = false
		n := 0
		err := w.pipeline.EachKept(w.t.Context(), "p1", vendor, from, func(o *KeptObservation) bool {
			all++
			if o.Kept[0].Rebuilt {
				rows++
			}
			if seen[o.Resource.ID] {
				w.t.Errorf("%s: a second time", o.Resource.ID)
			}
			seen[o.Resource.ID] = true
			w.checkMapAgain(o)
			if all <= some {
				single, err := w.pipeline.KeptObservation(w.t.Context(), o.Resource.ID)
				if err != nil || single == nil {
					w.t.Fatalf("%s: %v", o.Resource.ID, err)
				}
				w.checkMapAgain(single)
			}
			from = o.Position
			n++
			more = n == 7 && all <= some
			return !more && all < many
		})
		if err != nil {
			w.t.Fatal(err)
		}
	}
	if all == many {
		return all, rows
	}
	err := w.pipeline.Store.Scan(w.t.Context(), store.ScanRange{Types: []string{"Observation"}, Patient: "p1",
		Filter: access.All().Filter(access.Read)}, func(f *store.Found) bool {
		if f.Facts.Vendor == vendor && !seen[f.Resource.ID] {
			w.t.Errorf("no sample is kept of %s", f.Resource.JSON)
		}
		return true
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return all, rows
}

func (w *world) checkMapAgain(o *KeptObservation) {
	w.t.Helper()
	body, err := w.pipeline.MapAgain(o)
	if err != nil || !o.SameContent(body) {
		w.t.Fatalf("mapped again: %v\n%s\nwant\n%s\nby %+v", err, body, unstamped(&o.Resource), o.Kept)
	}
}

// TestKeptMapsToWhatIsStored ingests the testdata of the adapters, with and without a
// zone of the patient, with and without series, and checks that what is kept of each
// Observation maps to it byte for byte.
func TestKeptMapsToWhatIsStored(t *testing.T) {
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	for _, vendor := range []adapters.Adapter{apple.New(), fitbit.New(), oura.New(), withings.New()} {
		for _, tier := range []string{"series", "documents"} {
			t.Run(vendor.Vendor()+" "+tier, func(t *testing.T) {
				w := newWorld(t)
				w.pipeline.Adapters = []adapters.Adapter{vendor}
				if tier == "documents" {
					w.pipeline.Store = store.Documents{Store: w.pipeline.Store}
				} else {
					w.pipeline.Zone = func(context.Context, string) (*time.Location, error) { return berlin, nil }
				}
				w.deliverTestdata(vendor.Vendor())
				all, rows := w.checkKept(vendor.Vendor())
				t.Logf("%d Observations, %d of them in series", all, rows)
				if all == 0 {
					t.Error("no Observation has a kept sample")
				}
			})
		}
	}
}

// deliverTestdata ingests the testdata of an adapter.
func (w *world) deliverTestdata(vendor string) {
	root := filepath.Join("..", "..", "adapters", vendor, "testdata")
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || strings.HasSuffix(path, ".golden") ||
			strings.HasSuffix(path, "canaries.txt") || strings.Contains(path, "fuzz") {
			return err
		}
		body, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		_, err = w.pipeline.Run(w.t.Context(), Request{Patient: "p1", Vendor: vendor,
			Format: filepath.Base(filepath.Dir(path)), Name: filepath.Base(path),
			Body: strings.NewReader(string(body)), Caller: operator()})
		if err != nil && fhir.KindOf(err) != fhir.Invalid {
			w.t.Errorf("%s: %v", path, err)
		}
		return nil
	})
	if err != nil {
		w.t.Fatal(err)
	}
}

// TestKeptOfAnyPayloads is TestKeptMapsToWhatIsStored for drawn samples that are stated
// again, restated and retracted.
func TestKeptOfAnyPayloads(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w, done := newWorldOf(t)
		defer done()
		for range rapid.IntRange(1, 4).Draw(t, "payloads") {
			if _, err := w.take("payload", drawSamples(t, 20)...); err != nil {
				t.Fatal(err)
			}
		}
		w.checkKept("apple")
	})
}

// checkAllKept checks what is kept at the end of a test.
func (w *world) checkAllKept(st store.Store) {
	w.pipeline.Store, w.t = st, lasting{w.t}
	for _, a := range w.pipeline.Adapters {
		w.checkKept(a.Vendor())
	}
}

// lasting is a test whose context outlasts it.
type lasting struct{ tester }

func (l lasting) Context() context.Context { return context.WithoutCancel(l.tester.Context()) }
