package protocol

import (
	"bytes"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pulsegate/fhir/store"
	"pulsegate/smart/client"
	"pulsegate/smart/oauth/register"
	"pulsegate/smart/oauth/token"
)

// initialToken returns an initial access token for a number of registrations.
func (w *world) initialToken(uses int) string {
	w.t.Helper()
	tok, write, err := w.registration.PrepareToken(
		register.InitialToken{Scope: "openid launch/patient offline_access patient/*.rs", Uses: uses,
			Expires: w.clock.now().Add(time.Hour)})
	if err != nil {
		w.t.Fatal(err)
	}
	must(w.store.Commit(w.t.Context(), &store.Batch{State: []store.StateWrite{write}}))
	return tok
}

// TestRegistration checks the registration of an app, its use, and its management
// (RFC 7591, RFC 7592).
func TestRegistration(t *testing.T) {
	w := newWorld(t)
	meta := m{"client_name": "New", "redirect_uris": []string{redirect},
		"scope": "patient/Observation.rs launch/patient", "token_endpoint_auth_method": "client_secret_basic"}
	with := func(change m) m {
		out := m{}
		for _, members := range []m{meta, change} {
			for k, v := range members {
				out[k] = v
			}
		}
		return out
	}
	tok := w.initialToken(2)
	for name, tc := range map[string]struct {
		tok, code string
		body      m
	}{
		"no token":      {"", "invalid_token", meta},
		"nonsense":      {"x", "invalid_token", meta},
		"backend scope": {tok, "invalid_client_metadata", with(m{"scope": "system/*.rs"})},
		"http redirect": {tok, "invalid_redirect_uri", with(m{"redirect_uris": []string{"http://app.example/cb"}})},
		"fragment":      {tok, "invalid_redirect_uri", with(m{"redirect_uris": []string{redirect + "#x"}})},
		"no redirect": {tok, "invalid_redirect_uri",
			with(m{"redirect_uris": []string{}, "grant_types": []string{"authorization_code"}})},
		"response type token": {tok, "invalid_client_metadata", with(m{"response_types": []string{"token"}})},
		"grant type password": {tok, "invalid_client_metadata", with(m{"grant_types": []string{"password"}})},
		"unsupported method": {tok, "invalid_client_metadata",
			with(m{"token_endpoint_auth_method": "client_secret_jwt"})},
		"no keys": {tok, "invalid_client_metadata",
			with(m{"token_endpoint_auth_method": "private_key_jwt"})},
	} {
		s, out := w.sendJSON("POST", register.Path, tc.tok, tc.body)
		if s != 400 && s != 401 || out["error"] != tc.code {
			t.Errorf("%s: %d %v", name, s, out)
		}
	}
	s, c := w.sendJSON("POST", register.Path, tok, meta)
	if s != 201 || c["client_secret"] == nil || c["registration_access_token"] == nil ||
		c["client_secret_expires_at"] != 0.0 {
		t.Fatal(s, c)
	}
	uri := strings.TrimPrefix(c["registration_client_uri"].(string), w.base)
	manage := c["registration_access_token"].(string)
	stored := must(w.store.Get(t.Context(), "client/"+c["client_id"].(string)))
	if bytes.Contains(stored, []byte(c["client_secret"].(string))) || bytes.Contains(stored, []byte(manage)) {
		t.Error("a secret is stored in plain text")
	}
	app := must(w.clients.Get(t.Context(), c["client_id"].(string)))
	code := w.code(app, "patient/*.rs launch/patient", nil)
	s, out, _ := w.postForm(token.Path, client.Client{Method: client.None, ID: app.ID},
		url.Values{"grant_type": {"authorization_code"}, "code": {code},
			"redirect_uri": {redirect}, "code_verifier": {verifier}},
		func(r *http.Request) { r.SetBasicAuth(app.ID, c["client_secret"].(string)) })
	if s != 200 || out["scope"] != "patient/Observation.rs launch/patient" {
		t.Fatal(s, out)
	}
	if s, got := w.sendJSON("GET", uri, manage, nil); s != 200 || got["client_name"] != "New" ||
		got["client_secret"] != nil {
		t.Error(s, got)
	}
	for name, invalid := range map[string]string{"no": "", "another": tok, "malformed": "x"} {
		if s, _ := w.sendJSON("GET", uri, invalid, nil); s != 401 {
			t.Errorf("management with %s token: %d", name, s)
		}
	}
	if s, out := w.sendJSON("PUT", uri, manage, with(m{"client_id": app.ID, "scope": "patient/*.rs"})); s != 200 ||
		out["scope"] != "patient/Observation.rs" || out["scope_not_registered"] != "patient/*.rs" {
		t.Error("update to a wider scope:", s, out)
	}
	if s, out := w.sendJSON("PUT", uri, manage, with(m{"client_id": app.ID, "client_name": "Renamed"})); s != 200 ||
		out["client_name"] != "Renamed" {
		t.Error(s, out)
	}
	if s, _ := w.sendJSON("DELETE", uri, manage, nil); s != 204 {
		t.Error(s)
	}
	if s, _ := w.sendJSON("GET", uri, manage, nil); s != 401 {
		t.Error("after deletion:", s)
	}
	if s := w.read(out["access_token"], "Observation/o1"); s != 401 {
		t.Error("token of a deleted client:", s)
	}
}

// TestInitialTokenIsUsedUp checks that a token for one registration creates one
// client, even with concurrent requests, and none after its expiry.
func TestInitialTokenIsUsedUp(t *testing.T) {
	w := newWorld(t)
	meta := m{"client_name": "New", "redirect_uris": []string{redirect},
		"scope": "patient/Observation.rs launch/patient", "token_endpoint_auth_method": "client_secret_basic"}
	tok := w.initialToken(1)
	var wg sync.WaitGroup
	var created atomic.Int32
	for range 8 {
		wg.Go(func() {
			if s, _ := w.sendJSON("POST", register.Path, tok, meta); s == 201 {
				created.Add(1)
			}
		})
	}
	wg.Wait()
	if created.Load() != 1 {
		t.Error(created.Load(), "registrations with one token")
	}
	tok = w.initialToken(1)
	w.clock.add(time.Hour)
	if s, _ := w.sendJSON("POST", register.Path, tok, meta); s != 401 {
		t.Error("expired token:", s)
	}
}
