package fitbit

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"pulsegate/adapters"
	"pulsegate/adapters/adaptertest"
	"pulsegate/adapters/internal/archive"
	"pulsegate/mapping/sample"
)

// at reads a time of a test.
func at(t testing.TB, s string) time.Time {
	t.Helper()
	out, _, _, ok := reading(s)
	if !ok {
		t.Fatalf("%s is not a time", s)
	}
	return out
}

// show renders a resolved time.
func show(at time.Time, zone sample.Zone, ok bool) string {
	if !ok {
		return "skipped"
	}
	return at.Format(time.RFC3339) + []string{" stated", " instant", " floating"}[zone]
}

// starts returns the first times of files by the date in their names.
func starts(t testing.TB, list map[string]string) map[int64]time.Time {
	out := map[int64]time.Time{}
	for day, first := range list {
		out[floorDay(at(t, day).Unix())] = at(t, first)
	}
	return out
}

func TestClock(t *testing.T) {
	account := clock{}
	account.setAccount("Europe/Berlin")
	inferred := clock{}
	inferred.infer(starts(t, map[string]string{
		"2026-03-26": "2026-03-25 23:00:02", "2026-03-27": "2026-03-26 23:00:59",
		"2026-03-28": "2026-03-28 08:07:03", // put on in the morning
		"2026-03-29": "2026-03-28 23:00:00", // DST begins on this day
		"2026-03-30": "2026-03-29 22:00:05", "2026-03-31": "2026-03-30 22:00:05",
		"2026-04-20": "2026-04-19 12:00:10", // an offset that no neighbor shares
	}))
	for _, c := range []struct {
		clock *clock
		basis basis
		in    string
		want  string
	}{
		{&clock{configured: true}, inUTC, "2026-05-04 10:00:00", "2026-05-04T10:00:00Z instant"},
		{&clock{configured: true}, inLocal, "2026-05-04 10:00:00", "2026-05-04T10:00:00Z floating"},
		{&clock{}, inUTC, "2026-05-04 10:00:00", "2026-05-04T10:00:00Z instant"},
		{&clock{}, inLocal, "2026-05-04 10:00:00", "2026-05-04T10:00:00Z floating"},
		{&account, inUTC, "2026-01-04 10:00:00", "2026-01-04T11:00:00+01:00 stated"},
		{&account, inLocal, "2026-05-04 10:00:00", "2026-05-04T10:00:00+02:00 stated"},
		{&account, inLocal, "2026-03-29 02:30:00", "skipped"},
		{&account, inLocal, "2026-10-25 02:30:00", "2026-10-25T02:30:00+01:00 instant"},
		{&inferred, inLocal, "2026-03-25 23:30:00", "2026-03-25T23:30:00+01:00 instant"},
		{&inferred, inLocal, "2026-03-24 23:30:00", "2026-03-24T23:30:00Z floating"},
		{&inferred, inLocal, "2026-03-28 12:00:00", "2026-03-28T12:00:00+01:00 instant"},
		{&inferred, inLocal, "2026-03-29 12:00:00", "2026-03-29T12:00:00Z floating"},
		{&inferred, inLocal, "2026-03-30 12:00:00", "2026-03-30T12:00:00+02:00 instant"},
		{&inferred, inLocal, "2026-04-01 12:00:00", "2026-04-01T12:00:00+02:00 instant"},
		{&inferred, inLocal, "2026-04-20 12:00:00", "2026-04-20T12:00:00Z floating"},
		{&inferred, inUTC, "2026-03-26 23:30:00", "2026-03-27T00:30:00+01:00 instant"},
		{&inferred, inUTC, "2026-03-30 22:30:00", "2026-03-31T00:30:00+02:00 instant"},
		{&inferred, inUTC, "2026-05-30 22:30:00", "2026-05-30T22:30:00Z instant"},
	} {
		if got := show(c.clock.resolve(at(t, c.in), c.basis)); got != c.want {
			t.Errorf("%s, basis %d: %s, want %s", c.in, c.basis, got, c.want)
		}
	}
}

