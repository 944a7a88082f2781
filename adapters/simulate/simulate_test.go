package simulate_test

import (
	"context"
	"maps"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"pulsegate/adapters/simulate"
)

func TestClockRunsAtSpeed(t *testing.T) {
	start := time.Date(2026, 10, 1, 0, 0, 0, 0, time.UTC)
	wall := simulate.NewClock(nil, start, 0)
	c := simulate.NewClock(wall.Now, start, 60)
	wall.Add(time.Minute)
	if got := c.Now(); !got.Equal(start.Add(time.Hour)) {
		t.Errorf("a minute at speed 60 leads to %v", got)
	}
	c.Add(time.Hour)
	wall.Add(time.Second)
	if got := c.Now(); !got.Equal(start.Add(2*time.Hour + time.Minute)) {
		t.Errorf("Add leads to %v", got)
	}
	c.Set(start)
	wall.Add(time.Second)
	if got := c.Now(); !got.Equal(start.Add(time.Minute)) {
		t.Errorf("Set leads to %v", got)
	}
	if got := c.Wall(time.Hour); got != time.Minute {
		t.Errorf("an hour lasts %v", got)
	}
}

func TestClockCatchesUp(t *testing.T) {
	now := time.Date(2026, 10, 1, 0, 0, 0, 0, time.UTC)
	wall := simulate.NewClock(nil, now, 0)
	c := simulate.CatchUp(wall.Now, now.Add(-time.Hour), 61)
	wall.Add(30 * time.Second)
	if got := c.Now(); !got.Equal(now.Add(-time.Hour + 61*30*time.Second)) {
		t.Errorf("after 30 s: %v", got)
	}
	for range 3 {
		wall.Add(time.Minute)
		if got := c.Now(); !got.Equal(wall.Now()) {
			t.Errorf("%v, wall %v", got, wall.Now())
		}
	}
}

func TestWearers(t *testing.T) {
	a, err := simulate.Wearers(1, 40)
	if err != nil {
		t.Fatal(err)
	}
	b, _ := simulate.Wearers(1, 50)
	other, _ := simulate.Wearers(2, 40)
	seen := map[string]bool{}
	for i := range a {
		if a[i].Key != b[i].Key || a[i].Zone.String() != b[i].Zone.String() {
			t.Errorf("wearer %d depends on the number of wearers", i)
		}
		if a[i].Account("oura") == other[i].Account("oura") || a[i].Account("oura") == a[i].Account("google") {
			t.Errorf("wearer %d has the account of another", i)
		}
		seen[a[i].Account("oura")] = true
	}
	if len(seen) != len(a) {
		t.Errorf("%d accounts of %d wearers", len(seen), len(a))
	}
}

// TestNightOfDaylightSaving checks that a night in Berlin loses an hour in March and
// gains one in October against the clock times of the same night.
func TestNightOfDaylightSaving(t *testing.T) {
	w, err := simulate.Wearers(1, 1)
	if err != nil {
		t.Fatal(err)
	}
	nights := map[string]time.Duration{"2026-03-29": -time.Hour, "2026-10-25": time.Hour, "2026-10-26": 0}
	for day, want := range nights {
		d, err := simulate.ParseDay(day)
		if err != nil {
			t.Fatal(err)
		}
		bed, up := w[0].Night(d)
		floating := func(t time.Time) time.Time {
			return simulate.DayOf(t).At(time.UTC, t.Hour(), t.Minute())
		}
		if got := up.Sub(bed) - floating(up).Sub(floating(bed)); got != want {
			t.Errorf("%s: the night is %v longer than its clock times", day, got)
		}
	}
}

func TestSyncsAreOrdered(t *testing.T) {
	ws, err := simulate.Wearers(3, 12)
	if err != nil {
		t.Fatal(err)
	}
	from, _ := simulate.ParseDay("2026-10-01")
	for _, w := range ws {
		last, none := time.Time{}, 0
		for day := from; day < from+60; day++ {
			syncs := w.Syncs(day)
			if len(syncs) == 0 {
				none++
			}
			for _, s := range syncs {
				if !s.After(last) || simulate.DayOf(s) != day {
					t.Errorf("wearer %d: sync %v after %v", w.Index, s, last)
				}
				if !last.IsZero() && (!w.NextSync(last).Equal(s) || !w.LastSync(s.Add(-1)).Equal(last)) {
					t.Errorf("wearer %d: %v does not follow %v", w.Index, s, last)
				}
				last = s
			}
		}
		if none == 60 {
			t.Errorf("wearer %d never syncs", w.Index)
		}
	}
}

