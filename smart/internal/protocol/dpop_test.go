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

// dpopProof returns a DPoP proof with changes to its header and claims. A nil
// claim is removed.
func (w *world) dpopProof(key *ecdsa.PrivateKey, method, target string, tok any, header, claims m) string {
	head := m{"typ": "dpop+jwt", "alg": "ES256",
		"jwk": json.RawMessage(must(json.Marshal(must(jwk.FromRaw(&key.PublicKey)))))}
	body := m{"jti": rand.Text(), "htm": method, "htu": target, "iat": w.clock.now().Unix()}
	if tok != nil {
		sum := sha256.Sum256([]byte(tok.(string)))
		body["ath"] = base64.RawURLEncoding.EncodeToString(sum[:])
	}
	for k, v := range header {
		head[k] = v
	}
	for k, v := range claims {
		if v == nil {
			delete(body, k)
		} else {
			body[k] = v
		}
	}
	return jwt(head, body, key)
}

// readBound reads a Patient with a token and a DPoP proof and returns the status.
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

// TestDPoP checks that proofs are validated and work once, and that bound tokens,
// refresh tokens and codes require a proof with their key (RFC 9449).
func TestDPoP(t *testing.T) {
	w := newWorld(t)
	key, other := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)),
		must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	c := w.app(client.None, func(c *client.Client) { c.DPoPBound = true })
	post := func(form url.Values, proof string) (int, m) {
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
	tokenURL := w.base + token.Path
	validProof := func() string { return w.dpopProof(key, "POST", tokenURL, nil, nil, nil) }
	for name, p := range map[string]string{
		"no proof":      "",
		"nonsense":      "x",
		"wrong method":  w.dpopProof(key, "GET", tokenURL, nil, nil, nil),
		"wrong URL":     w.dpopProof(key, "POST", w.base+"/oauth/introspect", nil, nil, nil),
		"too old":       w.dpopProof(key, "POST", tokenURL, nil, nil, m{"iat": w.clock.now().Unix() - 61}),
		"in the future": w.dpopProof(key, "POST", tokenURL, nil, nil, m{"iat": w.clock.now().Unix() + 6}),
		"no jti":        w.dpopProof(key, "POST", tokenURL, nil, nil, m{"jti": nil}),
		"wrong typ":     w.dpopProof(key, "POST", tokenURL, nil, m{"typ": "JWT"}, nil),
		"another key": w.dpopProof(other, "POST", tokenURL, nil,
			m{"jwk": json.RawMessage(must(json.Marshal(must(jwk.FromRaw(&key.PublicKey)))))}, nil),
		"private key": w.dpopProof(key, "POST", tokenURL, nil,
			m{"jwk": json.RawMessage(must(json.Marshal(must(jwk.FromRaw(key)))))}, nil),
		"symmetric key": w.dpopProof(key, "POST", tokenURL, nil,
			m{"alg": "HS256", "jwk": m{"kty": "oct", "k": "AAAA"}}, nil),
		"alg none": w.dpopProof(key, "POST", tokenURL, nil, m{"alg": "none"}, nil),
	} {
		if s, out := post(code(), p); s != 400 || out["error"] != "invalid_dpop_proof" {
			t.Errorf("%s: %d %v", name, s, out)
		}
	}
	p := validProof()
	s, out := post(code(), p)
	if s != 200 || out["token_type"] != "DPoP" {
		t.Fatal(s, out)
	}
	w.reopen()
	if s, out := post(code(), p); s != 400 || out["error"] != "invalid_dpop_proof" {
		t.Error("replayed proof after a restart:", s, out)
	}
	tok := out["access_token"]
	resourceURL := w.base + "/fhir/Patient/p1"
	proof := w.dpopProof(key, "GET", resourceURL, tok, nil, nil)
	if s := w.readBound("DPoP", tok, proof); s != 200 {
		t.Fatal(s)
	}
	w.reopen()
	for name, request := range map[string][2]string{
		"replayed proof":          {"DPoP", proof},
		"as bearer":               {"Bearer", ""},
		"bearer + proof":          {"Bearer", w.dpopProof(key, "GET", resourceURL, tok, nil, nil)},
		"no proof":                {"DPoP", ""},
		"stolen token":            {"DPoP", w.dpopProof(other, "GET", resourceURL, tok, nil, nil)},
		"proof for another token": {"DPoP", w.dpopProof(key, "GET", resourceURL, "x", nil, nil)},
		"no ath":                  {"DPoP", w.dpopProof(key, "GET", resourceURL, nil, nil, nil)},
		"proof for another URL":   {"DPoP", w.dpopProof(key, "GET", w.base+"/fhir/Patient/p2", tok, nil, nil)},
	} {
		if s := w.readBound(request[0], tok, request[1]); s != 401 {
			t.Errorf("%s: %d", name, s)
		}
	}
	// The refresh token of a public client is bound to the key too.
	refresh := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {out["refresh_token"].(string)}}
	if s, _ := post(refresh, w.dpopProof(other, "POST", tokenURL, nil, nil, nil)); s != 400 {
		t.Error("refresh with another key:", s)
	}
	if s, out := post(refresh, validProof()); s != 200 {
		t.Error("refresh with the key:", s, out)
	}
	// A code is bound to the key if the app sent dpop_jkt.
	v := code()
	v.Set("code", w.code(c, offline, url.Values{"dpop_jkt": {thumbprint(key)}}))
	if s, _ := post(v, w.dpopProof(other, "POST", tokenURL, nil, nil, nil)); s != 400 {
		t.Error("bound code with another key:", s)
	}
	// A token that is not bound cannot be used as a DPoP token.
	unbound := w.authorize(w.app(client.None, nil), "patient/*.rs launch/patient")["access_token"]
	if s := w.readBound("DPoP", unbound, w.dpopProof(key, "GET", resourceURL, unbound, nil, nil)); s != 401 {
		t.Error("bearer token with the scheme DPoP:", s)
	}
}