// TestInferredOffsets checks that days of one offset, with the device put on shortly
// after midnight, give back that offset for all times of these days.
func TestInferredOffsets(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		offset := rapid.IntRange(-12*4, 14*4).Draw(t, "quarters") * 900
		first := rapid.Int64Range(15000, 25000).Draw(t, "day")
		days := rapid.Int64Range(1, 5).Draw(t, "days")
		begin := map[int64]time.Time{}
		for d := range days {
			late := rapid.Int64Range(0, 60).Draw(t, "late")
			begin[first+d] = time.Unix((first+d)*secondsPerDay-int64(offset)+late, 0).UTC()
		}
		var c clock
		c.infer(begin)
		local := time.Unix(first*secondsPerDay+rapid.Int64Range(0, days*secondsPerDay-1).Draw(t, "second"), 0).UTC()
		got, zone, ok := c.resolve(local, inLocal)
		if _, off := got.Zone(); !ok || zone != sample.ZoneInstant || off != offset ||
			got.Format(time.DateTime) != local.Format(time.DateTime) {
			t.Fatalf("local %v: %v, want the offset %d", local, got, offset)
		}
		if utc, zone := c.utc(got.UTC()); zone != sample.ZoneInstant || !utc.Equal(got) ||
			utc.Format(time.RFC3339) != got.Format(time.RFC3339) {
			t.Fatalf("utc %v: %v", got, utc)
		}
	})
}

// TestMassUnit checks that the body mass index tells the unit of a weight for every
// adult of 1.42 to 2.05 m.
func TestMassUnit(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		height := rapid.Float64Range(1.43, 2.04).Draw(t, "height")
		bmi := rapid.Float64Range(13, 60).Draw(t, "bmi")
		kg := bmi * height * height
		for unit, per := range map[string]float64{"kg": 1, "lb": 0.45359237, "st": 6.35029318} {
			w, b := fmt.Sprintf("%.1f", kg/per), fmt.Sprintf("%.1f", bmi)
			if got := massUnit(w, b); got != unit && !(unit == "st" && kg < 20) {
				t.Fatalf("%s with the index %s: %q, want %s", w, b, got, unit)
			}
		}
	})
	for _, c := range [][2]string{{"110", ""}, {"110", "0"}, {"0", "25"}, {"", ""}, {"100", "25.3e30"}} {
		if got := massUnit(c[0], c[1]); got != "" {
			t.Errorf("%v: %q", c, got)
		}
	}
}

func TestFileNames(t *testing.T) {
	for name, want := range map[string][2]string{
		"heart_rate-2026-03-10.json":                              {"heart_rate.json", "2026-03-10"},
		"heart_rate_2026-03-10.csv":                               {"heart_rate.csv", "2026-03-10"},
		"exercise-1200.json":                                      {"exercise.json", ""},
		"demographic_vo2_max-2026-03-10.json":                     {"demographic_vo2_max.json", "2026-03-10"},
		"Daily SpO2 - 2026-03-01-2026-03-31.csv":                  {"daily spo2.csv", "2026-03-31"},
		"Daily Heart Rate Variability Summary - 2026-03-(10).csv": {"daily heart rate variability summary.csv", ""},
		"daily_resting_heart_rate.csv":                            {"daily_resting_heart_rate.csv", ""},
		"UserSleeps_2026-03-10.csv":                               {"usersleeps.csv", "2026-03-10"},
		"":                                                        {"", ""},
		"2026-03-10.json":                                         {"2026.json", "2026-03-10"}, ".json": {".json", ""},
	} {
		if stem, date := split(name); stem != want[0] || date != want[1] {
			t.Errorf("%s: %q %q, want %q", name, stem, date, want)
		}
	}
}

func TestCSVCells(t *testing.T) {
	for line, want := range map[string]string{
		`a,b,c`: `["a" "b" "c"]`, `a,,`: `["a" "" ""]`, `"a,b", c`: `["a,b" "c"]`, `"a ""b""",c`: `["a \"b\"" "c"]`,
		`"open`: `["open"]`, `"a"x,b`: `["a" "b"]`, "\xff,b": `["�" "b"]`, `,`: `["" ""]`,
	} {
		var r row
		if r.split(line); fmt.Sprintf("%q", r.cells) != want {
			t.Errorf("%s: %q, want %s", line, r.cells, want)
		}
	}
}

// TestArchiveLimits checks that the limits of an archive hold for its files.
func TestArchiveLimits(t *testing.T) {
	body, err := os.ReadFile("testdata/takeout/takeout.zip")
	if err != nil {
		t.Fatal(err)
	}
	for rule, l := range map[string]archive.Limits{"too many entries": {Entries: 3},
		"inflates to more": {Bytes: 1 << 10}} {
		in := adapters.Input{Format: formatTakeout, Body: bytes.NewReader(body), At: bytes.NewReader(body),
			Size: int64(len(body)), Received: adaptertest.Received()}
		err := (&adapter{limits: l}).Decode(t.Context(), in, adaptertest.NewRecorder())
		if err == nil || !strings.Contains(err.Error(), rule) {
			t.Errorf("%v, want %q", err, rule)
		}
	}
}
