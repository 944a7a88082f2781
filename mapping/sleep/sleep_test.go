package sleep_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"pulsegate/mapping/sleep"
)

// at parses a time with an offset.
func at(t *testing.T, s string) time.Time {
	t.Helper()
	tm, err := time.Parse("2006-01-02 15:04 -0700", s)
	if err != nil {
		t.Fatal(err)
	}
	_, offset := tm.Zone()
	return tm.In(time.FixedZone("", offset))
}

func segment(t *testing.T, from, to string, stage sleep.Stage) sleep.Segment {
	return sleep.Segment{Start: at(t, from), End: at(t, to), ZoneKnown: true, Stage: stage}
}

// view returns a session as text.
func view(session *sleep.Session) string {
	s := session.Sample()
	out := fmt.Sprint(session.Name, " ", s.Start.Format(time.RFC3339), " ", s.End.Format(time.RFC3339), " ", s.Value.Num)
	for _, c := range s.Components {
		out += " " + c.Name + " " + c.Value.Num
	}
	return out
}

// check compares the sessions of segs, in random orders, with their views.
func check(t *testing.T, segs []sleep.Segment, want ...string) {
	t.Helper()
	for range 20 {
		rand.Shuffle(len(segs), func(i, j int) { segs[i], segs[j] = segs[j], segs[i] })
		var got []string
		for _, session := range sleep.Sessions(slices.Clone(segs)) {
			got = append(got, view(&session))
		}
		if strings.Join(got, "\n") != strings.Join(want, "\n") {
			t.Fatalf("sessions\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
}

func TestOverlapCountsOnce(t *testing.T) {
	check(t, []sleep.Segment{
		segment(t, "2026-05-04 22:00 +0200", "2026-05-05 06:00 +0200", sleep.InBed),
		segment(t, "2026-05-04 22:30 +0200", "2026-05-05 05:30 +0200", sleep.Unspecified),
		segment(t, "2026-05-04 23:00 +0200", "2026-05-05 00:00 +0200", sleep.Core),
		segment(t, "2026-05-04 23:30 +0200", "2026-05-05 00:30 +0200", sleep.Deep),
		segment(t, "2026-05-05 03:00 +0200", "2026-05-05 03:10 +0200", sleep.Awake),
	}, "2026-05-05 2026-05-04T22:00:00+02:00 2026-05-05T06:00:00+02:00 410 deep 60 core 30 awake 10 unspecified 320 inBed 480")
}

func TestGapAndNaps(t *testing.T) {
	check(t, []sleep.Segment{
		segment(t, "2026-05-04 23:00 +0200", "2026-05-05 01:00 +0200", sleep.Core),
		segment(t, "2026-05-05 02:30 +0200", "2026-05-05 06:00 +0200", sleep.Core), // a gap of 90 minutes
		segment(t, "2026-05-05 07:31 +0200", "2026-05-05 08:00 +0200", sleep.Core), // a gap of 91 minutes
		segment(t, "2026-05-05 14:00 +0200", "2026-05-05 14:20 +0200", sleep.REM),
		segment(t, "2026-05-01 14:00 +0200", "2026-05-05 14:20 +0200", sleep.InBed), // longer than a day
		segment(t, "2026-05-05 14:00 +0200", "2026-05-05 14:00 +0200", sleep.REM),
	}, "2026-05-05 2026-05-04T23:00:00+02:00 2026-05-05T06:00:00+02:00 330 core 330",
		"2026-05-05/2 2026-05-05T07:31:00+02:00 2026-05-05T08:00:00+02:00 29 core 29",
		"2026-05-05/3 2026-05-05T14:00:00+02:00 2026-05-05T14:20:00+02:00 20 rem 20")
}

// TestDayOfWaking checks that the day is the wearer's if the offset is known, or
// else that of UTC.
func TestDayOfWaking(t *testing.T) {
	evening := segment(t, "2026-05-04 13:00 -1000", "2026-05-04 21:00 -1000", sleep.Core)
	check(t, []sleep.Segment{evening}, "2026-05-04 2026-05-04T13:00:00-10:00 2026-05-04T21:00:00-10:00 480 core 480")
	evening.ZoneKnown = false
	check(t, []sleep.Segment{evening}, "2026-05-05 2026-05-04T23:00:00Z 2026-05-05T07:00:00Z 480 core 480")
	// The segment with a known offset decides.
	later := segment(t, "2026-05-04 21:10 -1000", "2026-05-04 22:10 -1000", sleep.Core)
	check(t, []sleep.Segment{evening, later},
		"2026-05-04 2026-05-04T13:00:00-10:00 2026-05-04T22:10:00-10:00 540 core 540")
}
