package register_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/lestrrat-go/jwx/v2/jwk"

	"pulsegate/fhir/access"
	"pulsegate/fhir/limit"
	"pulsegate/fhir/search"
	"pulsegate/fhir/store"
	"pulsegate/smart/client"
	"pulsegate/smart/internal/smarttest"
	"pulsegate/smart/oauth/register"
)

type m = map[string]any

const redirect = "https://app.example/cb"

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// world is the registration endpoint over HTTP with the embedded store.
type world struct {
	*smarttest.Base
	t       *testing.T
	handler *register.Handler
}

func newWorld(t *testing.T) *world {
	b := smarttest.New(t, time.Unix(1_800_000_000, 0))
	w := &world{Base: b, t: t, handler: &register.Handler{Store: b.DB, Registry: b.Clients, Scopes: b.Scopes,
		Clock: b.Clock, Rand: rand.Reader, Issuer: b.Server.URL,
		Logger: b.Logger, Audit: b.Audit, Limits: limit.New(limit.Limits{Global: 1e6, Remote: 1e6, Failures: 1e6})}}
	w.handler.Mount(b.Engine)
	return w
}

// token returns an initial access token for a number of registrations.
func (w *world) token(uses int) string {
	w.t.Helper()
	tok, write, err := w.handler.PrepareToken(
		register.InitialToken{Scope: "openid fhirUser launch/patient offline_access patient/*.rs system/Observation.rs",
			Uses: uses, Expires: w.Now.Add(time.Hour)})
	if err != nil {
		w.t.Fatal(err)
	}
	must(w.DB.Commit(w.t.Context(), &store.Batch{State: []store.StateWrite{write}}))
	return tok
}

// send sends a body as JSON, or as it is if it is a string.
func (w *world) send(method, path, bearer string, body any) (int, m, http.Header) {
	w.t.Helper()
	text, isText := body.(string)
	if !isText && body != nil {
		text = string(must(json.Marshal(body)))
	}
	r := must(http.NewRequest(method, w.Server.URL+path, strings.NewReader(text)))
	r.Header.Set("Content-Type", "application/json; charset=utf-8")
	if bearer != "" {
		r.Header.Set("Authorization", "Bearer "+bearer)
	}
	return w.do(r)
}

func (w *world) do(r *http.Request) (int, m, http.Header) {
	w.t.Helper()
	res := must(http.DefaultClient.Do(r))
	defer res.Body.Close()
	b := must(io.ReadAll(res.Body))
	if res.Header.Get("Cache-Control") != "no-store" || res.Header.Get("Pragma") != "no-cache" {
		w.t.Errorf("%s %s may be cached", r.Method, r.URL.Path)
	}
	var out m
	if len(b) > 0 {
		if err := json.Unmarshal(b, &out); err != nil {
			w.t.Fatalf("%d %q", res.StatusCode, b)
		}
	}
	return res.StatusCode, out, res.Header
}

// events returns the number of AuditEvents of changes.
func (w *world) events() (n int) {
	w.t.Helper()
	q := must(search.Parse("AuditEvent", [][2]string{{"_count", "1000"}}, search.ParseOptions{}))
	if err := w.DB.Find(context.Background(), store.Find{Query: q, Filter: access.All().Filter(access.Search)},
		func(*store.Found) bool { n++; return true }); err != nil {
		w.t.Fatal(err)
	}
	return n
}

// keySet returns a JWK set with one new key.
func keySet(change func(jwk.Key)) m {
	j := must(jwk.FromRaw(&must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader)).PublicKey))
	if err := j.Set(jwk.KeyIDKey, "k1"); err != nil {
		panic(err)
	}
	if change != nil {
		change(j)
	}
	return m{"keys": []any{j}}
}

// with returns valid metadata with changed members. A nil value removes the
// member.
func with(change m) m {
	out := m{"client_name": "New", "redirect_uris": []string{redirect},
		"scope": "launch/patient patient/Observation.rs", "token_endpoint_auth_method": "client_secret_basic"}
	for k, v := range change {
		if out[k] = v; v == nil {
			delete(out, k)
		}
	}
	return out
}

