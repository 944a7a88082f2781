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
	"pulsegate/fhir/search"
	"pulsegate/fhir/store"
	"pulsegate/smart/client"
	"pulsegate/smart/internal/limit"
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

// world is the endpoint alone, over HTTP and the embedded store.
type world struct {
	*smarttest.Base
	t    *testing.T
	regs *register.Handler
}

func newWorld(t *testing.T) *world {
	b := smarttest.New(t, time.Unix(1_800_000_000, 0))
	w := &world{Base: b, t: t, regs: &register.Handler{Store: b.DB, Registry: b.Clients, Scopes: b.Scopes,
		Clock: b.Clock, Rand: rand.Reader, Issuer: b.Server.URL,
		Logger: b.Logger, Audit: b.Audit, Limits: limit.New(limit.Limits{Global: 1e6, Remote: 1e6, Failures: 1e6})}}
	w.regs.Mount(b.Engine)
	return w
}

func (w *world) token(uses int) string {
	w.t.Helper()
	tok, write, err := w.regs.PrepareToken(
		register.InitialToken{Scope: "openid fhirUser launch/patient offline_access patient/*.rs system/Observation.rs",
			Uses: uses, Expires: w.Now.Add(time.Hour)})
	if err != nil {
		w.t.Fatal(err)
	}
	must(w.DB.Commit(w.t.Context(), &store.Batch{State: []store.StateWrite{write}}))
	return tok
}

