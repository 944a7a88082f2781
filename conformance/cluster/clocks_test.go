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
