package authn_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/lestrrat-go/jwx/v2/jwa"
	"github.com/lestrrat-go/jwx/v2/jwk"
	"github.com/lestrrat-go/jwx/v2/jws"

	"pulsegate/fhir"
	"pulsegate/fhir/clocktest"
	"pulsegate/smart/people/authn"
)

// hospital is an OpenID provider over TLS with responses that a test controls.
type hospital struct {
	t      *testing.T
	srv    *httptest.Server
	key    jwk.Key // signs the id_token
	set    jwk.Set // published keys
	claims map[string]any
	sign   func(payload []byte) []byte
	form   url.Values // of the last token request
	// padding is added to the token response, in bytes.
	padding int
	fetches int // of the key set
}

func newKey(t *testing.T, kid string) jwk.Key {
	raw, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	k, err := jwk.FromRaw(raw)
	if err != nil {
		t.Fatal(err)
	}
	if err := k.Set(jwk.KeyIDKey, kid); err != nil {
		t.Fatal(err)
	}
	return k
}

func (h *hospital) publish(k jwk.Key) {
	pub, err := k.PublicKey()
	if err != nil {
		h.t.Fatal(err)
	}
	h.key, h.set = k, jwk.NewSet()
	if err := h.set.AddKey(pub); err != nil {
		h.t.Fatal(err)
	}
}

func newHospital(t *testing.T) *hospital {
	h := &hospital{t: t}
	h.publish(newKey(t, "one"))
	h.sign = func(p []byte) []byte {
		b, err := jws.Sign(p, jws.WithKey(jwa.ES256, h.key))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		h.write(w, map[string]string{"issuer": h.srv.URL, "authorization_endpoint": h.srv.URL + "/authorize",
			"token_endpoint": h.srv.URL + "/token", "jwks_uri": h.srv.URL + "/jwks"})
	})
	mux.HandleFunc("GET /jwks", func(w http.ResponseWriter, _ *http.Request) {
		h.fetches++
		h.write(w, h.set)
	})
	mux.HandleFunc("POST /token", func(w http.ResponseWriter, r *http.Request) {
		if err := r.ParseForm(); err != nil {
			t.Error(err)
		}
		h.form = r.PostForm
		payload, err := json.Marshal(h.claims)
		if err != nil {
			t.Error(err)
		}
		h.write(w, map[string]string{"id_token": string(h.sign(payload)), "access_token": "x",
			"token_type": "Bearer", "padding": strings.Repeat("x", h.padding)})
	})
	h.srv = httptest.NewTLSServer(mux)
	t.Cleanup(h.srv.Close)
	return h
}

func (h *hospital) write(w http.ResponseWriter, v any) {
	if err := json.NewEncoder(w).Encode(v); err != nil {
		h.t.Error(err)
	}
}

// flow runs sign-ins of one test at a hospital.
type flow struct {
	*hospital
	clock    *clocktest.Clock
	provider *authn.Provider
}

func newFlow(t *testing.T) *flow {
	h := newHospital(t)
	clock := clocktest.At(time.Now())
	return &flow{h, clock, &authn.Provider{Issuer: h.srv.URL, ClientID: "pulsegate",
		Redirect: "https://pulse.example/auth/external/callback", Name: "Hospital",
		MFA: []string{"mfa", "gold"}, PhishingResistant: []string{"fido"}, HTTP: h.srv.Client(), Clock: clock.Now}}
}

// begin starts a sign-in and prepares an id_token that Finish accepts. It
// returns the parameters of the authentication request.
func (f *flow) begin() (url.Values, authn.AuthRequest) {
	f.t.Helper()
	target, req, err := f.provider.Begin(context.Background(), authn.PhishingResistant, false)
	if err != nil {
		f.t.Fatal(err)
	}
	u, err := url.Parse(target)
	if err != nil {
		f.t.Fatal(err)
	}
	now := f.clock.Now()
	f.claims = map[string]any{"iss": f.srv.URL, "sub": "s-1", "aud": "pulsegate", "nonce": req.Nonce,
		"iat": now.Unix(), "exp": now.Add(time.Minute).Unix(), "acr": "gold"}
	return u.Query(), req
}

