package fitbit_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"pulsegate/adapters"
	"pulsegate/adapters/adaptertest"
	"pulsegate/adapters/fitbit"
	"pulsegate/mapping/sample"
)

func TestAdapter(t *testing.T) {
	adaptertest.Run(t, fitbit.New(), "testdata",
		// A payload may have several bodies, so a cut between two looks complete.
		adaptertest.Unterminated("google-health"), adaptertest.Singles("google-health"),
		adaptertest.Unterminated("fitbit-web-api"), adaptertest.Unterminated("takeout"),
		adaptertest.Large("google-health", 24<<20, 0, writeLarge),
		adaptertest.Large("fitbit-web-api", 8<<20, 0, writeLargeWeb))
}

func writeLarge(w io.Writer, size int64) error {
	if _, err := io.WriteString(w, `{"dataPoints":[`); err != nil {
		return err
	}
	var n int64
	for i := 0; n < size; i++ {
		sep := ","
		if i == 0 {
			sep = ""
		}
		k, err := fmt.Fprintf(w, `%s{"dataSource":{"platform":"FITBIT","device":{"displayName":"Charge 6"}},"heartRate":{"sampleTime":{"physicalTime":"2026-03-%02dT%02d:%02d:%02dZ","utcOffset":"3600s"},"beatsPerMinute":"%d"}}`,
			sep, 1+i/86400%28, i/3600%24, i/60%60, i%60, 50+i%60)
		if err != nil {
			return err
		}
		n += int64(k)
	}
	_, err := io.WriteString(w, `]}`)
	return err
}

// writeLargeWeb writes nights of the Fitbit Web API.
func writeLargeWeb(w io.Writer, size int64) error {
	if _, err := io.WriteString(w, `{"sleep":[`); err != nil {
		return err
	}
	var n int64
	for i := 0; n < size; i++ {
		sep := ","
		if i == 0 {
			sep = ""
		}
		k, err := fmt.Fprintf(w, `%s{"logId":%d,"startTime":"2026-03-%02dT01:%02d:00.000","endTime":"2026-03-%02dT07:00:00.000","minutesAsleep":300}`,
			sep, i+1, 1+i%28, i%60, 1+i%28)
		if err != nil {
			return err
		}
		n += int64(k)
	}
	_, err := io.WriteString(w, `]}`)
	return err
}

func decode(t *testing.T, name, format, body string) (*adaptertest.Recorder, error) {
	t.Helper()
	r := adaptertest.NewRecorder()
	err := fitbit.New().Decode(t.Context(), adapters.Input{
		Name: name, Format: format, Body: strings.NewReader(body), Received: adaptertest.Received(),
	}, r)
	for i, s := range r.Samples {
		if err := adaptertest.Check(s); err != nil {
			t.Errorf("sample %d (%s): %v", i, s.Metric, err)
		}
	}
	return r, err
}

func TestReferencePages(t *testing.T) {
	dir := adaptertest.Fixtures(t, "fitbit/google-health/synthetic")
	files, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no pages: %v", err)
	}
	empty := map[string]bool{"list_page_empty_with_token.json": true, "list_page_last_empty_object.json": true,
		"settings.json": true, "profile.json": true, "identity.json": true, "irnProfile.json": true}
	broken := map[string]bool{"token_response.json": true, "dailyRollUp_steps_request.json": true}
	for _, f := range files {
		name := filepath.Base(f)
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		r, err := decode(t, name, "", string(b))
		if (err != nil) != broken[name] {
			t.Errorf("%s: error %v", name, err)
		}
		if (len(r.Samples) == 0) != (empty[name] || broken[name]) {
			t.Errorf("%s: %d samples", name, len(r.Samples))
		}
		for _, x := range r.Rejects {
			t.Errorf("%s: rejected: %s %s %s", name, x.Reason, x.Metric, x.Detail)
		}
	}
}

