package push

import (
	"testing"

	"pulsegate/fhir"
)

// FuzzAnswer checks that what a target answers gives valid ids and codes only, and a bounded
// number of them.
func FuzzAnswer(f *testing.F) {
	const set = `{"resourceType":"Bundle","type":"searchset","total":1,"entry":[{"resource":{"resourceType":"Patient","id":"p1"}}]}`
	f.Add("https://ehr.example.org/fhir/Observation/o1/_history/1", []byte(set))
	f.Add("Observation/o1", []byte(`{"resourceType":"OperationOutcome","issue":[{"code":"invalid"},{"code":"Jane Doe"}]}`))
	f.Add("Observation/../o1", []byte(`{"resourceType":"Bundle","type":"searchset","total":-1,"entry":[{}]}`))
	f.Add("%zz/Observation/\x00", []byte(`{"resourceType":"Bundle","type":"searchset","entry":[{"search":{"mode":"outcome"}}]}`))
	f.Add("", []byte(nil))
	f.Fuzz(func(t *testing.T, location string, body []byte) {
		a := &answer{status: 200, location: location, body: body}
		if id := a.created(); id != "" && !fhir.ValidID(id) {
			t.Errorf("Location %q: id %q", location, id)
		}
		ids, ok := a.matches("Patient")
		if len(ids) > maxMatches || !ok && ids != nil {
			t.Errorf("%q: %d matches, %v", body, len(ids), ok)
		}
		for _, id := range ids {
			if !fhir.ValidID(id) {
				t.Errorf("%q: id %q", body, id)
			}
		}
		codes := a.codes()
		if len(codes) > maxCodes {
			t.Errorf("%q: %d codes", body, len(codes))
		}
		for _, code := range codes {
			for _, c := range code {
				if (c < 'a' || c > 'z') && c != '-' {
					t.Errorf("%q: code %q", body, code)
				}
			}
		}
	})
}