// TestDrawsDoNotDependOnOtherSubjects checks that concurrent accounts get the same faults
// in any order of their requests.
func TestDrawsDoNotDependOnOtherSubjects(t *testing.T) {
	f := simulate.Faults{Rates: map[simulate.Fault]float64{simulate.Drop: 0.3}}
	alone, among := simulate.NewInjector(7, "c", f), simulate.NewInjector(7, "c", f)
	hits := 0
	for i := range 200 {
		if i%3 == 0 {
			among.Draw(simulate.Drop, "b")
		}
		got := alone.Draw(simulate.Drop, "a")
		if got != among.Draw(simulate.Drop, "a") {
			t.Fatalf("draw %d depends on another subject", i)
		}
		if got {
			hits++
		}
	}
	if hits < 30 || hits > 90 {
		t.Errorf("%d of 200 draws at a rate of 0.3", hits)
	}
	if !maps.Equal(alone.Injected(), map[simulate.Fault]uint64{simulate.Drop: uint64(hits)}) {
		t.Errorf("counted %v, want %d", alone.Injected(), hits)
	}
}

func TestParseFaults(t *testing.T) {
	f, err := simulate.ParseFaults("all=0.01, drop=0.5")
	if err != nil || f.Rates[simulate.Drop] != 0.5 || f.Rates[simulate.Slow] != 0.01 {
		t.Errorf("%v, %v", f, err)
	}
	for _, bad := range []string{"drop", "drop=2", "drop=x", "drop=0.1x", "nonsense=0.1"} {
		if _, err := simulate.ParseFaults(bad); err == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
}

func TestBefore(t *testing.T) {
	now := time.Date(2026, 10, 1, 0, 0, 0, 0, time.UTC)
	in := simulate.NewInjector(1, "c", simulate.Faults{})
	answer := func(at time.Time) (code int, aborted bool) {
		defer func() { aborted = recover() == http.ErrAbortHandler }()
		rec := httptest.NewRecorder()
		if !in.Before(rec, httptest.NewRequest("GET", "/", nil), "a", at) {
			return 200, false
		}
		return rec.Code, false
	}
	if code, _ := answer(now); code != 200 {
		t.Errorf("%d without faults", code)
	}
	in.AddOutage(simulate.Window{From: now, To: now.Add(time.Hour)})
	if code, _ := answer(now.Add(time.Minute)); code != 503 {
		t.Errorf("%d in an outage", code)
	}
	if code, _ := answer(now.Add(time.Hour)); code != 200 {
		t.Errorf("%d after an outage", code)
	}
	in.SetRates(map[simulate.Fault]float64{simulate.Drop: 1})
	if _, aborted := answer(now.Add(time.Hour)); !aborted {
		t.Error("the connection is not dropped")
	}
	in.SetRates(map[simulate.Fault]float64{simulate.Outage: 1})
	if code, _ := answer(now.Add(time.Hour)); code < 500 {
		t.Errorf("%d with a rate of 1", code)
	}
}

func TestLapsesAreRare(t *testing.T) {
	ws, err := simulate.Wearers(1, 1)
	if err != nil {
		t.Fatal(err)
	}
	in := simulate.NewInjector(1, "c", simulate.Faults{Rates: map[simulate.Fault]float64{simulate.Lapse: 1}})
	lapsed := 0
	for h := range 30 * 24 {
		if in.Lapsed(ws[0], time.Unix(0, 0).Add(time.Duration(h)*time.Hour)) {
			lapsed++
		}
	}
	if lapsed < 24 || lapsed > 5*24 {
		t.Errorf("lapsed for %d hours of a period", lapsed)
	}
}

// TestSlowAnswers checks that a slow answer takes SlowBy, and no longer than its request.
func TestSlowAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in := simulate.NewInjector(1, "c", simulate.Faults{SlowBy: 5 * time.Second,
			Rates: map[simulate.Fault]float64{simulate.Slow: 1}})
		for _, c := range []struct{ limit, want time.Duration }{{time.Minute, 5 * time.Second},
			{time.Second, time.Second}} {
			ctx, cancel := context.WithTimeout(t.Context(), c.limit)
			from := time.Now()
			if in.Before(httptest.NewRecorder(), httptest.NewRequestWithContext(ctx, "GET", "/", nil), "a", from) {
				t.Error("a slow answer is replaced")
			}
			if got := time.Since(from); got != c.want {
				t.Errorf("delayed by %v, want %v", got, c.want)
			}
			cancel()
		}
	})
}
