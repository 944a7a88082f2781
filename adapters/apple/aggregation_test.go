package apple

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"pulsegate/adapters"
	"pulsegate/adapters/adaptertest"
	"pulsegate/mapping/sample"
)

func delivered(t *testing.T, body string, received time.Time, delivery map[string]string) *adaptertest.Recorder {
	t.Helper()
	r := adaptertest.NewRecorder()
	in := adapters.Input{Format: formatHAE, Body: strings.NewReader(body), Received: received, Delivery: delivery}
	if err := New().Decode(t.Context(), in, r); err != nil {
		t.Fatal(err)
	}
	return r
}

func metricOf(name, units string, rows ...string) string {
	return fmt.Sprintf(`{"name":%q,"units":%q,"data":[%s]}`, name, units, strings.Join(rows, ","))
}

func stepsAt(at, source string) string {
	return fmt.Sprintf(`{"date":"%s +0100","qty":14,"source":%q}`, at, source)
}

func payloadOf(metrics ...string) string {
	return `{"data":{"metrics":[` + strings.Join(metrics, ",") + `]}}`
}

func describe(s *sample.Sample) string {
	out := s.Metric + " "
	switch {
	case !s.Day.IsZero():
		out += fmt.Sprintf("day %d", s.Day.Day)
	case s.End.IsZero():
		out += "at " + s.Start.Format("02 15:04")
	default:
		out += s.Start.Format("02 15:04") + " to " + s.End.Format("02 15:04")
	}
	if s.Status == sample.Preliminary {
		out += " preliminary"
	}
	return out
}

// TestMidnightRows checks that a row at midnight is a daily value only if the
// aggregation header or other rows of the payload say so.
func TestMidnightRows(t *testing.T) {
	single := metricOf("step_count", "count", stepsAt("2026-03-02 00:00:00", "Ring"))
	later := time.Date(2026, 3, 9, 12, 0, 0, 0, time.UTC)
	for name, c := range map[string]struct {
		body        string
		aggregation string
		received    time.Time
		want        string
	}{
		"single row": {payloadOf(single), "", later, "step_count at 02 00:00"},
		"single midnight, two sources": {payloadOf(metricOf("step_count", "count",
			stepsAt("2026-03-02 00:00:00", "Ring"), stepsAt("2026-03-02 00:00:00", "Phone"))), "", later,
			"step_count at 02 00:00, step_count at 02 00:00"},
		"header says days": {payloadOf(single), "Days", later, "step_count day 2"},
		"header says day, today": {payloadOf(single), "day", time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC),
			"step_count day 2 preliminary"},
		"day already begun east of UTC": {payloadOf(single), "day", time.Date(2026, 3, 1, 23, 30, 0, 0, time.UTC),
			"step_count day 2 preliminary"},
		"header says hours": {payloadOf(single), "Hours", later, "step_count 02 00:00 to 02 01:00"},
		"hour in progress": {payloadOf(single), "hours", time.Date(2026, 3, 1, 23, 30, 0, 0, time.UTC),
			"step_count 02 00:00 to 02 01:00 preliminary"},
		"header says hourly":  {payloadOf(single), "1-Hour", later, "step_count 02 00:00 to 02 01:00"},
		"header says daily":   {payloadOf(single), "DAILY", later, "step_count day 2"},
		"header says minutes": {payloadOf(single), "Minutes", later, "step_count 02 00:00 to 02 00:01"},
		"header says weeks":   {payloadOf(single), "Weeks", later, "step_count 02 00:00 to 09 00:00"},
		"header says none":    {payloadOf(single), "None", later, "step_count at 02 00:00"},
		"unknown header":      {payloadOf(single), "fortnights", later, "step_count at 02 00:00"},
		"two days": {payloadOf(metricOf("step_count", "count",
			stepsAt("2026-03-02 00:00:00", "Ring"), stepsAt("2026-03-03 00:00:00", "Ring"))), "", later,
			"step_count day 2, step_count day 3"},
		"two midnights, header says hours": {payloadOf(metricOf("step_count", "count",
			stepsAt("2026-03-02 00:00:00", "Ring"), stepsAt("2026-03-03 00:00:00", "Ring"))), "Hours", later,
			"step_count 02 00:00 to 02 01:00, step_count 03 00:00 to 03 01:00"},
		"hours": {payloadOf(metricOf("step_count", "count",
			stepsAt("2026-03-02 00:00:00", "Ring"), stepsAt("2026-03-02 01:00:00", "Ring"))), "", later,
			"step_count at 02 00:00, step_count at 02 01:00"},
		"another metric has days": {payloadOf(single,
			metricOf("active_energy", "kcal", stepsAt("2026-03-02 00:00:00", "Ring"),
				stepsAt("2026-03-03 00:00:00", "Ring"))), "", later,
			"active_energy day 2, active_energy day 3, step_count day 2"},
		"others have days and hours": {payloadOf(single,
			metricOf("flights_climbed", "count", stepsAt("2026-03-02 05:00:00", "Ring")),
			metricOf("active_energy", "kcal", stepsAt("2026-03-02 00:00:00", "Ring"),
				stepsAt("2026-03-03 00:00:00", "Ring"))), "", later,
			"flights_climbed at 02 05:00, active_energy day 2, active_energy day 3, step_count at 02 00:00"},
	} {
		var got []string
		for _, s := range delivered(t, c.body, c.received,
			map[string]string{headerAggregation: c.aggregation}).Samples {
			got = append(got, describe(s))
		}
		if strings.Join(got, ", ") != c.want {
			t.Errorf("%s: %s, want %s", name, strings.Join(got, ", "), c.want)
		}
	}
}

