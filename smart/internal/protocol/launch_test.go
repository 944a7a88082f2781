package protocol

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lestrrat-go/jwx/v2/jwk"
	"github.com/lestrrat-go/jwx/v2/jws"

	"pulsegate/fhir"
	"pulsegate/fhir/store"
	"pulsegate/smart/client"
	"pulsegate/smart/oauth/authorize"
	"pulsegate/smart/oauth/launch"
	"pulsegate/smart/oauth/register"
	"pulsegate/smart/oauth/token"
	"pulsegate/smart/proof/issuer"
	"pulsegate/smart/proof/keys"
	"pulsegate/smart/scope"
)

// send sends JSON with a bearer token.
func (w *world) sendJSON(method, path, bearer string, body any) (int, m) {
	w.t.Helper()
	var b []byte
	if body != nil {
		b = must(json.Marshal(body))
	}
	r := must(http.NewRequest(method, w.base+path, bytes.NewReader(b)))
	r.Header.Set("Content-Type", "application/json")
	if bearer != "" {
		r.Header.Set("Authorization", "Bearer "+bearer)
	}
	res := must(w.browser.Do(r))
	defer res.Body.Close()
	raw := must(io.ReadAll(res.Body))
	var out m
	if len(raw) > 0 {
		if err := json.Unmarshal(raw, &out); err != nil {
			w.t.Fatalf("%d %q", res.StatusCode, raw)
		}
	}
	return res.StatusCode, out
}

// backendToken is a token of a backend client.
func (w *world) backendToken(c client.Client, scopes string) string {
	w.t.Helper()
	s, out, _ := w.postForm(token.Path, c, url.Values{"grant_type": {"client_credentials"}, "scope": {scopes}}, nil)
	if s != 200 {
		w.t.Fatal(s, out)
	}
	return out["access_token"].(string)
}

func TestEHRLaunch(t *testing.T) {
	w := newWorld(t)
	app := w.app(client.SecretBasic, func(c *client.Client) { c.LaunchURL = "https://app.example/launch?a=b" })
	ehr := w.backend("launch system/Patient.r")
	tok := w.backendToken(ehr, "launch")
	full := m{"client_id": app.ID, "patient": "p2", "encounter": "e1", "intent": "reconcile",
		"need_patient_banner": false,
		"smart_style_url":     "https://ehr.example/style.json", "user": "Practitioner/d1",
		"fhirContext": []m{{"reference": "ImagingStudy/i1"}}}
	mint := func(change m) (int, m) {
		body := m{}
		for _, x := range []m{full, change} {
			for k, v := range x {
				if body[k] = v; v == nil {
					delete(body, k)
				}
			}
		}
		return w.sendJSON("POST", launch.Path, tok, body)
	}
	s, l := mint(nil)
	u := must(url.Parse(fmt.Sprint(l["launch_url"])))
	if s != 201 || l["iss"] != w.base+"/fhir" || u.Query().Get("iss") != w.base+"/fhir" ||
		u.Query().Get("launch") != l["launch"] || u.Query().Get("a") != "b" {
		t.Fatal(s, l)
	}
	w.reopen()
	ask := func(handle any) (url.Values, int, string) {
		return w.follow(w.params(app, "openid fhirUser launch patient/*.rs user/*.rs",
			url.Values{"launch": {fmt.Sprint(handle)}}), true)
	}
	v, status, text := ask(l["launch"])
	s, out, _ := w.redeem(app, v.Get("code"), nil)
	if s != 200 || out["patient"] != "p2" || out["encounter"] != "e1" || out["intent"] != "reconcile" ||
		out["need_patient_banner"] != false ||
		out["smart_style_url"] != "https://ehr.example/style.json" ||
		fmt.Sprint(out["fhirContext"]) != "[map[reference:ImagingStudy/i1]]" {
		t.Fatal(status, text, s, out)
	}
	// user/ scopes reach beyond the patient
	for path, want := range map[string]int{"Observation/o3": 200, "Observation/o1": 200, "Practitioner/d1": 200} {
		if got := w.read(out["access_token"], path); got != want {
			t.Errorf("%s: %d", path, got)
		}
	}
	if v, _, _ := ask(l["launch"]); v.Get("error") != "invalid_request" {
		t.Error("a handle that was used:", v)
	}
	_, l = mint(nil)
	if v, _, _ := w.follow(w.params(w.app(client.SecretBasic, nil), "launch patient/*.rs",
		url.Values{"launch": {fmt.Sprint(l["launch"])}}), false); v.Get("error") != "invalid_request" {
		t.Error("a handle for another app:", v)
	}
	w.clock.add(launch.Life)
	if v, _, _ := ask(l["launch"]); v.Get("error") != "invalid_request" {
		t.Error("a handle that has expired:", v)
	}
	tok = w.backendToken(ehr, "launch")
	_, l = mint(m{"user": "Practitioner/d2"})
	if v, status, _ := ask(l["launch"]); v != nil || status != 403 {
		t.Error("a launch for another person:", v, status)
	}
	for name, change := range map[string]m{
		"no app":             {"client_id": nil},
		"unknown app":        {"client_id": "nobody"},
		"the EHR itself":     {"client_id": ehr.ID},
		"patient a path":     {"patient": "../x"},
		"user a name":        {"user": "Dr Test"},
		"style not https":    {"smart_style_url": "http://ehr.example/x"},
		"context a string":   {"fhirContext": []string{"ImagingStudy/i1"}},
		"context empty":      {"fhirContext": []m{{}}},
		"context a patient":  {"fhirContext": []m{{"reference": "Patient/p1"}}},
		"context absolute":   {"fhirContext": []m{{"reference": "https://x.example/ImagingStudy/1"}}},
		"context canonical":  {"fhirContext": []m{{"canonical": "urn:x"}}},
		"an unknown member":  {"tenant": "x"},
		"intent a long text": {"intent": strings.Repeat("x", 300)},
	} {
		if s, out := mint(change); s != 400 || out["launch"] != nil {
			t.Errorf("%s: %d %v", name, s, out)
		}
	}
	for name, x := range map[string]struct {
		tok  string
		want int
	}{"no token": {"", 401}, "nonsense": {"x", 401},
		"without the scope": {w.backendToken(ehr, "system/Patient.r"), 403},
		"an app's":          {w.authorize(app, "launch launch/patient patient/*.rs")["access_token"].(string), 403}} {
		tok = x.tok
		if s, _ := mint(nil); s != x.want {
			t.Errorf("%s: %d", name, s)
		}
	}
}

