package token_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lestrrat-go/jwx/v2/jwa"
	"github.com/lestrrat-go/jwx/v2/jwk"
	"github.com/lestrrat-go/jwx/v2/jws"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/clocktest"
	"pulsegate/fhir/store"
	"pulsegate/smart/client"
	"pulsegate/smart/oauth/discovery"
	"pulsegate/smart/oauth/token"
	"pulsegate/smart/policy"
	"pulsegate/smart/proof/keys"
	"pulsegate/smart/scope"
)

const (
	base     = "https://pulsegate.example"
	endpoint = base + "/oauth/token"
	fhirBase = base + "/fhir"
)

// state implements store.State in memory.
type state struct {
	mu     sync.Mutex // guards the fields below
	values map[string][]byte
	events []string // one line per committed AuditEvent, see recorder
	fail   error
	seq    store.Seq
}

func (s *state) LastSeq() store.Seq {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.seq
}

func (s *state) Commit(_ context.Context, b *store.Batch) (store.Result, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail != nil {
		return store.Result{}, s.fail
	}
	for _, w := range b.State {
		old := s.values[w.Key]
		if w.Expect == store.StateAbsent && old != nil || w.Expect == store.StateEquals &&
			string(old) != string(w.Old) {
			return store.Result{}, fhir.Errorf(fhir.Conflict, "state.Commit", "precondition")
		}
	}
	for _, w := range b.State {
		s.values[w.Key] = w.Value
	}
	for _, w := range b.Writes {
		s.events = append(s.events, string(w.Resource.JSON))
	}
	s.seq++
	return store.Result{Seq: s.seq}, nil
}

func (s *state) Get(_ context.Context, key string) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.values[key], nil
}

func (s *state) List(_ context.Context, prefix string, fn func(string, []byte) bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var names []string
	for k := range s.values {
		if strings.HasPrefix(k, prefix) {
			names = append(names, k)
		}
	}
	sort.Strings(names)
	for _, k := range names {
		if !fn(k, s.values[k]) {
			break
		}
	}
	return nil
}

// recorder implements audit.Trail. Its AuditEvents contain outcome, reason,
// client and query.
type recorder struct{ s *state }

func (r recorder) Prepare(ev audit.Event) (store.Write, store.Leaf, error) {
	id := ""
	if ev.Principal != nil {
		id = ev.Principal.ClientID
	}
	line := strings.Join([]string{ev.Outcome, ev.Reason, id, ev.Query}, "\n")
	return store.Write{Resource: fhir.Resource{JSON: []byte(line)}}, store.Leaf("leaf"), nil
}

func (r recorder) Record(ctx context.Context, evs ...audit.Event) error {
	for _, ev := range evs {
		w, _, err := r.Prepare(ev)
		if err != nil {
			return err
		}
		if _, err := r.s.Commit(ctx, &store.Batch{Writes: []store.Write{w}}); err != nil {
			return err
		}
	}
	return nil
}

// world is a token endpoint with one registered client and its keys.
type world struct {
	t        *testing.T
	state    *state
	clock    *clocktest.Clock
	dir      string
	scopes   scope.Parser
	ring     *keys.Ring
	reg      *client.Registry
	keys     *client.Keys
	limits   token.Limits
	endpoint *token.Endpoint
	policy   *policy.Engine
	ec       *ecdsa.PrivateKey
	rsa      *rsa.PrivateKey
	id       string
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, state: &state{values: map[string][]byte{}}, clock: clocktest.At(time.Unix(1_800_000_000, 0)),
		dir:    t.TempDir(),
		limits: token.Limits{Failures: 1000, Denied: 1000}}
	w.ec = must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader))
	w.rsa = must(rsa.GenerateKey(rand.Reader, 2048))
	w.scopes = scope.Parser{TokenParam: func(_, code string) bool { return code == "category" }}
	w.open()
	c := must(w.reg.Add(t.Context(), client.Client{Name: "EHR", JWKS: w.jwks("e1", w.ec, "r1", w.rsa),
		Scope: "system/Observation.rs system/Patient.r"}))
	w.id = c.ID
	return w
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// open starts the endpoint again with the same state and key directory.
func (w *world) open() {
	w.ring = must(keys.Open(w.dir, w.clock.Now))
	w.reg = &client.Registry{Store: w.state, Scopes: w.scopes, Clock: w.clock.Now, AllowHTTP: true}
	w.keys = &client.Keys{HTTP: http.DefaultClient, Clock: w.clock.Now}
	as := must(client.NewAssertions(w.reg, w.keys, endpoint))
	w.endpoint = must(token.New(w.t.Context(),
		token.Options{Store: w.state, Audit: recorder{w.state}, Keys: w.ring, Assertions: as,
			Scopes: w.scopes, Clock: w.clock.Now, Rand: rand.Reader, Issuer: base, Audience: fhirBase,
			Logger: slog.New(slog.DiscardHandler), Limits: w.limits}))
	w.policy = &policy.Engine{Keys: w.ring, Clients: w.reg, Scopes: w.scopes, Issuer: base, Audience: fhirBase,
		Clock: w.clock.Now}
}

