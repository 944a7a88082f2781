package oura_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pulsegate/adapters"
	"pulsegate/adapters/adaptertest"
	"pulsegate/adapters/oura"
	"pulsegate/mapping/sample"
)

func TestAdapter(t *testing.T) {
	adaptertest.Run(t, oura.New(), "testdata",
		adaptertest.Unterminated("v2"), adaptertest.Singles("v2"), adaptertest.Large("v2", 24<<20, 0, writeLarge))
}

func writeLarge(w io.Writer, size int64) error {
	if _, err := io.WriteString(w, `{"heartrate":{"data":[`); err != nil {
		return err
	}
	var n int64
	for i := 0; n < size; i++ {
		sep := ","
		if i == 0 {
			sep = ""
		}
		k, err := fmt.Fprintf(w, `%s{"timestamp":"2026-03-%02dT%02d:%02d:%02dZ","bpm":%d,"source":"awake"}`,
			sep, 1+i/86400%28, i/3600%24, i/60%60, i%60, 50+i%60)
		if err != nil {
			return err
		}
		n += int64(k)
	}
	_, err := io.WriteString(w, `],"next_token":null}}`)
	return err
}

func decode(t *testing.T, name, format, body string) (*adaptertest.Recorder, error) {
	t.Helper()
	r := adaptertest.NewRecorder()
	err := oura.New().Decode(t.Context(), adapters.Input{
		Name: name, Format: format, Body: strings.NewReader(body), Received: adaptertest.Received(),
	}, r)
	for i, s := range r.Samples {
		if err := adaptertest.Check(s); err != nil {
			t.Errorf("sample %d (%s): %v", i, s.Metric, err)
		}
	}
	return r, err
}

func TestSandboxCapture(t *testing.T) {
	b, err := os.ReadFile(adaptertest.Fixtures(t, "oura/open-twin/sandbox-capture.json"))
	if err != nil {
		t.Fatal(err)
	}
	r, err := decode(t, "sandbox-capture.json", "", string(b))
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]int{}
	for _, s := range r.Samples {
		seen[s.Metric]++
	}
	for _, m := range []string{"sleep", "sleep.average_hrv", "sleep.lowest_heart_rate", "daily_activity.steps",
		"daily_readiness.score",
		"daily_spo2.spo2_percentage", "daily_stress", "daily_resilience", "daily_cardiovascular_age", "vO2_max",
		"workout", "session",
		"heartrate", "rest_mode_period", "ring_configuration"} {
		if seen[m] == 0 {
			t.Errorf("no sample of %s", m)
		}
	}
	for _, x := range r.Rejects {
		// The series of the sandbox are of 2021, its days of 2024.
		if x.Reason != sample.ReasonBadTime {
			t.Errorf("rejected: %s %s %s %s", x.Reason, x.Metric, x.Where, x.Detail)
		}
	}
}

func TestDocuments(t *testing.T) {
	sleep := func(rest string) string {
		return `{"id":"n1","day":"2026-05-03","bedtime_start":"2026-05-02T23:00:00+02:00","bedtime_end":"2026-05-03T07:00:00+02:00",` + rest + `}`
	}
	for name, c := range map[string]struct{ body, want string }{
		"deleted": {sleep(`"type":"deleted"`),
			"sleep= sleep.average_hrv= sleep.average_heart_rate= sleep.lowest_heart_rate= sleep.average_breath= sleep.heart_rate= sleep.hrv="},
		"rest": {sleep(`"type":"rest","total_sleep_duration":100`),
			"sleep= sleep.average_hrv= sleep.average_heart_rate= sleep.lowest_heart_rate= sleep.average_breath= sleep.heart_rate= sleep.hrv="},
		"night":                  {sleep(`"type":"long_sleep","total_sleep_duration":25200,"average_hrv":44,"average_breath":null`), "sleep=25200 sleep.average_hrv=44"},
		"ends before start":      {`{"id":"n","bedtime_start":"2026-05-02T23:00:00+02:00","bedtime_end":"2026-05-02T22:00:00+02:00"}`, "!bad-time"},
		"no id":                  {`{"bedtime_start":"2026-05-02T23:00:00+02:00","bedtime_end":"2026-05-03T07:00:00+02:00","total_sleep_duration":1}`, "!missing"},
		"series of nulls":        {sleep(`"total_sleep_duration":1,"hrv":{"interval":300,"items":[null,null],"timestamp":"2026-05-02T23:00:00+02:00"}`), "sleep=1"},
		"series of another year": {sleep(`"total_sleep_duration":1,"hrv":{"interval":300,"items":[50],"timestamp":"2021-05-02T23:00:00+02:00"}`), "sleep=1 !bad-time"},
		"interval of zero":       {sleep(`"total_sleep_duration":1,"hrv":{"interval":0,"items":[50],"timestamp":"2026-05-02T23:00:00+02:00"}`), "sleep=1 !bad-value"},
		"unknown type":           {`{"blood_glucose":{"data":[{"id":"g"}],"next_token":null}}`, "!unmapped"},
		"keyed list":             {`{"heartrate":{"next_token":null,"data":[{"bpm":60,"timestamp":"2026-05-02T10:00:00Z"}]}}`, "heartrate=60"},
		"keyed array":            {`{"heartrate":[{"bpm":60,"timestamp":"2026-05-02T10:00:00Z"}]}`, "heartrate=60"},
		"impossible pulse":       {`{"bpm":6000,"timestamp":"2026-05-02T10:00:00Z"}`, "!bad-value"},
		"pulse is text":          {`{"bpm":"x","timestamp":"2026-05-02T10:00:00Z"}`, "!bad-value"},
		"bad time":               {`{"bpm":60,"timestamp":"yesterday"}`, "!bad-time"},
		"index as float":         {`{"id":"a","day":"2026-05-03","breathing_disturbance_index":1.2,"spo2_percentage":null}`, "daily_spo2.breathing_disturbance_index=1.2"},
		"SpO2 zero":              {`{"id":"a","day":"2026-05-03","spo2_percentage":{"average":0}}`, "-placeholder"},
		"all null": {`{"id":"a","day":"2026-05-03","vascular_age":null,"pulse_wave_velocity":null}`,
			"-placeholder"},
		"negative deviation": {`{"id":"a","day":"2026-05-03","temperature_trend_deviation":-0.2}`,
			"daily_readiness.temperature_trend_deviation=-0.2"},
		"vo2_max of a webhook":     {`{"vo2_max":{"data":[{"id":"v","day":"2026-05-03","vo2_max":44}]}}`, "vO2_max=44"},
		"custom tag":               {`{"id":"t","tag_type_code":"custom","start_time":"2026-05-03T10:00:00+02:00","comment":"Ottilie"}`, "enhanced_tag="},
		"malformed and valid item": {`{"data":[5,{"bpm":60,"timestamp":"2026-05-02T10:00:00Z"}]}`, "heartrate=60 !bad-value"},
	} {
		r, err := decode(t, "", "", c.body)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		var got []string
		for _, s := range r.Samples {
			got = append(got, s.Metric+"="+s.Value.Num)
		}
		for _, x := range r.Rejects {
			got = append(got, "!"+x.Reason)
		}
		for k := range r.Drops {
			got = append(got, "-"+strings.Fields(k)[0])
		}
		if g := strings.Join(got, " "); g != c.want {
			t.Errorf("%s: got %q, want %q", name, g, c.want)
		}
	}
}

