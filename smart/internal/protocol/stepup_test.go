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

// callAPI sends a request to the FHIR API and returns the status and the
// challenge.
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

// TestAPIRequiresStepUp checks that exports and changes of a Device's status
// require a recent passkey of a person (RFC 9470), and that backends are
// exempt.
func TestAPIRequiresStepUp(t *testing.T) {
	w := newWorld(t)
	c := w.app(client.None, nil)
	device := func(status string) string {
		return `{"resourceType":"Device","id":"v1","status":"` + status + `","patient":{"reference":"Patient/p1"}}`
	}
	tokenFor := func(acr string, ago time.Duration) any {
		w.subject = authorize.Subject{ID: "u9", FHIRUser: fhir.Ref{Type: "Practitioner", ID: "d1"},
			Roles: []string{"keeper"}, ACR: acr, AuthTime: w.clock.now().Add(-ago)}
		return w.authorize(c, "user/*.cruds")["access_token"]
	}
	backendClient := w.backend("system/*.cruds")
	_, out, _ := w.postForm(token.Path, backendClient, map[string][]string{"grant_type": {"client_credentials"},
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
	for _, tok := range []any{tokenFor("mfa", 0), tokenFor("phr", 6*time.Minute)} {
		for _, path := range []string{"$export", "Patient/$export", "Group/g1/$export"} {
			refused(tok, "GET", path, "")
		}
		refused(tok, "PUT", "Device/v1", device("inactive"))
		refused(tok, "DELETE", "Device/v1", "")
		if s, _ := w.callAPI(tok, "PUT", "Device/v1", device("active")); s != 200 { // the status does not change
			t.Errorf("status unchanged: %d", s)
		}
		batch := `{"resourceType":"Bundle","type":"transaction","entry":[{"resource":` + device("inactive") +
			`,"request":{"method":"PUT","url":"Device/v1"}}]}`
		refused(tok, "POST", "", batch)
	}
	tok := tokenFor("phr", time.Minute)
	if s, _ := w.callAPI(tok, "PUT", "Device/v1", device("inactive")); s != 200 {
		t.Errorf("with a recent passkey: %d", s)
	}
	w.clock.add(5 * time.Minute) // the token is valid, but the sign-in is too old
	if s, _ := w.fetch(tok, "Device/v1"); s != 200 {
		t.Fatal(s)
	}
	refused(tok, "PUT", "Device/v1", device("active"))
	_, out, _ = w.postForm(token.Path, backendClient, map[string][]string{"grant_type": {"client_credentials"},
		"scope": {"system/*.cruds"}}, nil)
	for _, tc := range []struct {
		method, path, body string
		want               int
	}{{"GET", "$export", "", 202}, {"PUT", "Device/v1", device("active"), 200}, {"DELETE", "Device/v1", "", 204}} {
		if s, _ := w.callAPI(out["access_token"], tc.method, tc.path, tc.body); s != tc.want {
			t.Errorf("backend: %s %s: %d, want %d", tc.method, tc.path, s, tc.want)
		}
	}
}

var stepUpChallenge = regexp.MustCompile( // read only
	`^DPoP error="insufficient_user_authentication", .*acr_values="([^"]+)", max_age="(\d+)"$`)

// TestStepUpChallenge checks that an app can use the parameters of the
// challenge in its next authorization request. A sign-in that does not meet
// them yields no code, and a refresh does not renew the sign-in. The challenge
// for a DPoP-bound token uses the scheme DPoP.
func TestStepUpChallenge(t *testing.T) {
	w := newWorld(t)
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	c := w.app(client.None, func(c *client.Client) { c.DPoPBound = true })
	const scopes = "openid offline_access user/*.cruds"
	signIn := func(acr string) {
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
	code := func(required url.Values) url.Values {
		return url.Values{"grant_type": {"authorization_code"}, "code": {w.code(c, scopes, required)},
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
		match := stepUpChallenge.FindStringSubmatch(res.Header.Get("WWW-Authenticate"))
		if match == nil {
			if res.StatusCode != 403 { // a person may not start an export
				t.Fatal(res.StatusCode, res.Header)
			}
			return nil
		}
		return url.Values{"acr_values": {match[1]}, "max_age": {match[2]}}
	}
	signIn("mfa")
	required := export(redeem(code(nil))["access_token"])
	if required == nil {
		t.Fatal("no challenge for a sign-in without a passkey")
	}
	if v, s, text := w.follow(w.params(c, scopes, required), false); v != nil || s != 403 {
		t.Errorf("a sign-in without a passkey meets acr_values: %v %d %s", v, s, text)
	}
	signIn("phr")
	w.clock.add(301 * time.Second)
	if v, s, text := w.follow(w.params(c, scopes, required), false); v != nil || s != 403 {
		t.Errorf("an old sign-in meets max_age: %v %d %s", v, s, text)
	}
	signIn("phr")
	out := redeem(code(required))
	if export(out["access_token"]) != nil {
		t.Error("challenged again after the step-up")
	}
	w.clock.add(301 * time.Second)
	if export(redeem(url.Values{"grant_type": {"refresh_token"},
		"refresh_token": {out["refresh_token"].(string)}})["access_token"]) == nil {
		t.Error("the refresh renewed the sign-in")
	}
}

// TestACRValues checks that a sign-in must reach one of the requested acr
// values, and that unknown values are ignored.
func TestACRValues(t *testing.T) {
	w := newWorld(t)
	c := w.app(client.None, nil)
	for requested, minRank := range map[string]int{"": 0, "phr": 2, "mfa": 1, "phr mfa": 1, "mfa phr": 1,
		"urn:mace:incommon:iap:silver": 0, "phr urn:x": 2, "0": 0, "phr 0": 0} {
		for rank, acr := range []string{"0", "mfa", "phr"} {
			w.subject.ACR, w.subject.AuthTime = acr, w.clock.now()
			v, _, text := w.follow(w.params(c, "openid user/Patient.rs", url.Values{"acr_values": {requested}}), false)
			if (v.Get("code") != "") != (rank >= minRank) {
				t.Errorf("requested %q, signed in with %s: %v %s", requested, acr, v, text)
			}
		}
	}
}
