package ingest

import (
	"fmt"
	"strings"
	"testing"

	"pulsegate/fhir/access"
	"pulsegate/fhir/search"
	"pulsegate/fhir/store"
)

// TestFindBloodPressureByComponent checks that a blood pressure is found by the
// value of one of its components, stored as a series or as a document.
func TestFindBloodPressureByComponent(t *testing.T) {
	w := newWorld(t)
	var rows []string
	for i := range 40 {
		rows = append(rows, fmt.Sprintf(
			`{"date":"2026-03-01 10:%02d:00 +0100","systolic":%d,"diastolic":%d,"source":"Cuff"}`, i, 110+i, 120-i))
	}
	rows = append(rows, `{"date":"2026-03-01 11:00:00 +0100","systolic":145,"diastolic":9000,"source":"Cuff"}`)
	if sum := w.must("apple", "hae.json",
		`{"data":{"metrics":[{"name":"blood_pressure","units":"mmHg","data":[`+strings.Join(rows, ",")+
			`]}]}}`); sum.Created != 41 || sum.LeftOut != 1 {
		t.Fatalf("%+v", sum)
	}
	for query, want := range map[string]int{
		// 141 to 149, and the incomplete one
		"component-code-value-quantity=http://loinc.org|8480-6$gt140": 10,
		// 111 to 120
		"component-code-value-quantity=http://loinc.org|8462-4$gt110|http://unitsofmeasure.org|mm[Hg]": 10,
		// 146 to 149
		"component-code-value-quantity=http://loinc.org|8480-6$gt140&component-code-value-quantity=8462-4$lt85": 4,
		"combo-code-value-quantity=http://loinc.org|8480-6$140&patient=p1":                                      1,
		"code-value-quantity=http://loinc.org|8480-6$gt140":                                                     0,
		// 110, 111; 81
		"component-code-value-quantity=8480-6$lt112,8462-4$lt82": 3,
		"component-code-value-quantity:missing=true":             0,
		"patient=p1&code=http://loinc.org|85354-9&component-code-value-quantity=http://loinc.org|8480-6$gt140&date=ge2026-03-01T10:35:00Z":        0,
		"patient=p1&code=http://loinc.org|85354-9&component-code-value-quantity=http://loinc.org|8480-6$gt140&date=ge2026-03-01T09:35:00Z":        6,
		"patient=p1&code=http://loinc.org|85354-9&component-code-value-quantity=http://loinc.org|8480-6$gt140&date=ge2026-03-01T10:35:00%2B01:00": 6,
	} {
		pairs, err := search.Pairs(query)
		if err != nil {
			t.Fatal(err)
		}
		q, err := search.Parse("Observation", pairs, search.ParseOptions{})
		if err != nil {
			t.Errorf("%s: %v", query, err)
			continue
		}
		n := 0
		if err := w.pipeline.Store.Find(t.Context(), store.Find{Query: q, Filter: access.All().Filter(access.Search)},
			func(*store.Found) bool { n++; return true }); err != nil {
			t.Fatal(err)
		}
		if n != want {
			t.Errorf("%s: %d, want %d", query, n, want)
		}
	}
}
