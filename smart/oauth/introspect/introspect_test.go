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
	"pulsegate/fhir/limit"
	"pulsegate/fhir/store"
	"pulsegate/smart/appconsent"
	"pulsegate/smart/authz"
	"pulsegate/smart/client"
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

// world is the endpoints and their dependencies over HTTP with the embedded
// store.
type world struct {
	*smarttest.Base
	t              *testing.T
	ring, other    *keys.Ring
	consents       *consent.Engine
	policy         *policy.Engine
	tokens         *token.Endpoint
	authz          *authz.Store
	ec             *ecdsa.PrivateKey
	accountEnded   bool
	authorizations int           // number created
	rs, app        client.Client // resource server and app
}

func newWorld(t *testing.T) *world {
	b := smarttest.New(t, time.Now().UTC().Truncate(time.Second))
	w := &world{Base: b, t: t, ec: must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader))}
	base, scopes, clock, rec := b.Server.URL, b.Scopes, b.Clock, b.Audit
	w.consents = must(consent.New(consent.Options{Store: b.DB, Clock: clock, Logger: b.Logger}))
	t.Cleanup(w.consents.Close)
	w.ring, w.other = must(keys.Open(t.TempDir(), clock)), must(keys.Open(t.TempDir(), clock))
	as := must(client.NewAssertions(w.Clients, &client.Keys{HTTP: http.DefaultClient, Clock: clock}, base+token.Path))
	w.authz = &authz.Store{State: w.DB}
	appConsents := &appconsent.Approvals{Store: w.DB, Audit: rec, Scopes: scopes, Issuer: base,
		UserLife: token.UserLife(0), Says: func(string) []string { return nil }}
	w.policy = &policy.Engine{Keys: w.ring, Clients: w.Clients, Consents: w.consents, Scopes: scopes, Issuer: base,
		Audience: base + "/fhir", Clock: clock, Authorizations: w.authz,
		RoleRules: role.RulesOf,
		Roles: func(context.Context, authz.Subject) ([]string, bool, error) {
			return []string{"patient"}, !w.accountEnded, nil
		},
		ConsentsOf: func(_, authorization string) access.Consents { return w.consents.ForAuthorization(authorization) }}
	w.tokens = must(token.New(t.Context(),
		token.Options{Store: w.DB, Audit: rec, Keys: w.ring, Assertions: as, Scopes: scopes, Clock: clock,
			Rand:   rand.Reader,
			Issuer: base, Audience: base + "/fhir", Begun: appConsents.Begun, Ended: appConsents.Ended,
			Alive: func(context.Context, authz.Subject, bool) ([]string, bool, error) {
				return []string{"patient"}, !w.accountEnded, nil
			}}))
	introspect.New(introspect.Options{Policy: w.policy, Assertions: as, Tokens: w.tokens, Authorizations: w.authz,
		Clients: w.Clients, Audit: rec, Clock: clock, Issuer: base,
		Limits: limit.Limits{Failures: 1e6}}).Mount(b.Engine)
	w.tokens.Mount(b.Engine)
	w.rs = w.add(func(c *client.Client) { c.Inspects = true })
	w.app = w.add(nil)
	return w
}

// add registers a client with a secret.
func (w *world) add(edit func(*client.Client)) client.Client {
	c := client.Client{Name: "App", Method: client.SecretBasic, SecretHash: client.Hash(secret),
		RedirectURIs: []string{"https://app.example/cb"},
		Scope:        "openid launch/patient offline_access patient/*.rs"}
	if edit != nil {
		edit(&c)
	}
	return must(w.Clients.Add(w.t.Context(), c))
}

// backend registers a client with the key w.ec.
func (w *world) backend() client.Client {
	j := must(jwk.FromRaw(&w.ec.PublicKey))
	if err := j.Set(jwk.KeyIDKey, "k1"); err != nil {
		w.t.Fatal(err)
	}
	return must(w.Clients.Add(w.t.Context(),
		client.Client{Name: "Backend", Scope: "system/*.rs", JWKS: must(json.Marshal(m{"keys": []any{j}}))}))
}

// assertion returns a form with a new assertion of a backend.
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

