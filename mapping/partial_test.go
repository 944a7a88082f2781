package mapping_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"pulsegate/fhir/series"
	"pulsegate/mapping"
	"pulsegate/mapping/internal/mappingtest"
	"pulsegate/mapping/sample"
	"pulsegate/mapping/stream"
	"pulsegate/mapping/table"
)

func workout(parts ...sample.Component) *sample.Sample {
	at := time.Date(2026, 10, 4, 9, 0, 0, 0, time.FixedZone("", 7200))
	return &sample.Sample{Metric: "HKWorkoutTypeIdentifier", Channel: "export.xml", Start: at, End: at.Add(time.Hour),
		Value:  sample.Value{Kind: sample.Code, Text: "HKWorkoutActivityTypeRowing"},
		Source: sample.Source{Name: "Wrist"}, Components: parts}
}

// placed reports whether s becomes a row of a series.
func placed(m *mapping.Mapper, vendor string, s *sample.Sample) bool {
	var row series.Sample
	st := stream.New(m, vendor, "p1", nil).Place(s, &row)
	return st != nil
}

// TestInvalidComponent checks that an invalid component is left out with its
// name and reason, and that the rest becomes an Observation.
func TestInvalidComponent(t *testing.T) {
	m := mappingtest.Mapper(t)
	for name, c := range map[string]struct {
		sample   *sample.Sample
		left     []mapping.LeftOut
		contains []string
		absent   []string
	}{
		"unit of another kind": {workout(sample.Component{Name: "weatherTemperature",
			Value: mappingtest.Number("61", "degrees")},
			sample.Component{Name: "distance", Value: mappingtest.Number("4.2", "km")}),
			[]mapping.LeftOut{{Component: "weatherTemperature", Reason: sample.ReasonBadUnit}},
			[]string{`"value":4200,`},
			[]string{"weatherTemperature"}},
		"outside the range": {workout(sample.Component{Name: "duration", Value: mappingtest.Number("50", "min")},
			sample.Component{Name: "heartRateMaximum", Value: mappingtest.Number("2600", "count/min")}),
			[]mapping.LeftOut{{Component: "heartRateMaximum", Reason: sample.ReasonBadValue}}, []string{`"value":50,`},
			[]string{"2600"}},
		"no number": {workout(sample.Component{Name: "steps", Value: mappingtest.Number("many", "count")},
			sample.Component{Name: "duration", Value: mappingtest.Number("50", "min")}),
			[]mapping.LeftOut{{Component: "steps", Reason: sample.ReasonBadValue}}, []string{`"value":50,`},
			[]string{"many"}},
		"zero placeholder": {workout(sample.Component{Name: "heartRateAverage",
			Value: mappingtest.Number("0.0", "bpm")},
			sample.Component{Name: "steps", Value: mappingtest.Number("0", "count")}),
			[]mapping.LeftOut{{Component: "heartRateAverage", Reason: sample.DropPlaceholder}},
			[]string{`"value":0,"unit":"steps"`}, []string{"55425-3"}},
		"all of them": {workout(sample.Component{Name: "averageMETs", Value: mappingtest.Number("900", "MET")},
			sample.Component{Name: "indoor", Value: sample.Value{Kind: sample.Code}}),
			[]mapping.LeftOut{{Component: "averageMETs", Reason: sample.ReasonBadValue},
				{Component: "indoor", Reason: sample.ReasonMissing}}, []string{"Rowing"}, []string{`"component"`}},
		"none": {workout(sample.Component{Name: "averageMETs", Value: mappingtest.Number("6.7", "kcal/hr-kg")}), nil,
			[]string{`"value":6.7,"unit":"MET"`}, nil},
	} {
		res, err := m.Map(nil, "apple", c.sample, "p1", nil)
		if err != nil || len(res.Left) != len(c.left) {
			t.Errorf("%s: %v, left out %v, want %v", name, err, res.Left, c.left)
			continue
		}
		for i, want := range c.left {
			if got := res.Left[i]; got.Component != want.Component || got.Reason != want.Reason || got.Rule == "" {
				t.Errorf("%s: left out %+v, want %+v", name, got, want)
			}
		}
		for _, text := range c.contains {
			if !strings.Contains(string(res.JSON), text) {
				t.Errorf("%s: no %s in %s", name, text, res.JSON)
			}
		}
		for _, text := range c.absent {
			if strings.Contains(string(res.JSON), text) {
				t.Errorf("%s: %s in %s", name, text, res.JSON)
			}
		}
		if res.Kept != nil {
			again, err := m.Map(nil, "apple", res.Kept, "p1", nil)
			if err != nil || again.Left != nil || again.ID != res.ID || string(again.JSON) != string(res.JSON) {
				t.Errorf("%s: the kept sample maps to %v %s", name, err, again.JSON)
			}
		}
	}
}

