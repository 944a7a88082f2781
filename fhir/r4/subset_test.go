package r4_test

import (
	"encoding/json"
	"testing"

	"pulsegate/fhir/r4"
	"pulsegate/fhir/search"
)

func TestSubset(t *testing.T) {
	const tag = `{"system":"http://terminology.hl7.org/CodeSystem/v3-ObservationValue","code":"SUBSETTED"}`
	const stored = `{"resourceType":"Observation","id":"o1","meta":{"versionId":"1","tag":[{"code":"x"}]},"text":{"status":"generated","div":"<div>a</div>"},` +
		`"status":"final","code":{"text":"c"},"valueQuantity":{"value":62.00},"note":[{"text":"n"}]}`
	const head = `{"resourceType":"Observation","id":"o1","meta":{"versionId":"1","tag":[` + tag + `,{"code":"x"}]},`
	for _, c := range []struct {
		mode     search.Summary
		elements []string
		want     string
	}{
		{search.SummaryNone, nil, stored},
		{search.SummaryTrue, nil, head + `"status":"final","code":{"text":"c"},"valueQuantity":{"value":62.00}}`},
		{search.SummaryText, nil, head +
			`"text":{"status":"generated","div":"<div>a</div>"},"status":"final","code":{"text":"c"}}`},
		{search.SummaryData, nil, head +
			`"status":"final","code":{"text":"c"},"valueQuantity":{"value":62.00},"note":[{"text":"n"}]}`},
		{search.SummaryNone, []string{"note"}, head + `"status":"final","code":{"text":"c"},"note":[{"text":"n"}]}`},
		{search.SummaryNone, []string{"value"},
			head + `"status":"final","code":{"text":"c"},"valueQuantity":{"value":62.00}}`},
	} {
		got, err := r4.Subset("Observation", []byte(stored), c.mode, c.elements)
		if err != nil || string(got) != c.want || !json.Valid(got) {
			t.Errorf("mode %d %v: %v\n got %s\nwant %s", c.mode, c.elements, err, got, c.want)
		}
	}
	got, err := r4.Subset("Patient", []byte(
		`{"resourceType":"Patient","id":"p","meta":{},"_birthDate":{"id":"x"},"photo":[{"url":"u"}]}`),
		search.SummaryTrue, nil)
	if want := `{"resourceType":"Patient","id":"p","meta":{"tag":[` + tag +
		`]},"_birthDate":{"id":"x"}}`; err != nil || string(got) != want {
		t.Errorf("got %s %v, want %s", got, err, want)
	}
}
