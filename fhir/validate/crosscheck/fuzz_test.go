package crosscheck

import (
	"encoding/json"
	"testing"

	"pulsegate/fhir/definitions"
	"pulsegate/fhir/definitions/sample"
)

// FuzzAgainstGoogle looks for bodies that the tables accept and google/fhir
// refuses.
func FuzzAgainstGoogle(f *testing.F) {
	set := definitions.R4()
	for _, name := range set.Resources() {
		f.Add(name, []byte(sample.Minimal(set.Structure(name), "", "")))
	}
	for _, v := range mutations {
		b, err := json.Marshal(v)
		if err != nil {
			f.Fatal(err)
		}
		s := string(b)
		f.Add("Observation", []byte(`{"resourceType":"Observation","status":"final","code":{"text":`+s+
			`},"valueQuantity":{"value":`+
			s+`},"effectiveDateTime":`+s+`,"subject":{"reference":`+s+`},"_status":`+s+`,"extension":[{"url":`+s+
			`,"valueUri":`+s+`}]}`))
	}
	f.Fuzz(func(t *testing.T, typ string, body []byte) {
		if set.Resource([]byte(typ)) == nil || verdict(typ, body) != nil {
			return
		}
		if err := google().Check(body); err != nil && googleFault(err) == "" {
			t.Errorf("google/fhir refuses what the tables accept: %v", err)
		}
	})
}
