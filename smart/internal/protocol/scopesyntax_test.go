package protocol

import (
	"net/url"
	"strings"
	"testing"

	"pulsegate/smart/client"
	"pulsegate/smart/oauth/token"
)

// TestV1ScopesInResponse holds that a client that names its scopes in the v1
// form gets answers in that form, also where it may do less than the v1 word
// says, and that its token allows what was granted and no more.
func TestV1ScopesInResponse(t *testing.T) {
	w := newWorld(t)
	const rest = " launch/patient offline_access"
	app := func(scopes string) client.Client {
		return w.app(client.None, func(c *client.Client) { c.Scope = scopes + rest })
	}
	for _, c := range []struct{ allowed, asked, want string }{
		{"patient/Patient.r", "patient/Patient.read", "patient/Patient.read"},
		{"patient/Patient.rs patient/Observation.r", "patient/*.read", "patient/Patient.read patient/Observation.read"},
		// no role of this person creates
		{"patient/Observation.crs", "patient/Observation.*", "patient/Observation.read"},
		{"patient/Patient.r", "patient/Patient.rs", "patient/Patient.r"}, // asked in the v2 form
	} {
		a := app(c.allowed)
		out := w.authorize(a, c.asked+rest)
		got := strings.TrimSpace(strings.NewReplacer("launch/patient", "", "offline_access",
			"").Replace(out["scope"].(string)))
		if got != c.want {
			t.Errorf("allowed %q, asked %q: %q, want %q", c.allowed, c.asked, got, c.want)
		}
		// The words of the answer can be asked for again.
		s, again := w.refresh(a, out["refresh_token"], url.Values{"scope": {out["scope"].(string)}})
		if s != 200 || again["scope"] != out["scope"] {
			t.Errorf("refreshed: %d %v, want scope %q", s, again, out["scope"])
		}
	}
	a := app("patient/Patient.r")
	tok := w.authorize(a, "patient/Patient.read"+rest)["access_token"]
	if s := w.read(tok, "Patient/p1"); s != 200 {
		t.Errorf("read: %d", s)
	}
	if s := w.read(tok, "Patient?_id=p1"); s != 403 {
		t.Errorf("a search that was not granted: %d", s)
	}
	b := w.backend("system/Observation.r")
	s, out, _ := w.postForm(token.Path, b, url.Values{"grant_type": {"client_credentials"},
		"scope": {"system/Observation.read"}}, nil)
	if s != 200 || out["scope"] != "system/Observation.read" {
		t.Errorf("backend: %d %v", s, out)
	}
	if s := w.read(out["access_token"], "Observation?_id=o1"); s != 403 {
		t.Errorf("a search of a backend that was not granted: %d", s)
	}
}