func TestReferenceErrors(t *testing.T) {
	dir := adaptertest.Fixtures(t, "fitbit/google-health/synthetic/errors")
	files, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no error bodies: %v", err)
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		r, err := decode(t, filepath.Base(f), "", string(b))
		var pe *adapters.PayloadError
		if !errors.As(err, &pe) || strings.Contains(pe.Rule, "unknown") || len(r.Samples) > 0 {
			t.Errorf("%s: %v, %d samples", filepath.Base(f), err, len(r.Samples))
		}
	}
}

const night = `"sleep":{"interval":{"startTime":"2026-05-02T21:10:00Z","startUtcOffset":"7200s","endTime":"2026-05-02T21:40:00Z","endUtcOffset":"7200s"},
"type":"STAGES","stages":[{"startTime":"2026-05-02T21:10:00Z","endTime":"2026-05-02T21:20:00Z","type":"LIGHT"},{"startTime":"2026-05-02T21:20:00Z","endTime":"2026-05-02T21:40:00Z","type":"DEEP"}],
"metadata":{"processed":true},"summary":{"minutesAsleep":"30","stagesSummary":[{"type":"LIGHT","minutes":"10"},{"type":"DEEP","minutes":"20"}%s]}}`

func TestListAndReconcileGiveTheSameNight(t *testing.T) {
	list, err := decode(t, "", "", `{"dataPoints":[{"name":"users/7/dataTypes/sleep/dataPoints/99","dataSource":{"recordingMethod":"DERIVED","platform":"FITBIT","device":{"displayName":"Charge 6"}},`+fmt.Sprintf(night, "")+`}]}`)
	if err != nil {
		t.Fatal(err)
	}
	rec, err := decode(t, "", "", `{"dataPoints":[{"dataPointName":"users/me/dataTypes/sleep/dataPoints/99",`+
		fmt.Sprintf(night, `,{"type":"DEEP","minutes":"20"}`)+`}]}`)
	if err != nil {
		t.Fatal(err)
	}
	if len(list.Samples) != 1 || !reflect.DeepEqual(list.Samples, rec.Samples) {
		t.Errorf("list %+v\nreconcile %+v", list.Samples[0], rec.Samples[0])
	}
	if s := list.Samples[0]; s.VendorID != "99" || s.Value.Num != "30" || s.Status != sample.Final {
		t.Errorf("night: %+v", s)
	}
}

