package search_test

import (
	"fmt"

	"pulsegate/fhir/search"
)

func ExampleParse() {
	pairs, err := search.Pairs("patient=Patient/p1&code=http://loinc.org|8867-4&date=ge2026-03-01&_count=50")
	if err != nil {
		fmt.Println(err)
		return
	}
	q, err := search.Parse("Observation", pairs, search.ParseOptions{})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("patient:", q.Patient, "count:", q.Count)
	v, err := search.Extract("Observation", []byte(`{"resourceType":"Observation","subject":{"reference":"Patient/p1"},
		"code":{"coding":[{"system":"http://loinc.org","code":"8867-4"}]},"effectiveDateTime":"2026-03-01T08:00:00Z"}`))
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("match:", search.Match(q, v))
	_, err = search.Parse("Observation", [][2]string{{"date", "yesterday"}}, search.ParseOptions{})
	fmt.Println(err)
	// Output:
	// patient: p1 count: 50
	// match: true
	// search.Parse: the value of date must be [prefix]YYYY, YYYY-MM, YYYY-MM-DD or YYYY-MM-DDThh:mm[:ss[.fff]][Z|±hh:mm]
}
