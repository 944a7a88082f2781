package search_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"pulsegate/fhir"
	"pulsegate/fhir/search"
)

const wornOn = `{"resourceType":"SearchParameter","url":"https://example.org/SearchParameter/worn-on","status":"active",
	"code":"worn-on","base":["Observation"],"type":"token",
	"expression":"Observation.extension.where(url = 'https://example.org/worn-on').value"}`

const worn = `{"resourceType":"Observation","id":"o","status":"final","code":{"text":"x"},
	"extension":[{"url":"https://example.org/worn-on","valueCode":"left"}]}`

// TestDefinedParameter searches by a parameter that a SearchParameter defines.
func TestDefinedParameter(t *testing.T) {
	d, err := search.ParseDefinition([]byte(wornOn))
	if err != nil {
		t.Fatal(err)
	}
	registry := search.Builtin().With(d, d)
	pairs := [][2]string{{"worn-on", "left"}}
	if _, err := search.Parse("Observation", pairs, search.ParseOptions{}); err == nil {
		t.Error("the parameter is known without its definition")
	}
	for value, want := range map[string]bool{"left": true, "right": false} {
		q, err := search.Parse("Observation", [][2]string{{"worn-on", value}}, search.ParseOptions{Registry: registry})
		if err != nil {
			t.Fatal(err)
		}
		v, err := search.Extractor{Registry: registry}.Extract("Observation", []byte(worn))
		if err != nil {
			t.Fatal(err)
		}
		sel, err := search.Select(q)
		if err != nil {
			t.Fatal(err)
		}
		for range 3 { // a Matcher must not take it for a constant of a template
			if got := search.NewMatcher(q, sel).Match([]byte(worn)); got != want || search.Match(q, v) != want {
				t.Errorf("worn-on=%s: %v, want %v", value, got, want)
			}
		}
	}
	if slices.ContainsFunc(search.Params("Observation"), func(p *search.Param) bool { return p.Code == "worn-on" }) {
		t.Error("With has changed the Registry")
	}
}

// TestRefusedDefinitions checks that an unfit SearchParameter is refused with its place.
func TestRefusedDefinitions(t *testing.T) {
	for _, c := range []struct{ old, with, place string }{
		{`"worn-on","base"`, `"_worn","base"`, "SearchParameter.code"},
		{`"worn-on","base"`, `"code","base"`, "SearchParameter.code"},
		{`"worn-on","base"`, `"a b","base"`, "SearchParameter.code"},
		{`["Observation"]`, `["Coffee"]`, "SearchParameter.base"},
		{`["Observation"]`, `["Parameters"]`, "SearchParameter.base"},
		{`["Observation"]`, `["Resource"]`, "SearchParameter.base"},
		{`"token"`, `"composite"`, "SearchParameter.type"},
		{`"token"`, `"special"`, "SearchParameter.type"},
		{`Observation.extension`, `Observation.canary`, "SearchParameter.expression"},
		{`.value"`, `.value.("`, "SearchParameter.expression"},
		{`"type":"token"`, `"type":"token","target":["Coffee"]`, "SearchParameter.target"},
		{`Observation.extension.where(url = 'https://example.org/worn-on').value`, `Observation.effective`,
			"SearchParameter.expression"},
		{`"url":"https://example.org/SearchParameter/worn-on",`, ``, "SearchParameter.url"},
	} {
		body := strings.Replace(wornOn, c.old, c.with, 1)
		if body == wornOn {
			t.Fatalf("%s does not occur", c.old)
		}
		d, err := search.ParseDefinition([]byte(body))
		var e *fhir.Error
		if !errors.As(err, &e) || e.Kind != fhir.Unprocessable || e.Issues[0].Expression[0] != c.place {
			t.Errorf("%s: %+v, %v", c.with, d, err)
		}
	}
	if d, err := search.ParseDefinition([]byte(strings.Replace(wornOn, `"active"`, `"retired"`, 1))); d != nil ||
		err != nil {
		t.Errorf("a retired parameter: %+v, %v", d, err)
	}
}

// TestDerivedDefinitions checks that a SearchParameter that is derived from R4's parameter of
// its code and type defines nothing, and that any other of that code is refused.
func TestDerivedDefinitions(t *testing.T) {
	derived := strings.NewReplacer(`"worn-on","base"`, `"code","base"`, `"status"`,
		`"derivedFrom":"http://hl7.org/fhir/SearchParameter/clinical-code","status"`).Replace(wornOn)
	for _, c := range []struct {
		old, with string
		refused   bool
	}{
		{"", "", false}, {`clinical-code"`, `clinical-code|4.0.1"`, false},
		{`["Observation"]`, `["Observation","Condition"]`, false},
		{`["Observation"]`, `["Observation","Patient"]`, true}, {`["Observation"]`, `[]`, true},
		{"clinical-code", "clinical-date", true}, {`"token"`, `"string"`, true},
	} {
		d, err := search.ParseDefinition([]byte(strings.Replace(derived, c.old, c.with, 1)))
		if d != nil || (err != nil) != c.refused {
			t.Errorf("%s: %+v, %v", c.with, d, err)
		}
	}
}
