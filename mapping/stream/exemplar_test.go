package stream

import (
	"encoding/json"
	"testing"
	"time"

	"pgregory.net/rapid"

	"pulsegate/fhir/series"
	"pulsegate/mapping"
	"pulsegate/mapping/internal/mappingtest"
	"pulsegate/mapping/sample"
)

// checkRebuilt checks that the sample that is put together of the stored Exemplar and the
// row that an Observation stands for has the same Observation.
func checkRebuilt(t *rapid.T, m *mapping.Mapper, st *Stream, row *series.Sample, res *mapping.Result,
	zone *time.Location) {
	t.Helper()
	raw, err := json.Marshal(st.Exemplar)
	if err != nil {
		t.Fatal(err)
	}
	var x Exemplar
	if err := json.Unmarshal(raw, &x); err != nil {
		t.Fatal(err)
	}
	read, shape, ok := Row(res.JSON)
	want := *row
	want.Commit = series.Commit{}
	for i := st.Template.Values; i < series.MaxValues; i++ { // left by an earlier sample
		want.Values[i] = series.Decimal{}
	}
	if !ok || read != want || shape != x.Shape {
		t.Fatalf("read %v %+v of %s, want %+v", ok, read, res.JSON, want)
	}
	s, ok := x.Rebuild(&read)
	if !ok {
		t.Fatalf("no sample of %s in %s", res.JSON, raw)
	}
	again, err := m.Map(nil, st.Template.Vendor, &s, st.Template.Patient, zone)
	if err != nil || string(again.JSON) != string(res.JSON) {
		t.Fatalf("mapped again: %v\n%s\nwant\n%s\nby %+v", err, again.JSON, res.JSON, s)
	}
}

// TestRebuild checks which numbers and times come back.
func TestRebuild(t *testing.T) {
	m := mappingtest.Mapper(t)
	s := mappingtest.HeartRate("62.0")
	s.Metric, s.Value = "HKQuantityTypeIdentifierOxygenSaturation", mappingtest.Number("0.970", "%")
	s.Device.Battery = "80"
	streams := New(m, "apple", "p1", nil)
	var row series.Sample
	st := streams.Place(s, &row)
	if st == nil {
		t.Fatal("not placed")
	}
	got, ok := st.Exemplar.Rebuild(&row)
	if !ok || got.Value != s.Value || !got.Start.Equal(s.Start) || got.Device.Battery != "" ||
		got.Device.Hardware != s.Device.Hardware || got.Channel != s.Channel || got.Zone != sample.ZoneInstant {
		t.Errorf("%v %+v", ok, got)
	}
	broken := *st.Exemplar
	broken.conversions, broken.Numbers = nil, []Number{{Component: 9}}
	if _, ok := broken.Rebuild(&row); ok {
		t.Error("a number of a component that does not exist was accepted")
	}
	for _, text := range []string{"", "{}", `{"resourceType":"Observation","id":"1"}`,
		`{"id":"1","meta":{},"identifier":[{"system":"","value":"2"}]}`,
		`{"id":"1","meta":{},"identifier":[{"system":"","value":"1"}],"effectiveDateTime":"2026-01-01"`} {
		if _, _, ok := Row([]byte(text)); ok {
			t.Errorf("%s has a row", text)
		}
	}
}
