package ingest

import (
	"reflect"
	"testing"
	"time"

	"pulsegate/mapping/sample"
)

// TestKeptSampleKeepsEverything checks that a kept sample is the sample that was
// delivered, with its offset and the precision of its numbers.
func TestKeptSampleKeepsEverything(t *testing.T) {
	want := &Kept{Format: "v2", Row: "https://example.org/ConceptMap/oura|1.0.0#sleep", Sample: sample.Sample{
		Metric: "sleep", Start: time.Date(2026, 10, 25, 0, 30, 0, 1000, time.FixedZone("", 7200)),
		Value: sample.Value{Kind: sample.Number, Num: "62.0", Unit: "count/min"}, VendorID: "x",
		Components: []sample.Component{{Name: "stages", Value: sample.Value{Kind: sample.Series,
			Series: &sample.SeriesData{Period: time.Minute, Data: "1 2 E"}}}}, Revision: 3}}
	raw, err := want.encode()
	if err != nil {
		t.Fatal(err)
	}
	got, err := decodeKept(raw)
	if err != nil {
		t.Fatal(err)
	}
	if !got.Sample.Start.Equal(want.Sample.Start) || got.Sample.Start.Format(time.RFC3339Nano) !=
		want.Sample.Start.Format(time.RFC3339Nano) {
		t.Errorf("start is %v, want %v", got.Sample.Start, want.Sample.Start)
	}
	got.Sample.Start = want.Sample.Start
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if _, err := decodeKept([]byte(`{"sample":1}`)); err == nil {
		t.Error("a broken value was accepted")
	}
}