// TestEveryComponentCanBeLeftOut gives each numeric component of every row an
// implausible value and checks that the other components stay.
func TestEveryComponentCanBeLeftOut(t *testing.T) {
	m, tables := mappingtest.Mapper(t), mappingtest.Table(t)
	mappingtest.EachRow(tables, func(v *table.Vendor, r *table.Row) {
		for k := range r.Components {
			name := r.Components[k].Name
			s := mappingtest.Example(t, tables, v, r, false)
			value := &s.Components[k].Value
			if r.Shape == table.ShapeDevice || value.Kind != sample.Number {
				continue
			}
			value.Num = "98765432100"
			res, err := m.Map(nil, v.Vendor, s, "p1", nil)
			if s.Value.Kind == sample.None && len(s.Components) == 1 {
				var re *mapping.RejectError
				if r.Shape != table.ShapeEvent && (!errors.As(err, &re) || re.Reason != sample.ReasonBadValue) {
					t.Errorf("%s/%s: %v", r.Metric, name, err)
				}
				continue
			}
			if err != nil || len(res.Left) != 1 || res.Left[0].Component != name ||
				strings.Contains(string(res.JSON), "987654321") {
				t.Errorf("%s/%s: %v %v %s", r.Metric, name, err, res.Left, res.JSON)
			}
			checkVitalSigns(t, res.JSON)
			if placed(m, v.Vendor, s) {
				t.Errorf("%s/%s: the sample was placed in a series", r.Metric, name)
			}
		}
	})
}

// TestZeroPlaceholder checks that a zero means that nothing was measured only
// where the table says so.
func TestZeroPlaceholder(t *testing.T) {
	m := mappingtest.Mapper(t)
	for _, c := range []struct{ vendor, metric, unit, reason string }{
		{"apple", "HKQuantityTypeIdentifierHeartRate", "count/min", sample.DropPlaceholder},
		{"apple", "heart_rate", "bpm", sample.DropPlaceholder},
		{"apple", "blood_oxygen_saturation", "%", sample.DropPlaceholder},
		{"fitbit", "daily-resting-heart-rate", "bpm", sample.DropPlaceholder},
		{"oura", "heartrate", "bpm", sample.DropPlaceholder},
		{"oura", "sleep.average_breath", "breaths/min", sample.DropPlaceholder},
		{"apple", "step_count", "count", ""}, {"fitbit", "steps/day", "count", ""},
		{"oura", "daily_activity.steps", "count", ""},
		{"apple", "weight_body_mass", "kg", sample.ReasonBadValue},
	} {
		for _, zero := range []string{"0", "0.00", "-0"} {
			s := &sample.Sample{Metric: c.metric, Channel: "x", Start: time.Date(2026, 10, 4, 9, 0, 0, 0, time.UTC),
				Value: mappingtest.Number(zero, c.unit)}
			_, err := m.Map(nil, c.vendor, s, "p1", nil)
			var re *mapping.RejectError
			if c.reason == "" && err != nil || c.reason != "" && (!errors.As(err, &re) || re.Reason != c.reason) {
				t.Errorf("%s %s: %v, want %s", c.metric, zero, err, c.reason)
			}
			if c.reason != "" && placed(m, c.vendor, s) {
				t.Errorf("%s %s: the sample was placed in a series", c.metric, zero)
			}
		}
	}
}

