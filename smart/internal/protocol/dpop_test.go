package protocol

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/lestrrat-go/jwx/v2/jwk"

	"pulsegate/smart/client"
	"pulsegate/smart/oauth/token"
)

func (w *world) dpopProof(key *ecdsa.PrivateKey, method, target string, tok any, header, claims m) string {
	h := m{"typ": "dpop+jwt", "alg": "ES256",
		"jwk": json.RawMessage(must(json.Marshal(must(jwk.FromRaw(&key.PublicKey)))))}
	c := m{"jti": rand.Text(), "htm": method, "htu": target, "iat": w.clock.now().Unix()}
	if tok != nil {
		sum := sha256.Sum256([]byte(tok.(string)))
		c["ath"] = base64.RawURLEncoding.EncodeToString(sum[:])
	}
	for k, v := range header {
		h[k] = v
	}
	for k, v := range claims {
		if v == nil {
			delete(c, k)
		} else {
			c[k] = v
		}
	}
	return jwt(h, c, key)
}

func (w *world) readBound(scheme string, tok any, proof string) int {
	r := must(http.NewRequest("GET", w.base+"/fhir/Patient/p1", nil))
	r.Header.Set("Authorization", scheme+" "+fmt.Sprint(tok))
	if proof != "" {
		r.Header.Set("DPoP", proof)
	}
	res := must(w.browser.Do(r))
	if err := res.Body.Close(); err != nil {
		w.t.Fatal(err)
	}
	if res.StatusCode == 401 && scheme == "DPoP" && proof != "" &&
		!strings.Contains(res.Header.Get("WWW-Authenticate"), "DPoP") &&
		!strings.Contains(res.Header.Get("WWW-Authenticate"), "invalid_token") {
		w.t.Error(res.Header)
	}
	return res.StatusCode
}

func TestDPoP(t *testing.T) {
	w := newWorld(t)
	key, other := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)),
		must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	c := w.app(client.None, func(c *client.Client) { c.DPoPBound = true })
	ask := func(form url.Values, proof string) (int, m) {
		s, out, _ := w.postForm(token.Path, c, form, func(r *http.Request) {
			if proof != "" {
				r.Header.Set("DPoP", proof)
			}
		})
		return s, out
	}
	code := func() url.Values {
		return url.Values{"grant_type": {"authorization_code"}, "code": {w.code(c, offline, nil)},
			"redirect_uri": {redirect}, "code_verifier": {verifier}}
	}
	target := w.base + token.Path
	good := func() string { return w.dpopProof(key, "POST", target, nil, nil, nil) }
	for name, p := range map[string]string{
		"none":     "",
		"nonsense": "x",
		"method":   w.dpopProof(key, "GET", target, nil, nil, nil),
		"URL":      w.dpopProof(key, "POST", w.base+"/oauth/introspect", nil, nil, nil),
		"old":      w.dpopProof(key, "POST", target, nil, nil, m{"iat": w.clock.now().Unix() - 61}),
		"future":   w.dpopProof(key, "POST", target, nil, nil, m{"iat": w.clock.now().Unix() + 6}),
		"no jti":   w.dpopProof(key, "POST", target, nil, nil, m{"jti": nil}),
		"typ":      w.dpopProof(key, "POST", target, nil, m{"typ": "JWT"}, nil),
		"another key": w.dpopProof(other, "POST", target, nil,
			m{"jwk": json.RawMessage(must(json.Marshal(must(jwk.FromRaw(&key.PublicKey)))))}, nil),
		"private key": w.dpopProof(key, "POST", target, nil,
			m{"jwk": json.RawMessage(must(json.Marshal(must(jwk.FromRaw(key)))))}, nil),
		"symmetric": w.dpopProof(key, "POST", target, nil, m{"alg": "HS256", "jwk": m{"kty": "oct", "k": "AAAA"}}, nil),
		"alg none":  w.dpopProof(key, "POST", target, nil, m{"alg": "none"}, nil),
	} {
		if s, out := ask(code(), p); s != 400 || out["error"] != "invalid_dpop_proof" {
			t.Errorf("%s: %d %v", name, s, out)
		}
	}
	p := good()
	s, out := ask(code(), p)
	if s != 200 || out["token_type"] != "DPoP" {
		t.Fatal(s, out)
	}
	w.reopen()
	if s, out := ask(code(), p); s != 400 || out["error"] != "invalid_dpop_proof" {
		t.Error("a replayed proof, after a restart:", s, out)
	}
	tok := out["access_token"]
	here := w.base + "/fhir/Patient/p1"
	proof := w.dpopProof(key, "GET", here, tok, nil, nil)
	if s := w.readBound("DPoP", tok, proof); s != 200 {
		t.Fatal(s)
	}
	w.reopen()
	for name, x := range map[string][2]string{
		"replayed":       {"DPoP", proof},
		"as bearer":      {"Bearer", ""},
		"bearer + proof": {"Bearer", w.dpopProof(key, "GET", here, tok, nil, nil)},
		"no proof":       {"DPoP", ""},
		"stolen token":   {"DPoP", w.dpopProof(other, "GET", here, tok, nil, nil)},
		"other token":    {"DPoP", w.dpopProof(key, "GET", here, "x", nil, nil)},
		"no ath":         {"DPoP", w.dpopProof(key, "GET", here, nil, nil, nil)},
		"other URL":      {"DPoP", w.dpopProof(key, "GET", w.base+"/fhir/Patient/p2", tok, nil, nil)},
	} {
		if s := w.readBound(x[0], tok, x[1]); s != 401 {
			t.Errorf("%s: %d", name, s)
		}
	}
	// The refresh token of a public client is bound as well.
	refresh := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {out["refresh_token"].(string)}}
	if s, _ := ask(refresh, w.dpopProof(other, "POST", target, nil, nil, nil)); s != 400 {
		t.Error("a refresh with another key:", s)
	}
	if s, out := ask(refresh, good()); s != 200 {
		t.Error("a refresh with the key:", s, out)
	}
	// So is a code, when the app says so.
	v := code()
	v.Set("code", w.code(c, offline, url.Values{"dpop_jkt": {thumbprint(key)}}))
	if s, _ := ask(v, w.dpopProof(other, "POST", target, nil, nil, nil)); s != 400 {
		t.Error("a bound code with another key:", s)
	}
	// A token that is not bound is no DPoP token.
	free := w.authorize(w.app(client.None, nil), "patient/*.rs launch/patient")["access_token"]
	if s := w.readBound("DPoP", free, w.dpopProof(key, "GET", here, free, nil, nil)); s != 401 {
		t.Error("a bearer token as DPoP:", s)
	}
}

