package introspect_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lestrrat-go/jwx/v2/jwa"
	"github.com/lestrrat-go/jwx/v2/jwk"
	"github.com/lestrrat-go/jwx/v2/jws"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/consent"
	"pulsegate/fhir/store"
	"pulsegate/smart/appconsent"
	"pulsegate/smart/authz"
	"pulsegate/smart/client"
	"pulsegate/smart/internal/limit"
	"pulsegate/smart/internal/smarttest"
	"pulsegate/smart/oauth/introspect"
	"pulsegate/smart/oauth/token"
	"pulsegate/smart/people/role"
	"pulsegate/smart/policy"
	"pulsegate/smart/proof/keys"
)

type m = map[string]any

const secret = "s3cret-of-the-app"

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// world is the endpoint with what it asks, over HTTP and the embedded store.
type world struct {
	*smarttest.Base
	t           *testing.T
	ring, other *keys.Ring
	consents    *consent.Engine
	policy      *policy.Engine
	tokens      *token.Endpoint
	grants      *authz.Store
	ec          *ecdsa.PrivateKey
	gone        bool // the person's account has ended
	made        int
	rs, app     client.Client // a resource server; an app
}

func newWorld(t *testing.T) *world {
	b := smarttest.New(t, time.Now().UTC().Truncate(time.Second))
	w := &world{Base: b, t: t, ec: must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader))}
	base, scopes, clock, rec := b.Server.URL, b.Scopes, b.Clock, b.Audit
	w.consents = must(consent.New(consent.Options{Store: b.DB, Clock: clock, Logger: b.Logger}))
	t.Cleanup(w.consents.Close)
	w.ring, w.other = must(keys.Open(t.TempDir(), clock)), must(keys.Open(t.TempDir(), clock))
	as := must(client.NewAssertions(w.Clients, &client.Keys{HTTP: http.DefaultClient, Clock: clock}, base+token.Path))
	w.grants = &authz.Store{State: w.DB}
	agreements := &appconsent.Agreements{Store: w.DB, Audit: rec, Scopes: scopes, Issuer: base,
		UserLife: token.UserLife(0), Says: func(string) []string { return nil }}
	w.policy = &policy.Engine{Keys: w.ring, Clients: w.Clients, Consents: w.consents, Scopes: scopes, Issuer: base,
		Audience: base + "/fhir", Clock: clock, Grants: w.grants,
		RoleRules: role.RulesOf,
		Roles: func(context.Context, authz.Subject) ([]string, bool, error) {
			return []string{"patient"},
				!w.gone, nil
		},
		ConsentsOf: func(_, authorization string) access.Consents { return w.consents.Under(authorization) }}
	w.tokens = must(token.New(t.Context(),
		token.Options{Store: w.DB, Audit: rec, Keys: w.ring, Assertions: as, Scopes: scopes, Clock: clock,
			Rand:   rand.Reader,
			Issuer: base, Audience: base + "/fhir", Begun: agreements.Begun, Ended: agreements.Ended,
			Alive: func(context.Context, authz.Subject, bool) ([]string, bool, error) {
				return []string{"patient"}, !w.gone, nil
			}}))
	introspect.New(introspect.Options{Policy: w.policy, Assertions: as, Tokens: w.tokens, Grants: w.grants,
		Clients: w.Clients, Audit: rec, Clock: clock, Issuer: base,
		Limits: limit.Limits{Failures: 1e6}}).Mount(b.Engine)
	w.tokens.Mount(b.Engine)
	w.rs = w.add(func(c *client.Client) { c.Inspects = true })
	w.app = w.add(nil)
	return w
}

// add registers an app with a secret.
func (w *world) add(edit func(*client.Client)) client.Client {
	c := client.Client{Name: "App", Method: client.SecretBasic, SecretHash: client.Hash(secret),
		RedirectURIs: []string{"https://app.example/cb"},
		Scope:        "openid launch/patient offline_access patient/*.rs"}
	if edit != nil {
		edit(&c)
	}
	return must(w.Clients.Add(w.t.Context(), c))
}