const (
	invalidMetadata = "invalid_client_metadata"
	invalidRedirect = "invalid_redirect_uri"
)

// refusal is a request body and the error code that it is refused with.
type refusal struct {
	code string
	body any
}

// refusedMetadata returns the request bodies that must be refused, by
// description (RFC 7591 3.2.2).
func refusedMetadata() map[string]refusal {
	many := make([]string, 17)
	for i := range many {
		many[i] = redirect + strings.Repeat("x", i)
	}
	return map[string]refusal{
		"not JSON":                  {invalidMetadata, "client_name=New"},
		"JSON array":                {invalidMetadata, "[]"},
		"empty body":                {invalidMetadata, ""},
		"member of another type":    {invalidMetadata, with(m{"redirect_uris": redirect})},
		"more than 128 KiB":         {invalidMetadata, with(m{"client_name": strings.Repeat("x", 129<<10)})},
		"no name":                   {invalidMetadata, with(m{"client_name": nil})},
		"control character in name": {invalidMetadata, with(m{"client_name": "a\u0007b"})},
		"name too long":             {invalidMetadata, with(m{"client_name": strings.Repeat("x", 201)})},
		"unsupported response type": {invalidMetadata, with(m{"response_types": []string{"token"}})},
		"two response types":        {invalidMetadata, with(m{"response_types": []string{"code", "id_token"}})},
		"grant type implicit":       {invalidMetadata, with(m{"grant_types": []string{"implicit"}})},
		"grant type password": {invalidMetadata,
			with(m{"grant_types": []string{"authorization_code", "password"}})},
		"unsupported authentication method": {invalidMetadata,
			with(m{"token_endpoint_auth_method": "client_secret_jwt"})},
		"backend with a secret": {invalidMetadata,
			with(m{"grant_types": []string{"client_credentials"}, "redirect_uris": nil,
				"scope": "system/Observation.rs"})},
		"unknown scope":                {invalidMetadata, with(m{"scope": "patient/Nothing.rs"})},
		"system scope":                 {invalidMetadata, with(m{"scope": "system/Observation.rs"})},
		"secret and keys":              {invalidMetadata, with(m{"jwks": keySet(nil)})},
		"secret and key URL":           {invalidMetadata, with(m{"jwks_uri": "https://app.example/jwks"})},
		"private_key_jwt without keys": {invalidMetadata, with(m{"token_endpoint_auth_method": "private_key_jwt"})},
		"keys and key URL": {invalidMetadata,
			with(m{"token_endpoint_auth_method": "private_key_jwt", "jwks": keySet(nil),
				"jwks_uri": "https://app.example/jwks"})},
		"malformed key": {invalidMetadata,
			with(m{"token_endpoint_auth_method": "private_key_jwt", "jwks": m{"keys": []any{m{"kty": "EC"}}}})},
		"empty key set": {invalidMetadata,
			with(m{"token_endpoint_auth_method": "private_key_jwt", "jwks": m{"keys": []any{}}})},
		"http key URL": {invalidMetadata,
			with(m{"token_endpoint_auth_method": "private_key_jwt", "jwks_uri": "http://app.example/jwks"})},
		"public client with keys": {invalidMetadata,
			with(m{"token_endpoint_auth_method": "none", "jwks": keySet(nil)})},
		"http logo":            {invalidMetadata, with(m{"logo_uri": "http://app.example/logo.png"})},
		"script as policy":     {invalidMetadata, with(m{"policy_uri": "javascript:alert(1)"})},
		"data URL as terms":    {invalidMetadata, with(m{"tos_uri": "data:text/html,x"})},
		"client URI with user": {invalidMetadata, with(m{"client_uri": "https://a@app.example/"})},
		"http launch URL":      {invalidMetadata, with(m{"initiate_login_uri": "http://app.example/launch"})},
		"no redirect URI": {invalidRedirect,
			with(m{"redirect_uris": []string{}, "grant_types": []string{"authorization_code"}})},
		"redirect URI of a backend": {invalidRedirect,
			with(m{"grant_types": []string{"client_credentials"}, "token_endpoint_auth_method": "private_key_jwt",
				"jwks": keySet(nil), "scope": "system/Observation.rs"})},
		"http redirect URI":     {invalidRedirect, with(m{"redirect_uris": []string{"http://app.example/cb"}})},
		"fragment":              {invalidRedirect, with(m{"redirect_uris": []string{redirect + "#x"}})},
		"empty fragment":        {invalidRedirect, with(m{"redirect_uris": []string{redirect + "#"}})},
		"relative redirect URI": {invalidRedirect, with(m{"redirect_uris": []string{"/cb"}})},
		"user in redirect URI": {invalidRedirect,
			with(m{"redirect_uris": []string{"https://app.example@evil.example/cb"}})},
		"script as redirect URI": {invalidRedirect,
			with(m{"redirect_uris": []string{"javascript:alert(1)"}})},
		"custom scheme without a dot": {invalidRedirect, with(m{"redirect_uris": []string{"myapp:/cb"}})},
		"backslash in redirect URI": {invalidRedirect,
			with(m{"redirect_uris": []string{`https://app.example\@evil.example`}})},
		"space in redirect URI": {invalidRedirect,
			with(m{"redirect_uris": []string{"https://app.example/ cb"}})},
		"one of two redirect URIs invalid": {invalidRedirect,
			with(m{"redirect_uris": []string{redirect, "http://app.example/cb"}})},
		"too many redirect URIs": {invalidRedirect, with(m{"redirect_uris": many})},
	}
}

