package protocol

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"pulsegate/fhir"
	"pulsegate/smart/client"
	"pulsegate/smart/oauth/authorize"
	"pulsegate/smart/oauth/token"
)

// ask asks the FHIR API and returns the status and the challenge.
func (w *world) callAPI(tok any, method, path, body string) (int, string) {
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
func TestAPIRequiresStepUp(t *testing.T) {
	w := newWorld(t)
	c := w.app(client.None, nil)
	device := func(status string) string {
		return `{"resourceType":"Device","id":"v1","status":"` + status + `","patient":{"reference":"Patient/p1"}}`
	}
	signed := func(acr string, ago time.Duration) any {
		w.subject = authorize.Subject{ID: "u9", FHIRUser: fhir.Ref{Type: "Practitioner", ID: "d1"},
			Roles: []string{"keeper"}, ACR: acr, AuthTime: w.clock.now().Add(-ago)}
		return w.authorize(c, "user/*.cruds")["access_token"]
	}
	b := w.backend("system/*.cruds")
	_, out, _ := w.postForm(token.Path, b, map[string][]string{"grant_type": {"client_credentials"},
		"scope": {"system/*.cruds"}}, nil)
	backend := out["access_token"]
	if s, _ := w.callAPI(backend, "PUT", "Device/v1", device("active")); s != 201 {
		t.Fatal(s)
	}
	refused := func(tok any, method, path, body string) {
		t.Helper()
		s, challenge := w.callAPI(tok, method, path, body)
		if s != 401 || !strings.Contains(challenge, `error="insufficient_user_authentication"`) ||
			!strings.Contains(challenge, `acr_values="phr"`) || !strings.Contains(challenge, `max_age="300"`) {
			t.Errorf("%s %s: %d %s", method, path, s, challenge)
		}
	}
	for _, tok := range []any{signed("mfa", 0), signed("phr", 6*time.Minute)} {
		for _, path := range []string{"$export", "Patient/$export", "Group/g1/$export"} {
			refused(tok, "GET", path, "")
		}
		refused(tok, "PUT", "Device/v1", device("inactive"))
		refused(tok, "DELETE", "Device/v1", "")
		if s, _ := w.callAPI(tok, "PUT", "Device/v1", device("active")); s != 200 { // not what is guarded
			t.Errorf("no change of status: %d", s)
		}
		batch := `{"resourceType":"Bundle","type":"transaction","entry":[{"resource":` + device("inactive") +
			`,"request":{"method":"PUT","url":"Device/v1"}}]}`
		refused(tok, "POST", "", batch)
	}
	tok := signed("phr", time.Minute)
	if s, _ := w.callAPI(tok, "PUT", "Device/v1", device("inactive")); s != 200 {
		t.Errorf("with a fresh passkey: %d", s)
	}
	w.clock.add(5 * time.Minute) // the token lives, the sign-in is old
	if s, _ := w.fetch(tok, "Device/v1"); s != 200 {
		t.Fatal(s)
	}
	refused(tok, "PUT", "Device/v1", device("active"))
	_, out, _ = w.postForm(token.Path, b, map[string][]string{"grant_type": {"client_credentials"},
		"scope": {"system/*.cruds"}}, nil)
	for _, x := range []struct {
		method, path, body string
		want               int
	}{{"GET", "$export", "", 202}, {"PUT", "Device/v1", device("active"), 200}, {"DELETE", "Device/v1", "", 204}} {
		if s, _ := w.callAPI(out["access_token"], x.method, x.path, x.body); s != x.want {
			t.Errorf("backend: %s %s: %d, want %d", x.method, x.path, s, x.want)
		}
	}
}

// TestStepUpChallenge: what the challenge says goes as it is into the next
// authorization request. A person who shows no more than before gets no code,
// and a refresh makes no sign-in recent. A token bound to a key is challenged
// in its own scheme.
func TestStepUpChallenge(t *testing.T) {
	w := newWorld(t)
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	c := w.app(client.None, func(c *client.Client) { c.DPoPBound = true })
	const scopes = "openid offline_access user/*.cruds"
	signed := func(acr string) {
		w.subject = authorize.Subject{ID: "u9", FHIRUser: fhir.Ref{Type: "Practitioner", ID: "d1"},
			Roles: []string{"keeper"}, ACR: acr, AuthTime: w.clock.now()}
	}
	redeem := func(form url.Values) m {
		t.Helper()
		s, out, _ := w.postForm(token.Path, c, form,
			func(r *http.Request) {
				r.Header.Set("DPoP", w.dpopProof(key, "POST", w.base+token.Path, nil, nil, nil))
			})
		if s != 200 {
			t.Fatal(s, out)
		}
		return out
	}
	code := func(wish url.Values) url.Values {
		return url.Values{"grant_type": {"authorization_code"}, "code": {w.code(c, scopes, wish)},
			"redirect_uri": {redirect}, "code_verifier": {verifier}}
	}
	export := func(tok any) url.Values {
		t.Helper()
		r := must(http.NewRequest("GET", w.base+"/fhir/$export", nil))
		r.Header.Set("Authorization", "DPoP "+fmt.Sprint(tok))
		r.Header.Set("DPoP", w.dpopProof(key, "GET", w.base+"/fhir/$export", tok, nil, nil))
		r.Header.Set("Prefer", "respond-async")
		res := must(w.browser.Do(r))
		if err := res.Body.Close(); err != nil {
			t.Fatal(err)
		}
		x := regexp.MustCompile(`^DPoP error="insufficient_user_authentication", .*acr_values="([^"]+)", max_age="(\d+)"$`).FindStringSubmatch(res.Header.Get("WWW-Authenticate"))
		if x == nil {
			if res.StatusCode != 403 { // a person's token starts no export
				t.Fatal(res.StatusCode, res.Header)
			}
			return nil
		}
		return url.Values{"acr_values": {x[1]}, "max_age": {x[2]}}
	}
	signed("mfa")
	wish := export(redeem(code(nil))["access_token"])
	if wish == nil {
		t.Fatal("no challenge for a weak sign-in")
	}
	if v, s, text := w.follow(w.params(c, scopes, wish), false); v != nil || s != 403 {
		t.Errorf("a weak sign-in meets acr_values: %v %d %s", v, s, text)
	}
	signed("phr")
	w.clock.add(301 * time.Second)
	if v, s, text := w.follow(w.params(c, scopes, wish), false); v != nil || s != 403 {
		t.Errorf("an old sign-in meets max_age: %v %d %s", v, s, text)
	}
	signed("phr")
	out := redeem(code(wish))
	if export(out["access_token"]) != nil {
		t.Error("challenged after it was obeyed")
	}
	w.clock.add(301 * time.Second)
	if export(redeem(url.Values{"grant_type": {"refresh_token"},
		"refresh_token": {out["refresh_token"].(string)}})["access_token"]) == nil {
		t.Error("a refresh made the sign-in recent")
	}
}

// TestACRValues: one of those that are asked suffices; one that is not
// known here is no more than a wish.
func TestACRValues(t *testing.T) {
	w := newWorld(t)
	c := w.app(client.None, nil)
	for asked, least := range map[string]int{"": 0, "phr": 2, "mfa": 1, "phr mfa": 1, "mfa phr": 1,
		"urn:mace:incommon:iap:silver": 0, "phr urn:x": 2, "0": 0, "phr 0": 0} {
		for rank, acr := range []string{"0", "mfa", "phr"} {
			w.subject.ACR, w.subject.AuthTime = acr, w.clock.now()
			v, _, text := w.follow(w.params(c, "openid user/Patient.rs", url.Values{"acr_values": {asked}}), false)
			if (v.Get("code") != "") != (rank >= least) {
				t.Errorf("asked %q, signed in with %s: %v %s", asked, acr, v, text)
			}
		}
	}
}
