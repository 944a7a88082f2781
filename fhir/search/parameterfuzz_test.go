package search_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"pulsegate/fhir"
	"pulsegate/fhir/search"
)

// quoted returns s as a JSON string.
func quoted(s string) []byte {
	b, err := json.Marshal(s)
	if err != nil {
		return []byte(`""`)
	}
	return b
}

// FuzzDefinition checks that a SearchParameter with any code, type and expression is refused
// with its place, or defines a parameter by which resources are indexed and searched.
func FuzzDefinition(f *testing.F) {
	for _, s := range [][3]string{{"worn-on", "token", "Observation.extension.value"}, {"a", "date", "Observation.effective"},
		{"b", "quantity", "Observation.value as Quantity"}, {"c", "reference", "Observation.subject | Observation.device"},
		{"d", "string", "Observation.code.text.upper()"}, {"e", "number", "1 + 1"}, {"f", "uri", "Observation.repeat(id)"},
		{"g", "token", strings.Repeat("(", 500)}, {"_h", "token", "id"}, {"i", "composite", "id"}, {"j", "token", "%x"}} {
		f.Add(s[0], s[1], s[2])
	}
	f.Fuzz(func(t *testing.T, code, typ, expression string) {
		d, err := search.ParseDefinition(fmt.Appendf(nil,
			`{"resourceType":"SearchParameter","url":"https://example.org/x","status":"active","code":%s,`+
				`"base":["Observation"],"type":%s,"expression":%s}`, quoted(code), quoted(typ), quoted(expression)))
		if err != nil {
			if fhir.KindOf(err) != fhir.Unprocessable {
				t.Errorf("%q %q %q: %v", code, typ, expression, err)
			}
			return
		}
		registry := search.Builtin().With(d)
		if _, err := (search.Extractor{Registry: registry}).Extract("Observation", []byte(worn)); err != nil {
			t.Errorf("%q of type %q: %v", expression, typ, err)
		}
		if _, err := search.Parse("Observation", [][2]string{{d.Code + ":missing", "true"}},
			search.ParseOptions{Registry: registry}); err != nil {
			t.Errorf("%q of type %q: %v", code, typ, err)
		}
	})
}
