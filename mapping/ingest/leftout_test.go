package ingest

import (
	"fmt"
	"io/fs"
	"strings"
	"testing"
	"testing/fstest"

	"pulsegate/fhir/access"
	"pulsegate/fhir/audit"
	"pulsegate/mapping"
)

func rowing(parts ...string) string {
	return export(`<Workout workoutActivityType="HKWorkoutActivityTypeRowing" duration="40" durationUnit="min" sourceName="Ring" startDate="2026-03-01 10:00:00 +0100" endDate="2026-03-01 10:41:00 +0100">` + strings.Join(parts, "") + `</Workout>`)
}

func entry(key, value string) string {
	return fmt.Sprintf(`<MetadataEntry key=%q value=%q/>`, key, value)
}

func (w *world) items() []Item {
	w.t.Helper()
	var out []Item
	if err := w.p.List(w.t.Context(), "", func(it *Item) bool { out = append(out, *it); return true }); err != nil {
		w.t.Fatal(err)
	}
	return out
}

// only returns the JSON of the one Observation there is.
func (w *world) only() string {
	w.t.Helper()
	all := w.all("Observation")
	if len(all) != 1 {
		w.t.Fatalf("%d Observations, want one", len(all))
	}
	for _, r := range all {
		return string(r.JSON)
	}
	return ""
}

// TestOneOddComponent: a workout with one odd component is taken without it;
// the component is in the summary and, with its reason, in quarantine.
func TestOneOddComponent(t *testing.T) {
	w := newWorld(t)
	body := rowing(entry("HKWeatherTemperature", "58 warm"), entry("HKElevationAscended", "12 m"),
		entry("HKAverageMETs", "very"),
		`<WorkoutStatistics type="HKQuantityTypeIdentifierHeartRate" average="0" maximum="4100" unit="count/min"/>`)
	for _, created := range []int{1, 0} {
		sum := w.must("apple", "export.xml", body)
		if sum.Created != created || sum.Quarantined != 0 || sum.LeftOut != 4 ||
			sum.ByMetric["HKWorkoutTypeIdentifier"].LeftOut != 4 {
			t.Errorf("%+v", sum)
		}
	}
	got := w.only()
	if !strings.Contains(got, `"value":40,"unit":"min"`) || !strings.Contains(got, `"value":12,"unit":"m"`) ||
		strings.Contains(got, "4100") || strings.Contains(got, "eather") || strings.Contains(got, "55425-3") {
		t.Errorf("%s", got)
	}
	reasons := map[string]string{}
	for _, it := range w.items() {
		if it.Count != 1 || !strings.HasPrefix(it.Detail, "component "+it.Component+": ") {
			t.Errorf("%+v", it)
		}
		reasons[it.Component] = it.Reason
	}
	if len(reasons) != 3 || reasons["weatherTemperature"] != "bad-unit" ||
		reasons["heartRateMaximum"] != "bad-value" || reasons["averageMETs"] != "bad-value" {
		t.Errorf("%v", reasons)
	}
}

// TestManyOddComponents: as of whole samples, so many keep their bytes.
func TestManyOddComponents(t *testing.T) {
	w := newWorld(t)
	w.p.Limits.KeepPerMetric = 3
	var rows []string
	for i := range 10 {
		rows = append(rows, fmt.Sprintf(`{"date":"2026-03-01 10:%02d:00 +0100","Min":50,"Avg":60,"Max":9%02d}`, i, i))
	}
	sum := w.must("apple", "hae.json", `{"data":{"metrics":[{"name":"heart_rate","units":"count/min","data":[`+
		strings.Join(rows, ",")+`]}]}}`)
	if sum.Read != 10 || sum.Created != 10 || sum.LeftOut != 10 || sum.Quarantined != 0 {
		t.Errorf("%+v", sum)
	}
	kept, more := 0, 0
	for _, it := range w.items() {
		if it.Sample != nil {
			kept++
		} else {
			more += it.Count
		}
	}
	if kept != 3 || more != 7 {
		t.Errorf("%d kept, %d counted", kept, more)
	}
}

