package ingest

import (
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"pulsegate/fhir/store"
)

// said is one measurement as a page of a channel states it.
type said struct {
	merged bool // by the channel that knows no source
	value  int
}

func (s said) page(point func(value int) string) string {
	if s.merged {
		return points("", point(s.value))
	}
	return points("Sense", point(s.value))
}

var restatable = map[string]func(value int) string{
	"steps":      func(n int) string { return walked(0, n) },
	"heart-rate": func(n int) string { return pulse(0, n) },
	"weight":     func(n int) string { return weighed(1000 * n) },
}

// agreeing are payloads in which both channels say the value at last.
func agreeing(value int, point func(value int) string) [][]string {
	list, merged := said{false, value}.page(point), said{true, value}.page(point)
	return [][]string{{list, merged}, {merged, list}, {list + "\n" + merged}, {merged + "\n" + list}}
}

// checkAgreed delivers what the channels said before and then agree on: that is
// one Observation with its source, and saying it again writes none.
func checkAgreed(t tester, code, tier string, value int, pages, last []string) {
	t.Helper()
	w, done := newWorldOf(t)
	defer done()
	if tier == "documents" {
		w.p.Store = store.Documents{Store: w.p.Store}
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
			t.Fatalf("%s, %s, again=%d: %v, want one of %d with its source, after %v, %v", code, tier, again,
				bodies, value, pages, last)
		}
	}
}

// TestChannelsAgreeAtLast: whatever two channels said of a measurement before,
// when both say the same it is one, and stays one when they say so again.
func TestChannelsAgreeAtLast(t *testing.T) {
	for code, point := range restatable {
		for n := range 36 {
			var pages []string
			for _, x := range []int{n / 6, n % 6} {
				pages = append(pages, said{x%2 > 0, 70 + x/2*5}.page(point))
			}
			for _, last := range agreeing(75, point) {
				checkAgreed(t, code, "series", 75, pages, last)
			}
			for x := range 6 { // and these two in one payload
				first := said{x%2 > 0, 70 + x/2*5}.page(point)
				checkAgreed(t, code, "series", 75, []string{first, strings.Join(pages, "\n")}, agreeing(75, point)[n%4])
			}
		}
	}
}

// TestChannelsAgreeAtLastInTiers is the same of longer histories, in which one
// payload may hold several pages, as series and as documents.
func TestChannelsAgreeAtLastInTiers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		code := rapid.SampledFrom([]string{"heart-rate", "steps", "weight"}).Draw(t, "code")
		value := rapid.SampledFrom([]int{70, 75, 80}).Draw(t, "value")
		var pages []string
		for range rapid.IntRange(0, 7).Draw(t, "history") {
			p := said{rapid.Bool().Draw(t, "merged"),
				rapid.SampledFrom([]int{70, 75, 80}).Draw(t, "said")}.page(restatable[code])
			if len(pages) > 0 && rapid.Bool().Draw(t, "in one") {
				pages[len(pages)-1] += "\n" + p
			} else {
				pages = append(pages, p)
			}
		}
		last := rapid.SampledFrom(agreeing(value, restatable[code])).Draw(t, "last")
		for _, tier := range []string{"series", "documents"} {
			checkAgreed(t, code, tier, value, pages, last)
		}
	})
}
