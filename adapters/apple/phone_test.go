package apple

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"pulsegate/adapters"
	"pulsegate/adapters/adaptertest"
)

const companionHead = `{"format":"pulsegate-companion","version":1,"created":"2026-01-06T08:00:00Z"`

// writeCompanion writes a batch of about size bytes.
func writeCompanion(w io.Writer, size int64) error {
	b := bufio.NewWriter(w)
	n, _ := b.WriteString(companionHead + `,"deleted":[],"samples":[`)
	for i := 0; int64(n) < size; i++ {
		if i > 0 {
			n += 1
			b.WriteByte(',') // the error is sticky
		}
		m, _ := fmt.Fprintf(b, `{"uuid":"AAAAAAAA-0000-4000-8000-%012X","type":"HKQuantityTypeIdentifierHeartRate","start":"2026-01-05T%02d:%02d:%02dZ","value":%d,"unit":"count/min","source":{"name":"Watch"},"metadata":{"HKMetadataKeyHeartRateMotionContext":1}}`,
			i, i/3600%24, i/60%60, i%60, 50+i%90)
		n += m
	}
	b.WriteString("]}")
	return b.Flush()
}

// writeFHIR writes lines of Observations of about size bytes.
func writeFHIR(w io.Writer, size int64) error {
	b := bufio.NewWriter(w)
	for i, n := 0, 0; int64(n) < size; i++ {
		m, _ := fmt.Fprintf(b, `{"resourceType":"Observation","id":"AAAAAAAA-0000-4000-8000-%012X","status":"final","code":{"coding":[{"system":"http://developer.apple.com/documentation/healthkit","code":"HKQuantityTypeIdentifierHeartRate"}]},"effectiveDateTime":"2026-01-05T%02d:%02d:%02dZ","valueQuantity":{"value":%d,"code":"/min"}}`+"\n",
			i, i/3600%24, i/60%60, i%60, 50+i%90)
		n += m
	}
	return b.Flush()
}

// TestCompanionSchema checks that the schema and the decoder agree on each sample
// and deletion of the test data.
func TestCompanionSchema(t *testing.T) {
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(CompanionSchema))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("companion.schema.json", doc); err != nil {
		t.Fatal(err)
	}
	schema, err := c.Compile("companion.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	accepts := func(body string) bool {
		instance, err := jsonschema.UnmarshalJSON(strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		return schema.Validate(instance) == nil
	}
	if !accepts(companionHead + `,"samples":[],"deleted":[]}`) {
		t.Error("the schema refuses an empty batch")
	}
	raw, err := os.ReadFile("testdata/companion/batch.json")
	if err != nil {
		t.Fatal(err)
	}
	var batch map[string]json.RawMessage
	if err := json.Unmarshal(raw, &batch); err != nil {
		t.Fatal(err)
	}
	refused := 0
	for _, list := range []string{"samples", "deleted"} {
		var items []json.RawMessage
		if err := json.Unmarshal(batch[list], &items); err != nil {
			t.Fatal(err)
		}
		for i, item := range items {
			body := companionHead + `,"samples":[` + string(item) + `],"deleted":[]}`
			if list == "deleted" {
				body = companionHead + `,"samples":[],"deleted":[` + string(item) + `]}`
			}
			r := decode(t, formatCompanion, body)
			want := len(r.Rejects) == 0
			switch {
			case bytes.Contains(item, []byte("BloodPressureSystolic")):
				want = false // left out, because its correlation is sent
			case len(r.Rejects) > 0 && r.Rejects[0].Detail == "the category has no such value":
				want = true // the schema does not list the enumerations
			}
			if got := accepts(body); got != want {
				t.Errorf("%s[%d]: the schema accepts it: %v, the decoder: %+v", list, i, got, r.Rejects)
			}
			if !want {
				refused++
			}
		}
	}
	if refused < 7 {
		t.Errorf("only %d items are refused", refused)
	}
	if accepts(companionHead + `,"samples":[{"uuid":"AAAAAAAA-0000-4000-8000-000000000001","type":"HKWorkoutTypeIdentifier","start":"2026-01-05T08:00:00Z","end":"2026-01-05T09:00:00Z","workout":{"activity":37,"routes":[{"distance":1,"latitude":60.1}]}}],"deleted":[]}`) {
		t.Error("the schema accepts a location")
	}
}

