package mongolog

import (
	"errors"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"

	"pulsegate/fhir/clocktest"
	"pulsegate/fhir/store/sharedlog"
)

// start is the time at which the clocks of these tests begin.
var start = time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)

// countSegments returns the number of segments.
func countSegments(t testing.TB, l *Log) int {
	t.Helper()
	s, err := l.segments(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return len(s)
}

func truncate(t testing.TB, l *Log, index uint64) {
	t.Helper()
	if err := l.Truncate(t.Context(), index); err != nil {
		t.Fatal(err)
	}
}

// TestTruncateWaits records a truncation. Segments are removed when the grace
// period has passed on the clock of the server, and readers fail from the beginning.
func TestTruncateWaits(t *testing.T) {
	o := testOptions(t)
	var shift time.Duration
	o.shift = func() time.Duration { return shift }
	l := openParts(t, o)
	c := &chain{}
	c.add(t, l, random(smallParts+100))
	c.grow(t, l, 3*testSegment)
	large := c.add(t, l, random(smallParts+100))
	truncate(t, l, 0)
	truncate(t, l, testSegment-1)
	if first, last, err := l.Bounds(t.Context()); first != 1 || last != c.at.Index || err != nil {
		t.Fatalf("bounds %d, %d, %v", first, last, err)
	}
	truncate(t, l, 2*testSegment+5)
	if _, err := read(t, l, sharedlog.Position{}); !errors.Is(err, sharedlog.ErrTruncated) {
		t.Errorf("from the beginning: %v, want ErrTruncated", err)
	}
	shift = defaultGrace - time.Second
	truncate(t, l, 2*testSegment+5)
	if n := countSegments(t, l); n != 4 || countParts(t, l) != 4 {
		t.Errorf("%d segments and %d parts before the grace period is over, want 4 and 4", n, countParts(t, l))
	}
	shift += time.Minute
	truncate(t, l, 0)
	if n := countSegments(t, l); n != 2 || countParts(t, l) != 2 {
		t.Errorf("%d segments and %d parts after the grace period, want 2 and 2", n, countParts(t, l))
	}
	if first, last, err := l.Bounds(t.Context()); first != 2*testSegment || last != c.at.Index || err != nil {
		t.Errorf("bounds %d, %d, %v, want %d and %d", first, last, err, 2*testSegment, c.at.Index)
	}
	truncate(t, l, 1<<40) // keeps the segment of the last entry
	shift += defaultGrace
	truncate(t, l, 1<<40)
	if n := countSegments(t, l); n != 1 {
		t.Errorf("%d segments, want 1", n)
	}
	var records []firstDoc
	if err := l.all(t.Context(), l.db.Collection("log_first"), bson.D{}, nil, &records); err != nil ||
		len(records) != 1 {
		t.Errorf("%d records, %v: want 1", len(records), err)
	}
	if got, err := read(t, l, c.at); err != nil || len(got) != 0 {
		t.Errorf("at the end: %d entries, %v", len(got), err)
	}
	if err := l.Append(t.Context(), large); err != nil {
		t.Errorf("the last entry again: %v", err)
	}
}

// sleeper opens a log, and lets another process fill, truncate and remove its
// segments, while the first one sleeps for a time. It returns the first one, the
// other, and what the first one knew.
func sleeper(t *testing.T, slept time.Duration) (l, other *Log, at chain, last *sharedlog.Entry) {
	t.Helper()
	o := testOptions(t)
	clock := clocktest.At(start)
	o.Clock = clock.Now
	l = openLog(t, o)
	c := &chain{}
	c.grow(t, l, 5)
	at = *c
	last = c.entry([]byte("the entry on its way"))
	o.Clock, o.Grace = nil, -1
	other = openLog(t, o)
	c.grow(t, other, 2*testSegment)
	truncate(t, other, c.at.Index)
	clock.Add(slept)
	return l, other, at, last
}

// TestSleeper wakes a process after its place was truncated. Without the check, its
// entry would be stored, and it would not notice that the log has gone on.
func TestSleeper(t *testing.T) {
	l, other, at, e := sleeper(t, keptFor)
	if n := countSegments(t, other); n != 1 {
		t.Fatalf("%d segments, want 1", n)
	}
	if err := l.Append(t.Context(), e); !errors.Is(err, sharedlog.ErrTruncated) {
		t.Errorf("Append: %v, want ErrTruncated", err)
	}
	if got, err := read(t, l, at.at); !errors.Is(err, sharedlog.ErrTruncated) || len(got) != 0 {
		t.Errorf("Read: %d entries, %v, want ErrTruncated", len(got), err)
	}
	if err := l.Append(t.Context(), e); !errors.Is(err, sharedlog.ErrTruncated) {
		t.Errorf("Append again: %v, want ErrTruncated", err)
	}
	first, _, err := l.Bounds(t.Context())
	if err != nil || first != 2*testSegment {
		t.Errorf("bounds begin at %d, %v", first, err)
	}
	truncate(t, other, 0) // removes the segment that the late insert created
	if n := countSegments(t, other); n != 1 {
		t.Errorf("%d segments, want 1", n)
	}
}

// TestSleeperControl shows that the check matters: a process that relies on what it
// knew before it slept stores an entry at a truncated place.
func TestSleeperControl(t *testing.T) {
	l, _, _, e := sleeper(t, 0)
	if err := l.Append(t.Context(), e); err != nil {
		t.Errorf("Append: %v: the control does not show what the check prevents", err)
	}
}

// TestRecent compares both clocks.
func TestRecent(t *testing.T) {
	for _, c := range []struct {
		passed time.Duration
		want   bool
	}{{0, true}, {keptFor - 1, true}, {keptFor, false}, {time.Hour, false}, {-keptFor, false}} {
		if got := recent(start, start.Add(c.passed)); got != c.want {
			t.Errorf("after %v: %v, want %v", c.passed, got, c.want)
		}
	}
	// The monotonic clock stood still while the wall clock went on.
	now := time.Now()
	if recent(now.Round(0).Add(-keptFor), now) || !recent(now, now) {
		t.Error("the wall clock does not count")
	}
}