// authorize approves the app as a patient and redeems the code. The access
// token is not validated yet, so it is in no cache.
func (w *world) authorize() (access, refresh, authorization string) {
	w.t.Helper()
	w.authorizations++
	const verifier = "a-verifier-that-is-long-enough-for-rfc-7636-4.1"
	id, code := fmt.Sprintf("%026d", w.authorizations), fmt.Sprint("code-", w.authorizations)
	a := authz.Authorization{ID: id, ClientID: w.app.ID,
		Scope: "launch/patient offline_access patient/Observation.rs", Created: w.Now,
		Expires: w.Now.Add(authz.AbsoluteLife), Offline: true,
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

// as authenticates requests as a client with a secret.
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
		w.t.Error("the response may be cached")
	}
	var out m
	if len(b) > 0 {
		if err := json.Unmarshal(b, &out); err != nil {
			w.t.Fatalf("%d %q", res.StatusCode, b)
		}
	}
	return res.StatusCode, out, res.Header
}

// introspect introspects a token as the client c.
func (w *world) introspect(c client.Client, tok string) (int, m) {
	w.t.Helper()
	s, out, _ := w.send(introspect.Path, url.Values{"token": {tok}}, w.as(c))
	return s, out
}

// inactive checks that the response is {"active":false} and nothing more (RFC
// 7662 2.2).
func (w *world) inactive(name string, c client.Client, tok string) {
	w.t.Helper()
	if s, out := w.introspect(c, tok); s != 200 || len(out) != 1 || out["active"] != false {
		w.t.Errorf("%s: %d %v", name, s, out)
	}
}

// active checks that the token is active.
func (w *world) active(name string, c client.Client, tok string) {
	w.t.Helper()
	if s, out := w.introspect(c, tok); s != 200 || out["active"] != true {
		w.t.Errorf("%s: %d %v", name, s, out)
	}
}

// TestUnauthenticatedIntrospectionRefused checks that callers without valid
// client authentication learn nothing about a token, and that malformed
// requests are refused.
func TestUnauthenticatedIntrospectionRefused(t *testing.T) {
	w := newWorld(t)
	tok, _, _ := w.authorize()
	public := w.add(func(c *client.Client) { c.Method, c.SecretHash = client.None, nil })
	disabled := w.add(nil)
	if err := w.Clients.Disable(t.Context(), disabled.ID); err != nil {
		t.Fatal(err)
	}
	back := w.backend()
	used := w.assertion(back.ID)
	used.Set("token", tok)
	// the token is another client's
	if s, out, _ := w.send(introspect.Path, used, nil); s != 200 || out["active"] != false {
		t.Fatal(s, out)
	}
	revoked, _, _ := w.authorize()
	if s, _, _ := w.send(introspect.RevokePath, url.Values{"token": {revoked}}, w.as(w.app)); s != 200 {
		t.Fatal(s)
	}
	bearer := func(tok string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+tok) }
	}
	for name, tc := range map[string]struct {
		form url.Values
		edit func(*http.Request)
	}{
		"no authentication":      {nil, nil},
		"unknown client":         {nil, w.as(client.Client{ID: "unknown"})},
		"disabled client":        {nil, w.as(disabled)},
		"wrong secret":           {nil, func(r *http.Request) { r.SetBasicAuth(w.rs.ID, secret+"x") }},
		"empty secret":           {nil, func(r *http.Request) { r.SetBasicAuth(w.rs.ID, "") }},
		"public client":          {url.Values{"client_id": {public.ID}}, nil},
		"client_id only":         {url.Values{"client_id": {w.rs.ID}}, nil},
		"assertion used before":  {used, nil},
		"malformed bearer token": {nil, bearer("x")},
		"revoked bearer token":   {nil, bearer(revoked)},
	} {
		form := url.Values{"token": {tok}}
		for k, v := range tc.form {
			form[k] = v
		}
		s, out, h := w.send(introspect.Path, form, tc.edit)
		if s != 401 || out["error"] != "invalid_client" || out["active"] != nil ||
			!slices.ContainsFunc(h.Values("WWW-Authenticate"),
				func(v string) bool { return strings.HasPrefix(v, "Basic ") }) {
			t.Errorf("%s: %d %v %v", name, s, out, h.Values("WWW-Authenticate"))
		}
	}
	for name, tc := range map[string]struct {
		form   url.Values
		edit   func(*http.Request)
		status int
	}{
		"no token":    {url.Values{}, nil, 400},
		"empty token": {url.Values{"token": {""}}, nil, 400},
		"two tokens":  {url.Values{"token": {tok, tok}}, nil, 400},
		"token in the URL": {url.Values{"token": {tok}}, func(r *http.Request) { r.URL.RawQuery = "token=" + tok },
			400},
		"JSON body": {url.Values{"token": {tok}},
			func(r *http.Request) { r.Header.Set("Content-Type", "application/json") }, 400},
		"PUT":              {url.Values{"token": {tok}}, func(r *http.Request) { r.Method = "PUT" }, 405},
		"more than 16 KiB": {url.Values{"token": {strings.Repeat("x", 17<<10)}}, nil, 400},
	} {
		s, out, _ := w.send(introspect.Path, tc.form, func(r *http.Request) {
			w.as(w.rs)(r)
			if tc.edit != nil {
				tc.edit(r)
			}
		})
		if s != tc.status || out["error"] != "invalid_request" {
			t.Errorf("%s: %d %v", name, s, out)
		}
	}
	w.active("without a hint", w.rs, tok)
	if s, out, _ := w.send(introspect.Path, url.Values{"token": {tok}, "token_type_hint": {"refresh_token"}},
		w.as(w.rs)); s != 200 || out["active"] != true {
		t.Errorf("with a wrong hint: %d %v", s, out)
	}
}

