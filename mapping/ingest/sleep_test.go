package ingest

import (
	"bytes"
	"testing"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/consent"
	"pulsegate/fhir/store"
)

// storeConsent stores a Consent of p1 and makes the pipeline use it.
func (w *world) storeConsent(categories ...string) *consent.Engine {
	w.t.Helper()
	e, err := consent.New(consent.Options{Store: w.pipeline.Store, Clock: w.pipeline.Clock})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.(testing.TB).Cleanup(e.Close)
	c, err := consent.Build(consent.Terms{ID: "c1", Patient: "p1", Categories: categories, Recipient: "ehr",
		Now: w.pipeline.Clock()})
	if err != nil {
		w.t.Fatal(err)
	}
	if _, err := w.pipeline.Store.Commit(w.t.Context(),
		&store.Batch{Writes: []store.Write{{Resource: c}}}); err != nil {
		w.t.Fatal(err)
	}
	w.pipeline.Consents = e
	return e
}

// seen returns the resources of a type that "ehr" can read.
func (w *world) seen(e *consent.Engine, typ string) (out []fhir.Resource) {
	w.t.Helper()
	g := &access.Grant{Recipient: "ehr", Consents: e,
		Rules: []access.Rule{{Type: "*", May: access.Read | access.Search}}}
	err := w.pipeline.Store.Scan(w.t.Context(), store.ScanRange{Types: []string{typ}, Filter: g.Filter(access.Read)},
		func(f *store.Found) bool {
			r := f.Resource
			r.JSON = bytes.Clone(r.JSON)
			out = append(out, r)
			return true
		})
	if err != nil {
		w.t.Fatal(err)
	}
	return out
}

func (w *world) feedAll() {
	segment := recordXML("HKCategoryTypeIdentifierSleepAnalysis", "", "HKCategoryValueSleepAnalysisAsleepREM",
		"2026-10-01 23:30:00 +0200", "11.0")
	w.must("apple", "export.xml", exportXML(segment,
		recordXML(heartRateType, "count/min", "62", "2026-10-01 08:00:00 +0200", "11.0"),
		recordXML(stepCountType, "count", "5", "2026-10-01 08:00:00 +0200", "11.0")))
	w.must("oura", "sleep.json", night(27000))
}

func TestConsentToSleepOnly(t *testing.T) {
	w := newWorld(t)
	e := w.storeConsent("sleep")
	w.feedAll()
	if n := len(w.all("Observation")); n != 2 {
		t.Errorf("%d Observations are stored, want the segment and the night", n)
	}
	seen := w.seen(e, "Observation")
	if len(seen) != 2 {
		t.Errorf("%d Observations are seen, want 2", len(seen))
	}
	for _, o := range seen {
		if !bytes.Contains(o.JSON, []byte(`/CodeSystem/observation-category","code":"sleep"`)) {
			t.Errorf("not sleep: %s", o.JSON)
		}
	}
}

func TestConsentToSleepShowsNothingElse(t *testing.T) {
	w := newWorld(t)
	w.feedAll() // under a consent to all data
	if n := len(w.all("Observation")); n != 4 {
		t.Fatalf("%d Observations are stored, want 4", n)
	}
	e := w.storeConsent("sleep")
	if n := len(w.seen(e, "Observation")); n != 2 {
		t.Errorf("%d Observations are seen under a consent to sleep, want 2", n)
	}
}

// TestQuarantineUnderConsentToSleep checks that raw bytes of data that the
// consent does not cover are not kept, even if they cannot be mapped.
func TestQuarantineUnderConsentToSleep(t *testing.T) {
	odd := exportXML(recordXML(heartRateType, "count/min", "-7531", "2026-10-01 08:00:00 +0200", "11.0"),
		recordXML(heartRateType, "count/min", "-7532", "2026-10-01 08:01:00 +0200", "11.0"),
		recordXML("HKQuantityTypeIdentifierUnheardOf", "x", "7533", "2026-10-01 08:30:00 +0200", "11.0"),
		recordXML("HKQuantityTypeIdentifierAppleSleepingBreathingDisturbances", "count", "-7534",
			"2026-10-01 08:30:00 +0200", "11.0"))
	for _, c := range []struct {
		categories []string
		items, raw int
	}{{nil, 4, 4}, {[]string{"sleep"}, 3, 1}} {
		w := newWorld(t)
		w.storeConsent(c.categories...)
		if s := w.must("apple", "export.xml", odd); s.Quarantined != 4 {
			t.Errorf("%+v", s.Counts)
		}
		items, raw, n := 0, 0, 0
		err := w.pipeline.List(t.Context(), "p1", func(it *Item) bool {
			items, n = items+1, n+it.Count
			if it.Sample != nil || it.Raw != nil {
				raw++
			}
			return true
		})
		if err != nil {
			t.Fatal(err)
		}
		if items != c.items || raw != c.raw || n != 4 {
			t.Errorf("%v: %d items of %d, %d with bytes; want %d and %d", c.categories, items, n, raw, c.items, c.raw)
		}
	}
}
