package server

import (
	"context"
	"testing"
	"time"

	"pulsegate/adapters"
	"pulsegate/fhir/clocktest"
	"pulsegate/fhir/store/pebblestore/pebbletest"
	"pulsegate/mapping/sample"
)

// counting is an adapter that yields samples one hour apart, and the sink that
// counts them.
type counting struct {
	adapters.Adapter
	adapters.Sink
	from time.Time
	got  int
}

func (c *counting) Decode(_ context.Context, _ adapters.Input, sink adapters.Sink) error {
	for i := range 10 {
		at := c.from.Add(time.Duration(i) * time.Hour)
		if err := sink.Sample(&sample.Sample{Start: at, End: at.Add(30 * time.Minute)}); err != nil {
			return err
		}
	}
	return nil
}

func (c *counting) Sample(*sample.Sample) error { c.got++; return nil }

// TestDemoEndsNow checks that no sample of the demo lies in the future.
func TestDemoEndsNow(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	c := &counting{from: now.Add(-3*time.Hour - 15*time.Minute)}
	if err := untilNow([]adapters.Adapter{c}, now)[0].Decode(t.Context(), adapters.Input{}, c); err != nil {
		t.Fatal(err)
	}
	if c.got != 3 { // 8:45, 9:45 and 10:45; the sample of 11:45 ends after now
		t.Errorf("%d samples, want 3", c.got)
	}
}

// TestDemoGrows checks that a demo started again on a later day adds the days
// since then and keeps its first day.
func TestDemoGrows(t *testing.T) {
	st := pebbletest.Open(t)
	clock := clocktest.At(time.Date(2026, 3, 20, 23, 30, 0, 0, time.UTC)) // already the 21st in Berlin
	for _, c := range []struct {
		later, want int
	}{{0, 30}, {0, 30}, {1, 31}, {9, 40}} { // the 29th has 23 hours
		clock.Set(clock.Now().AddDate(0, 0, c.later))
		start, days, err := demoDays(t.Context(), st, clock.Now())
		if err != nil {
			t.Fatal(err)
		}
		if days != c.want || start.Format(time.RFC3339) != "2026-02-20T00:00:00+01:00" {
			t.Errorf("%s: from %s, %d days; want %d", clock.Now(), start, days, c.want)
		}
	}
}