func TestRingSetUpAtUnknownTime(t *testing.T) {
	r, err := decode(t, "", "", `{"id":"r1","hardware_type":"or5","set_up_at":"1970-01-01T00:00:00+00:00"}`)
	if err != nil || len(r.Samples) != 1 || !r.Samples[0].Start.Equal(adaptertest.Received()) ||
		r.Samples[0].Device.Serial != "r1" {
		t.Errorf("error %v, samples %+v", err, r.Samples)
	}
}

func TestTypeFromNameOrFormat(t *testing.T) {
	body := `{"data":[{"id":"x","age":40,"weight":70.5,"height":1.7}],"next_token":null}`
	for _, c := range []struct{ name, format string }{{"personal_info.json", ""}, {"", "v2:personal_info"}} {
		r, err := decode(t, c.name, c.format, body)
		if err != nil || len(r.Samples) != 2 {
			t.Errorf("%v: %v %+v", c, err, r.Samples)
		}
	}
	_, err := decode(t, "", "", body)
	var pe *adapters.PayloadError
	if !errors.As(err, &pe) || !strings.Contains(pe.Rule, "--format") {
		t.Errorf("body without a type: %v", err)
	}
}

func TestMalformedPayloads(t *testing.T) {
	for name, body := range map[string]string{
		"empty": "", "text": "hello", "string": `"x"`, "cut": `{"data":[{"bpm":6`,
		"error":        `{"detail":"Document not found."}`,
		"deep":         strings.Repeat("[", 100000),
		"deep object":  strings.Repeat(`{"a":`, 100000),
		"FHIR":         `{"resourceType":"Bundle"}`,
		"many members": "{" + strings.Repeat(`"a":1,`, 1000) + `"b":1}`,
		"huge string":  `{"id":"` + strings.Repeat("a", 40<<20) + `"}`,
	} {
		_, err := decode(t, "", "", body)
		var pe *adapters.PayloadError
		if !errors.As(err, &pe) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzDecode(f *testing.F) {
	for _, s := range []string{`{}`, `{"bpm":60,"timestamp":"2026-05-02T10:00:00Z"}`,
		`{"sleep":{"data":[{"id":"n","type":"deleted","bedtime_start":"2026-05-02T23:00:00+02:00","bedtime_end":"2026-05-03T07:00:00+02:00"}]}}`,
		`{"id":"a","day":"2026-05-03","contributors":{"recovery_index":80},"score":77}`,
		`{"id":"r","hardware_type":"gen4"}`} {
		f.Add([]byte(s))
	}
	files, err := filepath.Glob("testdata/v2/*.json")
	if err != nil {
		f.Fatal(err)
	}
	for _, p := range files {
		b, err := os.ReadFile(p)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b[:min(len(b), 8192)])
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		r := adaptertest.NewRecorder()
		err := oura.New().Decode(context.Background(),
			adapters.Input{Name: "workout.json", Body: strings.NewReader(string(body)),
				Received: adaptertest.Received()}, r)
		var pe *adapters.PayloadError
		if err != nil && !errors.As(err, &pe) {
			t.Fatalf("not a PayloadError: %v", err)
		}
		for _, s := range r.Samples {
			if err := adaptertest.Check(s); err != nil {
				t.Fatalf("%s: %v", s.Metric, err)
			}
		}
	})
}