func (f *flow) finish(req authn.AuthRequest) (authn.Identity, error) {
	return f.provider.Finish(context.Background(), req, response(req))
}

// response returns the parameters of a good authentication response.
func response(req authn.AuthRequest) url.Values {
	return url.Values{"code": {"c"}, "state": {req.State}}
}

func TestProvider(t *testing.T) {
	f := newFlow(t)
	query, req := f.begin()
	sum := sha256.Sum256([]byte(req.Verifier))
	if query.Get("code_challenge_method") != "S256" ||
		query.Get("code_challenge") != base64.RawURLEncoding.EncodeToString(sum[:]) || query.Get("nonce") == "" ||
		query.Get("acr_values") != "fido" || query.Get("scope") != "openid" || query.Get("state") != req.State {
		t.Errorf("authentication request: %v", query)
	}
	id, err := f.finish(req)
	if err != nil || id.Subject != "s-1" || id.ACR != authn.MultiFactor ||
		f.form.Get("code_verifier") != req.Verifier || f.form.Get("client_id") != "pulsegate" {
		t.Fatalf("%+v %v", id, err)
	}
	for _, tt := range []struct {
		claims map[string]any
		acr    string
	}{{map[string]any{"acr": "fido"}, authn.PhishingResistant},
		{map[string]any{"acr": "0", "amr": []string{"pwd", "mfa"}}, authn.MultiFactor},
		{map[string]any{"acr": "silver"}, authn.SingleFactor}} {
		_, req := f.begin()
		maps.Copy(f.claims, tt.claims)
		if id, err := f.finish(req); err != nil || id.ACR != tt.acr {
			t.Errorf("%v: %+v %v", tt.claims, id, err)
		}
	}
}