// public returns the public JWK of a key.
func public(kid string, k any) map[string]any {
	j := must(jwk.FromRaw(k.(crypto.Signer).Public()))
	var m map[string]any
	if err := json.Unmarshal(must(json.Marshal(j)), &m); err != nil {
		panic(err)
	}
	m["kid"] = kid
	return m
}

// jwks returns the JWK set of pairs of key ID and key.
func (w *world) jwks(kidsAndKeys ...any) json.RawMessage {
	var ks []any
	for i := 0; i < len(kidsAndKeys); i += 2 {
		ks = append(ks, public(kidsAndKeys[i].(string), kidsAndKeys[i+1]))
	}
	return must(json.Marshal(map[string]any{"keys": ks}))
}

type m = map[string]any

// claims returns the claims of a valid assertion after a change. A nil value
// removes the claim.
func (w *world) claims(change m) m {
	c := m{"iss": w.id, "sub": w.id, "aud": endpoint, "exp": w.clock.Now().Add(4 * time.Minute).Unix(),
		"iat": w.clock.Now().Unix(), "jti": rand.Text()}
	return merge(c, change)
}

func merge(c, change m) m {
	for k, v := range change {
		if v == nil {
			delete(c, k)
		} else {
			c[k] = v
		}
	}
	return c
}

// sign returns a JWS with any header, even one that a JWT library would refuse
// to write.
func sign(header, claims m, key any) string {
	enc := base64.RawURLEncoding
	in := enc.EncodeToString(must(json.Marshal(header))) + "." + enc.EncodeToString(must(json.Marshal(claims)))
	alg := jwa.ES384
	switch key.(type) {
	case nil:
		return in + "."
	case *rsa.PrivateKey:
		alg = jwa.RS384
		if header["alg"] == "RS256" {
			alg = jwa.RS256
		}
	case []byte:
		alg = jwa.HS384
	}
	s := must(jws.NewSigner(alg))
	return in + "." + enc.EncodeToString(must(s.Sign([]byte(in), key)))
}

// assertion returns a valid assertion, or one with changed claims.
func (w *world) assertion(change m) string {
	return sign(m{"alg": "ES384", "kid": "e1", "typ": "JWT"}, w.claims(change), w.ec)
}