// TestMetadataRefused checks that invalid metadata is refused in a registration
// and in an update, that a refusal changes nothing, and that it does not use up
// the initial access token.
func TestMetadataRefused(t *testing.T) {
	w := newWorld(t)
	tok := w.token(2)
	_, created, _ := w.send("POST", register.Path, tok, with(nil))
	id, manage := created["client_id"].(string), created["registration_access_token"].(string)
	before := must(w.DB.Get(t.Context(), "client/"+id))
	events := w.events()
	for name, tc := range refusedMetadata() {
		if s, out, _ := w.send("POST", register.Path, tok, tc.body); s != 400 || out["error"] != tc.code ||
			out["error_description"] == "" || out["client_id"] != nil {
			t.Errorf("%s: %d %v", name, s, out)
		}
		if body, ok := tc.body.(m); ok {
			body["client_id"] = id
		}
		// In an update, a scope that the client lacks may be refused first.
		if s, out, _ := w.send("PUT", register.Path+"/"+id, manage, tc.body); s != 400 || out["error"] != tc.code &&
			out["error"] != invalidMetadata {
			t.Errorf("%s, as an update: %d %v", name, s, out)
		}
	}
	if string(must(w.DB.Get(t.Context(), "client/"+id))) != string(before) || w.events() != events {
		t.Error("a refusal changed something")
	}
	r := must(http.NewRequest("POST", w.Server.URL+register.Path,
		strings.NewReader(string(must(json.Marshal(with(nil)))))))
	r.Header.Set("Authorization", "Bearer "+tok)
	r.Header.Set("Content-Type", "text/plain")
	if s, out, _ := w.do(r); s != 400 || out["error"] != invalidMetadata {
		t.Errorf("text/plain: %d %v", s, out)
	}
	if s, out, _ := w.send("POST", register.Path, tok, with(nil)); s != 201 {
		t.Errorf("refusals used up the initial access token: %d %v", s, out)
	}
	if s, out, h := w.send("POST", register.Path, tok, with(nil)); s != 401 || out["error"] != "invalid_token" ||
		!strings.Contains(h.Get("WWW-Authenticate"), `error="invalid_token"`) {
		t.Errorf("used up: %d %v %v", s, out, h)
	}
}