// TestMeanHeartRate checks that a mean of heart rates has its own metric.
func TestMeanHeartRate(t *testing.T) {
	row := func(low, avg, high int) string {
		return payloadOf(metricOf("heart_rate", "count/min",
			fmt.Sprintf(`{"date":"2026-03-02 07:00:00 +0100","Min":%d,"Avg":%d,"Max":%d,"source":"Ring"}`, low, avg,
				high)))
	}
	later := time.Date(2026, 3, 9, 12, 0, 0, 0, time.UTC)
	for _, c := range []struct{ body, aggregation, metric, method string }{
		{row(60, 60, 60), "", "heart_rate", ""}, {row(51, 55, 61), "", "heart_rate.average", "average"},
		{row(60, 60, 60), "Hours", "heart_rate.average", "average"},
		{row(60, 60, 60), "Days", "heart_rate.average", "average"},
		{row(60, 60, 60), "None", "heart_rate", ""}, {row(60, 60, 60), "Seconds", "heart_rate", ""},
		{payloadOf(metricOf("blood_oxygen_saturation", "%", `{"date":"2026-03-02 07:00:00 +0100","qty":96.5}`)),
			"Hours", "blood_oxygen_saturation", "average"},
		{payloadOf(metricOf("blood_oxygen_saturation", "%", `{"date":"2026-03-02 07:00:00 +0100","qty":96.5}`)), "",
			"blood_oxygen_saturation", ""},
		{payloadOf(metricOf("step_count", "count", stepsAt("2026-03-02 07:00:00", "Ring"))), "Hours", "step_count", ""},
	} {
		s := delivered(t, c.body, later, map[string]string{headerAggregation: c.aggregation}).Samples
		if len(s) != 1 || s[0].Metric != c.metric || s[0].Method != c.method {
			t.Errorf("%s %s: %+v", c.aggregation, c.metric, s)
		}
	}
}

// TestFacts checks that only the headers that a format names reach the adapter.
func TestFacts(t *testing.T) {
	sent := map[string]string{"automation-aggregation": "Hours", "session-id": "S1", "authorization": "Bearer x",
		"automation-name": strings.Repeat("n", 300)}
	got := adapters.Facts(New(), func(name string) string { return sent[name] })
	if len(got) != 2 || got["automation-aggregation"] != "Hours" || got["session-id"] != "S1" {
		t.Errorf("got %v", got)
	}
	if got := adapters.Facts(New(), func(string) string { return "" }); got != nil {
		t.Errorf("got %v, want nil", got)
	}
}

// TestSummaryOfExportDay checks that the ActivitySummary of the day of the export is
// preliminary.
func TestSummaryOfExportDay(t *testing.T) {
	doc := `<HealthData><ExportDate value="2026-03-02 08:00:00 +0100"/>` +
		`<ActivitySummary dateComponents="2026-03-01" activeEnergyBurned="410" activeEnergyBurnedUnit="kcal"/>` +
		`<ActivitySummary dateComponents="2026-03-02" activeEnergyBurned="90" appleExerciseTime="soon" activeEnergyBurnedUnit="kcal"/></HealthData>`
	r := adaptertest.NewRecorder()
	if err := New().Decode(t.Context(), adapters.Input{Format: formatXML, Body: strings.NewReader(doc),
		Received: time.Date(2026, 3, 9, 0, 0, 0, 0, time.UTC)}, r); err != nil {
		t.Fatal(err)
	}
	if len(r.Samples) != 2 || describe(r.Samples[0]) != "ActivitySummary day 1" ||
		describe(r.Samples[1]) != "ActivitySummary day 2 preliminary" {
		t.Fatalf("samples: %+v", r.Samples)
	}
	if len(r.Rejects) != 1 || r.Rejects[0].Component != "appleExerciseTime" {
		t.Errorf("rejects: %+v", r.Rejects)
	}
}

// TestMalformedComponents checks that a malformed member of an export.xml affects
// nothing else, and that a workout without an end lasts as long as its duration.
func TestMalformedComponents(t *testing.T) {
	doc := `<HealthData><Workout workoutActivityType="HKWorkoutActivityTypeRowing" duration="40" durationUnit="min" totalDistance="far" sourceName="Ring" startDate="2026-03-01 10:00:00 +0100">` +
		`<MetadataEntry key="HKAverageMETs" value="brisk"/><WorkoutStatistics type="HKQuantityTypeIdentifierHeartRate" average="131" minimum="-" unit="count/min"/></Workout></HealthData>`
	r := adaptertest.NewRecorder()
	if err := New().Decode(t.Context(), adapters.Input{Format: formatXML, Body: strings.NewReader(doc)},
		r); err != nil {
		t.Fatal(err)
	}
	var rejected []string
	for _, x := range r.Rejects {
		rejected = append(rejected, x.Metric+"/"+x.Component+" "+x.Reason)
	}
	if got := strings.Join(rejected, ", "); got != "HKWorkoutTypeIdentifier/averageMETs bad-value, HKWorkoutTypeIdentifier/heartRateMinimum bad-value, HKWorkoutTypeIdentifier/distance bad-value" {
		t.Errorf("rejected: %s", got)
	}
	if len(r.Samples) != 1 || len(r.Samples[0].Components) != 2 ||
		r.Samples[0].End.Sub(r.Samples[0].Start) != 40*time.Minute {
		t.Errorf("samples: %+v", r.Samples)
	}
}