func (w *world) post(form url.Values, edit func(*http.Request)) (int, m, http.Header) {
	w.t.Helper()
	r := httptest.NewRequest("POST", endpoint, strings.NewReader(form.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if edit != nil {
		edit(r)
	}
	rec := httptest.NewRecorder()
	w.endpoint.ServeHTTP(rec, r)
	var out m
	if err := json.Unmarshal(rec.Body.Bytes(), &out); err != nil {
		w.t.Fatalf("%d %q: %v", rec.Code, rec.Body, err)
	}
	return rec.Code, out, rec.Header()
}

func form(assertion, scopes string) url.Values {
	return url.Values{"grant_type": {"client_credentials"}, "scope": {scopes}, "client_assertion": {assertion},
		"client_assertion_type": {"urn:ietf:params:oauth:client-assertion-type:jwt-bearer"}}
}

// requestToken requests a token for system/Observation.rs.
func (w *world) requestToken(assertion string) (int, m) {
	w.t.Helper()
	s, out, _ := w.post(form(assertion, "system/Observation.rs"), nil)
	return s, out
}

// bearer authenticates an API request with an access token.
func (w *world) bearer(tok any) (*access.Principal, error) {
	r := httptest.NewRequest("GET", fhirBase+"/Observation", nil)
	r.Header.Set("Authorization", "Bearer "+tok.(string))
	return w.policy.Authenticate(r)
}

func TestTokenIsIssuedAndUsed(t *testing.T) {
	w := newWorld(t)
	for name, assertion := range map[string]string{
		"ES384":        w.assertion(nil),
		"RS384":        sign(m{"alg": "RS384", "kid": "r1", "typ": "JWT"}, w.claims(nil), w.rsa),
		"aud an array": w.assertion(m{"aud": []string{"https://other.example", endpoint}}),
		"skewed":       w.assertion(m{"iat": w.clock.Now().Unix() + 59, "nbf": w.clock.Now().Unix() + 59}),
	} {
		s, out, h := w.post(form(assertion, "system/*.rs"), nil)
		if s != 200 || out["token_type"] != "bearer" || out["expires_in"] != 300.0 ||
			out["scope"] != "system/Observation.rs system/Patient.r" ||
			h.Get("Cache-Control") != "no-store" || h.Get("Pragma") != "no-cache" {
			t.Fatalf("%s: %d %v %v", name, s, out, h)
		}
		for range 2 { // the second time from the cache
			p, err := w.bearer(out["access_token"])
			if err != nil {
				t.Fatal(err)
			}
			if p.ClientID != w.id || p.ClientName != "EHR" || p.TokenID == "" || p.Issuer != base ||
				p.Grant.Recipient != w.id ||
				!p.Grant.May(access.Read, "Observation") || p.Grant.May(access.Create, "Observation") ||
				p.Grant.May(access.Search, "Patient") {
				t.Fatalf("%s: %+v", name, p)
			}
		}
	}
	if len(w.state.events) != 4 {
		t.Fatalf("%d events for 4 tokens", len(w.state.events))
	}
}

// TestAssertionsRefused checks that every invalid assertion is refused.
func TestAssertionsRefused(t *testing.T) {
	w := newWorld(t)
	other := must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader))
	h := func(change m) m { return merge(m{"alg": "ES384", "kid": "e1", "typ": "JWT"}, change) }
	sibling := must(w.reg.Add(t.Context(),
		client.Client{Name: "Sibling", JWKS: w.jwks("e1", w.ec, "e1", other), Scope: "system/*.rs"}))
	disabled := must(w.reg.Add(t.Context(),
		client.Client{Name: "Disabled", JWKS: w.jwks("e1", w.ec), Scope: "system/*.rs"}))
	if err := w.reg.Disable(t.Context(), disabled.ID); err != nil {
		t.Fatal(err)
	}
	good := w.assertion(nil)
	exchanged := w.assertion(nil)
	exchanged = exchanged[:strings.LastIndex(exchanged, ".")] + good[strings.LastIndex(good, "."):]
	dup := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none","alg":"ES384","kid":"e1"}`)) +
		good[strings.Index(good, "."):]
	for name, assertion := range map[string]string{
		"forged":              sign(h(nil), w.claims(nil), other),
		"payload exchanged":   exchanged,
		"RS256":               sign(h(m{"alg": "RS256", "kid": "r1"}), w.claims(nil), w.rsa),
		"none":                sign(h(m{"alg": "none"}), w.claims(nil), nil),
		"none with signature": sign(h(m{"alg": "none"}), w.claims(nil), w.ec),
		"HS384 by public key": sign(h(m{"alg": "HS384"}), w.claims(nil), []byte(w.jwks("e1", w.ec))),
		"alg of another key":  sign(h(m{"kid": "r1"}), w.claims(nil), w.ec),
		"ES384 by RSA":        sign(h(nil), w.claims(nil), w.rsa),
		"own jwk":             sign(h(m{"jwk": public("e1", other)}), w.claims(nil), other),
		"own jwk, good key":   sign(h(m{"jwk": public("e1", w.ec)}), w.claims(nil), w.ec),
		"x5u":                 sign(h(m{"x5u": "https://evil.example"}), w.claims(nil), w.ec),
		"x5c":                 sign(h(m{"x5c": []string{"MII"}}), w.claims(nil), w.ec),
		"crit":                sign(h(m{"crit": []string{"exp"}}), w.claims(nil), w.ec),
		"b64":                 sign(h(m{"b64": false}), w.claims(nil), w.ec),
		"jku":                 sign(h(m{"jku": "https://evil.example/jwks"}), w.claims(nil), w.ec),
		"no typ":              sign(h(m{"typ": nil}), w.claims(nil), w.ec),
		"wrong typ":           sign(h(m{"typ": "at+jwt"}), w.claims(nil), w.ec),
		"no kid":              sign(h(m{"kid": nil}), w.claims(nil), w.ec),
		"unknown kid":         sign(h(m{"kid": "e2"}), w.claims(nil), w.ec),
		"duplicate member":    dup,
		"two keys of one kid": w.assertion(m{"iss": sibling.ID, "sub": sibling.ID}),
		"disabled client":     w.assertion(m{"iss": disabled.ID, "sub": disabled.ID}),
		"unknown client":      w.assertion(m{"iss": "unknown", "sub": "unknown"}),
		"client is a path":    w.assertion(m{"iss": "../jti", "sub": "../jti"}),
		"iss is not sub":      w.assertion(m{"iss": sibling.ID}),
		"no iss":              w.assertion(m{"iss": nil}),
		"no sub":              w.assertion(m{"sub": nil}),
		"wrong aud":           w.assertion(m{"aud": fhirBase}),
		"aud with slash":      w.assertion(m{"aud": endpoint + "/"}),
		"no aud":              w.assertion(m{"aud": nil}),
		"exp too far":         w.assertion(m{"exp": w.clock.Now().Add(5*time.Minute + time.Second).Unix()}),
		"expired":             w.assertion(m{"exp": w.clock.Now().Unix()}),
		"no exp":              w.assertion(m{"exp": nil}),
		"exp a string":        w.assertion(m{"exp": fmt.Sprint(w.clock.Now().Add(time.Minute).Unix())}),
		"exp huge":            w.assertion(m{"exp": 1e300}),
		"exp negative":        w.assertion(m{"exp": -1}),
		"future iat":          w.assertion(m{"iat": w.clock.Now().Unix() + 61}),
		"future nbf":          w.assertion(m{"nbf": w.clock.Now().Unix() + 61}),
		"no jti":              w.assertion(m{"jti": nil}),
		"empty jti":           w.assertion(m{"jti": ""}),
		"huge jti":            w.assertion(m{"jti": strings.Repeat("j", 256)}),
		"oversized":           w.assertion(m{"pad": strings.Repeat("x", 9000)}),
		"JSON serialisation":  `{"payload":"e30","protected":"e30","signature":"e30"}`,
		"four parts":          good + ".e30",
		"padding":             good + "==",
		"no token":            "x",
	} {
		if s, out := w.requestToken(assertion); s != 401 || out["error"] != "invalid_client" ||
			out["access_token"] != nil {
			t.Errorf("%s: %d %v", name, s, out)
		}
	}
	if s, out := w.requestToken(good); s != 200 {
		t.Fatalf("valid assertion: %d %v", s, out)
	}
	for _, ev := range w.state.events[:len(w.state.events)-1] {
		if !strings.HasPrefix(ev, "8\ninvalid_client") || strings.Contains(ev, "eyJ") ||
			strings.Contains(ev, "client_assertion=") {
			t.Errorf("event %q", ev)
		}
	}
}

