package validate_test

import (
	"bytes"
	"encoding/json"
	"testing"

	"pulsegate/fhir/validate"
)

// FuzzResource tests that a body that is accepted is JSON, that its canonical form
// is accepted and stays the same, and that no body makes the validator fail.
func FuzzResource(f *testing.F) {
	for _, s := range []string{vital, patient(`"name":[{"given":["a",null],"_given":[null,{"id":"x"}]}]`),
		extended(`"valueDecimal":1.50`), patient(`"photo":[{"contentType":"image/png","data":"aGVsbG8="}]`),
		`{"resourceType":"Bundle","type":"batch","entry":[{"resource":{"id":"a","resourceType":"Patient"},"request":{"method":"PUT","url":"Patient/a"}}]}`,
		observed(usCore+"us-core-blood-pressure", nil), `{"resourceType":"Patient","\u0061ctive" : true }`,
		`{"resourceType":"Parameters","parameter":[{"name":"a","resource":{"resourceType":"Patient"}}]}`} {
		f.Add(typeOf(s), []byte(s))
	}
	f.Fuzz(func(t *testing.T, typ string, body []byte) {
		v := validator()
		d, err := v.Resource(validate.Request{Op: "fuzz", Type: typ}, body)
		if d == nil {
			if err == nil {
				t.Fatal("neither a Document nor an error")
			}
			return
		}
		defer d.Release()
		if !json.Valid(body) {
			t.Fatalf("not JSON: %v", err)
		}
		if err != nil {
			return
		}
		canonical := d.Canonical("x")
		again, err := v.Resource(validate.Request{Op: "fuzz", Type: typ, ID: "x"}, canonical)
		if bytes.Contains(canonical, []byte(`"meta":{}`)) {
			if again != nil {
				again.Release()
			}
			return // an empty meta is filled by the store
		}
		if err != nil {
			t.Fatalf("the canonical form is refused: %v\n%s", err, canonical)
		}
		defer again.Release()
		if !bytes.Equal(again.Canonical("x"), canonical) {
			t.Fatalf("the canonical form changes:\n%s\n%s", canonical, again.Canonical("x"))
		}
	})
}