func TestMalformedPhonePayloads(t *testing.T) {
	deep := strings.Repeat(`{"a":`, 2000) + "1" + strings.Repeat("}", 2000)
	huge := `"` + strings.Repeat("x", 17<<20) + `"`
	const sync = `{"provider":"apple","sdkVersion":"1","syncTimestamp":"2026-01-06T08:00:00Z"`
	for name, c := range map[string]struct{ format, body, rule string }{
		"empty batch":   {formatCompanion, "", "empty"},
		"not an object": {formatCompanion, "[]", "expected"},
		"other format":  {formatCompanion, `{"format":"Wilhelmine"}`, "format is not"},
		"other version": {formatCompanion, `{"format":"pulsegate-companion","version":2}`, "version"},
		"no version": {formatCompanion,
			`{"format":"pulsegate-companion","created":"2026-01-06T08:00:00Z","samples":[]}`, "lacks"},
		"future":              {formatCompanion, `{"created":"2036-01-06T08:00:00Z"}`, "future"},
		"floating":            {formatCompanion, `{"created":"2026-01-06T08:00:00"}`, "instant"},
		"two batches":         {formatCompanion, companionHead + `}` + companionHead + `}`, "more than one"},
		"late header":         {formatCompanion, `{"samples":[` + huge + `],"format":"pulsegate-companion"}`, "16 MiB"},
		"deep before header":  {formatCompanion, `{"samples":` + deep + `}`, "32 levels"},
		"cut batch":           {formatCompanion, companionHead + `,"samples":[{"uuid":"A`, "middle of a value"},
		"other provider":      {formatOpenWearables, `{"provider":"samsung","data":{}}`, `not "apple"`},
		"no provider":         {formatOpenWearables, `{"data":{}}`, "provider"},
		"no data":             {formatOpenWearables, sync + `}`, "data"},
		"two requests":        {formatOpenWearables, sync + `,"data":{}}{}`, "more than one"},
		"empty sync":          {formatOpenWearables, " ", "empty"},
		"empty FHIR":          {formatFHIR, "\n", "empty"},
		"no resource":         {formatFHIR, `{"a":1}`, "not a FHIR resource"},
		"text":                {formatFHIR, `"Wilhelmine"`, "expected"},
		"huge member":         {formatFHIR, `{"resourceType":"Observation","note":` + huge + `}`, "16 MiB"},
		"deep member":         {formatFHIR, `{"resourceType":"Observation","note":` + deep + `}`, "32 levels"},
		"many members":        {formatFHIR, `{` + strings.Repeat(`"a":1,`, 300) + `"b":1}`, "256 members"},
		"second line is text": {formatFHIR, `{"resourceType":"Patient"}` + "\nWilhelmine", "JSON"},
	} {
		in := adapters.Input{Format: c.format, Body: strings.NewReader(c.body), Received: adaptertest.Received()}
		err := New().Decode(t.Context(), in, adaptertest.NewRecorder())
		var pe *adapters.PayloadError
		if !errors.As(err, &pe) || !strings.Contains(pe.Error(), c.rule) || strings.Contains(pe.Error(), "Wilhelmine") {
			t.Errorf("%s: %v, want %q", name, err, c.rule)
		}
	}
}

// TestHostileItems checks that items beyond the limits are rejected alone.
func TestHostileItems(t *testing.T) {
	head := `"uuid":"AAAAAAAA-0000-4000-8000-000000000001","start":"2026-01-05T08:00:00Z"`
	good := `{` + head + `,"type":"HKQuantityTypeIdentifierHeartRate","value":61,"unit":"count/min"}`
	for name, c := range map[string]struct{ item, reason string }{
		"large": {`{"uuid":"` + strings.Repeat("x", 15<<20) + `","b":"` + strings.Repeat("x", 2<<20) + `"}`,
			"too-large"},
		"deep": {strings.Repeat(`{"a":`, 100) + "1" + strings.Repeat("}", 100), "too-large"},
		"many voltages": {`{` + head + `,"type":"HKDataTypeIdentifierElectrocardiogram","electrocardiogram":{"samplingFrequency":512,"unit":"mV","voltages":[1` +
			strings.Repeat(",1", 270_000) + `]}}`, "too-large"},
		"many frequencies": {`{` + head + `,"type":"HKDataTypeIdentifierAudiogram","sensitivityPoints":[{}` +
			strings.Repeat(",{}", 100) + `]}`, "missing"},
		"infinite value": {`{` + head +
			`,"type":"HKQuantityTypeIdentifierHeartRate","value":1e999,"unit":"count/min"}`, "bad-value"},
		"unknown activity": {`{` + head + `,"type":"HKWorkoutTypeIdentifier","workout":{"activity":81}}`, "bad-value"},
	} {
		r := decode(t, formatCompanion, companionHead+`,"samples":[`+c.item+`,`+good+`],"deleted":[]}`)
		if len(r.Rejects) != 1 || r.Rejects[0].Reason != c.reason || len(r.Samples) != 1 {
			t.Errorf("%s: %d samples, %+v", name, len(r.Samples), r.Rejects)
		}
	}
}