// TestErrorDoesNotDiscloseRegistration checks that the error for an unknown
// client, an invalid signature and an unknown key is the same.
func TestErrorDoesNotDiscloseRegistration(t *testing.T) {
	w := newWorld(t)
	other := must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader))
	_, a := w.requestToken(w.assertion(m{"iss": "unknown", "sub": "unknown"}))
	_, b := w.requestToken(sign(m{"alg": "ES384", "kid": "e1", "typ": "JWT"}, w.claims(nil), other))
	_, c := w.requestToken(sign(m{"alg": "ES384", "kid": "e9", "typ": "JWT"}, w.claims(nil), w.ec))
	if a["error_description"] != b["error_description"] || b["error_description"] != c["error_description"] {
		t.Errorf("%v\n%v\n%v", a, b, c)
	}
}

func TestReplay(t *testing.T) {
	w := newWorld(t)
	a := w.assertion(nil)
	if s, out := w.requestToken(a); s != 200 {
		t.Fatal(s, out)
	}
	if s, out := w.requestToken(a); s != 401 || !strings.Contains(fmt.Sprint(out["error_description"]), "jti") {
		t.Error("replay", s, out)
	}
	w.open()
	if s, _ := w.requestToken(a); s != 401 {
		t.Error("replay after reopening", s)
	}
	// The clock runs ahead, so that the jti is dropped, and is set back.
	w.clock.Add(2 * time.Hour)
	if s, out := w.requestToken(w.assertion(nil)); s != 200 {
		t.Fatal(s, out)
	}
	for k := range w.state.values {
		if strings.HasPrefix(k, "jti/"+w.id) {
			delete(w.state.values, k)
		}
	}
	w.clock.Add(-2 * time.Hour)
	w.open()
	if s, out := w.requestToken(a); s != 401 {
		t.Error("replay after the clock went back", s, out)
	}
}