// TestImplausibleValue checks that values that no living person has are rejected,
// unless the channel is known to use another scale.
func TestImplausibleValue(t *testing.T) {
	m := mappingtest.Mapper(t)
	for _, c := range []struct {
		vendor, metric, channel, num, unit string
		ok                                 bool
	}{
		{"apple", "blood_oxygen_saturation", "hae", "0.97", "%", false},
		{"apple", "blood_oxygen_saturation", "hae", "97", "%", true},
		{"apple", "HKQuantityTypeIdentifierOxygenSaturation", "export.xml", "0.97", "%", true},
		{"apple", "HKQuantityTypeIdentifierOxygenSaturation", "export.xml", "97", "%", false},
		{"oura", "daily_spo2.spo2_percentage", "v2", "0.97", "%", false},
		{"fitbit", "oxygen-saturation", "v4", "0.97", "%", false},
		{"apple", "body_fat_percentage", "hae", "0.22", "%", false},
		{"apple", "heart_rate", "hae", "3", "bpm", false},
		{"fitbit", "core-body-temperature", "v4", "98.6", "Cel", false},
		{"apple", "HKQuantityTypeIdentifierBodyTemperature", "export.xml", "98.6", "degF", true},
		{"apple", "night", "hae", "808742", "hr", false},
	} {
		s := &sample.Sample{Metric: c.metric, Channel: c.channel,
			Start: time.Date(2026, 10, 4, 9, 0, 0, 0, time.UTC), Value: mappingtest.Number(c.num, c.unit)}
		if _, err := m.Map(nil, c.vendor, s, "p1", nil); (err == nil) != c.ok {
			t.Errorf("%s %s %s by %s: %v", c.metric, c.num, c.unit, c.channel, err)
		}
	}
}

// TestImplausiblePoints checks that implausible points of a series become E.
func TestImplausiblePoints(t *testing.T) {
	m := mappingtest.Mapper(t)
	at := time.Date(2026, 10, 4, 1, 0, 0, 0, time.UTC)
	for data, want := range map[string]string{"51 0 E 52 4000": "51 E E 52 E", "51 52": "51 52", "0 0 0": ""} {
		s := &sample.Sample{Metric: "sleep.heart_rate", Channel: "v2", Start: at, End: at.Add(25 * time.Minute),
			Value: sample.Value{Kind: sample.Series,
				Series: &sample.SeriesData{Period: 5 * time.Minute, Unit: "bpm", Data: data}}}
		res, err := m.Map(nil, "oura", s, "p1", nil)
		var re *mapping.RejectError
		switch {
		case want == "":
			if !errors.As(err, &re) || re.Reason != sample.ReasonBadValue {
				t.Errorf("%s: %v", data, err)
			}
		case err != nil || !strings.Contains(string(res.JSON), `"data":"`+want+`"`) ||
			(len(res.Left) == 1) != (data != want):
			t.Errorf("%s: %v %v %s", data, err, res.Left, res.JSON)
		case s.Value.Series.Data != data:
			t.Errorf("%s: the sample was changed", data)
		}
	}
}

// TestIncompleteBloodPressure checks that a missing component that the profile
// requires is written with a dataAbsentReason.
func TestIncompleteBloodPressure(t *testing.T) {
	m := mappingtest.Mapper(t)
	for name, parts := range map[string][]sample.Component{
		"implausible": {{Name: "systolic", Value: mappingtest.Number("122", "mmHg")},
			{Name: "diastolic", Value: mappingtest.Number("9000", "mmHg")}},
		"missing": {{Name: "systolic", Value: mappingtest.Number("122", "mmHg")}},
	} {
		s := &sample.Sample{Metric: "blood_pressure", Channel: "hae",
			Start: time.Date(2026, 10, 4, 1, 0, 0, 0, time.UTC), Components: parts}
		res, err := m.Map(nil, "apple", s, "p1", nil)
		if err != nil {
			t.Fatal(err)
		}
		var o struct {
			Component []struct {
				Code             concept
				ValueQuantity    *quantity
				DataAbsentReason json.RawMessage
			}
		}
		if err := json.Unmarshal(res.JSON, &o); err != nil {
			t.Fatal(err)
		}
		found := map[string]bool{}
		for _, c := range o.Component {
			if c.Code.has("8480-6") {
				found["systolic"] = c.ValueQuantity != nil && c.ValueQuantity.Value == "122"
			}
			if c.Code.has("8462-4") {
				found["diastolic"] = c.ValueQuantity == nil && c.DataAbsentReason != nil
			}
		}
		if !found["systolic"] || !found["diastolic"] {
			t.Errorf("%s: %s", name, res.JSON)
		}
	}
}

