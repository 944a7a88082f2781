package mapping_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"pulsegate/fhir"
	"pulsegate/fhir/r4"
)

// TestGoldenIsValid checks that the golden resources pass the validation of
// resources that clients send, so that a client can read one, change it and send
// it back.
func TestGoldenIsValid(t *testing.T) {
	validator, err := r4.New(r4.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join("testdata", "golden", "*", "*.json"))
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		var v any
		if err := json.Unmarshal(b, &v); err != nil {
			t.Fatal(err)
		}
		for _, r := range resourcesIn(v) {
			typ, _ := r["resourceType"].(string)
			id, _ := r["id"].(string)
			if m, ok := r["meta"].(map[string]any); ok && len(m) == 0 {
				delete(r, "meta") // set by the store
			}
			body, err := json.Marshal(r)
			if err != nil {
				t.Fatal(err)
			}
			n++
			if _, err := validator.Resource(typ, body, id); err != nil {
				t.Errorf("%s: %s", f, r4.OutcomeJSON(err))
			}
		}
	}
	if n < 300 {
		t.Errorf("only %d resources were validated", n)
	}
}

// resourcesIn returns the resources of served types in a golden file.
func resourcesIn(v any) []map[string]any {
	var out []map[string]any
	switch v := v.(type) {
	case []any:
		for _, e := range v {
			out = append(out, resourcesIn(e)...)
		}
	case map[string]any:
		if typ, ok := v["resourceType"].(string); ok && fhir.KnownType(typ) {
			return []map[string]any{v}
		}
		for _, e := range v {
			out = append(out, resourcesIn(e)...)
		}
	}
	return out
}