// A launch is taken with its scope alone, and only by somebody who may have its
// patient; what was refused may still be used by the right person.
func TestLaunchRefused(t *testing.T) {
	w := newWorld(t)
	app := w.app(client.None, nil)
	tok := w.backendToken(w.backend("launch"), "launch")
	s, l := w.sendJSON("POST", launch.Path, tok, m{"client_id": app.ID, "patient": "p2"})
	if s != 201 {
		t.Fatal(s, l)
	}
	ask := func(scopes string) (url.Values, int) {
		v, status, _ := w.follow(w.params(app, scopes, url.Values{"launch": {fmt.Sprint(l["launch"])}}), false)
		return v, status
	}
	for _, scopes := range []string{"patient/*.rs", "launch/patient patient/*.rs",
		"openid fhirUser launch/encounter user/*.rs"} {
		if v, status := ask(scopes); v.Get("error") != "invalid_scope" || v.Has("code") {
			t.Errorf("with %s: %v %d", scopes, v, status)
		}
	}
	w.signInPatient("p1") // a patient, launched with another
	if v, status := ask("launch patient/*.rs"); v.Has("code") || status != 403 {
		t.Errorf("a patient in another's record: %v %d", v, status)
	}
	w.decide = func(p *authorize.Pending) authorize.Decision { // the own record instead
		return authorize.Decision{Subject: w.subject, Patient: "p1", Scopes: strings.Fields(p.Scopes.String())}
	}
	if v, status := ask("launch patient/*.rs"); v.Has("code") || status != 403 {
		t.Errorf("the launch's patient was changed: %v %d", v, status)
	}
	w.decide = nil
	w.signInPatient("p2")
	v, status := ask("launch patient/*.rs")
	if s, out, _ := w.redeem(app, v.Get("code"), nil); s != 200 || out["patient"] != "p2" {
		t.Errorf("the right person: %d, %d %v", status, s, out)
	}
}