// TestMolarMass checks HealthKit's spellings of an amount of substance.
func TestMolarMass(t *testing.T) {
	m := mappingtest.Mapper(t)
	for unit, want := range map[string]string{
		"mmol<180.1558800000541>/L": "5.6", "mmol<180.15588000005408>/L": "5.6", "mmol<180.15588>/l": "5.6",
		"mmol<1.8015588e2>/L": "5.6",
		"mmol/L":              "5.6", "µmol<180.1558800000541>/L": "", "mmol<glucose>/L": "", "mmol<180.1558/L": "",
		"<180>mmol/L": "",
	} {
		for _, metric := range []string{"HKQuantityTypeIdentifierBloodGlucose", "blood_glucose"} {
			s := &sample.Sample{Metric: metric, Channel: "export.xml",
				Start: time.Date(2026, 10, 4, 7, 0, 0, 0, time.UTC), Value: mappingtest.Number("5.6", unit)}
			res, err := m.Map(nil, "apple", s, "p1", nil)
			if ok := strings.Contains(string(res.JSON), `"valueQuantity":{"value":`+want+`,"unit":"mmol/L"`) &&
				strings.Contains(string(res.JSON), "15074-8"); (err == nil && ok) != (want != "") {
				t.Errorf("%s in %s: %v %s", metric, unit, err, res.JSON)
			}
			if inSeries := placed(m, "apple", s); inSeries != (want != "") {
				t.Errorf("%s in %s: placed %v", metric, unit, inSeries)
			}
		}
	}
	s := &sample.Sample{Metric: "blood_glucose", Channel: "hae",
		Start: time.Date(2026, 10, 4, 7, 0, 0, 0, time.UTC), Value: mappingtest.Number("101", "mg/dL")}
	if res, err := m.Map(nil, "apple", s, "p1", nil); err != nil ||
		!strings.Contains(string(res.JSON), `"value":101,"unit":"mg/dL"`) {
		t.Errorf("mg/dL: %v %s", err, res.JSON)
	}
}

// TestClassification checks that the vendor's classification of an
// electrocardiogram is a CodeableConcept, with a coding if it is a listed code.
func TestClassification(t *testing.T) {
	m := mappingtest.Mapper(t)
	wave := sample.Value{Kind: sample.Series,
		Series: &sample.SeriesData{Period: 4 * time.Millisecond, Unit: "mV", Data: "1 2"}}
	text := func(kind sample.ValueType, s string) sample.Value { return sample.Value{Kind: kind, Text: s} }
	for _, c := range []struct {
		vendor, metric, component string
		value                     sample.Value
		want                      string
	}{
		{"apple", "HKDataTypeIdentifierElectrocardiogram", "classification", text(sample.Text, "Sinus Rhythm"),
			`"valueCodeableConcept":{"coding":[{"system":"https://pulsegate.dev/fhir/CodeSystem/apple","code":"Sinus Rhythm","display":"Sinus Rhythm"}],"text":"Sinus Rhythm"}`},
		{"apple", "HKDataTypeIdentifierElectrocardiogram", "classification", text(sample.Text, "Sinusrhythmus"),
			`"valueCodeableConcept":{"text":"Sinusrhythmus"}`},
		{"apple", "HKDataTypeIdentifierElectrocardiogram", "severity", text(sample.Text, "None"),
			`"valueCodeableConcept":{"text":"None"}`},
		{"fitbit", "electrocardiogram", "resultClassification", text(sample.Code, "ATRIAL_FIBRILLATION"),
			`"valueCodeableConcept":{"coding":[{"system":"https://pulsegate.dev/fhir/CodeSystem/google-health","code":"ATRIAL_FIBRILLATION"`},
	} {
		s := &sample.Sample{Metric: c.metric, Start: time.Date(2026, 10, 4, 7, 0, 0, 0, time.UTC), Value: wave,
			Components: []sample.Component{{Name: c.component, Value: c.value}}}
		res, err := m.Map(nil, c.vendor, s, "p1", nil)
		if err != nil || !strings.Contains(string(res.JSON), c.want) {
			t.Errorf("%s %s: %v %s", c.metric, c.value.Text, err, res.JSON)
		}
	}
}
