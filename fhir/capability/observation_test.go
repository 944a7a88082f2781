package capability

import (
	"encoding/json"
	"strings"
	"testing"
)

// TestObservationParams tests that the statement lists the composite parameters and
// explains how to search for a day of the wearer.
func TestObservationParams(t *testing.T) {
	b, err := json.Marshal(Settings{}.resource("Observation", nil))
	if err != nil {
		t.Fatal(err)
	}
	var r resource
	if err := json.Unmarshal(b, &r); err != nil {
		t.Fatal(err)
	}
	found := map[string]param{}
	for _, p := range r.SearchParam {
		found[p.Name] = p
	}
	for _, name := range []string{"code-value-quantity", "component-code-value-quantity",
		"combo-code-value-quantity", "component-code-value-concept", "code-value-string", "code-value-date"} {
		if found[name].Type != "composite" || !strings.HasSuffix(found[name].Definition, "/Observation-"+name) {
			t.Errorf("%s: %+v", name, found[name])
		}
	}
	if d := found["date"].Documentation; !strings.Contains(d, "UTC") || !strings.Contains(d, "%2B") {
		t.Errorf("date: %q", d)
	}
}
