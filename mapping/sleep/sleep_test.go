package sleep_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"pulsegate/mapping/sleep"
)

// at reads a time; its offset is part of it.
func at(t *testing.T, s string) time.Time {
	t.Helper()
	x, err := time.Parse("2006-01-02 15:04 -0700", s)
	if err != nil {
		t.Fatal(err)
	}
	_, offset := x.Zone()
	return x.In(time.FixedZone("", offset))
}

func segment(t *testing.T, from, to string, stage sleep.Stage) sleep.Segment {
	return sleep.Segment{Start: at(t, from), End: at(t, to), Sure: true, Stage: stage}
}

func view(x *sleep.Session) string {
	s := x.Sample()
	out := fmt.Sprint(x.Name, " ", s.Start.Format(time.RFC3339), " ", s.End.Format(time.RFC3339), " ", s.Value.Num)
	for _, c := range s.Components {
		out += " " + c.Name + " " + c.Value.Num
	}
	return out
}

func check(t *testing.T, segs []sleep.Segment, want ...string) {
	t.Helper()
	for range 20 {
		rand.Shuffle(len(segs), func(i, j int) { segs[i], segs[j] = segs[j], segs[i] })
		var got []string
		for _, x := range sleep.Sessions(append([]sleep.Segment(nil), segs...)) {
			got = append(got, view(&x))
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
		segment(t, "2026-05-05 02:30 +0200", "2026-05-05 06:00 +0200", sleep.Core), // 90 minutes: one
		segment(t, "2026-05-05 07:31 +0200", "2026-05-05 08:00 +0200", sleep.Core), // 91: another
		segment(t, "2026-05-05 14:00 +0200", "2026-05-05 14:20 +0200", sleep.REM),
		segment(t, "2026-05-01 14:00 +0200", "2026-05-05 14:20 +0200", sleep.InBed), // longer than a day
		segment(t, "2026-05-05 14:00 +0200", "2026-05-05 14:00 +0200", sleep.REM),
	}, "2026-05-05 2026-05-04T23:00:00+02:00 2026-05-05T06:00:00+02:00 330 core 330",
		"2026-05-05/2 2026-05-05T07:31:00+02:00 2026-05-05T08:00:00+02:00 29 core 29",
		"2026-05-05/3 2026-05-05T14:00:00+02:00 2026-05-05T14:20:00+02:00 20 rem 20")
}

// TestDayOfWaking: the wearer's day where it is known, else that of UTC.
func TestDayOfWaking(t *testing.T) {
	evening := segment(t, "2026-05-04 13:00 -1000", "2026-05-04 21:00 -1000", sleep.Core)
	check(t, []sleep.Segment{evening}, "2026-05-04 2026-05-04T13:00:00-10:00 2026-05-04T21:00:00-10:00 480 core 480")
	evening.Sure = false
	check(t, []sleep.Segment{evening}, "2026-05-05 2026-05-04T23:00:00Z 2026-05-05T07:00:00Z 480 core 480")
	// Of two in one session the one that knows its offset decides.
	later := segment(t, "2026-05-04 21:10 -1000", "2026-05-04 22:10 -1000", sleep.Core)
	check(t, []sleep.Segment{evening, later},
		"2026-05-04 2026-05-04T13:00:00-10:00 2026-05-04T22:10:00-10:00 540 core 540")
}
