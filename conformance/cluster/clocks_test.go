package main

import (
	"testing"
	"time"
)

// TestTimes finds times that go back, and times that are too far off.
func TestTimes(t *testing.T) {
	at := func(seconds ...int64) (out []time.Time) {
		for _, s := range seconds {
			out = append(out, time.Unix(s, 0))
		}
		return out
	}
	for i, c := range []struct {
		times []time.Time
		want  int
	}{{nil, -1}, {at(1), -1}, {at(1, 1, 2), -1}, {at(1, 3, 2, 4), 2}, {at(2, 1), 1}} {
		if got := goesBack(c.times); got != c.want {
			t.Errorf("%d: got %d, want %d", i, got, c.want)
		}
	}
	begin, end := time.Unix(100, 0), time.Unix(105, 0)
	for at, want := range map[int64]bool{97: false, 98: true, 102: true, 107: true, 108: false, 195: false} {
		if err := within(time.Unix(at, 0), begin, end); (err == nil) != want {
			t.Errorf("%d: %v", at, err)
		}
	}
}

// TestExpiry finds a token that is taken too long, and one that is refused too early.
func TestExpiry(t *testing.T) {
	begin := time.Unix(1000, 0)
	e := &expiring{life: 300 * time.Second, begin: begin, end: begin.Add(3 * time.Second)}
	for _, c := range []struct {
		status          int
		asked, answered time.Duration
		ok              bool
	}{
		{200, 299 * time.Second, 320 * time.Second, true},
		{200, 306 * time.Second, 307 * time.Second, false},
		{401, 290 * time.Second, 297 * time.Second, false},
		{401, 290 * time.Second, 299 * time.Second, true},
		{503, 0, 0, true},
	} {
		if err := e.check(c.status, begin.Add(c.asked), begin.Add(c.answered)); (err == nil) != c.ok {
			t.Errorf("status %d, asked at %s, answered at %s: %v", c.status, c.asked, c.answered, err)
		}
	}
}
