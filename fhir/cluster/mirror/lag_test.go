package mirror

import (
	"testing"
	"time"
)

func TestLag(t *testing.T) {
	var l lag
	at := func(second int64) time.Time { return time.Unix(second, 0) }
	check := func(what string, second int64, want time.Duration) {
		t.Helper()
		if got := l.at(at(second)); got != want {
			t.Errorf("%s: %v, want %v", what, got, want)
		}
	}
	check("nothing has changed", 10, 0)
	l.changed(at(10))
	l.changed(at(12))
	check("two changes", 15, 5*time.Second)
	l.begin()
	l.changed(at(16))
	check("while they are copied", 17, 7*time.Second)
	l.begin()
	check("after they could not be copied", 18, 8*time.Second)
	l.changed(at(19))
	l.done()
	check("a change during the copy", 20, time.Second)
	l.begin()
	l.done()
	check("all is copied", 30, 0)
	l.changed(at(40))
	check("the clock was set back", 35, 0)
}