func (w *world) backend() client.Client {
	j := must(jwk.FromRaw(&w.ec.PublicKey))
	if err := j.Set(jwk.KeyIDKey, "k1"); err != nil {
		w.t.Fatal(err)
	}
	return must(w.Clients.Add(w.t.Context(),
		client.Client{Name: "Backend", Scope: "system/*.rs", JWKS: must(json.Marshal(m{"keys": []any{j}}))}))
}

func (w *world) assertion(id string) url.Values {
	h := jws.NewHeaders()
	if err := errors.Join(h.Set(jws.KeyIDKey, "k1"), h.Set(jws.TypeKey, "JWT")); err != nil {
		w.t.Fatal(err)
	}
	c := m{"iss": id, "sub": id, "aud": w.Server.URL + token.Path, "jti": rand.Text(),
		"exp": w.Now.Add(4 * time.Minute).Unix()}
	return url.Values{"client_assertion_type": {"urn:ietf:params:oauth:client-assertion-type:jwt-bearer"},
		"client_assertion": {string(must(jws.Sign(must(json.Marshal(c)),
			jws.WithKey(jwa.ES384, w.ec, jws.WithProtectedHeaders(h)))))}}
}

// given is what a patient's approval of the app gives; the token has been seen
// by nobody.
func (w *world) given() (access, refresh, authorization string) {
	w.t.Helper()
	w.made++
	const verifier = "a-verifier-that-is-long-enough-for-rfc-7636-4.1"
	id, code := fmt.Sprintf("%026d", w.made), fmt.Sprint("code-", w.made)
	a := authz.Authorization{ID: id, ClientID: w.app.ID,
		Scope: "launch/patient offline_access patient/Observation.rs", Created: w.Now,
		Expires: w.Now.Add(authz.Absolute), Offline: true,
		Subject: authz.Subject{ID: "u1", FHIRUser: fhir.Ref{Type: "Patient", ID: "p1"}, Roles: []string{"patient"}},
		Context: authz.Context{Patient: "p1", Intent: "look",
			FHIRContext: json.RawMessage(`[{"reference":"ImagingStudy/1"}]`)}}
	write := must(authz.NewCode(code, authz.Code{Authorization: a, App: "App",
		RedirectURI: "https://app.example/cb", Challenge: "f728C9ybU3aPnlgkBXXzqPPFV0yH3V07JCIOpCTRQL8",
		Expires: w.Now.Add(authz.CodeLife)}))
	must(w.DB.Commit(w.t.Context(), &store.Batch{State: []store.StateWrite{write}}))
	s, out, _ := w.send(token.Path, url.Values{"grant_type": {"authorization_code"}, "code": {code},
		"redirect_uri": {"https://app.example/cb"}, "code_verifier": {verifier}}, w.as(w.app))
	if s != 200 {
		w.t.Fatal(s, out)
	}
	return out["access_token"].(string), out["refresh_token"].(string), id
}

// as authenticates a client with a secret.
func (w *world) as(c client.Client) func(*http.Request) {
	return func(r *http.Request) { r.SetBasicAuth(c.ID, secret) }
}

func (w *world) send(path string, form url.Values, edit func(*http.Request)) (int, m, http.Header) {
	w.t.Helper()
	r := must(http.NewRequest("POST", w.Server.URL+path, strings.NewReader(form.Encode())))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if edit != nil {
		edit(r)
	}
	res := must(http.DefaultClient.Do(r))
	defer res.Body.Close()
	b := must(io.ReadAll(res.Body))
	if res.Header.Get("Cache-Control") != "no-store" {
		w.t.Error("the answer may be cached")
	}
	var out m
	if len(b) > 0 {
		if err := json.Unmarshal(b, &out); err != nil {
			w.t.Fatalf("%d %q", res.StatusCode, b)
		}
	}
	return res.StatusCode, out, res.Header
}

func (w *world) look(c client.Client, tok string) (int, m) {
	w.t.Helper()
	s, out, _ := w.send(introspect.Path, url.Values{"token": {tok}}, w.as(c))
	return s, out
}