// ticket makes an initial access token for so many registrations.
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

func TestRegistration(t *testing.T) {
	w := newWorld(t)
	meta := m{"client_name": "New", "redirect_uris": []string{redirect},
		"scope": "patient/Observation.rs launch/patient", "token_endpoint_auth_method": "client_secret_basic"}
	with := func(change m) m {
		out := m{}
		for _, x := range []m{meta, change} {
			for k, v := range x {
				out[k] = v
			}
		}
		return out
	}
	tok := w.initialToken(2)
	for name, x := range map[string]struct {
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
		"implicit": {tok, "invalid_client_metadata", with(m{"response_types": []string{"token"}})},
		"password": {tok, "invalid_client_metadata", with(m{"grant_types": []string{"password"}})},
		"method":   {tok, "invalid_client_metadata", with(m{"token_endpoint_auth_method": "client_secret_jwt"})},
		"no keys":  {tok, "invalid_client_metadata", with(m{"token_endpoint_auth_method": "private_key_jwt"})},
	} {
		s, out := w.sendJSON("POST", register.Path, x.tok, x.body)
		if s != 400 && s != 401 || out["error"] != x.code {
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
		t.Error("a secret is stored as it is")
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
	for name, bad := range map[string]string{"none": "", "another": tok, "nonsense": "x"} {
		if s, _ := w.sendJSON("GET", uri, bad, nil); s != 401 {
			t.Errorf("managed with %s: %d", name, s)
		}
	}
	if s, out := w.sendJSON("PUT", uri, manage, with(m{"client_id": app.ID, "scope": "patient/*.rs"})); s != 200 ||
		out["scope"] != "patient/Observation.rs" || out["scope_not_registered"] != "patient/*.rs" {
		t.Error("a wider scope by update:", s, out)
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
		t.Error("a token of a deleted client:", s)
	}
}

// TestInitialTokenIsUsedUp holds that a token for one registration makes
// one, also when several use it at once, and none after its end.
func TestInitialTokenIsUsedUp(t *testing.T) {
	w := newWorld(t)
	meta := m{"client_name": "New", "redirect_uris": []string{redirect},
		"scope": "patient/Observation.rs launch/patient", "token_endpoint_auth_method": "client_secret_basic"}
	tok := w.initialToken(1)
	var wg sync.WaitGroup
	var made atomic.Int32
	for range 8 {
		wg.Go(func() {
			if s, _ := w.sendJSON("POST", register.Path, tok, meta); s == 201 {
				made.Add(1)
			}
		})
	}
	wg.Wait()
	if made.Load() != 1 {
		t.Error(made.Load(), "registrations by one token")
	}
	tok = w.initialToken(1)
	w.clock.add(time.Hour)
	if s, _ := w.sendJSON("POST", register.Path, tok, meta); s != 401 {
		t.Error("a token that has expired:", s)
	}
}

func TestReplayedAssertionAfterRestart(t *testing.T) {
	w := newWorld(t)
	back := w.backend("system/*.rs")
	form := url.Values{"grant_type": {"client_credentials"}, "scope": {"system/*.rs"},
		"client_assertion":      {w.assertion(back.ID)},
		"client_assertion_type": {"urn:ietf:params:oauth:client-assertion-type:jwt-bearer"}}
	ask := func() int {
		res := must(w.browser.PostForm(w.base+token.Path, form))
		if err := res.Body.Close(); err != nil {
			t.Fatal(err)
		}
		return res.StatusCode
	}
	if s := ask(); s != 200 {
		t.Fatal(s)
	}
	w.reopen()
	if s := ask(); s != 401 {
		t.Error("after a restart:", s)
	}
}

func TestExternalIssuer(t *testing.T) {
	key, evil := must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader)),
		must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader))
	w := newWorld(t)
	idp := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Cache-Control", "max-age=60")
		if _, err := rw.Write(w.jwks(key)); err != nil {
			t.Error(err)
		}
	}))
	defer idp.Close()
	app := w.app(client.None, func(c *client.Client) { c.Scope = "patient/Observation.rs user/*.rs" })
	w.external = &issuer.Verifier{Base: w.base + "/fhir",
		Keys: &client.Keys{HTTP: http.DefaultClient, Clock: w.clock.now, Algs: issuer.Algs()},
		Issuers: []issuer.Issuer{{Issuer: "https://idp.example", JWKSURL: idp.URL,
			Clients: map[string]string{"their-app": app.ID},
			Roles:   map[string]string{"Arzt": "practitioner"},
			Claims:  issuer.Claims{Roles: "realm_access/roles", Client: "azp"}}}}
	if err := w.external.Check(); err != nil {
		t.Fatal(err)
	}
	w.reopen()
	head := m{"alg": "ES384", "kid": "k1", "typ": "at+jwt"}
	made := func(h, change m, k *ecdsa.PrivateKey) string {
		c := m{"iss": "https://idp.example", "sub": "x9", "azp": "their-app", "aud": w.base + "/fhir",
			"jti": rand.Text(), "iat": w.clock.now().Unix(),
			"exp": w.clock.now().Add(10 * time.Minute).Unix(), "scope": "patient/*.rs openid", "patient": "p1",
			"realm_access": m{"roles": []string{"Arzt", "root"}},
			"fhirUser":     w.base + "/fhir/Practitioner/d1"}
		for k, v := range change {
			if c[k] = v; v == nil {
				delete(c, k)
			}
		}
		hh := m{}
		for _, x := range []m{head, h} {
			for k, v := range x {
				hh[k] = v
			}
		}
		return jwt(hh, c, k)
	}
	good := made(nil, nil, key)
	// no more than registered here
	for path, want := range map[string]int{"Observation/o1": 200, "Observation/o3": 404, "Patient/p1": 403} {
		if got := w.read(good, path); got != want {
			t.Errorf("%s: %d", path, got)
		}
	}
	if s := w.read(made(nil, m{"realm_access": m{"roles": []string{"root"}}}, key), "Observation/o1"); s != 403 {
		t.Error("a role that is none here:", s)
	}
	for name, tok := range map[string]string{
		"forged":           made(nil, nil, evil),
		"aud":              made(nil, m{"aud": "https://other.example"}, key),
		"issuer":           made(nil, m{"iss": "https://evil.example"}, key),
		"ours":             made(nil, m{"iss": w.base}, key),
		"expired":          made(nil, m{"exp": w.clock.now().Unix()}, key),
		"too long":         made(nil, m{"exp": w.clock.now().Add(2 * time.Hour).Unix()}, key),
		"no exp":           made(nil, m{"exp": nil}, key),
		"id_token":         made(m{"typ": "JWT"}, nil, key),
		"kid":              made(m{"kid": "k2"}, nil, key),
		"jku":              made(m{"jku": "https://evil.example"}, nil, key),
		"unknown client":   made(nil, m{"azp": "nobody"}, key),
		"no subject":       made(nil, m{"sub": nil}, key),
		"another's person": made(nil, m{"fhirUser": "https://other.example/fhir/Practitioner/d1"}, key),
		"patient a path":   made(nil, m{"patient": "../p1"}, key),
	} {
		if s := w.read(tok, "Observation/o1"); s != 401 {
			t.Errorf("%s: %d", name, s)
		}
	}
}