// TestDefaults checks the defaults of metadata that a registration leaves out,
// and the metadata of the response (RFC 7591 2).
func TestDefaults(t *testing.T) {
	w := newWorld(t)
	// Without a scope, the scope of the initial access token applies. This one
	// contains a system/ scope, which a client with authorization codes cannot
	// have.
	s, out, _ := w.send("POST", register.Path, w.token(1), with(m{"scope": nil}))
	if s != 400 || out["error"] != "invalid_client_metadata" {
		t.Errorf("without a scope: %d %v", s, out)
	}
	s, out, _ = w.send("POST", register.Path, w.token(1),
		m{"client_name": "New", "redirect_uris": []string{redirect}, "scope": "patient/*.rs", "tenant": "ignored",
			"client_id": "mine", "client_secret": "mine"})
	if s != 201 || out["token_endpoint_auth_method"] != "client_secret_basic" || out["client_id"] == "mine" ||
		out["client_secret"] == "mine" || out["client_secret_expires_at"] != 0.0 ||
		out["client_id_issued_at"] != float64(w.Now.Unix()) ||
		out["registration_client_uri"] != w.Server.URL+register.Path+"/"+out["client_id"].(string) {
		t.Errorf("%d %v", s, out)
	}
	s, out, _ = w.send("POST", register.Path, w.token(1),
		m{"client_name": "Backend", "token_endpoint_auth_method": "private_key_jwt", "jwks": keySet(nil),
			"scope": "system/Observation.rs"})
	if s != 201 || out["client_secret"] != nil || out["client_secret_expires_at"] != nil ||
		out["response_types"] != nil || len(out["grant_types"].([]any)) != 1 {
		t.Errorf("a backend: %d %v", s, out)
	}
}

// TestManagement checks that only the registration access token gives access to
// a registration, that it gives access to its own client only, and that every
// change is recorded in the same commit (RFC 7592).
func TestManagement(t *testing.T) {
	w := newWorld(t)
	initial := w.token(3)
	add := func(change m) (id, manage, secret string) {
		t.Helper()
		s, out, _ := w.send("POST", register.Path, initial, with(change))
		if s != 201 {
			t.Fatal(s, out)
		}
		secret, _ = out["client_secret"].(string)
		return out["client_id"].(string), out["registration_access_token"].(string), secret
	}
	id, manage, secret := add(nil)
	other, otherManage, _ := add(nil)
	path := register.Path + "/" + id
	for name, tok := range map[string]string{"no token": "", "guess": strings.Repeat("A", 43),
		"token of another client": otherManage, "initial access token": initial,
		"client secret": secret, "stored hash": string(must(json.Marshal(client.Hash(manage)))),
		"long token": strings.Repeat("A", 4096)} {
		for _, method := range []string{"GET", "PUT", "DELETE", "POST"} {
			if s, out, h := w.send(method, path, tok, with(m{"client_id": id})); s != 401 ||
				out["error"] != "invalid_token" || h.Get("WWW-Authenticate") == "" {
				t.Errorf("%s with %s: %d %v", method, name, s, out)
			}
		}
	}
	if s, out, _ := w.send("GET", register.Path+"/unknown", manage, nil); s != 401 || out["error"] != "invalid_token" {
		t.Errorf("unknown client: %d %v", s, out)
	}
	for method, p := range map[string]string{"POST": path, "PATCH": path, "GET": register.Path} {
		if s, _, h := w.send(method, p, manage, nil); s != 405 || h.Get("Allow") == "" {
			t.Errorf("%s %s: %d, Allow %q", method, p, s, h.Get("Allow"))
		}
	}
	s, got, _ := w.send("GET", path, manage, nil)
	if s != 200 || got["registration_access_token"] != manage ||
		got["registration_client_uri"] != w.Server.URL+path || got["client_secret"] != nil {
		t.Errorf("read: %d %v", s, got)
	}

	for name, body := range map[string]m{
		"no client_id":                with(nil),
		"another client_id":           with(m{"client_id": other}),
		"a new secret":                with(m{"client_id": id, "client_secret": "mine"}),
		"a new authentication method": with(m{"client_id": id, "token_endpoint_auth_method": "none"}),
		"a wider scope":               with(m{"client_id": id, "scope": "patient/Patient.rs"}),
	} {
		if s, out, _ := w.send("PUT", path, manage, body); s != 400 || out["error"] != invalidMetadata {
			t.Errorf("update with %s: %d %v", name, s, out)
		}
	}
	events := w.events()
	s, got, _ = w.send("PUT", path, manage,
		with(m{"client_id": id, "client_secret": secret, "client_name": "Renamed", "scope": "patient/Observation.r",
			"token_endpoint_auth_method": "client_secret_post"}))
	if s != 200 || got["client_name"] != "Renamed" || got["scope"] != "patient/Observation.r" ||
		got["registration_access_token"] != manage {
		t.Errorf("update: %d %v", s, got)
	}
	// A scope that the client gave up stays unregistered.
	if s, out, _ := w.send("PUT", path, manage, with(m{"client_id": id})); s != 200 ||
		out["scope"] != "patient/Observation.r" ||
		out["scope_not_registered"] != "launch/patient patient/Observation.rs" {
		t.Errorf("update to the original scope: %d %v", s, out)
	}
	c := must(w.Clients.Get(t.Context(), id))
	if string(c.SecretHash) != string(client.Hash(secret)) {
		t.Error("an update changed the secret")
	}
	if n := w.events() - events; n != 2 {
		t.Errorf("%d events of two updates", n)
	}

	if s, out, _ := w.send("DELETE", path, manage, nil); s != 204 || out != nil {
		t.Errorf("deletion: %d %v", s, out)
	}
	if n := w.events() - events; n != 3 {
		t.Errorf("%d events of updates and deletion", n)
	}
	for _, method := range []string{"GET", "PUT", "DELETE"} {
		if s, out, _ := w.send(method, path, manage, with(m{"client_id": id})); s != 401 ||
			out["error"] != "invalid_token" {
			t.Errorf("%s after deletion: %d %v", method, s, out)
		}
	}
	if c := must(w.Clients.Get(t.Context(), id)); !c.Disabled {
		t.Error("a deleted client is not disabled")
	}
	if s, _, _ := w.send("GET", register.Path+"/"+other, otherManage, nil); s != 200 {
		t.Error("the other client was deleted too:", s)
	}
}