// send sends a body, JSON unless it is a string, and returns the answer.
func (w *world) send(method, path, bearer string, body any) (int, m, http.Header) {
	w.t.Helper()
	text, raw := body.(string)
	if !raw && body != nil {
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

// events counts the AuditEvents of the endpoint's changes.
func (w *world) events() (n int) {
	w.t.Helper()
	q := must(search.Parse("AuditEvent", [][2]string{{"_count", "1000"}}, search.ParseOptions{}))
	if err := w.DB.Find(context.Background(), store.Find{Query: q, Filter: access.All().Filter(access.Search)},
		func(*store.Found) bool { n++; return true }); err != nil {
		w.t.Fatal(err)
	}
	return n
}

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

// with is a good registration with members changed, or (nil) left out.
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

// TestMetadataRefused is the error table of RFC 7591 3.2.2, for a new
// registration and for the update of one alike; nothing is made or changed,
// and the initial access token is not used up.
func TestMetadataRefused(t *testing.T) {
	w := newWorld(t)
	tok := w.token(2)
	_, made, _ := w.send("POST", register.Path, tok, with(nil))
	id, manage := made["client_id"].(string), made["registration_access_token"].(string)
	before := must(w.DB.Get(t.Context(), "client/"+id))
	events := w.events()
	many := make([]string, 17)
	for i := range many {
		many[i] = redirect + strings.Repeat("x", i)
	}
	const meta, uri = "invalid_client_metadata", "invalid_redirect_uri"
	for name, x := range map[string]struct {
		code string
		body any
	}{
		"no JSON":                      {meta, "client_name=New"},
		"an array":                     {meta, "[]"},
		"empty":                        {meta, ""},
		"a member of another type":     {meta, with(m{"redirect_uris": redirect})},
		"more than 128 KiB":            {meta, with(m{"client_name": strings.Repeat("x", 129<<10)})},
		"no name":                      {meta, with(m{"client_name": nil})},
		"a name with control":          {meta, with(m{"client_name": "a\u0007b"})},
		"a long name":                  {meta, with(m{"client_name": strings.Repeat("x", 201)})},
		"a response type":              {meta, with(m{"response_types": []string{"token"}})},
		"two response types":           {meta, with(m{"response_types": []string{"code", "id_token"}})},
		"implicit":                     {meta, with(m{"grant_types": []string{"implicit"}})},
		"password":                     {meta, with(m{"grant_types": []string{"authorization_code", "password"}})},
		"a method that is not offered": {meta, with(m{"token_endpoint_auth_method": "client_secret_jwt"})},
		"a backend with a secret": {meta,
			with(m{"grant_types": []string{"client_credentials"}, "redirect_uris": nil,
				"scope": "system/Observation.rs"})},
		"an unknown scope":        {meta, with(m{"scope": "patient/Nothing.rs"})},
		"a scope of a backend":    {meta, with(m{"scope": "system/Observation.rs"})},
		"a secret with keys":      {meta, with(m{"jwks": keySet(nil)})},
		"a secret with a key URL": {meta, with(m{"jwks_uri": "https://app.example/jwks"})},
		"keys without any":        {meta, with(m{"token_endpoint_auth_method": "private_key_jwt"})},
		"keys twice": {meta,
			with(m{"token_endpoint_auth_method": "private_key_jwt", "jwks": keySet(nil),
				"jwks_uri": "https://app.example/jwks"})},
		"keys that are none": {meta,
			with(m{"token_endpoint_auth_method": "private_key_jwt", "jwks": m{"keys": []any{m{"kty": "EC"}}}})},
		"no key in the set": {meta,
			with(m{"token_endpoint_auth_method": "private_key_jwt", "jwks": m{"keys": []any{}}})},
		"a key URL over http": {meta,
			with(m{"token_endpoint_auth_method": "private_key_jwt", "jwks_uri": "http://app.example/jwks"})},
		"a public client with keys": {meta, with(m{"token_endpoint_auth_method": "none", "jwks": keySet(nil)})},
		"a logo over http":          {meta, with(m{"logo_uri": "http://app.example/logo.png"})},
		"a policy that is a script": {meta, with(m{"policy_uri": "javascript:alert(1)"})},
		"terms that are data":       {meta, with(m{"tos_uri": "data:text/html,x"})},
		"a home with a user":        {meta, with(m{"client_uri": "https://a@app.example/"})},
		"a launch URL over http":    {meta, with(m{"initiate_login_uri": "http://app.example/launch"})},
		"no redirect": {uri,
			with(m{"redirect_uris": []string{}, "grant_types": []string{"authorization_code"}})},
		"a redirect of a backend": {uri,
			with(m{"grant_types": []string{"client_credentials"}, "token_endpoint_auth_method": "private_key_jwt",
				"jwks": keySet(nil), "scope": "system/Observation.rs"})},
		"http":              {uri, with(m{"redirect_uris": []string{"http://app.example/cb"}})},
		"a fragment":        {uri, with(m{"redirect_uris": []string{redirect + "#x"}})},
		"an empty fragment": {uri, with(m{"redirect_uris": []string{redirect + "#"}})},
		"a relative one":    {uri, with(m{"redirect_uris": []string{"/cb"}})},
		"a user": {uri,
			with(m{"redirect_uris": []string{"https://app.example@evil.example/cb"}})},
		"a script":                     {uri, with(m{"redirect_uris": []string{"javascript:alert(1)"}})},
		"a scheme without a dot":       {uri, with(m{"redirect_uris": []string{"myapp:/cb"}})},
		"a backslash":                  {uri, with(m{"redirect_uris": []string{`https://app.example\@evil.example`}})},
		"a wildcard host with a space": {uri, with(m{"redirect_uris": []string{"https://app.example/ cb"}})},
		"a good and a bad one":         {uri, with(m{"redirect_uris": []string{redirect, "http://app.example/cb"}})},
		"too many":                     {uri, with(m{"redirect_uris": many})},
	} {
		if s, out, _ := w.send("POST", register.Path, tok, x.body); s != 400 || out["error"] != x.code ||
			out["error_description"] == "" || out["client_id"] != nil {
			t.Errorf("%s: %d %v", name, s, out)
		}
		if body, ok := x.body.(m); ok {
			body["client_id"] = id
		}
		// a scope that the client lacks comes first
		if s, out, _ := w.send("PUT", register.Path+"/"+id, manage, x.body); s != 400 || out["error"] != x.code &&
			out["error"] != meta {
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
	if s, out, _ := w.do(r); s != 400 || out["error"] != meta {
		t.Errorf("as text: %d %v", s, out)
	}
	if s, out, _ := w.send("POST", register.Path, tok, with(nil)); s != 201 {
		t.Errorf("refusals used the token up: %d %v", s, out)
	}
	if s, out, h := w.send("POST", register.Path, tok, with(nil)); s != 401 || out["error"] != "invalid_token" ||
		!strings.Contains(h.Get("WWW-Authenticate"), `error="invalid_token"`) {
		t.Errorf("used up: %d %v %v", s, out, h)
	}
}

// TestDefaults is RFC 7591 2: what is not said, and what is answered.
func TestDefaults(t *testing.T) {
	w := newWorld(t)
	// Without a scope it is that of the initial access token, which here holds
	// system/ scopes: an app with a person cannot have those.
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

// TestManagement is RFC 7592: only the registration access token manages, only
// its own client, and what it changes is on record with the change.
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
	other, theirs, _ := add(nil)
	own := register.Path + "/" + id
	for name, tok := range map[string]string{"no token": "", "a guess": strings.Repeat("A", 43),
		"another client's": theirs, "the initial access token": initial,
		"the client secret": secret, "its hash": string(must(json.Marshal(client.Hash(manage)))),
		"much": strings.Repeat("A", 4096)} {
		for _, method := range []string{"GET", "PUT", "DELETE", "POST"} {
			if s, out, h := w.send(method, own, tok, with(m{"client_id": id})); s != 401 ||
				out["error"] != "invalid_token" || h.Get("WWW-Authenticate") == "" {
				t.Errorf("%s with %s: %d %v", method, name, s, out)
			}
		}
	}
	if s, out, _ := w.send("GET", register.Path+"/nobody", manage, nil); s != 401 || out["error"] != "invalid_token" {
		t.Errorf("a client that is not there: %d %v", s, out)
	}
	for method, path := range map[string]string{"POST": own, "PATCH": own, "GET": register.Path} {
		if s, _, h := w.send(method, path, manage, nil); s != 405 || h.Get("Allow") == "" {
			t.Errorf("%s %s: %d, Allow %q", method, path, s, h.Get("Allow"))
		}
	}
	s, got, _ := w.send("GET", own, manage, nil)
	if s != 200 || got["registration_access_token"] != manage ||
		got["registration_client_uri"] != w.Server.URL+own || got["client_secret"] != nil {
		t.Errorf("read: %d %v", s, got)
	}

	const bad = "invalid_client_metadata"
	for name, body := range map[string]m{
		"no client_id":           with(nil),
		"another client_id":      with(m{"client_id": other}),
		"a secret of its choice": with(m{"client_id": id, "client_secret": "mine"}),
		"another kind of client": with(m{"client_id": id, "token_endpoint_auth_method": "none"}),
		"a wider scope":          with(m{"client_id": id, "scope": "patient/Patient.rs"}),
	} {
		if s, out, _ := w.send("PUT", own, manage, body); s != 400 || out["error"] != bad {
			t.Errorf("update with %s: %d %v", name, s, out)
		}
	}
	events := w.events()
	s, got, _ = w.send("PUT", own, manage,
		with(m{"client_id": id, "client_secret": secret, "client_name": "Renamed", "scope": "patient/Observation.r",
			"token_endpoint_auth_method": "client_secret_post"}))
	if s != 200 || got["client_name"] != "Renamed" || got["scope"] != "patient/Observation.r" ||
		got["registration_access_token"] != manage {
		t.Errorf("update: %d %v", s, got)
	}
	// What it gave up it does not get back, and what it leaves out is gone.
	if s, out, _ := w.send("PUT", own, manage, with(m{"client_id": id})); s != 200 ||
		out["scope"] != "patient/Observation.r" ||
		out["scope_not_registered"] != "launch/patient patient/Observation.rs" {
		t.Errorf("back to what it had: %d %v", s, out)
	}
	c := must(w.Clients.Get(t.Context(), id))
	if string(c.SecretHash) != string(client.Hash(secret)) {
		t.Error("an update changed the secret")
	}
	if n := w.events() - events; n != 2 {
		t.Errorf("%d events of two updates", n)
	}

	if s, out, _ := w.send("DELETE", own, manage, nil); s != 204 || out != nil {
		t.Errorf("deletion: %d %v", s, out)
	}
	if n := w.events() - events; n != 3 {
		t.Errorf("%d events of updates and deletion", n)
	}
	for _, method := range []string{"GET", "PUT", "DELETE"} {
		if s, out, _ := w.send(method, own, manage, with(m{"client_id": id})); s != 401 ||
			out["error"] != "invalid_token" {
			t.Errorf("%s after deletion: %d %v", method, s, out)
		}
	}
	if c := must(w.Clients.Get(t.Context(), id)); !c.Disabled {
		t.Error("a deleted client is not disabled")
	}
	if s, _, _ := w.send("GET", register.Path+"/"+other, theirs, nil); s != 200 {
		t.Error("another client went with it:", s)
	}
}

// TestInitialTokens: what an initial access token may be.
func TestInitialTokens(t *testing.T) {
	w := newWorld(t)
	for name, x := range map[string]register.InitialToken{
		"no use":           {Scope: "patient/*.rs", Expires: w.Now.Add(time.Hour)},
		"too many":         {Scope: "patient/*.rs", Uses: 1001, Expires: w.Now.Add(time.Hour)},
		"over already":     {Scope: "patient/*.rs", Uses: 1, Expires: w.Now},
		"an unknown scope": {Scope: "patient/Nothing.rs", Uses: 1, Expires: w.Now.Add(time.Hour)},
	} {
		if tok, _, err := w.regs.PrepareToken(x); err == nil || tok != "" {
			t.Errorf("%s: %q", name, tok)
		}
	}
	tok := w.token(1)
	r := must(http.NewRequest("POST", w.Server.URL+register.Path,
		strings.NewReader(string(must(json.Marshal(with(nil)))))))
	r.Header.Set("Content-Type", "application/json")
	r.SetBasicAuth(tok, "")
	if s, out, _ := w.do(r); s != 401 || out["error"] != "invalid_token" {
		t.Errorf("by Basic: %d %v", s, out)
	}
	w.Now = w.Now.Add(time.Hour)
	if s, out, _ := w.send("POST", register.Path, tok, with(nil)); s != 401 || out["error"] != "invalid_token" {
		t.Errorf("expired: %d %v", s, out)
	}
}

// TestFailuresAreLimited: guesses at a registration access token.
func TestFailuresAreLimited(t *testing.T) {
	w := newWorld(t)
	w.regs.Limits = register.NewLimits()
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
