package ingest

import (
	"fmt"
	"strings"
	"testing"

	"pulsegate/mapping/sample"

	"pgregory.net/rapid"

	"pulsegate/fhir/store"
)

// statement is one measurement as a page of a channel states it.
type statement struct {
	merged bool // by the channel that knows no source
	value  int
}

func (s statement) page(point func(value int) string) string {
	if s.merged {
		return points("", point(s.value))
	}
	return points("Sense", point(s.value))
}

var restatable = map[string]func(value int) string{
	"steps":      func(n int) string { return stepsPoint(0, n) },
	"heart-rate": func(n int) string { return heartRatePoint(0, n) },
	"weight":     func(n int) string { return weightPoint(1000 * n) },
}

// agreements returns payloads in which both channels finally state the value.
func agreements(value int, point func(value int) string) [][]string {
	list, merged := statement{false, value}.page(point), statement{true, value}.page(point)
	return [][]string{{list, merged}, {merged, list}, {list + "\n" + merged}, {merged + "\n" + list}}
}

// checkAgreement delivers the earlier statements of the channels and then the
// agreed one. It checks that the result is one Observation with its source, and
// that a repetition writes nothing.
func checkAgreement(t tester, code, tier string, value int, pages, last []string) {
	t.Helper()
	w, done := newWorldOf(t)
	defer done()
	if tier == "documents" {
		w.pipeline.Store = store.Documents{Store: w.pipeline.Store}
	}
	for _, p := range pages {
		w.must("fitbit", "page.json", p)
	}
	for again := range 3 {
		for _, p := range last {
			s := w.must("fitbit", "page.json", p)
			if again > 0 && s.Created+s.Updated != 0 {
				t.Errorf("%s, %s: again: %+v after %v, %v", code, tier, s.Counts, pages, last)
			}
		}
		got := w.chart(code)
		if len(got) != 1 || got[0].Device.Reference == "" ||
			strings.TrimSuffix(got[0].Quantity.Value.String(), ".000") != fmt.Sprint(value) {
			var bodies []string
			for _, o := range got {
				bodies = append(bodies, fmt.Sprint(o.Quantity.Value, " of ", o.Device.Reference))
			}
			t.Fatalf("%s, %s, again=%d: %v, want one with value %d and its source, after %v, %v", code, tier, again,
				bodies, value, pages, last)
		}
	}
}

// TestChannelsAgree checks that a measurement that both channels state alike is
// one Observation, regardless of what they stated before, and stays one when
// they repeat it.
func TestChannelsAgree(t *testing.T) {
	for code, point := range restatable {
		for n := range 36 {
			var pages []string
			for _, x := range []int{n / 6, n % 6} {
				pages = append(pages, statement{x%2 > 0, 70 + x/2*5}.page(point))
			}
			for _, last := range agreements(75, point) {
				checkAgreement(t, code, "series", 75, pages, last)
			}
			for x := range 6 { // with both pages in one payload
				first := statement{x%2 > 0, 70 + x/2*5}.page(point)
				checkAgreement(t, code, "series", 75, []string{first, strings.Join(pages, "\n")},
					agreements(75, point)[n%4])
			}
		}
	}
}

// TestChannelsAgreeInEveryStore is TestChannelsAgree for longer histories, in
// which one payload may hold several pages, stored as series and as documents.
func TestChannelsAgreeInEveryStore(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		code := rapid.SampledFrom([]string{"heart-rate", "steps", "weight"}).Draw(t, "code")
		value := rapid.SampledFrom([]int{70, 75, 80}).Draw(t, "value")
		var pages []string
		for range rapid.IntRange(0, 7).Draw(t, "history") {
			p := statement{rapid.Bool().Draw(t, "merged"),
				rapid.SampledFrom([]int{70, 75, 80}).Draw(t, "stated")}.page(restatable[code])
			if len(pages) > 0 && rapid.Bool().Draw(t, "in one") {
				pages[len(pages)-1] += "\n" + p
			} else {
				pages = append(pages, p)
			}
		}
		last := rapid.SampledFrom(agreements(value, restatable[code])).Draw(t, "last")
		for _, tier := range []string{"series", "documents"} {
			checkAgreement(t, code, tier, value, pages, last)
		}
	})
}

// TestRetractionOfAmended checks that a retraction with the content of an amended
// Observation retracts it.
func TestRetractionOfAmended(t *testing.T) {
	w := newWorld(t)
	steps := sample.Sample{Metric: "daily_activity.steps", Channel: "v2", VendorID: "d1",
		Day: sample.Date{Year: 2026, Month: 10, Day: 1}}
	for _, n := range []string{"4000", "4100"} {
		steps.Value = sample.Value{Kind: sample.Number, Num: n, Unit: "count"}
		if _, err := w.deliver("oura", nil, steps); err != nil {
			t.Fatal(err)
		}
	}
	steps.Status = sample.Retracted
	if _, err := w.deliver("oura", nil, steps); err != nil {
		t.Fatal(err)
	}
	for _, o := range w.chart("41950-7") {
		if o.Status != statusRetracted {
			t.Errorf("status %s", o.Status)
		}
	}
}