// TestExternalIssuerIsRestricted: an issuer speaks for the clients that its
// configuration names, with the scopes that are listed there, system/ scopes
// among them only if they are.
func TestExternalIssuerIsRestricted(t *testing.T) {
	key := must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader))
	w := newWorld(t)
	idp := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		if _, err := rw.Write(w.jwks(key)); err != nil {
			t.Error(err)
		}
	}))
	defer idp.Close()
	ehr, portal := w.backend("system/*.cruds"),
		w.app(client.None, func(c *client.Client) { c.Scope = "patient/*.rs user/*.rs" })
	read := func(iss issuer.Issuer, change m) int {
		iss.Issuer, iss.JWKSURL = "https://idp.example", idp.URL
		w.external = &issuer.Verifier{Base: w.base + "/fhir",
			Keys:    &client.Keys{HTTP: http.DefaultClient, Clock: w.clock.now, Algs: issuer.Algs()},
			Issuers: []issuer.Issuer{iss}}
		if err := w.external.Check(); err != nil {
			t.Fatal(err)
		}
		w.reopen()
		c := m{"iss": iss.Issuer, "aud": w.base + "/fhir", "jti": rand.Text(), "iat": w.clock.now().Unix(),
			"exp": w.clock.now().Add(10 * time.Minute).Unix()}
		for k, v := range change {
			c[k] = v
		}
		return w.read(jwt(m{"alg": "ES384", "kid": "k1", "typ": "at+jwt"}, c, key), "Patient/p1")
	}
	backend := func(id, scopes string) m { return m{"sub": id, "client_id": id, "scope": scopes} }
	named := map[string]string{"portal": portal.ID, "feed": ehr.ID}
	person := m{"sub": "x9", "client_id": "portal", "scope": "user/*.rs",
		"fhirUser": w.base + "/fhir/Practitioner/d1", "roles": []string{"doctor"}}
	roles := map[string]string{"doctor": "practitioner"}
	for _, c := range []struct {
		name string
		iss  issuer.Issuer
		tok  m
		want int
	}{
		{"another client of this server, by its id here",
			issuer.Issuer{Clients: map[string]string{"portal": portal.ID}, Scopes: "system/*.cruds"},
			backend(ehr.ID, "system/*.cruds"), 401},
		{"a client by its id here, though it is named", issuer.Issuer{Clients: named, Scopes: "system/*.cruds"},
			backend(ehr.ID, "system/*.cruds"), 401},
		{"system/ scopes that are not listed", issuer.Issuer{Clients: named}, backend("feed", "system/*.cruds"), 403},
		{"system/ scopes beside those listed",
			issuer.Issuer{Clients: named, Scopes: "user/*.rs system/Observation.rs"},
			backend("feed", "system/*.cruds"), 403},
		{"a system/ scope that is listed", issuer.Issuer{Clients: named, Scopes: "system/Patient.rs"},
			backend("feed", "system/*.cruds"), 200},
		{"a person", issuer.Issuer{Clients: named, Roles: roles}, person, 200},
		{"a person, with other scopes listed",
			issuer.Issuer{Clients: named, Roles: roles, Scopes: "user/Observation.rs"}, person, 403},
		{"a person with the scopes of a backend", issuer.Issuer{Clients: named, Roles: roles, Scopes: "system/*.cruds"},
			m{"sub": "x9", "client_id": "feed", "scope": "system/*.cruds", "fhirUser": person["fhirUser"],
				"roles": []string{"doctor"}}, 403},
	} {
		if got := read(c.iss, c.tok); got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
	}
	for name, iss := range map[string]issuer.Issuer{
		"no clients":        {},
		"a client's id":     {Clients: map[string]string{"x": "../y"}},
		"an unknown scope":  {Clients: named, Scopes: "everything"},
		"a client, unnamed": {Clients: map[string]string{"": ehr.ID}},
	} {
		iss.Issuer, iss.JWKSURL = "https://idp.example", idp.URL
		if err := (&issuer.Verifier{Issuers: []issuer.Issuer{iss}}).Check(); fhir.KindOf(err) != fhir.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A verifier that keeps the key set for as long as it may never meets a token
// that it cannot verify.
func TestKeyRotationWithCachedKeySet(t *testing.T) {
	w := newWorld(t)
	c := w.app(client.None, nil)
	fetch := func() jwk.Set {
		res := must(http.Get(w.base + "/.well-known/jwks.json"))
		defer res.Body.Close()
		return must(jwk.ParseReader(res.Body))
	}
	set, at := fetch(), w.clock.now()
	seen := map[string]bool{}
	for i := range 40 {
		if i == 5 {
			w.clock.add(keys.MaxAge)
			set, at = fetch(), w.clock.now()
		}
		w.clock.add(20 * time.Second)
		if _, err := w.ring.Tick(token.MaxUserLife); err != nil {
			t.Fatal(err)
		}
		w.subject.AuthTime = w.clock.now()
		out := w.authorize(c, "openid launch/patient patient/*.rs")
		if w.clock.now().Sub(at) > time.Minute {
			set, at = fetch(), w.clock.now()
		}
		for _, name := range []string{"access_token", "id_token"} {
			h, _ := claimsOf(t, out[name])
			seen[h["kid"].(string)] = true
			if _, err := jws.Verify([]byte(out[name].(string)), jws.WithKeySet(set)); err != nil {
				t.Fatalf("step %d: %s: %v", i, name, err)
			}
		}
		if s := w.read(out["access_token"], "Patient/p1"); s != 200 {
			t.Fatal(s)
		}
	}
	if len(seen) != 4 {
		t.Errorf("%d keys signed, want 2 of each kind", len(seen))
	}
}

// Keys change while tokens are made and used: nobody is refused.
func TestKeyRotationDuringRequests(t *testing.T) {
	w := newWorld(t)
	back := w.backend("system/*.rs")
	done := make(chan struct{})
	var wg sync.WaitGroup
	var good, bad atomic.Int32
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				s, out, _ := w.postForm(token.Path, back,
					url.Values{"grant_type": {"client_credentials"}, "scope": {"system/*.rs"}}, nil)
				if s != 200 || w.read(out["access_token"], "Patient/p1") != 200 {
					bad.Add(1)
				}
				good.Add(1)
			}
		})
	}
	for range 10 {
		if err := w.ring.Rotate(token.MaxUserLife); err != nil {
			t.Fatal(err)
		}
		time.Sleep(20 * time.Millisecond)
	}
	close(done)
	wg.Wait()
	if bad.Load() != 0 || good.Load() < 10 {
		t.Errorf("%d of %d refused", bad.Load(), good.Load())
	}
}

