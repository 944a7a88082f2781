package oura_test

import (
	"strings"
	"testing"
	"time"

	"pulsegate/adapters"
	"pulsegate/adapters/adaptertest"
	"pulsegate/adapters/oura"
	"pulsegate/mapping/sample"
)

func read(t *testing.T, name, body string) *adaptertest.Recorder {
	t.Helper()
	r := adaptertest.NewRecorder()
	in := adapters.Input{Name: name, Body: strings.NewReader(body), Received: adaptertest.Received()}
	if err := oura.New().Decode(t.Context(), in, r); err != nil {
		t.Fatalf("%v: %s", err, body)
	}
	return r
}

// TestOffsetOfUTC checks that "+00:00" and "Z" do not count as the wearer's offset, and
// that any other offset does.
func TestOffsetOfUTC(t *testing.T) {
	for _, c := range []struct {
		name, body string
		zone       sample.Zone
	}{
		{"heartrate.json", `{"data":[{"bpm":61,"source":"awake","timestamp":"2026-03-01T10:00:00+00:00"}]}`,
			sample.ZoneInstant},
		{"heartrate.json", `{"data":[{"bpm":61,"source":"awake","timestamp":"2026-03-01T10:00:00.000Z"}]}`,
			sample.ZoneInstant},
		{"heartrate.json", `{"data":[{"bpm":61,"source":"awake","timestamp":"2026-03-01T10:00:00+01:00"}]}`,
			sample.ZoneStated},
		{"workout.json", `{"data":[{"id":"w1","activity":"rowing","start_datetime":"2026-03-01T10:00:00+00:00","end_datetime":"2026-03-01T11:00:00+00:00"}]}`, sample.ZoneInstant},
		{"session.json", `{"data":[{"id":"s1","type":"rest","start_datetime":"2026-03-01T10:00:00-05:00","end_datetime":"2026-03-01T11:00:00-05:00"}]}`, sample.ZoneStated},
	} {
		r := read(t, c.name, c.body)
		if len(r.Samples) == 0 || r.Samples[0].Zone != c.zone {
			t.Errorf("%s: %+v", c.body, r.Samples)
		}
	}
}

// TestMalformedComponents checks that a component that is not a number is rejected
// while the rest of the document is read, and that a workout in progress is preliminary.
func TestMalformedComponents(t *testing.T) {
	r := read(t, "workout.json", `{"data":[{"id":"w1","activity":"rowing","calories":"lots","distance":5100,"start_datetime":"2026-03-01T10:00:00+01:00","end_datetime":null}]}`)
	if len(r.Samples) != 1 || len(r.Samples[0].Components) != 1 || r.Samples[0].Status != sample.Preliminary {
		t.Errorf("samples: %+v", r.Samples)
	}
	if len(r.Rejects) != 1 || r.Rejects[0].Component != "calories" || r.Rejects[0].Metric != "workout" ||
		r.Rejects[0].VendorID != "w1" {
		t.Errorf("rejects: %+v", r.Rejects)
	}
	r = read(t, "daily_sleep.json", `{"data":[{"id":"d1","day":"2026-03-01","score":81,"contributors":{"latency":77,"efficiency":"good","timing":null}}]}`)
	if len(r.Samples) != 1 || len(r.Samples[0].Components) != 1 || len(r.Rejects) != 1 ||
		r.Rejects[0].Component != "efficiency" {
		t.Errorf("samples %+v, rejects %+v", r.Samples, r.Rejects)
	}
}

// TestSingleDocument decodes a document without a helpful file name.
func TestSingleDocument(t *testing.T) {
	for _, body := range []string{
		`{"id":"t1","day":"2026-03-01","text":"","timestamp":"2026-03-01T10:00:00+01:00","tags":["tag_generic_coffee"]}`,
		`{"timestamp":"2026-03-01T10:00:00+01:00","level":61,"charging":false}`,
		`{"id":"a1","day":"2026-03-01","equivalent_walking_distance":4100,"steps":5000,"timestamp":"2026-03-01T04:00:00+01:00"}`,
	} {
		if f, ok := oura.New().Detect("payload", []byte(body)); !ok || f != "v2" {
			t.Errorf("not detected: %s", body)
		}
		if r := read(t, "payload", body); len(r.Samples) == 0 {
			t.Errorf("no sample: %s", body)
		}
	}
}

// TestUnfinishedDay checks that a day that was not over at receipt is preliminary.
func TestUnfinishedDay(t *testing.T) {
	for day, want := range map[string]sample.Status{"2026-11-23": sample.Final, "2026-11-24": sample.Preliminary,
		"2026-11-25": sample.Preliminary} {
		r := read(t, "daily_stress.json", `{"data":[{"id":"d1","day":"`+day+`","stress_high":600,"recovery_high":0}]}`)
		if len(r.Samples) != 1 || r.Samples[0].Status != want || !r.Samples[0].Start.Equal(time.Time{}) {
			t.Errorf("%s: %+v", day, r.Samples)
		}
	}
}