func TestProviderRefusals(t *testing.T) {
	f := newFlow(t)
	now := f.clock.Now()
	claim := func(name string, value any) func(*authn.AuthRequest, url.Values) {
		return func(*authn.AuthRequest, url.Values) { f.claims[name] = value }
	}
	without := func(name string) func(*authn.AuthRequest, url.Values) {
		return func(*authn.AuthRequest, url.Values) { delete(f.claims, name) }
	}
	signed := func(sign func(payload []byte) []byte) func(*authn.AuthRequest, url.Values) {
		return func(*authn.AuthRequest, url.Values) { f.sign = sign }
	}
	encode := base64.RawURLEncoding.EncodeToString
	good := f.sign
	for name, spoil := range map[string]func(req *authn.AuthRequest, response url.Values){
		"wrong state":     func(_ *authn.AuthRequest, v url.Values) { v.Set("state", "intruder") },
		"no state":        func(_ *authn.AuthRequest, v url.Values) { v.Del("state") },
		"two states":      func(req *authn.AuthRequest, v url.Values) { v.Add("state", req.State) },
		"other issuer":    func(_ *authn.AuthRequest, v url.Values) { v.Set("iss", "https://intruder.example") },
		"error response":  func(_ *authn.AuthRequest, v url.Values) { v.Set("error", "access_denied") },
		"no code":         func(_ *authn.AuthRequest, v url.Values) { v.Del("code") },
		"expired request": func(req *authn.AuthRequest, _ url.Values) { req.Expires = now },
		"nonce":           claim("nonce", "intruder"),
		"no nonce":        without("nonce"),
		"iss":             claim("iss", f.srv.URL+"/"),
		"aud":             claim("aud", "intruder"),
		"aud without azp": claim("aud", []string{"pulsegate", "intruder"}),
		"azp":             claim("azp", "intruder"),
		"exp":             claim("exp", now.Add(-2*time.Minute).Unix()),
		"no exp":          without("exp"),
		"future iat":      claim("iat", now.Add(5*time.Minute).Unix()),
		"old iat":         claim("iat", now.Add(-time.Hour).Unix()),
		"no iat":          without("iat"),
		"future nbf":      claim("nbf", now.Add(time.Hour).Unix()),
		"no sub":          without("sub"),
		"long sub":        claim("sub", strings.Repeat("s", 256)),
		"old auth_time": func(req *authn.AuthRequest, _ url.Values) {
			req.Fresh = true
			f.claims["auth_time"] = now.Add(-time.Hour).Unix()
		},
		"no auth_time": func(req *authn.AuthRequest, _ url.Values) { req.Fresh = true },
		"key with the same kid": func(*authn.AuthRequest, url.Values) {
			key := newKey(t, "one")
			f.sign = func(b []byte) []byte { s, _ := jws.Sign(b, jws.WithKey(jwa.ES256, key)); return s }
		},
		"symmetric key": signed(func(b []byte) []byte {
			s, _ := jws.Sign(b, jws.WithKey(jwa.HS256, []byte("pulsegate-pulsegate-pulsegate-32")))
			return s
		}),
		"alg none": signed(func(b []byte) []byte {
			return []byte(encode([]byte(`{"alg":"none"}`)) + "." + encode(b) + ".")
		}),
		"JSON serialization": signed(func(b []byte) []byte {
			parts := strings.Split(string(good(b)), ".")
			return fmt.Appendf(nil, `{"protected":%q,"payload":%q,"signature":%q}`, parts[0], parts[1], parts[2])
		}),
		"no id_token":    signed(func([]byte) []byte { return nil }),
		"large response": func(*authn.AuthRequest, url.Values) { f.padding = 256 << 10 },
	} {
		_, req := f.begin()
		values := response(req)
		spoil(&req, values)
		id, err := f.provider.Finish(context.Background(), req, values)
		if err == nil || fhir.KindOf(err) != fhir.Unauthorized {
			t.Errorf("%s: %+v %v", name, id, err)
		} else if strings.Contains(err.Error(), "intruder") {
			t.Errorf("%s: the error quotes the provider: %v", name, err)
		}
		f.sign, f.padding = good, 0
	}
}

// TestProviderKeys checks that a new key is accepted, that a withdrawn key
// expires, and that unknown keys do not make the server fetch without a limit.
func TestProviderKeys(t *testing.T) {
	f := newFlow(t)
	accepted := func() bool {
		t.Helper()
		_, req := f.begin()
		_, err := f.finish(req)
		if err != nil && fhir.KindOf(err) != fhir.Unauthorized {
			t.Fatal(err)
		}
		return err == nil
	}
	if !accepted() {
		t.Fatal("the first key is refused")
	}
	first := f.key
	f.clock.Add(time.Minute)
	f.publish(newKey(t, "two"))
	if !accepted() {
		t.Error("the new key is refused")
	}
	f.key = newKey(t, "unpublished")
	fetches := f.fetches
	for range 5 {
		f.clock.Add(time.Second)
		if accepted() {
			t.Error("an unpublished key is accepted")
		}
	}
	if f.fetches != fetches {
		t.Errorf("%d fetches within ten seconds", f.fetches-fetches)
	}
	f.key = first
	f.clock.Add(11 * time.Minute)
	if accepted() {
		t.Error("a withdrawn key is accepted")
	}
	encryption := newKey(t, "three")
	if err := encryption.Set(jwk.KeyUsageKey, "enc"); err != nil {
		t.Fatal(err)
	}
	f.publish(encryption)
	f.clock.Add(time.Minute)
	if accepted() {
		t.Error("an encryption key is accepted")
	}
}

func TestProviderUnavailable(t *testing.T) {
	f := newFlow(t)
	_, req := f.begin()
	f.srv.Close()
	f.clock.Add(11 * time.Minute)
	req.Expires = f.clock.Now().Add(time.Minute)
	if _, err := f.finish(req); fhir.KindOf(err) != fhir.Unavailable {
		t.Errorf("Finish: %v, want unavailable", err)
	}
}
