package ingest

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
	"time"

	"pulsegate/adapters/simulate"
	"pulsegate/adapters/simulate/phone"
)

// TestSimulatedPhone lets a simulated phone push companion batches for two weeks, with
// batches that are sent twice, lost answers and times without network. The store must
// then hold exactly the samples that the phone holds.
func TestSimulatedPhone(t *testing.T) {
	w := newWorld(t)
	server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		decoded, err := body(r.Body, r.Header.Get("Content-Encoding"), Limits{})
		if err != nil {
			t.Error(err)
			return
		}
		sum, err := w.pipeline.Run(r.Context(),
			Request{Patient: "p1", Vendor: "apple", Format: "companion", Name: "batch",
				Body: decoded})
		if err != nil || sum.Quarantined+sum.LeftOut != 0 {
			t.Errorf("%+v: %v", sum.Counts, err)
			rw.WriteHeader(http.StatusInternalServerError)
		}
	}))
	defer server.Close()
	start := time.Date(2026, 11, 18, 0, 0, 0, 0, time.UTC)
	wearers, err := simulate.Wearers(9, 1)
	if err != nil {
		t.Fatal(err)
	}
	clock := simulate.NewClock(nil, start, 1)
	o := phone.Options{Clock: clock, Wearer: wearers[0], Start: start, URL: server.URL, Header: "Authorization",
		Value: "Bearer the key", Seed: 9, Format: phone.Companion, Zstd: true}
	o.Faults.Rates = map[simulate.Fault]float64{simulate.Duplicate: 0.3, simulate.Drop: 0.3, simulate.Outage: 0.3}
	p, err := phone.New(o)
	if err != nil {
		t.Fatal(err)
	}
	advance := func(d time.Duration) {
		clock.Add(d)
		if err := p.Advance(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	for range 14 * 2 {
		advance(12 * time.Hour)
	}
	p.Faults().SetRates(nil)
	advance(48 * time.Hour)
	var got, want []string
	retracted := 0
	for _, r := range w.all("Observation") {
		var s storedElements
		if err := json.Unmarshal(r.JSON, &s); err != nil {
			t.Fatal(err)
		}
		switch id := s.identifier("https://pulsegate.dev/fhir/identifier/apple/source"); {
		case len(id) != 36: // a night, which is derived
		case s.Status == statusRetracted:
			retracted++
		default:
			got = append(got, id)
		}
	}
	for _, r := range p.Truth() {
		want = append(want, r.ID)
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) || retracted == 0 {
		t.Errorf("%d samples, the phone has %d; %d retracted", len(got), len(want), retracted)
	}
}
