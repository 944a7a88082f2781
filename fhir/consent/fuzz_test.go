package consent

import (
	"encoding/json"
	"testing"

	"pulsegate/fhir/element"
)

// nesting returns the depth of nested provisions.
func nesting(r *rule) int {
	deepest := 0
	for i := range r.nested {
		deepest = max(deepest, 1+nesting(&r.nested[i]))
	}
	return deepest
}

// permits reports whether r or a nested provision is a certain permit.
func permits(r *rule) bool {
	if r.permit && !r.uncertain {
		return true
	}
	for i := range r.nested {
		if permits(&r.nested[i]) {
			return true
		}
	}
	return false
}

func FuzzCompile(f *testing.F) {
	const head = `{"resourceType":"Consent","id":"c","status":"active","scope":{"coding":[{"system":"` +
		element.ConsentScope + `","code":"` + privacyScope + `"}]},"patient":{"reference":"Patient/p"}`
	const who = `"actor":[{"role":{"coding":[{"system":"` + element.ParticipationType +
		`","code":"IRCP"}]},"reference":{"display":"any"}}]`
	for _, tail := range []string{"", `,"policyRule":{"coding":[{"system":"` + actCodeSystem + `","code":"OPTIN"}]}`,
		`,"provision":{"type":"permit",` + who + `}`,
		`,"provision":{"type":"permit","period":{"start":"2026-01-01","end":"2027"},` + who + `}`,
		`,"provision":{"type":"deny"}`, `,"provision":{"type":"maybe"}`,
		`,"provision":{"type":"permit","dataPeriod":{}}`,
		`,"provision":{"type":"permit","provision":[{"type":"deny","provision":[{"type":"permit","provision":[{"type":"deny","provision":[{"type":"permit"}]}]}]}]}`,
		`,"dateTime":"2026","meta":{"lastUpdated":"2026-01-01T00:00:00Z"},"provision":{"type":"permit","action":[{"coding":[{"system":"` + actionSystem + `","code":"disclose"}]}],"class":[{"system":"` + typeSystem + `","code":"Device"}],"actor":[{"role":{"coding":[{"system":"` + element.ParticipationType + `","code":"IRCP"}]},"reference":{"identifier":{"system":"` + AuthorizationSystem + `","value":"a"}}}]}`,
		`,"provision":[]`, `,"provision":null`, `,"provision":{"period":{"start":"never"}}`,
		`,"modifierExtension":[{"url":"urn:x"}]`, `,"implicitRules":"urn:x"`} {
		f.Add([]byte(head + tail + "}"))
	}
	for _, s := range []string{"", "{", "null", "[]", `{"status":"inactive","patient":{"reference":"Patient/p"}}`,
		`{"status":5}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		c, eff := compile("c", "p", body)
		var d document
		readable := json.Unmarshal(body, &d) == nil
		switch {
		case !readable && (eff != active || permits(&c.root)):
			t.Fatal("an unreadable Consent does not deny")
		case readable && d.Status != statusActive && eff == active:
			t.Fatal("an inactive Consent is active")
		case eff == active && readable && (len(d.ModifierExtension) > 0 || d.ImplicitRules != "") && c.root.permit &&
			!c.root.uncertain:
			t.Fatal("a Consent with modifiers permits")
		}
		if nesting(&c.root) > maxDepth+1 {
			t.Fatal("provisions nest too deeply")
		}
		// Another patient's Consent never counts, unless it cannot be read.
		if _, eff := compile("c", "q", body); eff == active && readable && d.Patient.Reference == "Patient/p" {
			t.Fatal("a Consent applies to another patient")
		}
	})
}