func TestItems(t *testing.T) {
	at := `"sampleTime":{"physicalTime":"2026-05-02T21:10:00Z","utcOffset":"-25200s"}`
	iv := `"interval":{"startTime":"2026-05-02T21:10:00Z","startUtcOffset":"-07:00","endTime":"2026-05-02T21:11:00Z","endUtcOffset":"-25200s"}`
	point := func(member, body string) string { return `{"dataPoints":[{"` + member + `":{` + body + `}}]}` }
	for name, c := range map[string]struct {
		body string
		want string // metric=value of each sample, then !reason of each reject, then -reason
	}{
		"absent count is zero":      {point("steps", iv), "steps=0"},
		"absent weight is not zero": {point("weight", at), "-low-quality"},
		"NaN main value": {point("dailySleepTemperatureDerivations",
			`"date":{"year":2026,"month":5,"day":2},"nightlyTemperatureCelsius":"NaN"`), "!bad-value"},
		"NaN component": {point("dailySleepTemperatureDerivations",
			`"date":{"year":2026,"month":5,"day":2},"nightlyTemperatureCelsius":34.1,"baselineTemperatureCelsius":"NaN"`), "daily-sleep-temperature-derivations=34.1"},
		"wrist is not core": {point("coreBodyTemperature",
			at+`,"temperatureCelsius":33.9,"measurementLocation":"WRIST"`), "skin-temperature=33.9"},
		"mouth is core": {point("coreBodyTemperature",
			at+`,"temperatureCelsius":36.9,"measurementLocation":"MOUTH"`), "core-body-temperature=36.9"},
		"rmssd and sdnn": {point("heartRateVariability",
			at+`,"rootMeanSquareOfSuccessiveDifferencesMilliseconds":41,"standardDeviationMilliseconds":55.5`),
			"heart-rate-variability.rmssd=41 heart-rate-variability.sdnn=55.5"},
		"SpO2 sentinel": {point("oxygenSaturation", at+`,"percentage":50`), "-low-quality"},
		"CGM without specimen": {point("bloodGlucose",
			at+`,"bloodGlucoseMilligramsPerDeciliter":100,"measurementSource":"CONTINUOUS_GLUCOSE_MONITORING"`),
			"blood-glucose.interstitial=100"},
		"zone in the metric": {point("activeZoneMinutes",
			iv+`,"heartRateZone":"FAT_BURN","activeZoneMinutes":"1"`), "active-zone-minutes.fat-burn=1"},
		"unknown type":      {point("hiccups", at+`,"count":"3"`), "!unmapped"},
		"two symptoms":      {point("symptoms", at+`,"symptoms":["ACNE","FEVER","ACNE"]`), "symptoms= symptoms="},
		"mood and valence":  {point("moods", at+`,"moods":["CALM"],"valences":["PLEASANT"]`), "moods= moods.valence="},
		"no symptom":        {point("symptoms", at), "!missing"},
		"food catalog":      {point("food", `"displayName":"Soup"`), "-ignored"},
		"sensor in the air": {point("skinTemperatureSensors", at+`,"sensorData":[{"temperatureCelsius":33.5,"metadata":{"measurementLocation":"WRIST"}},{"temperatureCelsius":28,"metadata":{"sensorType":"INTERNAL_DEVICE_TEMPERATURE_SENSOR"}}]`), "skin-temperature-sensors=33.5 -ignored"},
		"period with notes": {point("menstrualPeriod", iv+`,"notes":"private"`), "menstrual-period="},
		"meal":              {point("nutritionLog", iv+`,"energy":{"kcal":412.5},"nutrients":[{"nutrient":"PROTEIN","quantity":{"grams":20}}]`), "nutrition-log=412.5"},
		"empty meal":        {point("nutritionLog", iv), "!missing"},
		"no offset": {point("heartRate",
			`"sampleTime":{"physicalTime":"2026-05-02T21:10:00Z"},"beatsPerMinute":"61"`), "heart-rate=61"},
		"implausible date": {point("heartRate",
			`"sampleTime":{"physicalTime":"9999-05-02T21:10:00Z"},"beatsPerMinute":"61"`), "!bad-time"},
		"31 February": {point("dailyRespiratoryRate",
			`"date":{"year":2026,"month":2,"day":31},"breathsPerMinute":14`), "!bad-time"},
		"negative steps":     {point("steps", iv+`,"count":"-4"`), "!bad-value"},
		"negative climb":     {point("altitude", iv+`,"gainMillimeters":"-400"`), "altitude=-400"},
		"count is an object": {point("steps", iv+`,"count":{}`), "!bad-value"},
		"end before start": {point("steps",
			`"interval":{"startTime":"2026-05-02T21:11:00Z","endTime":"2026-05-02T21:10:00Z"},"count":"4"`),
			"!bad-time"},
		"unreadable ECG": {point("electrocardiogram", iv+`,"resultClassification":"UNREADABLE"`),
			"-low-quality"},
		"daily window over two days": {`{"rollupDataPoints":[{"civilStartTime":{"date":{"year":2026,"month":5,"day":1}},"civilEndTime":{"date":{"year":2026,"month":5,"day":3}},"steps":{"countSum":"1"}}]}`, "!bad-time"},
		"daily sum absent is zero":   {`{"rollupDataPoints":[{"civilStartTime":{"date":{"year":2026,"month":5,"day":1}},"steps":{}}]}`, "steps/day=0"},
		"array of pages":             {`[` + point("steps", iv+`,"count":"5"`) + `,{}]`, "steps=5"},
		"consecutive pages": {point("steps", iv+`,"count":"5"`) + "\n" +
			point("floors", iv+`,"count":"1"`), "steps=5 floors=1"},
		"valid item after a malformed one": {`{"dataPoints":[17,{"steps":{` + iv + `,"count":"3"}}]}`, "steps=3 !bad-value"},
		"deeply nested item": {`{"dataPoints":[` + strings.Repeat(`{"a":`, 200) + `1` +
			strings.Repeat(`}`, 200) + `]}`, "!too-large"},
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

func TestTypeFromNameOrFormat(t *testing.T) {
	body := `{"rollupDataPoints":[{"civilStartTime":{"date":{"year":2026,"month":5,"day":1}},"countSum":"12"}]}`
	for _, c := range []struct{ name, format string }{{"dailyRollUp_steps.json", ""}, {"", "google-health:steps"}} {
		r, err := decode(t, c.name, c.format, body)
		if err != nil || len(r.Samples) != 1 || r.Samples[0].Metric != "steps/day" || r.Samples[0].Value.Num != "12" {
			t.Errorf("%v: %v %+v", c, err, r.Samples)
		}
	}
	_, err := decode(t, "", "", body)
	var pe *adapters.PayloadError
	if !errors.As(err, &pe) || !strings.Contains(pe.Rule, "--format") {
		t.Errorf("body without a type: %v", err)
	}
}

func TestRollUpOfToday(t *testing.T) {
	r, err := decode(t, "", "", `{"rollupDataPoints":[{"civilStartTime":{"date":{"year":2026,"month":11,"day":24}},"steps":{"countSum":"12"}},{"civilStartTime":{"date":{"year":2026,"month":11,"day":23}},"steps":{"countSum":"12"}}]}`)
	if err != nil || r.Samples[0].Status != sample.Preliminary || r.Samples[1].Status != sample.Final {
		t.Errorf("error %v, samples %+v", err, r.Samples)
	}
}

func TestMalformedPayloads(t *testing.T) {
	for name, body := range map[string]string{
		"empty": "", "text": "hello", "string": `"x"`, "number": "1", "cut": `{"dataPoints":[{"steps"`,
		"deep":                    strings.Repeat("[", 100000),
		"deep object":             `{"dataPoints":[` + strings.Repeat(`{"a":`, 100000),
		"FHIR":                    `{"resourceType":"Bundle"}`,
		"many members":            "{" + strings.Repeat(`"a":1,`, 1000) + `"b":1}`,
		"dataPoints is an object": `{"dataPoints":{}}`,
		"huge string":             `{"dataPoints":[{"x":"` + strings.Repeat("a", 40<<20) + `"}]}`,
	} {
		_, err := decode(t, "", "", body)
		var pe *adapters.PayloadError
		if !errors.As(err, &pe) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add("steps.json", []byte(`{}`))
	f.Add("steps.json", []byte(`{"dataPoints":[{"name":"users/7/dataTypes/sleep/dataPoints/99",`+fmt.Sprintf(night, "")+`}]}`))
	f.Add("steps.json", []byte(`{"rollupDataPoints":[{"civilStartTime":{"date":{"year":2026,"month":5,"day":1}},"steps":{"countSum":"12"}}]}`))
	f.Add("steps.json", []byte(`{"error":{"code":400,"status":"FAILED_PRECONDITION"}}`))
	f.Add("steps.json", []byte(`{"pairedDevices":[{"name":"users/7/pairedDevices/1","batteryLevel":80}]}`))
	files, err := filepath.Glob("testdata/*/*.*")
	if err != nil {
		f.Fatal(err)
	}
	for _, p := range files {
		b, err := os.ReadFile(p)
		if err != nil {
			f.Fatal(err)
		}
		if filepath.Ext(p) != ".golden" {
			f.Add(filepath.Base(p), b[:min(len(b), 16384)])
		}
	}
	f.Fuzz(func(t *testing.T, name string, body []byte) {
		r := adaptertest.NewRecorder()
		err := fitbit.New().Decode(context.Background(),
			adapters.Input{Name: name, Body: bytes.NewReader(body), At: bytes.NewReader(body), Size: int64(len(body)),
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
		for _, x := range r.Rejects {
			if len(x.Raw) > 0 && !json.Valid(x.Raw) {
				t.Fatalf("raw bytes of %s are not JSON", x.Metric)
			}
		}
	})
}
