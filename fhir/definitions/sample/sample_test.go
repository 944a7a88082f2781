package sample_test

import (
	"encoding/json"
	"testing"

	"pulsegate/fhir/definitions"
	"pulsegate/fhir/definitions/sample"
)

// TestResource tests that a sample of every type is JSON with its type and id. Whether it is
// valid is tested in fhir/rest.
func TestResource(t *testing.T) {
	for _, typ := range definitions.R4().Resources() {
		body, ok := sample.Resource(typ, "x")
		var r struct{ ResourceType, ID string }
		if err := json.Unmarshal([]byte(body), &r); !ok || err != nil || r.ResourceType != typ || r.ID != "x" {
			t.Errorf("%s: %v: %s", typ, err, body)
		}
	}
	if _, ok := sample.Resource("Patient", "x", sample.Place{Path: []string{"absent"}, Values: []string{"1"}}); ok {
		t.Error("an element that does not exist")
	}
	two := sample.Place{Path: []string{"gender"}, Values: []string{`"male"`, `"female"`}}
	if _, ok := sample.Resource("Patient", "x", two); ok {
		t.Error("two values of an element that is not repeated")
	}
}