// TestForgedTokensAreInactive checks that tokens that this server did not issue
// for this API, or issued for another purpose, are inactive.
func TestForgedTokensAreInactive(t *testing.T) {
	w := newWorld(t)
	back := w.backend()
	claims := func(change m) m {
		c := m{"iss": w.Server.URL, "sub": back.ID, "client_id": back.ID, "aud": w.Server.URL + "/fhir",
			"scope": "system/*.rs", "jti": rand.Text(), "iat": w.Now.Unix(), "exp": w.Now.Add(4 * time.Minute).Unix()}
		for k, v := range change {
			if c[k] = v; v == nil {
				delete(c, k)
			}
		}
		return c
	}
	sign := func(r *keys.Ring, typ string, change m) string { return must(r.Sign(typ, claims(change))) }
	w.active("valid token", w.rs, sign(w.ring, token.Type, nil))
	valid := sign(w.ring, token.Type, nil)
	for name, tok := range map[string]string{
		"another audience": sign(w.ring, token.Type, m{"aud": "https://other.example/fhir"}),
		"two audiences": sign(w.ring, token.Type,
			m{"aud": []string{w.Server.URL + "/fhir", "https://other.example/fhir"}}),
		"no audience":           sign(w.ring, token.Type, m{"aud": nil}),
		"another issuer":        sign(w.ring, token.Type, m{"iss": "https://other.example"}),
		"key of another issuer": sign(w.other, token.Type, nil),
		"another typ":           sign(w.ring, "JWT", nil),
		"unknown client":        sign(w.ring, token.Type, m{"client_id": "unknown"}),
		"no client":             sign(w.ring, token.Type, m{"client_id": nil}),
		"no jti":                sign(w.ring, token.Type, m{"jti": nil}),
		"no exp":                sign(w.ring, token.Type, m{"exp": nil}),
		"expired": sign(w.ring, token.Type,
			m{"iat": w.Now.Add(-time.Minute).Unix(), "exp": w.Now.Unix()}),
		"issued in the future": sign(w.ring, token.Type,
			m{"iat": w.Now.Add(24 * time.Hour).Unix(), "exp": w.Now.Add(24*time.Hour + time.Minute).Unix()}),
		"backend token valid for an hour": sign(w.ring, token.Type, m{"exp": w.Now.Add(time.Hour).Unix()}),
		"no authorization":                sign(w.ring, token.Type, m{"scope": "patient/*.rs", "patient": "p1"}),
		"unknown authorization": sign(w.ring, token.Type,
			m{"scope": "patient/*.rs", "patient": "p1", "authz": strings.Repeat("a", 26)}),
		"unknown scope": sign(w.ring, token.Type, m{"scope": "system/Nothing.rs"}),
		"no signature": base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none","typ":"at+jwt"}`)) +
			"." + strings.Split(valid, ".")[1] + ".",
		"truncated signature": valid[:len(valid)-2],
		"another payload": strings.Split(valid, ".")[0] + "." +
			base64.RawURLEncoding.EncodeToString(must(json.Marshal(claims(nil)))) + "." + strings.Split(valid, ".")[2],
		"not a JWT": "not a token",
		"well-formed refresh token": strings.Repeat("a", 26) + "." + strings.Repeat("A", 43) + "." +
			strings.Repeat("A", 22),
	} {
		w.inactive(name, w.rs, tok)
		w.inactive(name+", again", w.rs, tok)
	}
}

