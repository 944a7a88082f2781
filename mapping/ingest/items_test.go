package ingest

import (
	"strings"
	"testing"
)

// TestCompleteNightLeavesQuarantine checks that items of an incomplete night
// leave quarantine when the night is complete, and that other items stay.
func TestCompleteNightLeavesQuarantine(t *testing.T) {
	night := func(id, end, more string) string {
		return `{"data":[{"id":"` + id + `","bedtime_start":"2026-10-02T23:10:00+02:00","bedtime_end":` + end +
			`,"day":"2026-10-03","type":"long_sleep","total_sleep_duration":18000` + more + `}],"next_token":null}`
	}
	for name, c := range map[string]struct {
		vendor, file   string
		before, others string
		after          string
	}{
		"oura": {"oura", "sleep.json", night("n1", "null", ""), night("n2", "null", ""),
			night("n1", `"2026-10-03T06:00:00+02:00"`, "")},
		"oura, an invalid field": {"oura", "sleep.json",
			night("n1", `"2026-10-03T06:00:00+02:00"`, `,"average_hrv":"?"`), night("n2", "null", ""),
			night("n1", `"2026-10-03T06:00:00+02:00"`, `,"average_hrv":41`)},
		"oura, an invalid number": {"oura", "sleep.json",
			night("n1", `"2026-10-03T06:00:00+02:00"`, `,"latency":99999999`), night("n2", "null", ""),
			night("n1", `"2026-10-03T06:00:00+02:00"`, `,"latency":300`)},
		"google": {"fitbit", "list_sleep.json", nightPoint("n1", ``), nightPoint("n2", ``),
			nightPoint("n1", `,"endTime":"2026-10-03T05:00:00Z"`)},
		"google, named weight": {"fitbit", "list_weight.json", weights(`"heavy"`, `{"platform":"FITBIT"}`),
			nightPoint("w1", ``), weights("81200", `{"platform":"FITBIT"}`)},
	} {
		w := newWorld(t)
		w.must(c.vendor, c.file, c.before)
		w.must(c.vendor, c.file, c.before)
		if n := len(w.items()); n != 1 {
			t.Errorf("%s: %d items before", name, n)
		}
		w.must(c.vendor, "auto", c.others)
		before := len(w.items())
		w.must(c.vendor, c.file, c.after)
		items := w.items()
		if before != 2 || len(items) != 1 {
			t.Errorf("%s: %d items became %d", name, before, len(items))
		}
		if sum := w.must(c.vendor, c.file, c.before); len(w.items()) != 2 {
			t.Errorf("%s: an item that became unreadable again is not in quarantine: %+v", name, sum)
		}
	}
}

func nightPoint(id, end string) string {
	return `{"dataPoints":[{"name":"users/1/dataTypes/sleep/dataPoints/` + id +
		`","sleep":{"interval":{"startTime":"2026-10-02T21:10:00Z"` + end + `},"summary":{"minutesAsleep":"400"}}}]}`
}

// TestDescribedDevices checks the summary of a payload that describes only
// devices.
func TestDescribedDevices(t *testing.T) {
	w := newWorld(t)
	newer := strings.Replace(ringConfiguration, "3.1.0", "3.2.0", 1)
	newer = strings.Replace(newer, "2026-10-03", "2026-10-04", 1)
	for _, c := range []struct {
		body string
		want Counts
	}{
		{ringConfiguration, Counts{Read: 1, Created: 1}}, {ringConfiguration, Counts{Read: 1, Unchanged: 1}},
		{newer, Counts{Read: 1, Updated: 1}}, {ringConfiguration, Counts{Read: 1, Unchanged: 1}},
	} {
		if sum := w.must("oura", "ring_configuration.json", c.body); sum.Counts != c.want ||
			sum.ByMetric["ring_configuration"] != c.want {
			t.Errorf("%+v, want %+v", sum, c.want)
		}
	}
	if n := len(w.all("Device")); n != 1 {
		t.Errorf("%d Devices", n)
	}
}