// inactive: 200, {"active":false}, and nothing more (RFC 7662 2.2).
func (w *world) inactive(name string, c client.Client, tok string) {
	w.t.Helper()
	if s, out := w.look(c, tok); s != 200 || len(out) != 1 || out["active"] != false {
		w.t.Errorf("%s: %d %v", name, s, out)
	}
}

func (w *world) active(name string, c client.Client, tok string) {
	w.t.Helper()
	if s, out := w.look(c, tok); s != 200 || out["active"] != true {
		w.t.Errorf("%s: %d %v", name, s, out)
	}
}

// TestWhoMayAsk: who does not show who it is learns nothing, not even whether
// a token is one.
func TestWhoMayAsk(t *testing.T) {
	w := newWorld(t)
	tok, _, _ := w.given()
	public := w.add(func(c *client.Client) { c.Method, c.SecretHash = client.None, nil })
	off := w.add(nil)
	if err := w.Clients.Disable(t.Context(), off.ID); err != nil {
		t.Fatal(err)
	}
	back := w.backend()
	used := w.assertion(back.ID)
	used.Set("token", tok)
	if s, out, _ := w.send(introspect.Path, used, nil); s != 200 || out["active"] != false { // not its token
		t.Fatal(s, out)
	}
	revoked, _, _ := w.given()
	if s, _, _ := w.send(introspect.RevokePath, url.Values{"token": {revoked}}, w.as(w.app)); s != 200 {
		t.Fatal(s)
	}
	bearer := func(tok string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+tok) }
	}
	for name, x := range map[string]struct {
		form url.Values
		edit func(*http.Request)
	}{
		"nobody":                        {nil, nil},
		"a client that is not there":    {nil, w.as(client.Client{ID: "nobody"})},
		"a client that was disabled":    {nil, w.as(off)},
		"a wrong secret":                {nil, func(r *http.Request) { r.SetBasicAuth(w.rs.ID, secret+"x") }},
		"an empty secret":               {nil, func(r *http.Request) { r.SetBasicAuth(w.rs.ID, "") }},
		"a public client":               {url.Values{"client_id": {public.ID}}, nil},
		"an id alone":                   {url.Values{"client_id": {w.rs.ID}}, nil},
		"an assertion a second time":    {used, nil},
		"a bearer token that is none":   {nil, bearer("x")},
		"a bearer token that was ended": {nil, bearer(revoked)},
	} {
		form := url.Values{"token": {tok}}
		for k, v := range x.form {
			form[k] = v
		}
		s, out, h := w.send(introspect.Path, form, x.edit)
		if s != 401 || out["error"] != "invalid_client" || out["active"] != nil ||
			!slices.ContainsFunc(h.Values("WWW-Authenticate"),
				func(v string) bool { return strings.HasPrefix(v, "Basic ") }) {
			t.Errorf("%s: %d %v %v", name, s, out, h.Values("WWW-Authenticate"))
		}
	}
	for name, x := range map[string]struct {
		form   url.Values
		edit   func(*http.Request)
		status int
	}{
		"no token":       {url.Values{}, nil, 400},
		"an empty token": {url.Values{"token": {""}}, nil, 400},
		"two tokens":     {url.Values{"token": {tok, tok}}, nil, 400},
		"in the URL":     {url.Values{"token": {tok}}, func(r *http.Request) { r.URL.RawQuery = "token=" + tok }, 400},
		"as JSON": {url.Values{"token": {tok}},
			func(r *http.Request) { r.Header.Set("Content-Type", "application/json") }, 400},
		"by PUT":          {url.Values{"token": {tok}}, func(r *http.Request) { r.Method = "PUT" }, 405},
		"more than 16KiB": {url.Values{"token": {strings.Repeat("x", 17<<10)}}, nil, 400},
	} {
		s, out, _ := w.send(introspect.Path, x.form, func(r *http.Request) {
			w.as(w.rs)(r)
			if x.edit != nil {
				x.edit(r)
			}
		})
		if s != x.status || out["error"] != "invalid_request" {
			t.Errorf("%s: %d %v", name, s, out)
		}
	}
	w.active("a hint is only a hint", w.rs, tok)
	if s, out, _ := w.send(introspect.Path, url.Values{"token": {tok}, "token_type_hint": {"refresh_token"}},
		w.as(w.rs)); s != 200 || out["active"] != true {
		t.Errorf("with a wrong hint: %d %v", s, out)
	}
}

