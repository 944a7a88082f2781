package protocol

import (
	"net/url"
	"strings"
	"testing"

	"pulsegate/smart/client"
	"pulsegate/smart/oauth/token"
)

// TestV1ScopesInResponse checks that a client that requests scopes in the v1
// syntax gets responses in that syntax, even if it is granted less than the v1
// scope, and that the token allows only what was granted.
func TestV1ScopesInResponse(t *testing.T) {
	w := newWorld(t)
	const rest = " launch/patient offline_access"
	app := func(scopes string) client.Client {
		return w.app(client.None, func(c *client.Client) { c.Scope = scopes + rest })
	}
	for _, tc := range []struct{ allowed, requested, want string }{
		{"patient/Patient.r", "patient/Patient.read", "patient/Patient.read"},
		{"patient/Patient.rs patient/Observation.r", "patient/*.read", "patient/Patient.read patient/Observation.read"},
		// The person's roles do not allow create.
		{"patient/Observation.crs", "patient/Observation.*", "patient/Observation.read"},
		{"patient/Patient.r", "patient/Patient.rs", "patient/Patient.r"}, // requested in the v2 syntax
	} {
		a := app(tc.allowed)
		out := w.authorize(a, tc.requested+rest)
		got := strings.TrimSpace(strings.NewReplacer("launch/patient", "", "offline_access",
			"").Replace(out["scope"].(string)))
		if got != tc.want {
			t.Errorf("allowed %q, requested %q: %q, want %q", tc.allowed, tc.requested, got, tc.want)
		}
		// The scope of the response can be requested again.
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
		t.Errorf("search without the permission: %d", s)
	}
	b := w.backend("system/Observation.r")
	s, out, _ := w.postForm(token.Path, b, url.Values{"grant_type": {"client_credentials"},
		"scope": {"system/Observation.read"}}, nil)
	if s != 200 || out["scope"] != "system/Observation.read" {
		t.Errorf("backend: %d %v", s, out)
	}
	if s := w.read(out["access_token"], "Observation?_id=o1"); s != 403 {
		t.Errorf("search of a backend without the permission: %d", s)
	}
}
