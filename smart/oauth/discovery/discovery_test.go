package discovery_test

import (
	"encoding/json"
	"net/http/httptest"
	"slices"
	"testing"

	"pulsegate/smart/oauth/discovery"
	"pulsegate/smart/scope"
)

// TestScopes checks that the document lists the scopes that apps look for, at the levels
// that the server offers, that the parser accepts each, and that the list stays short.
func TestScopes(t *testing.T) {
	const vitals = "?category=http://terminology.hl7.org/CodeSystem/observation-category|vital-signs"
	for _, authorize := range []string{"", "https://pulse.example.org/oauth/authorize"} {
		rec := httptest.NewRecorder()
		discovery.Handler{BaseURL: "https://pulse.example.org", Endpoints: discovery.Endpoints{Authorize: authorize}}.ServeHTTP(
			rec, httptest.NewRequest("GET", "/", nil))
		var doc struct {
			Scopes []string `json:"scopes_supported"`
		}
		if err := json.Unmarshal(rec.Body.Bytes(), &doc); err != nil {
			t.Fatal(err)
		}
		for _, level := range []string{"system/", "patient/", "user/"} {
			offered := level == "system/" || authorize != ""
			for _, s := range []string{"*.rs", "*.read", "Observation.rs", "Patient.read", "Condition.rs",
				"Observation.c" + vitals, "Observation.u" + vitals, "Observation.rs" + vitals} {
				if slices.Contains(doc.Scopes, level+s) != offered {
					t.Errorf("%s%s, with a page %v: listed %v", level, s, authorize != "", !offered)
				}
			}
		}
		if len(doc.Scopes) > 256 || len(slices.Compact(slices.Sorted(slices.Values(doc.Scopes)))) != len(doc.Scopes) {
			t.Errorf("%d scopes, or one twice", len(doc.Scopes))
		}
		for _, s := range doc.Scopes {
			if _, err := (scope.Parser{TokenParam: scope.Registered}).Parse(s); err != nil {
				t.Errorf("%s: %v", s, err)
			}
		}
	}
}