// TestEndedTokensAreInactive checks that tokens become inactive when they or
// their authorization end, whether the server has cached them or not.
func TestEndedTokensAreInactive(t *testing.T) {
	w := newWorld(t)
	other := w.add(nil)
	for _, cached := range []bool{true, false} {
		name := map[bool]string{true: "cached: ", false: "not cached: "}[cached]
		authorize := func() (string, string, string) {
			t.Helper()
			tok, refresh, id := w.authorize()
			if cached {
				w.active(name+"before", w.rs, tok)
				s, first := w.introspect(w.app, tok)
				if _, again := w.introspect(w.app, tok); s != 200 || fmt.Sprint(first) != fmt.Sprint(again) ||
					first["patient"] != "p1" || first["intent"] != "look" ||
					fmt.Sprint(first["fhirContext"]) != "[map[reference:ImagingStudy/1]]" ||
					first["sub"] != "u1" || first["client_id"] != w.app.ID ||
					first["aud"] != w.Server.URL+"/fhir" || first["token_type"] != "Bearer" {
					t.Errorf("%d %v, then %v", s, first, again)
				}
				w.active(name+"refresh token", w.rs, refresh)
			}
			w.inactive(name+"for another client", other, tok)
			w.inactive(name+"refresh token, for another client", other, refresh)
			return tok, refresh, id
		}
		tok, refresh, _ := authorize()
		if s, _, _ := w.send(introspect.RevokePath, url.Values{"token": {tok}}, w.as(w.app)); s != 200 {
			t.Fatal(s)
		}
		w.inactive(name+"revoked", w.rs, tok)
		w.active(name+"refresh token of a revoked access token", w.rs, refresh)

		tok, refresh, _ = authorize()
		s, next, _ := w.send(token.Path, url.Values{"grant_type": {"refresh_token"}, "refresh_token": {refresh}},
			w.as(w.app))
		if s != 200 {
			t.Fatal(s, next)
		}
		w.inactive(name+"replaced refresh token", w.rs, refresh)
		w.active(name+"new refresh token", w.rs, next["refresh_token"].(string))
		w.active(name+"access token from before the refresh", w.rs, tok)

		tok, refresh, id := authorize()
		if err := w.tokens.Revoke(t.Context(), audit.Caller{}, "u1", id); err != nil {
			t.Fatal(err)
		}
		w.inactive(name+"access token of a revoked authorization", w.rs, tok)
		w.inactive(name+"refresh token", w.rs, refresh)

		tok, refresh, _ = authorize()
		w.accountEnded = true
		w.inactive(name+"access token of an ended account", w.rs, tok)
		w.inactive(name+"refresh token", w.rs, refresh)
		w.accountEnded = false
		w.active(name+"access token of a restored account", w.rs, tok)

		tok, _, _ = authorize()
		w.Now = w.Now.Add(token.UserLife(0) - time.Second)
		w.active(name+"in its last second", w.rs, tok)
		w.Now = w.Now.Add(time.Second)
		w.inactive(name+"expired", w.rs, tok)
	}
	tok, refresh, _ := w.authorize()
	w.active("before", w.rs, tok)
	if err := w.Clients.Disable(t.Context(), w.app.ID); err != nil {
		t.Fatal(err)
	}
	w.inactive("access token of a disabled client", w.rs, tok)
	w.inactive("refresh token", w.rs, refresh)
}

// TestWithdrawnConsent checks that the token stays active when the patient
// withdraws the Consent, but gives access to no data.
func TestWithdrawnConsent(t *testing.T) {
	w := newWorld(t)
	tok, _, id := w.authorize()
	allowed := func() bool {
		t.Helper()
		r := must(http.NewRequest("GET", w.Server.URL+"/fhir/Observation", nil))
		r.Header.Set("Authorization", "Bearer "+tok)
		p := must(w.policy.Authenticate(r))
		return p.Grant.Filter(access.Read).Allow(&access.Facts{Type: "Observation", ID: "o", Patient: "p1",
			Vendor: "apple", Tokens: func(string) []access.Token { return nil }})
	}
	if w.active("with consent", w.rs, tok); !allowed() {
		t.Fatal("the consent allows no access")
	}
	r, _, err := w.DB.Read(t.Context(), appconsent.Ref(id), 0)
	if err != nil {
		t.Fatal(err)
	}
	must(w.DB.Commit(t.Context(), &store.Batch{Writes: []store.Write{{Resource: must(consent.Withdraw(r))}}}))
	if w.active("consent withdrawn", w.rs, tok); allowed() {
		t.Error("the withdrawn consent allows access")
	}
	if err := w.tokens.Revoke(t.Context(), audit.Caller{}, "u1", id); err != nil {
		t.Fatal(err)
	}
	w.inactive("consent withdrawn and authorization revoked", w.rs, tok)
}
