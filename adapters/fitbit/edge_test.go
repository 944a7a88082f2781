package fitbit_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"pulsegate/adapters"
	"pulsegate/adapters/adaptertest"
	"pulsegate/adapters/fitbit"
	"pulsegate/mapping/sample"
)

func onePoint(body string) string { return `{"dataPoints":[` + body + `]}` }

// TestIntervalsWithoutEnd checks that the content of a recording, an exercise or a
// night determines its length if the interval has no end.
func TestIntervalsWithoutEnd(t *testing.T) {
	const from = `"interval":{"startTime":"2026-05-02T09:00:00Z","startUtcOffset":"7200s"}`
	wave := `"samplingFrequencyHertz":4,"millivoltsScalingFactor":1000,"waveformSamples":[1,2,3,4,5,6],"resultClassification":"NORMAL_SINUS_RHYTHM"`
	for name, c := range map[string]struct {
		body   string
		lasts  time.Duration
		status sample.Status
	}{
		"recording":             {`"electrocardiogram":{` + from + `,` + wave + `}`, 1500 * time.Millisecond, sample.Final},
		"recording with an end": {`"electrocardiogram":{"interval":{"startTime":"2026-05-02T09:00:00Z","startUtcOffset":"7200s","endTime":"2026-05-02T09:00:02Z"},` + wave + `}`, 1500 * time.Millisecond, sample.Final},
		"exercise": {`"exercise":{` + from + `,"exerciseType":"ROWING","activeDuration":"1800.5s"}`,
			1800500 * time.Millisecond, sample.Final},
		"exercise without duration": {`"exercise":{` + from + `,"exerciseType":"ROWING"}`, 0, sample.Preliminary},
		"night": {`"sleep":{` + from + `,"type":"STAGES","stages":[{"type":"LIGHT","startTime":"2026-05-02T09:00:00Z","endTime":"2026-05-02T10:00:00Z"},{"type":"DEEP","startTime":"2026-05-02T10:00:00Z","endTime":"2026-05-02T11:30:00Z"}]}`,
			150 * time.Minute, sample.Preliminary},
	} {
		r, err := decode(t, "list.json", "", onePoint(`{"name":"users/1/dataTypes/x/dataPoints/p1",`+c.body+`}`))
		if err != nil || len(r.Samples) != 1 {
			t.Errorf("%s: %v %d samples, %+v", name, err, len(r.Samples), r.Rejects)
			continue
		}
		s, lasts := r.Samples[0], time.Duration(0)
		if !s.End.IsZero() {
			lasts = s.End.Sub(s.Start)
		}
		if lasts != c.lasts || s.Status != c.status {
			t.Errorf("%s: lasts %v, status %d", name, lasts, s.Status)
		}
	}
	r, err := decode(t, "list.json", "",
		onePoint(`{"name":"users/1/dataTypes/sleep/dataPoints/n7","sleep":{`+from+`}}`))
	if err != nil || len(r.Samples) != 0 || len(r.Rejects) != 1 || r.Rejects[0].VendorID != "n7" ||
		r.Rejects[0].Metric != "sleep" {
		t.Errorf("error %v, result %+v", err, r)
	}
}

// TestMalformedComponents checks that a component that is not a number is rejected
// while the rest of the item is read, and that "NaN" is an absent number.
func TestMalformedComponents(t *testing.T) {
	r, err := decode(t, "list.json", "",
		onePoint(`{"name":"users/1/dataTypes/exercise/dataPoints/x1","exercise":{"interval":{"startTime":"2026-05-02T09:00:00Z","endTime":"2026-05-02T10:00:00Z"},`+
			`"exerciseType":"ROWING","activeDuration":"long","metricsSummary":{"steps":"some","caloriesKcal":"NaN","distanceMillimeters":5200000}}}`))
	if err != nil || len(r.Samples) != 1 || len(r.Samples[0].Components) != 1 {
		t.Fatalf("error %v, result %+v", err, r)
	}
	var rejected []string
	for _, reject := range r.Rejects {
		rejected = append(rejected, reject.Metric+"/"+reject.Component)
	}
	if got := strings.Join(rejected, " "); got != "exercise/activeDuration exercise/steps" {
		t.Errorf("rejected: %s", got)
	}
}

// TestSinglePoint decodes bodies that are one data point, with and without a source.
func TestSinglePoint(t *testing.T) {
	for _, body := range []string{
		`{"heartRate":{"sampleTime":{"physicalTime":"2026-05-02T12:00:00Z","utcOffset":"0s"},"beatsPerMinute":"61"}}`,
		`{"name":"users/1/dataTypes/weight/dataPoints/w1","weight":{"sampleTime":{"physicalTime":"2026-05-02T12:00:00Z"},"weightGrams":81000}}`,
		`{"dataSource":{"platform":"FITBIT"},"dailyRestingHeartRate":{"date":{"year":2026,"month":5,"day":2},"beatsPerMinute":"55"}}`,
	} {
		if f, ok := fitbit.New().Detect("payload", []byte(body)); !ok || f != "google-health" {
			t.Errorf("not detected: %s", body)
		}
		if r, err := decode(t, "payload", "", body); err != nil || len(r.Samples) != 1 {
			t.Errorf("%v %s", err, body)
		}
	}
}

// TestUnfinishedDay checks that a day that was not over at receipt is preliminary.
func TestUnfinishedDay(t *testing.T) {
	// The payload is received on the 24th.
	for day, want := range map[int]sample.Status{23: sample.Final, 24: sample.Preliminary, 25: sample.Preliminary} {
		r, err := decode(t, "list.json", "",
			onePoint(fmt.Sprintf(`{"dailyRestingHeartRate":{"date":{"year":2026,"month":11,"day":%d},"beatsPerMinute":"55"}}`, day)))
		if err != nil || len(r.Samples) != 1 || r.Samples[0].Status != want {
			t.Errorf("%d: %v %+v", day, err, r.Samples)
		}
	}
}

// TestRejectedDay checks that a daily value that cannot be read has the VendorID of
// its day, like the sample that it would be, and none if the day cannot be read.
func TestRejectedDay(t *testing.T) {
	for date, want := range map[string]string{`{"year":2026,"month":3,"day":1}`: "2026-03-01", `{"year":2026}`: ""} {
		r := adaptertest.NewRecorder()
		in := adapters.Input{Name: "page.json", Received: adaptertest.Received(), Body: strings.NewReader(
			`{"dataPoints":[{"name":"users/1/dataTypes/daily-resting-heart-rate/dataPoints/x1",` +
				`"dailyRestingHeartRate":{"date":` + date + `,"beatsPerMinute":"many"}}]}`)}
		if err := fitbit.New().Decode(t.Context(), in, r); err != nil {
			t.Fatal(err)
		}
		if len(r.Rejects) != 1 || r.Rejects[0].VendorID != want {
			t.Errorf("%s: %+v", date, r.Rejects)
		}
	}
}