// TestDPoPNonce checks that, if nonces are required, a proof needs a nonce that
// the server issued within the last five minutes, and that the error response
// contains one (RFC 9449 8 and 9).
func TestDPoPNonce(t *testing.T) {
	w := newWorld(t)
	w.requireNonces = true
	w.reopen()
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	c := w.app(client.None, func(c *client.Client) { c.DPoPBound = true })
	tokenURL, resourceURL := w.base+token.Path, w.base+"/fhir/Patient/p1"
	code := w.code(c, offline, nil)
	redeem := func(nonce any) (int, m, http.Header) {
		form := url.Values{"grant_type": {"authorization_code"}, "code": {code}, "redirect_uri": {redirect},
			"code_verifier": {verifier}}
		return w.postForm(token.Path, c, form,
			func(r *http.Request) {
				r.Header.Set("DPoP", w.dpopProof(key, "POST", tokenURL, nil, nil, m{"nonce": nonce}))
			})
	}
	read := func(tok, nonce any) (int, http.Header) {
		r := must(http.NewRequest("GET", resourceURL, nil))
		r.Header.Set("Authorization", "DPoP "+fmt.Sprint(tok))
		r.Header.Set("DPoP", w.dpopProof(key, "GET", resourceURL, tok, nil, m{"nonce": nonce}))
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
	for name, value := range map[string]any{"invented": "abc", "empty": "", "one bit changed": string(forged),
		"truncated": nonce[:len(nonce)-1]} {
		if s, out, _ := redeem(value); s != 400 || out["error"] != "use_dpop_nonce" {
			t.Errorf("%s: %d %v", name, s, out)
		}
	}
	w.reopen() // nonces stay valid after a restart
	s, out, h = redeem(nonce)
	if s != 200 || h.Get("DPoP-Nonce") == "" {
		t.Fatal(s, out)
	}
	tok := out["access_token"]
	s, h = read(tok, nil)
	if s != 401 || !strings.Contains(h.Get("WWW-Authenticate"), `DPoP error="use_dpop_nonce"`) ||
		!strings.Contains(h.Get("Access-Control-Expose-Headers"), "DPoP-Nonce") {
		t.Error("API request without a nonce:", s, h)
	}
	nonce = h.Get("DPoP-Nonce")
	w.clock.add(5 * time.Minute)
	if s, _ := read(tok, nonce); s != 200 {
		t.Error("nonce of five minutes:", s)
	}
	w.clock.add(time.Second)
	s, h = read(tok, nonce)
	if s != 401 || !strings.Contains(h.Get("WWW-Authenticate"), "use_dpop_nonce") {
		t.Error("nonce that is too old:", s)
	}
	fresh := h.Get("DPoP-Nonce")
	w.clock.add(-time.Minute)
	if s, _ := read(tok, fresh); s != 401 {
		t.Error("nonce from the future:", s)
	}
}

// thumbprint returns the JWK thumbprint of the public key (RFC 7638).
func thumbprint(key *ecdsa.PrivateKey) string {
	var coords struct{ X, Y string }
	if err := json.Unmarshal(must(json.Marshal(must(jwk.FromRaw(&key.PublicKey)))), &coords); err != nil {
		panic(err)
	}
	sum := sha256.Sum256(fmt.Appendf(nil, `{"crv":"P-256","kty":"EC","x":%q,"y":%q}`, coords.X, coords.Y))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}