// TestInitialTokens checks the validation and the expiry of initial access
// tokens.
func TestInitialTokens(t *testing.T) {
	w := newWorld(t)
	for name, limits := range map[string]register.InitialToken{
		"no uses":       {Scope: "patient/*.rs", Expires: w.Now.Add(time.Hour)},
		"too many uses": {Scope: "patient/*.rs", Uses: 1001, Expires: w.Now.Add(time.Hour)},
		"expired":       {Scope: "patient/*.rs", Uses: 1, Expires: w.Now},
		"unknown scope": {Scope: "patient/Nothing.rs", Uses: 1, Expires: w.Now.Add(time.Hour)},
	} {
		if tok, _, err := w.handler.PrepareToken(limits); err == nil || tok != "" {
			t.Errorf("%s: %q", name, tok)
		}
	}
	tok := w.token(1)
	r := must(http.NewRequest("POST", w.Server.URL+register.Path,
		strings.NewReader(string(must(json.Marshal(with(nil)))))))
	r.Header.Set("Content-Type", "application/json")
	r.SetBasicAuth(tok, "")
	if s, out, _ := w.do(r); s != 401 || out["error"] != "invalid_token" {
		t.Errorf("Basic authentication: %d %v", s, out)
	}
	w.Now = w.Now.Add(time.Hour)
	if s, out, _ := w.send("POST", register.Path, tok, with(nil)); s != 401 || out["error"] != "invalid_token" {
		t.Errorf("expired: %d %v", s, out)
	}
}

// TestFailuresAreLimited checks that guesses of a registration access token are
// limited.
func TestFailuresAreLimited(t *testing.T) {
	w := newWorld(t)
	w.handler.Limits = register.NewLimits(nil)
	n := 0
	for ; n < 100; n++ {
		if s, out, h := w.send("GET", register.Path+"/x", "guess", nil); s == 429 {
			if out["error"] != "temporarily_unavailable" || h.Get("Retry-After") == "" {
				t.Error(out, h)
			}
			break
		}
	}
	if n == 0 || n == 100 {
		t.Errorf("%d guesses in one second", n)
	}
}