func TestConcurrentReplaysHaveOneWinner(t *testing.T) {
	w := newWorld(t)
	a := w.assertion(nil)
	var wg sync.WaitGroup
	codes := make([]int, 16)
	for i := range codes {
		wg.Go(func() { codes[i], _ = w.requestToken(a) })
	}
	wg.Wait()
	slices.Sort(codes)
	if codes[0] != 200 || codes[1] != 401 {
		t.Error(codes)
	}
}

func TestRequestsRefused(t *testing.T) {
	w := newWorld(t)
	f := func(change url.Values) url.Values {
		v := form(w.assertion(nil), "system/Observation.rs")
		maps.Copy(v, change)
		return v
	}
	for _, tc := range []struct {
		name, code string
		status     int
		form       url.Values
		edit       func(*http.Request)
	}{
		{"GET", "invalid_request", 405, f(nil), func(r *http.Request) { r.Method = "GET" }},
		{"JSON", "invalid_request", 400, f(nil),
			func(r *http.Request) { r.Header.Set("Content-Type", "application/json") }},
		{"query", "invalid_request", 400, f(nil),
			func(r *http.Request) { r.URL.RawQuery = "grant_type=client_credentials" }},
		{"oversized", "invalid_request", 400, f(url.Values{"pad": {strings.Repeat("x", 20000)}}), nil},
		{"twice", "invalid_request", 400, f(url.Values{"scope": {"system/*.rs", "system/*.rs"}}), nil},
		{"no grant", "invalid_request", 400, f(url.Values{"grant_type": nil}), nil},
		{"grant", "unsupported_grant_type", 400, f(url.Values{"grant_type": {"password"}}), nil},
		{"assertion type", "invalid_request", 400, f(url.Values{"client_assertion_type": {"x"}}), nil},
		{"no assertion", "invalid_request", 400, f(url.Values{"client_assertion": nil}), nil},
		{"client_id", "invalid_request", 400, f(url.Values{"client_id": {"another"}}), nil},
		{"no scope", "invalid_scope", 400, f(url.Values{"scope": nil}), nil},
		{"bad scope", "invalid_scope", 400, f(url.Values{"scope": {"system/Observation.rs nonsense"}}), nil},
		{"patient scope", "invalid_scope", 400, f(url.Values{"scope": {"patient/Observation.rs"}}), nil},
		{"escalation by type", "invalid_scope", 400, f(url.Values{"scope": {"system/Consent.rs"}}), nil},
		{"escalation by permission", "invalid_scope", 400, f(url.Values{"scope": {"system/Observation.cud"}}), nil},
	} {
		s, out, h := w.post(tc.form, tc.edit)
		if s != tc.status || out["error"] != tc.code || h.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: %d %v", tc.name, s, out)
		}
	}
	if n := len(w.state.events); n != 15 {
		t.Errorf("%d events for 15 refusals", n)
	}
	if _, out, _ := w.post(form(w.assertion(nil), "system/*.*"),
		nil); out["scope"] != "system/Observation.read system/Patient.read" {
		t.Errorf("the wildcard was not narrowed: %v", out)
	}
	w.state.fail = fhir.Errorf(fhir.NoSpace, "state", "full")
	if s, out, _ := w.post(f(nil), nil); s != 503 || out["access_token"] != nil {
		t.Errorf("a token was issued without its AuditEvent: %d %v", s, out)
	}
}