func TestDiscovery(t *testing.T) {
	w := newWorld(t)
	var first m
	for _, path := range []string{"/fhir/.well-known/smart-configuration", "/.well-known/smart-configuration",
		"/.well-known/openid-configuration"} {
		r := must(http.NewRequest("GET", w.base+path, nil))
		r.Header.Set("Accept", "text/html")
		res := must(http.DefaultClient.Do(r))
		var d m
		if err := json.NewDecoder(res.Body).Decode(&d); err != nil {
			t.Fatal(err)
		}
		if err := res.Body.Close(); err != nil {
			t.Fatal(err)
		}
		if res.StatusCode != 200 || !strings.HasPrefix(res.Header.Get("Content-Type"), "application/json") ||
			res.Header.Get("Access-Control-Allow-Origin") != "*" {
			t.Error(path, res.Status, res.Header)
		}
		if first == nil {
			first = d
		} else if fmt.Sprint(first) != fmt.Sprint(d) {
			t.Errorf("%s differs", path)
		}
	}
	list := func(name string) (out []string) {
		for _, x := range first[name].([]any) {
			out = append(out, x.(string))
		}
		return out
	}
	for name, want := range map[string][]string{
		"grant_types_supported": {"authorization_code", "refresh_token",
			"client_credentials"},
		"code_challenge_methods_supported": {"S256"},
		"token_endpoint_auth_methods_supported": {"private_key_jwt", "client_secret_basic",
			"client_secret_post"},
		"token_endpoint_auth_signing_alg_values_supported": {"RS384", "ES384"},
		"id_token_signing_alg_values_supported":            {"RS256"},
		"response_types_supported":                         {"code"}, "subject_types_supported": {"public"},
		"capabilities": {"launch-standalone", "launch-ehr", "client-public", "client-confidential-symmetric",
			"client-confidential-asymmetric", "sso-openid-connect",
			"context-standalone-patient", "context-ehr-patient", "context-banner", "context-style",
			"permission-offline", "permission-patient", "permission-user",
			"authorize-post", "permission-v1", "permission-v2"},
	} {
		for _, x := range want {
			if !slices.Contains(list(name), x) {
				t.Errorf("%s lacks %s", name, x)
			}
		}
	}
	if slices.Contains(list("code_challenge_methods_supported"), "plain") || first["issuer"] != w.base ||
		first["authorization_response_iss_parameter_supported"] != true {
		t.Error(first)
	}
	// What is announced is there, and is taken.
	for _, name := range []string{"authorization_endpoint", "token_endpoint", "introspection_endpoint",
		"revocation_endpoint", "registration_endpoint", "jwks_uri"} {
		res := must(http.Get(first[name].(string)))
		if err := res.Body.Close(); err != nil {
			t.Fatal(err)
		}
		if res.StatusCode == 404 {
			t.Error(name, res.Status)
		}
	}
	for _, s := range list("scopes_supported") {
		if _, err := (scope.Parser{}).Parse(s); err != nil {
			t.Error(err)
		}
	}
}