// TestForeignTokens: what this server did not make for this API, or has made
// for something else, is nothing.
func TestForeignTokens(t *testing.T) {
	w := newWorld(t)
	back := w.backend()
	good := func(change m) m {
		c := m{"iss": w.Server.URL, "sub": back.ID, "client_id": back.ID, "aud": w.Server.URL + "/fhir",
			"scope": "system/*.rs", "jti": rand.Text(), "iat": w.Now.Unix(), "exp": w.Now.Add(4 * time.Minute).Unix()}
		for k, v := range change {
			if c[k] = v; v == nil {
				delete(c, k)
			}
		}
		return c
	}
	sign := func(r *keys.Ring, typ string, change m) string { return must(r.Sign(typ, good(change))) }
	w.active("as it should be", w.rs, sign(w.ring, token.Type, nil))
	whole := sign(w.ring, token.Type, nil)
	for name, tok := range map[string]string{
		"a foreign audience": sign(w.ring, token.Type, m{"aud": "https://other.example/fhir"}),
		"two audiences": sign(w.ring, token.Type,
			m{"aud": []string{w.Server.URL + "/fhir", "https://other.example/fhir"}}),
		"no audience":               sign(w.ring, token.Type, m{"aud": nil}),
		"a foreign issuer":          sign(w.ring, token.Type, m{"iss": "https://other.example"}),
		"a foreign key":             sign(w.other, token.Type, nil),
		"another kind of token":     sign(w.ring, "JWT", nil),
		"a client that is not here": sign(w.ring, token.Type, m{"client_id": "nobody"}),
		"no client":                 sign(w.ring, token.Type, m{"client_id": nil}),
		"no jti":                    sign(w.ring, token.Type, m{"jti": nil}),
		"no end":                    sign(w.ring, token.Type, m{"exp": nil}),
		"over": sign(w.ring, token.Type,
			m{"iat": w.Now.Add(-time.Minute).Unix(), "exp": w.Now.Unix()}),
		"of tomorrow": sign(w.ring, token.Type,
			m{"iat": w.Now.Add(24 * time.Hour).Unix(), "exp": w.Now.Add(24*time.Hour + time.Minute).Unix()}),
		"a backend's for an hour": sign(w.ring, token.Type, m{"exp": w.Now.Add(time.Hour).Unix()}),
		"no authorization":        sign(w.ring, token.Type, m{"scope": "patient/*.rs", "patient": "p1"}),
		"an unknown authorization": sign(w.ring, token.Type,
			m{"scope": "patient/*.rs", "patient": "p1", "authz": strings.Repeat("a", 26)}),
		"a scope that is none": sign(w.ring, token.Type, m{"scope": "system/Nothing.rs"}),
		"no signature": base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none","typ":"at+jwt"}`)) +
			"." + strings.Split(whole, ".")[1] + ".",
		"a signature cut": whole[:len(whole)-2],
		"another payload": strings.Split(whole, ".")[0] + "." +
			base64.RawURLEncoding.EncodeToString(must(json.Marshal(good(nil)))) + "." + strings.Split(whole, ".")[2],
		"words": "not a token",
		"a refresh token's form": strings.Repeat("a", 26) + "." + strings.Repeat("A", 43) + "." +
			strings.Repeat("A", 22),
	} {
		w.inactive(name, w.rs, tok)
		w.inactive(name+", asked again", w.rs, tok)
	}
}