func TestAccessTokensRefused(t *testing.T) {
	w := newWorld(t)
	_, out := w.requestToken(w.assertion(nil))
	tok := out["access_token"].(string)
	if _, err := w.bearer(tok); err != nil {
		t.Fatal(err)
	}
	c := func(change m) m {
		return merge(m{"iss": base, "sub": w.id, "client_id": w.id, "aud": fhirBase, "scope": "system/*.cruds",
			"jti": "x",
			"iat": w.clock.Now().Unix(), "exp": w.clock.Now().Add(time.Minute).Unix()}, change)
	}
	signed := func(typ string, change m) string { return must(w.ring.Sign(typ, c(change))) }
	if _, err := w.bearer(signed("at+jwt", nil)); err != nil {
		t.Fatal("valid token: ", err)
	}
	kid := strings.TrimSuffix(filepath.Base(must(filepath.Glob(filepath.Join(w.dir, "keys", "*.jwk")))[0]), ".jwk")
	for name, s := range map[string]string{
		"signature":    tok[:len(tok)-8] + "AAAAAAAA",
		"client's key": sign(m{"alg": "ES384", "kid": kid, "typ": "at+jwt"}, c(nil), w.ec),
		"none":         sign(m{"alg": "none", "kid": kid, "typ": "at+jwt"}, c(nil), nil),
		"typ":          signed("JWT", nil),
		"assertion":    w.assertion(nil),
		"iss":          signed("at+jwt", m{"iss": "https://other.example"}),
		"aud":          signed("at+jwt", m{"aud": endpoint}),
		"expired":      signed("at+jwt", m{"exp": w.clock.Now().Unix()}),
		"too long":     signed("at+jwt", m{"exp": w.clock.Now().Add(time.Hour).Unix()}),
		"nbf":          signed("at+jwt", m{"nbf": w.clock.Now().Unix() + 5}),
		"scope":        signed("at+jwt", m{"scope": "nonsense"}),
		"no person":    signed("at+jwt", m{"scope": "patient/*.rs"}),
		"no authz":     signed("at+jwt", m{"scope": "patient/*.rs", "authz": strings.Repeat("a", 26), "patient": "p1"}),
		"client":       signed("at+jwt", m{"client_id": "unknown"}),
		"huge":         strings.Repeat("x", 10000),
		"empty":        "",
	} {
		if _, err := w.bearer(s); fhir.KindOf(err) != fhir.Unauthorized ||
			!strings.Contains(err.Error(), "invalid_token") {
			t.Errorf("%s: %v", name, err)
		}
	}
	r := httptest.NewRequest("GET", fhirBase+"/Observation?access_token="+tok, nil)
	if _, err := w.policy.Authenticate(r); fhir.KindOf(err) != fhir.Unauthorized {
		t.Error("token in the URL:", err)
	}
	r.Header["Authorization"] = []string{"Bearer " + tok, "Bearer " + tok}
	if _, err := w.policy.Authenticate(r); err == nil {
		t.Error("two Authorization headers were accepted")
	}
	if err := w.reg.Disable(t.Context(), w.id); err != nil {
		t.Fatal(err)
	}
	if _, err := w.bearer(tok); fhir.KindOf(err) != fhir.Unauthorized {
		t.Error("cached token of a disabled client:", err)
	}
}

func TestCachedTokenExpires(t *testing.T) {
	w := newWorld(t)
	_, out := w.requestToken(w.assertion(nil))
	if _, err := w.bearer(out["access_token"]); err != nil {
		t.Fatal(err)
	}
	w.clock.Add(5 * time.Minute)
	if _, err := w.bearer(out["access_token"]); fhir.KindOf(err) != fhir.Unauthorized {
		t.Error(err)
	}
}

