package authn_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"
	"time"

	"github.com/lestrrat-go/jwx/v2/jwa"
	"github.com/lestrrat-go/jwx/v2/jwk"
	"github.com/lestrrat-go/jwx/v2/jws"

	"pulsegate/fhir"
	"pulsegate/fhir/clocktest"
	"pulsegate/smart/people/authn"
)

// hospital is an OpenID provider over TLS that says what a test wants.
type hospital struct {
	t      *testing.T
	srv    *httptest.Server
	key    jwk.Key
	set    jwk.Set
	claims map[string]any
	sign   func(payload []byte) []byte
	form   url.Values // of the token request
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
	m := http.NewServeMux()
	m.HandleFunc("GET /.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		h.write(w, map[string]string{"issuer": h.srv.URL, "authorization_endpoint": h.srv.URL + "/authorize",
			"token_endpoint": h.srv.URL + "/token", "jwks_uri": h.srv.URL + "/jwks"})
	})
	m.HandleFunc("GET /jwks", func(w http.ResponseWriter, _ *http.Request) { h.write(w, h.set) })
	m.HandleFunc("POST /token", func(w http.ResponseWriter, r *http.Request) {
		if err := r.ParseForm(); err != nil {
			t.Error(err)
		}
		h.form = r.PostForm
		p, err := json.Marshal(h.claims)
		if err != nil {
			t.Error(err)
		}
		h.write(w, map[string]string{"id_token": string(h.sign(p)), "access_token": "x", "token_type": "Bearer"})
	})
	h.srv = httptest.NewTLSServer(m)
	t.Cleanup(h.srv.Close)
	return h
}

func (h *hospital) write(w http.ResponseWriter, v any) {
	if err := json.NewEncoder(w).Encode(v); err != nil {
		h.t.Error(err)
	}
}

func (h *hospital) provider(now func() time.Time) *authn.Provider {
	return &authn.Provider{Issuer: h.srv.URL, ClientID: "pulsegate",
		Redirect: "https://pulse.example/auth/external/callback", Name: "Hospital",
		MFA: []string{"mfa", "gold"}, PhishingResistant: []string{"fido"}, HTTP: h.srv.Client(), Clock: now}
}

