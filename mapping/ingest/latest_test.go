package ingest

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

func restingRate(rate int) string {
	return fmt.Sprintf(`{"dataPoints":[{"dataSource":{"platform":"FITBIT"},"dailyRestingHeartRate":{"beatsPerMinute":"%d","date":{"year":2026,"month":5,"day":11},"dailyRestingHeartRateMetadata":{"calculationMethod":"WITH_SLEEP"}}}]}`, rate)
}

func (w *world) wantValue(code, value string) {
	w.t.Helper()
	got := w.chart(code)
	if len(got) != 1 || got[0].Quantity.Value.String() != value {
		w.t.Errorf("%s: %d Observations, want one of %s", code, len(got), value)
		for _, o := range got {
			w.t.Errorf("%s", o.raw.JSON)
		}
	}
}

// TestLatestValueWins checks that a value that is restated back to an
// earlier one is the latest statement, even though its bytes were delivered
// before, and that a payload that is repeated immediately writes nothing.
func TestLatestValueWins(t *testing.T) {
	w := newWorld(t)
	version := uint64(0)
	for _, rate := range []int{58, 58, 61, 58, 58, 58, 61, 61, 58} {
		changed := len(w.chart("40443-4")) == 0 || w.chart("40443-4")[0].Quantity.Value.String() != fmt.Sprint(rate)
		s := w.must("fitbit", "page.json", restingRate(rate))
		if changed {
			version++
		}
		if changed != (s.Created+s.Updated == 1) || changed == (s.Unchanged == 1) {
			t.Errorf("%d: %+v", rate, s.Counts)
		}
		w.wantValue("40443-4", fmt.Sprint(rate))
		if v := w.chart("40443-4")[0].raw.Version; v != version {
			t.Errorf("version %d, want %d", v, version)
		}
	}
}

// TestLatestStatementInLongPayloads checks that payloads that start with the
// same 64 KiB are not mistaken for copies.
func TestLatestStatementInLongPayloads(t *testing.T) {
	w := newWorld(t)
	var head strings.Builder
	for i := 0; head.Len() <= headSize; i++ {
		fmt.Fprintf(&head, `{"weight":{"sampleTime":{"physicalTime":"2026-05-02T12:%02d:%02dZ","utcOffset":"7200s"},"weightGrams":81000}},`, i/60, i%60)
	}
	body := func(rate int) string { return strings.Replace(restingRate(rate), "[", "["+head.String(), 1) }
	for _, rate := range []int{58, 61, 58} {
		w.must("fitbit", "page.json", body(rate))
		w.wantValue("40443-4", fmt.Sprint(rate))
	}
}

func sleepPoint(minutes, updated string) string {
	return fmt.Sprintf(`{"dataPoints":[{"name":"users/1/dataTypes/sleep/dataPoints/s7","sleep":{"interval":{"startTime":"2026-05-10T21:00:00Z","startUtcOffset":"7200s","endTime":"2026-05-11T05:00:00Z","endUtcOffset":"7200s"},"type":"CLASSIC","metadata":{"processed":true},"summary":{"minutesAsleep":"%s"},"updateTime":"%s"}}]}`, minutes, updated)
}

// TestOlderRevisionIsIgnored checks that a statement that is older by the
// vendor's own time does not replace a newer one, whichever payload delivers
// it. An equal time proves nothing.
func TestOlderRevisionIsIgnored(t *testing.T) {
	w := newWorld(t)
	step := func(minutes, updated, want string) {
		t.Helper()
		w.must("fitbit", "page.json", sleepPoint(minutes, updated))
		w.wantValue("93832-4", want)
	}
	step("400", "2026-05-11T06:00:00Z", "400")
	step("420", "2026-05-11T08:00:00Z", "420")
	step("400", "2026-05-11T06:00:00Z", "420") // delivered late
	step("410", "2026-05-11T07:59:59.999Z", "420")
	step("420", "2026-05-11T10:00:00Z", "420") // repeated
	step("430", "2026-05-11T09:00:00Z", "420")
	step("440", "2026-05-11T10:00:00Z", "440")
	step("400", "2026-05-12T10:00:00Z", "400") // reverted
}

