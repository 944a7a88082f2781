package follow

import (
	"testing"
	"time"
)

func TestLag(t *testing.T) {
	var l Lag
	at := func(second int64) time.Time { return time.Unix(second, 0) }
	check := func(what string, second int64, want time.Duration) {
		t.Helper()
		if got := l.At(at(second)); got != want {
			t.Errorf("%s: %v, want %v", what, got, want)
		}
	}
	check("nothing has changed", 10, 0)
	l.Changed(at(10))
	l.Changed(at(12))
	check("two changes", 15, 5*time.Second)
	l.Begin()
	l.Changed(at(16))
	check("while they are processed", 17, 7*time.Second)
	l.Begin()
	check("after the step has failed", 18, 8*time.Second)
	l.Changed(at(19))
	l.Done()
	check("a change during the step", 20, time.Second)
	l.Begin()
	l.Done()
	check("all is processed", 30, 0)
	l.Changed(at(40))
	check("the clock was set back", 35, 0)
}
