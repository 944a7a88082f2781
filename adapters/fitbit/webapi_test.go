package fitbit_test

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// TestDatasetInterval checks that the times of an intraday dataset tell how long its
// counts are.
func TestDatasetInterval(t *testing.T) {
	for times, want := range map[string]time.Duration{
		"00:00:00 00:01:00 00:02:00": time.Minute, "00:00:00 00:05:00": 5 * time.Minute,
		"06:30:00 06:45:00 07:00:00": 15 * time.Minute, "06:30:00": time.Minute, "06:30:00 09:17:00": time.Minute,
	} {
		var items []string
		for at := range strings.FieldsSeq(times) {
			items = append(items, fmt.Sprintf(`{"time":"%s","value":9}`, at))
		}
		r, err := decode(t, "x.json", "fitbit-web-api", `{"activities-steps":[{"dateTime":"2026-07-04","value":"0"}],`+
			`"activities-steps-intraday":{"dataset":[`+strings.Join(items, ",")+`],"datasetInterval":1}}`)
		if err != nil || len(r.Samples) != len(items) {
			t.Errorf("%s: %v, %d samples", times, err, len(r.Samples))
		}
		for _, s := range r.Samples {
			if got := s.End.Sub(s.Start); got != want {
				t.Errorf("%s: %v, want %v", times, got, want)
			}
		}
	}
}

// TestWebPayloads checks single rules of the Fitbit Web API.
func TestWebPayloads(t *testing.T) {
	for name, c := range map[string]struct{ body, want string }{
		"mass in kg":     {`{"weight":[{"logId":1,"date":"2026-07-04","time":"07:00:00","weight":80.2,"bmi":25.3}]}`, "weight=80.2kg bmi=25.3kg/m2"},
		"mass in pounds": {`{"weight":[{"logId":1,"date":"2026-07-04","time":"07:00:00","weight":176.8,"bmi":25.3}]}`, "weight=176.8lb bmi=25.3kg/m2"},
		"mass in stone":  {`{"weight":[{"logId":1,"date":"2026-07-04","time":"07:00:00","weight":12.6,"bmi":25.3}]}`, "weight=12.6st bmi=25.3kg/m2"},
		"mass alone":     {`{"weight":[{"logId":1,"date":"2026-07-04","time":"07:00:00","weight":80}]}`, "!bad-unit"},
		"empty entry":    {`{"weight":[{"logId":1,"date":"2026-07-04","time":"07:00:00"}]}`, "!missing"},
		"Fahrenheit":     {`{"tempCore":[{"dateTime":"2026-07-04T10:00:00","value":99.1}]}`, "core-body-temperature=99.1degF"},
		"range":          {`{"cardioScore":[{"dateTime":"2026-07-04","value":{"vo2Max":"44-48"}}]}`, "daily-vo2-max=44mL/kg/min"},
		"not a range":    {`{"cardioScore":[{"dateTime":"2026-07-04","value":{"vo2Max":"4x-48"}}]}`, "!bad-value"},
		"order of days": {`{"activities-steps-intraday":{"dataset":[{"time":"06:30:00","value":9}]},"activities-steps":[{"dateTime":"2026-07-04","value":"9"}]}`,
			"steps/day=9count !missing"},
		"two days":     {`{"activities-steps":[{"dateTime":"2026-07-04","value":"8"},{"dateTime":"2026-07-05","value":"9"}],"activities-steps-intraday":{"dataset":[{"time":"06:30:00","value":9}]}}`, "steps/day=8count steps/day=9count !missing"},
		"unknown list": {`{"water":[{"amount":5}]}`, "!unmapped"},
		"unreadable":   {`{"ecgReadings":[{"startTime":"2026-07-04T10:00:00","resultClassification":"Unreadable"}]}`, "-low-quality"},
		"a bad item":   {`{"br":[17,{"dateTime":"2026-07-04","value":{"breathingRate":14.5}}]}`, "daily-respiratory-rate=14.5breaths/min !bad-value"},
		"a bad date":   {`{"br":[{"dateTime":"2026-02-31","value":{"breathingRate":14.5}}]}`, "!bad-time"},
	} {
		r, err := decode(t, "x.json", "fitbit-web-api", c.body)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		var got []string
		for _, s := range r.Samples {
			got = append(got, s.Metric+"="+s.Value.Num+s.Value.Unit)
		}
		for _, x := range r.Rejects {
			got = append(got, "!"+x.Reason)
		}
		for d := range r.Drops {
			got = append(got, "-"+strings.Fields(d)[0])
		}
		if g := strings.Join(got, " "); g != c.want {
			t.Errorf("%s: %q, want %q", name, g, c.want)
		}
	}
}
