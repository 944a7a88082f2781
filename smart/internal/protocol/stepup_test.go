package protocol

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"pulsegate/fhir"
	"pulsegate/smart/authorize"
	"pulsegate/smart/client"
	"pulsegate/smart/token"
)

// ask asks the FHIR API and returns the status and the challenge.
func (w *world) ask(tok any, method, path, body string) (int, string) {
	w.t.Helper()
	r := must(http.NewRequest(method, w.base+"/fhir/"+path, strings.NewReader(body)))
	r.Header.Set("Authorization", "Bearer "+fmt.Sprint(tok))
	r.Header.Set("Prefer", "respond-async")
	if body != "" {
		r.Header.Set("Content-Type", "application/fhir+json")
	}
	res := must(w.browser.Do(r))
	if err := res.Body.Close(); err != nil {
		w.t.Fatal(err)
	}
	return res.StatusCode, res.Header.Get("WWW-Authenticate")
}

// What must not be done with a stolen token of a person asks for a fresh
// passkey (RFC 9470), from the sign-in to the FHIR API; backends are exempt.
func TestStepUpOnTheAPI(t *testing.T) {
	w := newWorld(t)
	c := w.app(client.None, nil)
	device := func(status string) string {
		return `{"resourceType":"Device","id":"v1","status":"` + status + `","patient":{"reference":"Patient/p1"}}`
	}
	signed := func(acr string, ago time.Duration) any {
		w.subject = authorize.Subject{ID: "u9", FHIRUser: fhir.Ref{Type: "Practitioner", ID: "d1"}, Roles: []string{"keeper"}, ACR: acr, AuthTime: w.clock.now().Add(-ago)}
		return w.get(c, "user/*.cruds")["access_token"]
	}
	b := w.backend("system/*.cruds")
	_, out, _ := w.call(token.Path, b, map[string][]string{"grant_type": {"client_credentials"}, "scope": {"system/*.cruds"}}, nil)
	backend := out["access_token"]
	if s, _ := w.ask(backend, "PUT", "Device/v1", device("active")); s != 201 {
		t.Fatal(s)
	}
	refused := func(tok any, method, path, body string) {
		t.Helper()
		s, challenge := w.ask(tok, method, path, body)
		if s != 401 || !strings.Contains(challenge, `error="insufficient_user_authentication"`) || !strings.Contains(challenge, `acr_values="phr"`) || !strings.Contains(challenge, `max_age="300"`) {
			t.Errorf("%s %s: %d %s", method, path, s, challenge)
		}
	}
	for _, tok := range []any{signed("mfa", 0), signed("phr", 6*time.Minute)} {
		for _, path := range []string{"$export", "Patient/$export", "Group/g1/$export"} {
			refused(tok, "GET", path, "")
		}
		refused(tok, "PUT", "Device/v1", device("inactive"))
		refused(tok, "DELETE", "Device/v1", "")
		if s, _ := w.ask(tok, "PUT", "Device/v1", device("active")); s != 200 { // not what is guarded
			t.Errorf("no change of status: %d", s)
		}
		batch := `{"resourceType":"Bundle","type":"transaction","entry":[{"resource":` + device("inactive") + `,"request":{"method":"PUT","url":"Device/v1"}}]}`
		refused(tok, "POST", "", batch)
	}
	tok := signed("phr", time.Minute)
	if s, _ := w.ask(tok, "PUT", "Device/v1", device("inactive")); s != 200 {
		t.Errorf("with a fresh passkey: %d", s)
	}
	w.clock.add(5 * time.Minute) // the token lives, the sign-in is old
	if s, _ := w.fetch(tok, "Device/v1"); s != 200 {
		t.Fatal(s)
	}
	refused(tok, "PUT", "Device/v1", device("active"))
	_, out, _ = w.call(token.Path, b, map[string][]string{"grant_type": {"client_credentials"}, "scope": {"system/*.cruds"}}, nil)
	for _, x := range []struct {
		method, path, body string
		want               int
	}{{"GET", "$export", "", 202}, {"PUT", "Device/v1", device("active"), 200}, {"DELETE", "Device/v1", "", 204}} {
		if s, _ := w.ask(out["access_token"], x.method, x.path, x.body); s != x.want {
			t.Errorf("backend: %s %s: %d, want %d", x.method, x.path, s, x.want)
		}
	}
}