func TestProvider(t *testing.T) {
	h := newHospital(t)
	at := time.Now()
	clock := clocktest.At(at)
	p := h.provider(clock.Now)
	begin := func() (url.Values, authn.Outward) {
		t.Helper()
		to, o, err := p.Begin(context.Background(), authn.PhishingResistant, false)
		if err != nil {
			t.Fatal(err)
		}
		u, err := url.Parse(to)
		if err != nil {
			t.Fatal(err)
		}
		h.claims = map[string]any{"iss": h.srv.URL, "sub": "s-1", "aud": "pulsegate", "nonce": o.Nonce,
			"iat": at.Unix(), "exp": at.Add(time.Minute).Unix(), "acr": "gold"}
		return u.Query(), o
	}
	q, o := begin()
	sum := sha256.Sum256([]byte(o.Verifier))
	if q.Get("code_challenge_method") != "S256" ||
		q.Get("code_challenge") != base64.RawURLEncoding.EncodeToString(sum[:]) || q.Get("nonce") == "" ||
		q.Get("acr_values") != "fido" {
		t.Errorf("sent out with %v", q)
	}
	answer := func(o authn.Outward) url.Values { return url.Values{"code": {"c"}, "state": {o.State}} }
	id, err := p.Finish(context.Background(), o, answer(o))
	if err != nil || id.Subject != "s-1" || id.ACR != authn.MultiFactor || h.form.Get("code_verifier") != o.Verifier {
		t.Fatalf("%+v %v", id, err)
	}
	good := h.sign
	for name, spoil := range map[string]func(o *authn.Outward, v url.Values){
		"state":           func(_ *authn.Outward, v url.Values) { v.Set("state", "other") },
		"no state":        func(_ *authn.Outward, v url.Values) { v.Del("state") },
		"two states":      func(o *authn.Outward, v url.Values) { v.Add("state", o.State) },
		"iss of another":  func(_ *authn.Outward, v url.Values) { v.Set("iss", "https://other.example") },
		"error":           func(_ *authn.Outward, v url.Values) { v.Set("error", "access_denied") },
		"no code":         func(_ *authn.Outward, v url.Values) { v.Del("code") },
		"too late":        func(o *authn.Outward, _ url.Values) { o.Expires = at },
		"nonce":           func(*authn.Outward, url.Values) { h.claims["nonce"] = "other" },
		"no nonce":        func(*authn.Outward, url.Values) { delete(h.claims, "nonce") },
		"iss":             func(*authn.Outward, url.Values) { h.claims["iss"] = h.srv.URL + "/" },
		"aud":             func(*authn.Outward, url.Values) { h.claims["aud"] = "other" },
		"aud without azp": func(*authn.Outward, url.Values) { h.claims["aud"] = []string{"pulsegate", "other"} },
		"azp":             func(*authn.Outward, url.Values) { h.claims["azp"] = "other" },
		"expired":         func(*authn.Outward, url.Values) { h.claims["exp"] = at.Add(-2 * time.Minute).Unix() },
		"no exp":          func(*authn.Outward, url.Values) { delete(h.claims, "exp") },
		"future":          func(*authn.Outward, url.Values) { h.claims["iat"] = at.Add(5 * time.Minute).Unix() },
		"old":             func(*authn.Outward, url.Values) { h.claims["iat"] = at.Add(-time.Hour).Unix() },
		"no sub":          func(*authn.Outward, url.Values) { delete(h.claims, "sub") },
		"not fresh": func(o *authn.Outward, _ url.Values) {
			o.Fresh = true
			h.claims["auth_time"] = at.Add(-time.Hour).Unix()
		},
		"fresh, unsaid": func(o *authn.Outward, _ url.Values) { o.Fresh = true },
		"another key": func(*authn.Outward, url.Values) {
			k := newKey(t, "one")
			h.sign = func(b []byte) []byte { s, _ := jws.Sign(b, jws.WithKey(jwa.ES256, k)); return s }
		},
		"symmetric": func(*authn.Outward, url.Values) {
			h.sign = func(b []byte) []byte {
				s, _ := jws.Sign(b, jws.WithKey(jwa.HS256, []byte("pulsegate-pulsegate-pulsegate-32")))
				return s
			}
		},
		"alg none": func(*authn.Outward, url.Values) {
			h.sign = func(b []byte) []byte {
				e := base64.RawURLEncoding.EncodeToString
				return []byte(e([]byte(`{"alg":"none"}`)) + "." + e(b) + ".")
			}
		},
		"no token": func(*authn.Outward, url.Values) { h.sign = func([]byte) []byte { return nil } },
	} {
		_, o := begin()
		v := answer(o)
		spoil(&o, v)
		if id, err := p.Finish(context.Background(), o, v); err == nil || fhir.KindOf(err) != fhir.Unauthorized {
			t.Errorf("%s: %+v %v", name, id, err)
		}
		h.sign = good
	}
	// What the provider says of the factors.
	for _, x := range []struct {
		claims map[string]any
		want   string
	}{{map[string]any{"acr": "fido"}, authn.PhishingResistant},
		{map[string]any{"acr": "0", "amr": []string{"pwd", "mfa"}}, authn.MultiFactor},
		{map[string]any{"acr": "silver"}, authn.SingleFactor}} {
		_, o := begin()
		for k, c := range x.claims {
			h.claims[k] = c
		}
		if id, err := p.Finish(context.Background(), o, answer(o)); err != nil || id.ACR != x.want {
			t.Errorf("%v: %+v %v", x.claims, id, err)
		}
	}
	// A new key of the provider is found.
	clock.Add(time.Minute)
	h.publish(newKey(t, "two"))
	_, o = begin()
	if _, err := p.Finish(context.Background(), o, answer(o)); err != nil {
		t.Errorf("after a change of keys: %v", err)
	}
}