// widened is a table that takes a temperature in "warm".
func widened(t *testing.T) *mapping.Mapper {
	t.Helper()
	dir := fstest.MapFS{}
	err := fs.WalkDir(mapping.Builtin(), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := fs.ReadFile(mapping.Builtin(), name)
		dir[name] = &fstest.MapFile{Data: []byte(strings.Replace(string(b), "{as: [Cel, degC",
			"{as: [Cel, warm, degC", 1))}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	m, err := mapping.New(dir, mapping.Options{Key: testKey})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// TestRetryOfComponent: a retry with a better table completes the Observation,
// unless it has been restated since.
func TestRetryOfComponent(t *testing.T) {
	who := &access.Principal{Operator: "uid:0", Grant: access.All()}
	named := func(more string) string {
		return `{"data":{"workouts":[{"id":"W1","name":"Rowing","start":"2026-03-01 10:00:00 +0100","end":"2026-03-01 10:41:00 +0100"` + more + `}]}}`
	}
	for name, c := range map[string]struct {
		odd, then string // a payload, and a later one
		holds     bool
	}{
		"part of the identity": {rowing(entry("HKWeatherTemperature", "18 warm")), "", true},
		"as it was":            {named(`,"temperature":{"qty":18,"units":"warm"}`), "", true},
		"restated":             {named(`,"temperature":{"qty":18,"units":"warm"}`), named(`,"duration":2000`), false},
	} {
		w := newWorld(t)
		w.must("apple", "auto", c.odd)
		if sum, err := w.p.Retry(t.Context(), audit.Caller{Principal: who, RequestID: "r"}); err != nil ||
			sum.Created+sum.Updated != 0 ||
			len(w.items()) != 1 {
			t.Errorf("%s: before: %+v %v", name, sum, err)
		}
		if c.then != "" {
			w.must("apple", "auto", c.then)
		}
		w.p.Mapper = widened(t)
		if _, err := w.p.Retry(t.Context(), audit.Caller{Principal: who, RequestID: "r"}); err != nil {
			t.Fatal(err)
		}
		if n := len(w.items()); n != 0 {
			t.Errorf("%s: %d items stay", name, n)
		}
		with, without := 0, 0
		for _, o := range w.all("Observation") {
			switch body := string(o.JSON); {
			case strings.Contains(body, "entered-in-error"):
			case strings.Contains(body, `"value":18,`):
				with++
			default:
				without++
			}
		}
		if (with == 1) != c.holds || with+without != 1 {
			t.Errorf("%s: %d Observations with the temperature, %d without", name, with, without)
		}
	}
}

// TestNotMeasured: a zero that means so is no Observation and no quarantine.
func TestNotMeasured(t *testing.T) {
	w := newWorld(t)
	sum := w.must("apple", "export.xml",
		export(record("HKQuantityTypeIdentifierHeartRate", "count/min", "0", "2026-10-05 07:00:00 +0200", "1"),
			record("HKQuantityTypeIdentifierStepCount", "count", "0", "2026-10-05 07:00:00 +0200", "1")))
	if sum.Created != 1 || sum.Quarantined != 0 || sum.ByMetric["HKQuantityTypeIdentifierHeartRate"].Dropped != 1 ||
		len(w.items()) != 0 {
		t.Errorf("%+v", sum)
	}
	if got := w.only(); !strings.Contains(got, `"value":0,"unit":"steps"`) {
		t.Errorf("%s", got)
	}
}

// TestNights: what Health Auto Export makes of nights without stages, and of
// an absurd time in bed.
func TestNights(t *testing.T) {
	w := newWorld(t)
	row := func(day int, members string) string {
		return fmt.Sprintf(`{"date":"2026-03-%02d 00:00:00 +0100",%s,"sleepStart":"2026-03-%02d 00:20:00 +0100","sleepEnd":"2026-03-%02d 06:50:00 +0100","source":"Band"}`, day, members, day, day)
	}
	sum := w.must("apple", "hae.json", `{"data":{"metrics":[{"name":"sleep_analysis","units":"hr","data":[`+
		strings.Join([]string{
			row(3, `"asleep":6.2,"inBed":400123.5`),
			row(4, `"asleep":5,"totalSleep":5,"deep":0,"rem":0,"core":0,"inBed":0,"awake":0.25`),
			row(5, `"asleep":0,"deep":0,"rem":0,"core":0,"awake":0,"inBed":400123.5`),
			row(6, `"deep":1,"rem":0,"core":4.5,"awake":0`),
		}, ",")+`]}]}}`)
	if sum.Created != 3 || sum.Quarantined != 1 || sum.LeftOut != 1+4+5+0 {
		t.Errorf("%+v", sum)
	}
	for _, o := range w.all("Observation") {
		body := string(o.JSON)
		switch {
		case strings.Contains(body, "2026-03-03T"):
			if !strings.Contains(body, `"value":372,`) || strings.Contains(body, `"component"`) {
				t.Errorf("%s", body)
			}
		case strings.Contains(body, "2026-03-04T"):
			if !strings.Contains(body, `"valueQuantity":{"value":300,`) ||
				strings.Count(body, `"valueQuantity"`) != 2 || !strings.Contains(body, `"value":15,`) {
				t.Errorf("%s", body)
			}
		case strings.Contains(body, "2026-03-06T"):
			if !strings.Contains(body, `"valueQuantity":{"value":330,`) || strings.Count(body, `"value":0,`) != 2 {
				t.Errorf("%s", body)
			}
		default:
			t.Errorf("%s", body)
		}
	}
}
