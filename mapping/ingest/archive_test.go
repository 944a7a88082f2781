package ingest

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"
)

// delivered is one payload with its file name.
type delivered struct{ name, body string }

// inBerlin sets the zone of the patient.
func (w *world) inBerlin() {
	w.t.Helper()
	zone, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		w.t.Fatal(err)
	}
	w.pipeline.Zone = func(context.Context, string) (*time.Location, error) { return zone, nil }
}

// TestArchiveAndAPIAreOne checks that what the Google Health API and an archive or a
// stored legacy payload both state is one Observation with the values of the API, in
// either order and when both are repeated.
func TestArchiveAndAPIAreOne(t *testing.T) {
	weightID := `"name":"users/1/dataTypes/weight/dataPoints/w9",`
	api := []delivered{
		{"page.json", points("Sense", heartRatePoint(5, 61), stepsPoint(0, 30))},
		{"page.json", strings.Replace(points("Sense", weightPoint(80000)), `"dataSource"`, weightID+`"dataSource"`, 1)},
		{"page.json", restingRate(57)},
		{"page.json", sleepPoint("400", "2026-05-11T06:00:00Z")},
		{"page.json", `{"rollupDataPoints":[{"civilStartTime":{"date":{"year":2026,"month":5,"day":11}},"steps":{"countSum":"9000"}}]}`},
	}
	const legacyNight = `{"logId":40000000001,"startTime":"2026-05-10T23:00:00.000","endTime":"2026-05-11T07:00:00.000","type":"stages","minutesAsleep":391,"minutesAwake":3}`
	archive := []delivered{
		{"heart_rate-2026-05-11.json", `[{"dateTime":"05/11/26 03:01:05","value":{"bpm":61,"confidence":3}}]`},
		{"steps-2026-05-11.json", `[{"dateTime":"05/11/26 10:00:00","value":"30"}]`},
		{"weight-2026-05-11.json", `[{"logId":177,"weight":176.37,"bmi":25.3,"date":"05/11/26","time":"07:00:00"}]`},
		{"resting_heart_rate-2026-05-11.json",
			`[{"dateTime":"05/11/26 00:00:00","value":{"date":"05/11/26","value":56.4}}]`},
		{"sleep-2026-05-11.json", "[" + legacyNight + "]"},
		{"steps.json", `{"activities-steps":[{"dateTime":"2026-05-11","value":"8800"}]}`},
		{"heart_rate_2026-05-11.csv", "timestamp,beats per minute,data source\n2026-05-11T03:01:05Z,61,Sense\n"},
		{"weight.csv", "timestamp,weight grams,data source\n2026-05-11T05:00:00Z,80000,Sense\n"},
	}
	for _, order := range [][]delivered{slices.Concat(api, archive), slices.Concat(archive, api),
		slices.Concat(archive, api, archive)} {
		w := newWorld(t)
		w.inBerlin()
		for _, p := range order {
			w.must("fitbit", p.name, p.body)
		}
		for code, value := range map[string]string{"heart-rate": "61", "55423-8": "30", "29463-7": "80.000",
			"40443-4": "57", "93832-4": "400", "steps/day": "9000"} {
			got := w.chart(code)
			if len(got) != 1 || got[0].Quantity.Value.String() != value {
				t.Errorf("first %s: %s: %d Observations, want one of %s", order[0].name, code, len(got), value)
				for _, o := range got {
					t.Errorf("%s", o.raw.JSON)
				}
			}
		}
	}
}

// TestArchiveZone checks that local times of an archive use the configured zone, and
// that they are quarantined if there is none.
func TestArchiveZone(t *testing.T) {
	const night = `[{"logId":40000000001,"startTime":"2026-05-10T23:00:00.000","endTime":"2026-05-11T07:00:00.000","minutesAsleep":400}]`
	w := newWorld(t)
	if s := w.must("fitbit", "sleep-2026-05-11.json", night); s.Created != 0 || s.Quarantined != 1 {
		t.Errorf("without a zone: %+v", s.Counts)
	}
	w = newWorld(t)
	w.inBerlin()
	w.must("fitbit", "sleep-2026-05-11.json", night)
	if got := w.chart("93832-4"); len(got) != 1 || !strings.Contains(string(got[0].raw.JSON),
		`"start":"2026-05-10T23:00:00+02:00","end":"2026-05-11T07:00:00+02:00"`) {
		t.Errorf("%d nights: %+v", len(got), got)
	}
}