// Where nonces are demanded a proof has one that the server gave within the
// last five minutes; a client learns it from the refusal (RFC 9449 8 and 9).
func TestDPoPNonce(t *testing.T) {
	w := newWorld(t)
	w.requireNonces = true
	w.reopen()
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	c := w.app(client.None, func(c *client.Client) { c.DPoPBound = true })
	target, here := w.base+token.Path, w.base+"/fhir/Patient/p1"
	code := w.code(c, offline, nil)
	redeem := func(nonce any) (int, m, http.Header) {
		form := url.Values{"grant_type": {"authorization_code"}, "code": {code}, "redirect_uri": {redirect},
			"code_verifier": {verifier}}
		return w.postForm(token.Path, c, form,
			func(r *http.Request) {
				r.Header.Set("DPoP", w.dpopProof(key, "POST", target, nil, nil, m{"nonce": nonce}))
			})
	}
	read := func(tok, nonce any) (int, http.Header) {
		r := must(http.NewRequest("GET", here, nil))
		r.Header.Set("Authorization", "DPoP "+fmt.Sprint(tok))
		r.Header.Set("DPoP", w.dpopProof(key, "GET", here, tok, nil, m{"nonce": nonce}))
		res := must(w.browser.Do(r))
		if err := res.Body.Close(); err != nil {
			t.Fatal(err)
		}
		return res.StatusCode, res.Header
	}
	s, out, h := redeem(nil)
	nonce := h.Get("DPoP-Nonce")
	if s != 400 || out["error"] != "use_dpop_nonce" || nonce == "" ||
		!strings.Contains(h.Get("Access-Control-Expose-Headers"), "DPoP-Nonce") {
		t.Fatal(s, out, h)
	}
	forged := []byte(nonce)
	forged[3] ^= 1
	for name, x := range map[string]any{"invented": "abc", "empty": "", "of one bit": string(forged),
		"cut": nonce[:len(nonce)-1]} {
		if s, out, _ := redeem(x); s != 400 || out["error"] != "use_dpop_nonce" {
			t.Errorf("%s: %d %v", name, s, out)
		}
	}
	w.reopen() // the nonces of before a restart are good
	s, out, h = redeem(nonce)
	if s != 200 || h.Get("DPoP-Nonce") == "" {
		t.Fatal(s, out)
	}
	tok := out["access_token"]
	s, h = read(tok, nil)
	if s != 401 || !strings.Contains(h.Get("WWW-Authenticate"), `DPoP error="use_dpop_nonce"`) ||
		!strings.Contains(h.Get("Access-Control-Expose-Headers"), "DPoP-Nonce") {
		t.Error("no nonce at the API:", s, h)
	}
	nonce = h.Get("DPoP-Nonce")
	w.clock.add(5 * time.Minute)
	if s, _ := read(tok, nonce); s != 200 {
		t.Error("a nonce of five minutes:", s)
	}
	w.clock.add(time.Second)
	s, h = read(tok, nonce)
	if s != 401 || !strings.Contains(h.Get("WWW-Authenticate"), "use_dpop_nonce") {
		t.Error("a nonce that is too old:", s)
	}
	fresh := h.Get("DPoP-Nonce")
	w.clock.add(-time.Minute)
	if s, _ := read(tok, fresh); s != 401 {
		t.Error("a nonce from the future:", s)
	}
}

func thumbprint(key *ecdsa.PrivateKey) string {
	var f struct{ X, Y string }
	if err := json.Unmarshal(must(json.Marshal(must(jwk.FromRaw(&key.PublicKey)))), &f); err != nil {
		panic(err)
	}
	sum := sha256.Sum256(fmt.Appendf(nil, `{"crv":"P-256","kty":"EC","x":%q,"y":%q}`, f.X, f.Y))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}