// TestWhatEndedIsInactive: also for a token that was seen before, and kept;
// and for one that is seen for the first time.
func TestWhatEndedIsInactive(t *testing.T) {
	w := newWorld(t)
	stranger := w.add(nil)
	for _, seen := range []bool{true, false} {
		name := map[bool]string{true: "known: ", false: "first seen: "}[seen]
		give := func() (string, string, string) {
			t.Helper()
			tok, refresh, id := w.given()
			if seen {
				w.active(name+"before", w.rs, tok)
				s, first := w.look(w.app, tok)
				if _, again := w.look(w.app, tok); s != 200 || fmt.Sprint(first) != fmt.Sprint(again) ||
					first["patient"] != "p1" || first["intent"] != "look" ||
					fmt.Sprint(first["fhirContext"]) != "[map[reference:ImagingStudy/1]]" ||
					first["sub"] != "u1" || first["client_id"] != w.app.ID ||
					first["aud"] != w.Server.URL+"/fhir" || first["token_type"] != "Bearer" {
					t.Errorf("%d %v, then %v", s, first, again)
				}
				w.active(name+"its refresh token", w.rs, refresh)
			}
			w.inactive(name+"for another client", stranger, tok)
			w.inactive(name+"its refresh token for another client", stranger, refresh)
			return tok, refresh, id
		}
		tok, refresh, _ := give()
		if s, _, _ := w.send(introspect.RevokePath, url.Values{"token": {tok}}, w.as(w.app)); s != 200 {
			t.Fatal(s)
		}
		w.inactive(name+"revoked", w.rs, tok)
		w.active(name+"the refresh token of a revoked one", w.rs, refresh)

		tok, refresh, _ = give()
		s, next, _ := w.send(token.Path, url.Values{"grant_type": {"refresh_token"}, "refresh_token": {refresh}},
			w.as(w.app))
		if s != 200 {
			t.Fatal(s, next)
		}
		w.inactive(name+"a refresh token that was replaced", w.rs, refresh)
		w.active(name+"the one that replaced it", w.rs, next["refresh_token"].(string))
		w.active(name+"the access token from before", w.rs, tok)

		tok, refresh, id := give()
		if err := w.tokens.Revoke(t.Context(), audit.Caller{}, "u1", id); err != nil {
			t.Fatal(err)
		}
		w.inactive(name+"access taken back", w.rs, tok)
		w.inactive(name+"its refresh token", w.rs, refresh)

		tok, refresh, _ = give()
		w.gone = true
		w.inactive(name+"the account has ended", w.rs, tok)
		w.inactive(name+"its refresh token", w.rs, refresh)
		w.gone = false
		w.active(name+"the account is back", w.rs, tok)

		tok, _, _ = give()
		w.Now = w.Now.Add(token.UserLife(0) - time.Second)
		w.active(name+"in its last second", w.rs, tok)
		w.Now = w.Now.Add(time.Second)
		w.inactive(name+"expired", w.rs, tok)
	}
	tok, refresh, _ := w.given()
	w.active("before", w.rs, tok)
	if err := w.Clients.Disable(t.Context(), w.app.ID); err != nil {
		t.Fatal(err)
	}
	w.inactive("of a client that was disabled", w.rs, tok)
	w.inactive("its refresh token", w.rs, refresh)
}

// TestWithdrawnConsent: a Consent opens data and not a token. When it is
// withdrawn the token stays what it is, and shows nothing.
func TestWithdrawnConsent(t *testing.T) {
	w := newWorld(t)
	tok, _, id := w.given()
	shown := func() bool {
		t.Helper()
		r := must(http.NewRequest("GET", w.Server.URL+"/fhir/Observation", nil))
		r.Header.Set("Authorization", "Bearer "+tok)
		p := must(w.policy.Authenticate(r))
		return p.Grant.Filter(access.Read).Allow(&access.Facts{Type: "Observation", ID: "o", Patient: "p1",
			Vendor: "apple", Tokens: func(string) []access.Token { return nil }})
	}
	if w.active("agreed", w.rs, tok); !shown() {
		t.Fatal("nothing is shown under the consent")
	}
	r, _, err := w.DB.Read(t.Context(), appconsent.Ref(id), 0)
	if err != nil {
		t.Fatal(err)
	}
	must(w.DB.Commit(t.Context(), &store.Batch{Writes: []store.Write{{Resource: must(consent.Withdraw(r))}}}))
	if w.active("withdrawn", w.rs, tok); shown() {
		t.Error("shown under a withdrawn consent")
	}
	if err := w.tokens.Revoke(t.Context(), audit.Caller{}, "u1", id); err != nil {
		t.Fatal(err)
	}
	w.inactive("withdrawn and taken back", w.rs, tok)
}
