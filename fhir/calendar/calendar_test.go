package calendar_test

import (
	"testing"
	"time"
	_ "time/tzdata"

	"pgregory.net/rapid"

	"pulsegate/fhir/calendar"
)

func zone(t interface{ Fatal(...any) }, name string) *time.Location {
	l, err := time.LoadLocation(name)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

var zones = []string{"UTC", "Europe/Berlin", "America/New_York", "America/St_Johns", "America/Sao_Paulo", "Asia/Kolkata",
	"Australia/Lord_Howe", "Pacific/Apia", "Africa/Cairo", "America/Havana", "Asia/Kathmandu", "Pacific/Kiritimati",
	"Asia/Beirut", "America/Asuncion"}

func instant(t *testing.T, s string) int64 {
	t.Helper()
	x, err := time.Parse(time.RFC3339, s)
	if err != nil {
		t.Fatal(err)
	}
	return x.UnixMilli()
}

func TestBuckets(t *testing.T) {
	for _, c := range []struct{ zone, unit, at, from, to string }{
		{"Europe/Berlin", "day", "2026-03-29T12:00:00Z", "2026-03-28T23:00:00Z", "2026-03-29T22:00:00Z"}, // 23 hours
		{"Europe/Berlin", "day", "2026-10-25T12:00:00Z", "2026-10-24T22:00:00Z", "2026-10-25T23:00:00Z"}, // 25 hours
		{"Europe/Berlin", "hour", "2026-10-25T00:30:00Z", "2026-10-25T00:00:00Z", "2026-10-25T01:00:00Z"},
		{"Europe/Berlin", "hour", "2026-10-25T01:30:00Z", "2026-10-25T01:00:00Z", "2026-10-25T02:00:00Z"},
		{"Europe/Berlin", "week", "2026-10-25T12:00:00Z", "2026-10-18T22:00:00Z", "2026-10-25T23:00:00Z"},
		{"Europe/Berlin", "month", "2026-10-25T12:00:00Z", "2026-09-30T22:00:00Z", "2026-10-31T23:00:00Z"},
		{"Europe/Berlin", "year", "2026-10-25T12:00:00Z", "2025-12-31T23:00:00Z", "2026-12-31T23:00:00Z"},
		{"Asia/Kolkata", "hour", "2026-10-25T12:00:00Z", "2026-10-25T11:30:00Z", "2026-10-25T12:30:00Z"},
		{"America/Sao_Paulo", "day", "2018-11-04T12:00:00Z", "2018-11-04T03:00:00Z", "2018-11-05T02:00:00Z"}, // 00:00 skipped
		{"America/Sao_Paulo", "day", "2018-02-17T12:00:00Z", "2018-02-17T02:00:00Z", "2018-02-18T03:00:00Z"}, // 25 hours
		{"Pacific/Apia", "day", "2011-12-30T09:59:00Z", "2011-12-29T10:00:00Z", "2011-12-30T10:00:00Z"},      // before the skip
		{"Pacific/Apia", "day", "2011-12-30T10:00:00Z", "2011-12-30T10:00:00Z", "2011-12-31T10:00:00Z"},      // 31st
		{"America/Havana", "day", "2026-11-01T04:30:00Z", "2026-11-01T04:00:00Z", "2026-11-02T05:00:00Z"},    // two midnights
		{"Australia/Lord_Howe", "hour", "2026-04-04T15:10:00Z", "2026-04-04T15:00:00Z", "2026-04-04T15:30:00Z"},
	} {
		u, ok := calendar.ParseUnit(c.unit)
		if !ok || u.String() != c.unit {
			t.Fatal(c.unit)
		}
		from, to := calendar.In(zone(t, c.zone), u).Of(instant(t, c.at))
		if from != instant(t, c.from) || to != instant(t, c.to) {
			t.Errorf("%s %s %s: %v to %v", c.zone, c.unit, c.at, time.UnixMilli(from).UTC(), time.UnixMilli(to).UTC())
		}
	}
	if from, to := calendar.Fixed(15 * time.Minute).Of(-1); from != -900_000 || to != 0 {
		t.Errorf("before 1970: %d to %d", from, to)
	}
	if _, ok := calendar.ParseUnit(""); ok {
		t.Error("no unit is a unit")
	}
}

func TestDates(t *testing.T) {
	berlin := zone(t, "Europe/Berlin")
	for _, c := range []struct {
		unit, precision calendar.Unit
		from            string // "" if the date has no bucket
	}{
		{calendar.Hour, calendar.Day, ""},
		{calendar.Day, calendar.Day, "2026-03-28T23:00:00Z"},
		{calendar.Day, calendar.Month, ""},
		{calendar.Week, calendar.Day, "2026-03-22T23:00:00Z"},
		{calendar.Week, calendar.Month, ""},
		{calendar.Month, calendar.Month, "2026-02-28T23:00:00Z"},
		{calendar.Month, calendar.Year, ""},
		{calendar.Year, calendar.Month, "2025-12-31T23:00:00Z"},
	} {
		from, _, ok := calendar.In(berlin, c.unit).OfDate(2026, 3, 29, c.precision)
		if ok != (c.from != "") || ok && from != instant(t, c.from) {
			t.Errorf("%v of a date of %v: %v, %v", c.unit, c.precision, time.UnixMilli(from).UTC(), ok)
		}
	}
	if _, _, ok := calendar.Fixed(24*time.Hour).OfDate(2026, 3, 29, calendar.Day); ok {
		t.Error("a date has no bucket of a fixed length")
	}
}

// TestPartition tests that the buckets have no gaps and do not overlap, whatever a zone does.
func TestPartition(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		z := zone(t, rapid.SampledFrom(zones).Draw(t, "zone"))
		d := calendar.In(z, calendar.Unit(rapid.IntRange(1, 5).Draw(t, "unit")))
		if rapid.Bool().Draw(t, "fixed") {
			d = calendar.Fixed(time.Duration(rapid.IntRange(1, 10_080).Draw(t, "minutes")) * time.Minute)
		}
		at := rapid.Int64Range(-2e12, 3e12).Draw(t, "at")
		// Most faults would lie at a change of the clocks.
		if _, end := time.UnixMilli(at).In(z).ZoneBounds(); !end.IsZero() && rapid.Bool().Draw(t, "change") {
			at = end.UnixMilli() + rapid.Int64Range(-7_200_000, 7_200_000).Draw(t, "near")
		}
		from, to := d.Of(at)
		if at < from || at >= to {
			t.Fatalf("%d is not in [%d, %d)", at, from, to)
		}
		for _, x := range []int64{from, to - 1, (from + to) / 2} {
			if f, u := d.Of(x); f != from || u != to {
				t.Fatalf("%d: [%d, %d), and %d: [%d, %d)", at, from, to, x, f, u)
			}
		}
		if f, _ := d.Of(to); f != to {
			t.Fatalf("a gap after %d", to)
		}
		if _, u := d.Of(from - 1); u != from {
			t.Fatalf("a gap before %d", from)
		}
	})
}