// TestOlderExportIsIgnored checks that an older export does not replace what a
// newer one states about a day.
func TestOlderExportIsIgnored(t *testing.T) {
	of := func(date, kcal string) string {
		return fmt.Sprintf(`<?xml version="1.0"?><HealthData locale="en"><ExportDate value="%s 09:00:00 +0200"/><ActivitySummary dateComponents="2026-05-11" activeEnergyBurned="%s" activeEnergyBurnedUnit="kcal"/></HealthData>`, date, kcal)
	}
	for _, order := range [][2]int{{0, 1}, {1, 0}} {
		w := newWorld(t)
		exports := []string{of("2026-05-11", "210"), of("2026-05-20", "640")}
		for _, i := range order {
			w.must("apple", "export.xml", exports[i])
		}
		got := w.chart("ActivitySummary")
		if len(got) != 1 || !strings.Contains(string(got[0].raw.JSON), `"value":640`) {
			t.Errorf("%v: %d days: %s", order, len(got), got[0].raw.JSON)
		}
	}
}

func nap(kind string) string {
	return fmt.Sprintf(`{"data":[{"id":"n5","type":%q,"bedtime_start":"2026-05-11T15:10:00+02:00","bedtime_end":"2026-05-11T15:50:00+02:00","day":"2026-05-11","total_sleep_duration":1500,"time_in_bed":2400,"average_hrv":51,"average_heart_rate":57.5,"lowest_heart_rate":52,"average_breath":14.5,"period":1}],"next_token":null}`, kind)
}

// TestRejectedNap checks that a nap that becomes a rest, because the wearer
// rejected it, is retracted with all Observations made of it, and that a rest
// that never was a nap is not stored.
func TestRejectedNap(t *testing.T) {
	w := newWorld(t)
	w.must("oura", "sleep.json", nap("late_nap"))
	if n := len(w.all("Observation")); n != 5 {
		t.Fatalf("%d Observations", n)
	}
	w.must("oura", "sleep.json", nap("rest"))
	for _, o := range w.all("Observation") {
		if !strings.Contains(string(o.JSON), `"status":"entered-in-error"`) {
			t.Errorf("%s", o.JSON)
		}
	}
	w.must("oura", "sleep.json", nap("late_nap")) // the wearer confirms it later
	w.wantValue("93832-4", "25")
	w = newWorld(t)
	w.must("oura", "sleep.json", nap("rest"))
	if n := len(w.all("Observation")); n != 0 {
		t.Errorf("%d Observations of a rest", n)
	}
}

// TestSeveralRatesInOneSecond checks Oura's heart rates, which have no id: one
// second may have several, of two sources, of two values, or both.
func TestSeveralRatesInOneSecond(t *testing.T) {
	row := func(bpm int, source string) string {
		return fmt.Sprintf(`{"bpm":%d,"source":%q,"timestamp":"2026-05-11T10:00:00+00:00"}`, bpm, source)
	}
	list := func(rows ...string) string {
		return `{"data":[` + strings.Join(rows, ",") + `],"next_token":null}`
	}
	for _, payloads := range [][]string{
		{list(row(88, "awake"), row(103, "workout"), row(88, "workout"), row(90, "awake"))},
		{list(row(88, "awake")), list(row(103, "workout")), list(row(90, "awake"), row(88, "workout")),
			list(row(88, "awake"))},
	} {
		w := newWorld(t)
		for _, p := range payloads {
			w.must("oura", "heartrate.json", p)
		}
		var got []string
		for _, o := range w.chart("8867-4") {
			got = append(got, o.Quantity.Value.String()+o.Status)
		}
		slices.Sort(got)
		if want := []string{"103final", "88final", "88final", "90final"}; !slices.Equal(got, want) {
			t.Errorf("%v, want %v", got, want)
		}
	}
}
