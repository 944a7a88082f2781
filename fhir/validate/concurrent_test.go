package validate_test

import (
	"sync"
	"testing"

	"pulsegate/fhir/validate"
)

// TestConcurrentUse validates valid and invalid bodies with one Validator in many
// goroutines. Profiles are compiled on first use, Documents are reused.
func TestConcurrentUse(t *testing.T) {
	v := validate.New(validate.Options{})
	bodies := []bodyCase{
		{vital, "", ""},
		{observed(usCore+"us-core-heart-rate", nil), "", ""},
		{observed(usCore+"us-core-heart-rate", map[string]string{"subject": ""}), "Observation.subject", ""},
		{observed(usCore+"us-core-blood-pressure", nil), "Observation.component", ""},
		{patient(`"birthDate":"x"`), "Patient.birthDate", ""},
		{patient(`"name":[{"text":"\u0061"}]`), "", ""},
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for k := range 300 {
				c := bodies[k%len(bodies)]
				issues := issuesOf(t, v, validate.Request{Type: typeOf(c.body)}, c.body)
				if (issues == nil) != (c.path == "") || issues != nil && issues[0].Expression[0] != c.path {
					t.Errorf("%s: %v", c.body, issues)
				}
			}
		})
	}
	wg.Wait()
}