func TestKeyRotationOverlaps(t *testing.T) {
	w := newWorld(t)
	_, out := w.requestToken(w.assertion(nil))
	if err := w.ring.Rotate(5 * time.Minute); err != nil {
		t.Fatal(err)
	}
	w.open() // drops the cache and reads the keys from disk
	if _, err := w.bearer(out["access_token"]); err != nil {
		t.Error("token of the previous key:", err)
	}
	set := must(w.ring.JWKS())
	if strings.Count(string(set), `"kid"`) != 4 || strings.Contains(string(set), `"d"`) {
		t.Errorf("%s", set)
	}
	w.clock.Add(6 * time.Minute)
	w.open()
	if set := must(w.ring.JWKS()); strings.Count(string(set), `"kid"`) != 2 {
		t.Errorf("%s", set)
	}
	// One key each for access tokens, ID tokens and client assertions.
	files := must(filepath.Glob(filepath.Join(w.dir, "keys", "*")))
	if len(files) != 3 {
		t.Fatal(files)
	}
	if info := must(os.Stat(files[0])); info.Mode().Perm() != 0o600 {
		t.Error(info.Mode())
	}
	if err := os.Chmod(files[0], 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := keys.Open(w.dir, time.Now); err == nil {
		t.Error("a world-readable key was accepted")
	}
}

func TestKeysByURL(t *testing.T) {
	w := newWorld(t)
	next := must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader))
	var mu sync.Mutex
	hits, status, header, set := 0, 200, http.Header{}, w.jwks("e1", w.ec)
	srv := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		hits++
		for k, v := range header {
			rw.Header()[k] = v
		}
		rw.WriteHeader(status)
		if _, err := rw.Write(set); err != nil {
			t.Error(err)
		}
	}))
	defer srv.Close()
	w.id = must(w.reg.Add(t.Context(), client.Client{Name: "URL", JWKSURL: srv.URL, Scope: "system/*.rs"})).ID
	try := func(name string, kid string, key any, want, wantHits int) {
		t.Helper()
		mu.Lock()
		hits = 0
		mu.Unlock()
		s, out := w.requestToken(sign(m{"alg": "ES384", "kid": kid, "typ": "JWT", "jku": srv.URL}, w.claims(nil), key))
		if s != want || hits != wantHits {
			t.Errorf("%s: %d %v, %d fetches", name, s, out, hits)
		}
	}
	try("no cache headers", "e1", w.ec, 200, 1)
	try("no cache headers, again", "e1", w.ec, 200, 1)
	header.Set("Cache-Control", "private, max-age=60")
	try("max-age", "e1", w.ec, 200, 1)
	try("max-age, cached", "e1", w.ec, 200, 0)
	try("unknown kid right after a fetch", "e2", next, 401, 0)
	w.clock.Add(11 * time.Second)
	set = w.jwks("e2", next)
	try("unknown kid ten seconds after a fetch", "e2", next, 200, 1)
	try("removed key", "e1", w.ec, 401, 0)
	w.clock.Add(61 * time.Second)
	try("after max-age", "e2", next, 200, 1)
	header.Set("Cache-Control", "max-age=86400")
	w.clock.Add(61 * time.Second)
	try("long max-age", "e2", next, 200, 1)
	w.clock.Add(5*time.Minute - time.Second)
	try("within the cap", "e2", next, 200, 0)
	w.clock.Add(time.Second)
	header.Set("Cache-Control", "no-store, max-age=60")
	try("after the cap", "e2", next, 200, 1)
	try("no-store", "e2", next, 200, 1)
	header = http.Header{"Expires": {w.clock.Now().Add(30 * time.Second).UTC().Format(http.TimeFormat)},
		"Date": {w.clock.Now().UTC().Format(http.TimeFormat)}}
	try("Expires", "e2", next, 200, 1)
	try("Expires, cached", "e2", next, 200, 0)
	w.clock.Add(31 * time.Second)
	status = 500
	try("server error, no stale keys", "e2", next, 401, 1)
	status = 302
	header = http.Header{"Location": {srv.URL}}
	try("redirect", "e2", next, 401, 1)
	status, header, set = 200, http.Header{}, append(w.jwks("e2", next), make([]byte, 65<<10)...)
	try("oversized", "e2", next, 401, 1)
	set = must(json.Marshal(m{"keys": []any{must(jwk.FromRaw(next))}}))
	try("published private key", "e2", next, 401, 1)
	srv.Close()
	try("unreachable", "e2", next, 401, 0)
}

