package fhirpath

import (
	"context"
	"maps"
	"slices"
	"strings"
	"testing"

	"pulsegate/fhir/search"
)

// searchDiffers lists the search parameters that fhir/search has a value for where the
// expression has none, or the reverse, with the reason.
var searchDiffers = map[string]string{ // read only
	"Consent source-reference": "the expression is Consent.source, which may be an Attachment",
	"Organization phonetic":    "fhir/search does not offer it",
	"Patient phonetic":         "fhir/search does not offer it",
	"Practitioner phonetic":    "fhir/search does not offer it",
}

// TestSearchParameters compares the expressions of R4's search parameters with
// fhir/search, over all examples: a parameter has values in both or in neither. The
// expression of a composite parameter gives what its components are in.
func TestSearchParameters(t *testing.T) {
	type parameter struct {
		code string
		e    *Expression
	}
	parameters := map[string][]parameter{}
	for _, d := range cachedDefinitions(t) {
		if d.ResourceType != "SearchParameter" || d.Expression == "" ||
			d.Type == "composite" || strings.HasPrefix(d.ID, "us-core") ||
			d.ID == "example-extension" {
			continue
		}
		for _, base := range d.Base {
			parameters[base] = append(parameters[base], parameter{d.Code, MustCompile(d.Expression)})
		}
	}
	compared := 0
	found := map[string]bool{}
	examples(t, func(name string, doc *Document) {
		typ := doc.Root().typeName()
		values, err := search.Extract(typ, []byte(doc.Root().JSON()))
		if err != nil {
			return // not one of the types that are stored
		}
		for _, p := range slices.Concat(parameters[typ], parameters["DomainResource"], parameters["Resource"]) {
			out, err := p.e.Evaluate(context.Background(), doc.Root(), testEnv(), nil)
			if err != nil {
				t.Errorf("%s %s: %v", name, p.code, err)
			}
			compared++
			if got := len(values.ByParam[p.code]) > 0; got != (len(out) > 0) {
				key := typ + " " + p.code
				if searchDiffers[key] == "" && !found[key] {
					t.Errorf("%s in %s: %d items, but fhir/search has values: %v", key, name, len(out), got)
				}
				found[key] = true
			}
		}
	})
	for _, key := range slices.Sorted(maps.Keys(searchDiffers)) {
		if !found[key] {
			t.Errorf("%s is listed, but does not differ", key)
		}
	}
	t.Logf("%d values compared", compared)
	if compared < 3000 {
		t.Errorf("only %d values compared", compared)
	}
}