// TestSymptomsOfHealthAutoExport checks that the names of symptoms and of entries of
// the cycle become the categories of HealthKit.
func TestSymptomsOfHealthAutoExport(t *testing.T) {
	words := func(camel string) string {
		var b strings.Builder
		for i, c := range camel {
			if i > 0 && c >= 'A' && c <= 'Z' {
				b.WriteByte(' ')
			}
			b.WriteRune(c)
		}
		return b.String()
	}
	for category, enum := range enumOf {
		section, member, value := "symptoms", "severity", ""
		if enum != "Severity" {
			section, member = "cycleTracking", "value"
		}
		if enum != "" {
			value = words(enums[enum].values[0])
		}
		r := decode(t, formatHAE, fmt.Sprintf(`{"data":{%q:[{"start":"2026-01-05 10:00:00 +0100","name":%q,%q:%q}]}}`,
			section, words(category), member, value))
		if len(r.Samples) != 1 || r.Samples[0].Metric != prefixCategory+category {
			t.Errorf("%s: %+v", category, r.Samples)
			continue
		}
		want := ""
		if enum != "" {
			want = "HKCategoryValue" + enum + enums[enum].values[0]
		}
		if got := r.Samples[0].Value.Text; got != want {
			t.Errorf("%s: %q, want %q", category, got, want)
		}
	}
	r := decode(t, formatHAE, `{"data":{"symptoms":[{"start":"2026-01-05 10:00:00 +0100","name":"Itching","severity":"Mild"}]}}`)
	if len(r.Samples) != 1 || r.Samples[0].Metric != "symptom" {
		t.Errorf("an unknown symptom: %+v", r.Samples)
	}
}

// TestFixtures decodes captured payloads that are not part of the repository, and
// compares the number of their items with an independent count.
func TestFixtures(t *testing.T) {
	dir := adaptertest.Fixtures(t, "apple")
	files, err := filepath.Glob(filepath.Join(dir, "*", "*.*"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no payloads: %v", err)
	}
	more, err := filepath.Glob(filepath.Join(dir, "export-xml", "*", "*.*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range append(files, more...) {
		if filepath.Base(filepath.Dir(f)) == "mappings" {
			continue
		}
		body, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		r := adaptertest.NewRecorder()
		err = decodeBytes(t.Context(), filepath.Base(f), "", body, r)
		if filepath.Base(f) == "sync_request_example_samsung.json" {
			if err == nil || !strings.Contains(err.Error(), "another vendor") {
				t.Errorf("%s: %v", f, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", f, err)
		}
		want, ok := countItems(t, f, body)
		if got := accounted(r); ok && got != want {
			t.Errorf("%s: %d items are accounted for, the payload has %d", f, got, want)
		}
		t.Logf("%s: %d items, %d samples, %d rejects, drops %v", filepath.Base(f), want, len(r.Samples),
			len(r.Rejects), r.Drops)
	}
}

// accounted returns the number of items that became samples, rejects or drops. A
// blood pressure stands for two items of an export.
func accounted(r *adaptertest.Recorder) int {
	n := 0
	for _, s := range r.Samples {
		if s.Metric == metricRoute { // a part of a workout
			continue
		}
		if n++; s.Metric == typeBloodPressure && s.Channel == channelXML {
			n++
		}
	}
	for _, reject := range r.Rejects {
		if reject.Component == "" {
			n++
		}
	}
	for key, count := range r.Drops {
		if strings.HasPrefix(key, "duplicate") || strings.HasPrefix(key, "placeholder night") {
			n += count
		}
	}
	return n
}

// countItems counts the items of a payload without the decoder. ok is false for
// archives and electrocardiograms.
func countItems(t *testing.T, name string, body []byte) (n int, ok bool) {
	t.Helper()
	switch filepath.Ext(name) {
	case ".xml":
		for _, tag := range []string{"<Record ", "<Workout ", "<ActivitySummary ", "<Audiogram "} {
			n += bytes.Count(body, []byte(tag))
		}
		return n, true
	case ".json":
		var payload struct {
			Data struct {
				Metrics []struct{ Data []any }
				Workouts, StateOfMind, Medications, Symptoms, CycleTracking, ECG, HeartRateNotifications, Records,
				Sleep []any
			}
		}
		if err := json.Unmarshal(body, &payload); err != nil {
			t.Fatal(err)
		}
		d := &payload.Data
		for _, m := range d.Metrics {
			n += len(m.Data)
		}
		for _, list := range [][]any{d.Workouts, d.StateOfMind, d.Medications, d.Symptoms, d.CycleTracking, d.ECG,
			d.HeartRateNotifications, d.Records, d.Sleep} {
			n += len(list)
		}
		return n, true
	}
	return 0, false
}
