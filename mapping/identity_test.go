package mapping_test

import (
	"testing"

	"pulsegate/mapping/internal/mappingtest"
	"pulsegate/mapping/sample"
)

// TestSampleID checks that with KeyValue the id depends on the value and not on
// how it is written.
func TestSampleID(t *testing.T) {
	m := mappingtest.Mapper(t)
	ids := map[string]bool{}
	for _, num := range []string{"62", "62.0", "62.000", "+62", "62.", "6.2e1", "62.000000000000000000000000"} {
		for _, note := range []string{"", "x"} {
			s := mappingtest.HeartRate(num)
			s.Note = note
			r, err := m.Map(nil, "apple", s, "p1", nil)
			if err != nil {
				t.Fatal(err)
			}
			ids[r.ID] = true
		}
	}
	if len(ids) != 1 {
		t.Errorf("%d ids", len(ids))
	}
	for _, change := range []func(*sample.Sample){
		func(s *sample.Sample) { s.Value.Num = "62.0000000000000000000001" },
		func(s *sample.Sample) { s.Value.Num = "62.0000000000000000000002" },
		func(s *sample.Sample) {
			s.Components = []sample.Component{{Name: "motionContext",
				Value: sample.Value{Kind: sample.Code, Text: "1"}}}
		},
		func(s *sample.Sample) {
			s.Components = []sample.Component{{Name: "motionContext",
				Value: sample.Value{Kind: sample.Code, Text: "2"}}}
		},
		func(s *sample.Sample) {
			s.Components = []sample.Component{{Name: "min",
				Value: sample.Value{Kind: sample.Number, Num: "60", Unit: "count/min"}}}
		},
	} {
		s := mappingtest.HeartRate("62")
		change(s)
		r, err := m.Map(nil, "apple", s, "p1", nil)
		if err != nil || ids[r.ID] {
			t.Errorf("%+v: %v, or the id is not unique", s, err)
		}
		ids[r.ID] = true
	}
}