func TestRegistration(t *testing.T) {
	w := newWorld(t)
	good := client.Client{Name: "n", JWKS: w.jwks("e1", w.ec), Scope: "system/*.rs"}
	small := m{"keys": []any{m{"kty": "RSA", "kid": "s", "e": "AQAB",
		"n": base64.RawURLEncoding.EncodeToString(slices.Repeat([]byte{0xff}, 128))}}}
	for name, edit := range map[string]func(*client.Client){
		"no name":           func(c *client.Client) { c.Name = "" },
		"control character": func(c *client.Client) { c.Name = "a\nb" },
		"no keys":           func(c *client.Client) { c.JWKS = nil },
		"two key sets":      func(c *client.Client) { c.JWKSURL = "https://x.example" },
		"ftp":               func(c *client.Client) { c.JWKS, c.JWKSURL = nil, "ftp://x.example" },
		"user in URL":       func(c *client.Client) { c.JWKS, c.JWKSURL = nil, "https://a:b@x.example" },
		"private key": func(c *client.Client) {
			c.JWKS = must(
				json.Marshal(m{"keys": []any{must(jwk.FromRaw(w.ec))}}))
		},
		"weak RSA":      func(c *client.Client) { c.JWKS = must(json.Marshal(small)) },
		"symmetric key": func(c *client.Client) { c.JWKS = []byte(`{"keys":[{"kty":"oct","kid":"a","k":"AAAA"}]}`) },
		"empty set":     func(c *client.Client) { c.JWKS = []byte(`{"keys":[]}`) },
		"no JSON":       func(c *client.Client) { c.JWKS = []byte(`x`) },
		"off curve": func(c *client.Client) {
			k := public("e1", w.ec)
			k["x"] = k["y"]
			c.JWKS = must(json.Marshal(m{"keys": []any{k}}))
		},
		"scope":            func(c *client.Client) { c.Scope = "patient/*.rs" },
		"redirect":         func(c *client.Client) { c.RedirectURIs = []string{"http://app.example/cb"} },
		"fragment":         func(c *client.Client) { c.RedirectURIs = []string{"https://app.example/cb#"} },
		"javascript":       func(c *client.Client) { c.RedirectURIs = []string{"javascript:alert(1)"} },
		"public with keys": func(c *client.Client) { c.Method = client.None },
		"secret backend": func(c *client.Client) {
			c.JWKS, c.Method, c.SecretHash = nil, client.SecretBasic,
				client.Hash("s")
		},
		"unknown method": func(c *client.Client) { c.Method = "tls_client_auth" },
		"implicit":       func(c *client.Client) { c.GrantTypes = []client.GrantType{"implicit"} },
		"reserved ID":    func(c *client.Client) { c.ID = "any" },
		"ID in use":      func(c *client.Client) { c.ID = w.id },
	} {
		c := good
		edit(&c)
		if got, err := w.reg.Add(t.Context(), c); err == nil {
			t.Errorf("%s: registered as %s", name, got.ID)
		}
	}
	list := must(w.reg.List(t.Context()))
	if len(list) != 1 || list[0].ID != w.id {
		t.Errorf("%+v", list)
	}
}

func TestOperatorIssue(t *testing.T) {
	w := newWorld(t)
	tok, err := w.endpoint.Issue(t.Context(), w.id, "system/*.rs", time.Hour, "uid:0")
	if err != nil || tok.Life != token.MaxLife || tok.Scope != "system/Observation.rs system/Patient.r" {
		t.Fatal(tok, err)
	}
	if p, err := w.bearer(tok.Access); err != nil || p.ClientID != w.id {
		t.Fatal(p, err)
	}
	if _, err := w.endpoint.Issue(t.Context(), "unknown", "system/*.rs", time.Hour,
		"uid:0"); fhir.KindOf(err) != fhir.NotFound {
		t.Error(err)
	}
}

func TestDiscovery(t *testing.T) {
	rec := httptest.NewRecorder()
	discovery.Handler{BaseURL: base, Endpoints: discovery.Endpoints{Token: endpoint}}.ServeHTTP(rec,
		httptest.NewRequest("GET", "/", nil))
	var d m
	if err := json.Unmarshal(rec.Body.Bytes(), &d); err != nil {
		t.Fatal(err)
	}
	if d["token_endpoint"] != endpoint || d["jwks_uri"] != base+"/.well-known/jwks.json" ||
		d["authorization_endpoint"] != nil ||
		rec.Header().Get("Content-Type") != "application/json" ||
		rec.Header().Get("Access-Control-Allow-Origin") != "*" {
		t.Errorf("%v %v", d, rec.Header())
	}
	// The parser must accept every scope in the document.
	for _, s := range d["scopes_supported"].([]any) {
		if _, err := (scope.Parser{TokenParam: scope.Registered}).Parse(s.(string)); err != nil {
			t.Error(err)
		}
	}
}
