package protocol

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/big"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/lestrrat-go/jwx/v2/jwk"

	"pulsegate/fhir/access"
	"pulsegate/fhir/clientaddr"
	"pulsegate/fhir/search"
	"pulsegate/fhir/store"
	"pulsegate/smart/client"
	"pulsegate/smart/oauth/introspect"
	"pulsegate/smart/oauth/token"
	"pulsegate/smart/proof/dpop"
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

func certificate(t *testing.T) tls.Certificate {
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "app"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	return tls.Certificate{Certificate: [][]byte{must(x509.CreateCertificate(rand.Reader, tmpl, tmpl,
		&key.PublicKey, key))}, PrivateKey: key}
}

func TestCertificateBound(t *testing.T) {
	w := newWorldTLS(t, true)
	c := w.app(client.None, func(c *client.Client) { c.CertBound = true })
	plain := w.browser
	with := func(certs ...tls.Certificate) {
		hc := *plain
		tr := plain.Transport.(*http.Transport).Clone()
		tr.TLSClientConfig.Certificates = certs
		hc.Transport = tr
		w.browser = &hc
	}
	code := w.code(c, "patient/*.rs launch/patient", nil)
	if s, out, _ := w.redeem(c, code, nil); s != 400 || out["error"] != "invalid_request" {
		t.Fatal("without a certificate:", s, out)
	}
	mine, other := certificate(t), certificate(t)
	with(mine)
	s, out, _ := w.redeem(c, code, nil)
	if s != 200 {
		t.Fatal(s, out)
	}
	if s := w.read(out["access_token"], "Patient/p1"); s != 200 {
		t.Error(s)
	}
	_, claims := claimsOf(t, out["access_token"])
	if claims["cnf"].(m)["x5t#S256"] == nil {
		t.Error(claims)
	}
	with(other)
	if s := w.read(out["access_token"], "Patient/p1"); s != 401 {
		t.Error("stolen, with another certificate:", s)
	}
	with()
	if s := w.read(out["access_token"], "Patient/p1"); s != 401 {
		t.Error("stolen, without a certificate:", s)
	}
}

// Behind a proxy that ends TLS the certificate comes in Client-Cert (RFC
// 9440), and counts from the proxy alone.
func TestCertificateBoundBehindProxy(t *testing.T) {
	w := newWorld(t)
	c := w.app(client.None, func(c *client.Client) { c.CertBound = true })
	header := func(c tls.Certificate) string { return ":" + base64.StdEncoding.EncodeToString(c.Certificate[0]) + ":" }
	mine, other := header(certificate(t)), header(certificate(t))
	trust := func(prefixes ...netip.Prefix) {
		w.handler.mu.Lock()
		defer w.handler.mu.Unlock()
		next := w.handler.h
		if p, ok := next.(dpop.Proxied); ok {
			next = p.Next
		}
		w.handler.h = dpop.Proxied{Trusted: prefixes, Next: next}
	}
	redeem := func(certs ...string) (int, m) {
		form := url.Values{"grant_type": {"authorization_code"},
			"code": {w.code(c, "patient/*.rs launch/patient", nil)}, "redirect_uri": {redirect},
			"code_verifier": {verifier}}
		s, out, _ := w.postForm(token.Path, c, form, func(r *http.Request) { r.Header["Client-Cert"] = certs })
		return s, out
	}
	read := func(tok any, certs ...string) int {
		r := must(http.NewRequest("GET", w.base+"/fhir/Patient/p1", nil))
		r.Header.Set("Authorization", "Bearer "+fmt.Sprint(tok))
		r.Header["Client-Cert"] = certs
		res := must(w.browser.Do(r))
		if err := res.Body.Close(); err != nil {
			t.Fatal(err)
		}
		return res.StatusCode
	}
	trust(netip.MustParsePrefix("192.0.2.0/24"))
	if s, out := redeem(mine); s != 400 || out["error"] != "invalid_request" {
		t.Error("a header of anybody:", s, out)
	}
	proxy := netip.MustParsePrefix("127.0.0.0/8")
	trust(proxy)
	if s, out := redeem(); s != 400 || out["error"] != "invalid_request" {
		t.Error("no certificate:", s, out)
	}
	s, out := redeem(mine)
	if s != 200 {
		t.Fatal(s, out)
	}
	tok := out["access_token"]
	if s := read(tok, mine); s != 200 {
		t.Error(s)
	}
	for name, certs := range map[string][]string{"another": {other}, "none": nil, "empty": {""},
		"no sequence": {strings.Trim(mine, ":")}, "half a sequence": {mine[1:]},
		"one colon": {":"}, "nothing between": {"::"}, "twice": {mine, mine}, "a list": {mine + ", " + mine},
		"no base64": {":?:"}, "no certificate": {":AAAA:"}, "huge": {":" + strings.Repeat("A", 20<<10) + ":"}} {
		if s := read(tok, certs...); s != 401 {
			t.Errorf("%s: %d", name, s)
		}
	}
	trust()
	if s := read(tok, mine); s != 401 {
		t.Error("the right certificate in a header of anybody:", s)
	}
}

func TestIntrospectionAndRevocation(t *testing.T) {
	w := newWorld(t)
	c, other := w.app(client.SecretBasic, nil), w.app(client.SecretPost, nil)
	rs := w.app(client.PrivateKeyJWT, func(c *client.Client) { c.Inspects = true })
	public := w.app(client.None, nil)
	out := w.authorize(c, "openid fhirUser launch/patient offline_access patient/*.rs")
	look := func(as client.Client, tok any) (int, m) {
		s, a, _ := w.postForm(introspect.Path, as, url.Values{"token": {fmt.Sprint(tok)}}, nil)
		return s, a
	}
	_, id := claimsOf(t, out["id_token"])
	for _, as := range []client.Client{c, rs} {
		s, a := look(as, out["access_token"])
		if s != 200 || a["active"] != true || a["client_id"] != c.ID || a["scope"] != out["scope"] ||
			a["patient"] != "p1" || a["exp"] == nil ||
			a["iss"] != id["iss"] || a["sub"] != id["sub"] || a["fhirUser"] != id["fhirUser"] {
			t.Errorf("%d %v", s, a)
		}
	}
	if s, a := look(c, out["refresh_token"]); s != 200 || a["active"] != true || a["scope"] != out["scope"] {
		t.Error(s, a)
	}
	dead := func(name string, as client.Client, tok any) {
		t.Helper()
		if s, a := look(as, tok); s != 200 || len(a) != 1 || a["active"] != false {
			t.Errorf("%s: %d %v", name, s, a)
		}
	}
	dead("another client's access token", other, out["access_token"])
	dead("another client's refresh token", other, out["refresh_token"])
	dead("nonsense", c, "nonsense")
	dead("an id_token", c, out["id_token"])
	dead("a guess", c, unknownRefreshToken)
	if s, a := look(public, out["access_token"]); s != 401 || a["error"] != "invalid_client" {
		t.Error("a public client:", s, a)
	}
	bad := c
	bad.ID = "nobody"
	if s, _ := look(bad, out["access_token"]); s != 401 {
		t.Error("an unknown client:", s)
	}
	if s, a, _ := w.postForm(introspect.Path, public, url.Values{"token": {out["access_token"].(string)}},
		func(r *http.Request) {
			r.Header.Set("Authorization", "Bearer "+out["access_token"].(string))
		}); s != 200 || a["active"] != true {
		t.Error("with a bearer token:", s, a)
	}
	revoke := func(as client.Client, tok any) {
		t.Helper()
		if s, a, _ := w.postForm(introspect.RevokePath, as, url.Values{"token": {fmt.Sprint(tok)}}, nil); s != 200 {
			t.Fatal(s, a)
		}
	}
	revoke(other, out["access_token"])
	revoke(other, out["refresh_token"])
	revoke(c, "nonsense")
	if s := w.read(out["access_token"], "Patient/p1"); s != 200 {
		t.Error("another client revoked:", s)
	}
	revoke(c, out["access_token"])
	if s := w.read(out["access_token"], "Patient/p1"); s != 401 {
		t.Error("after revocation:", s)
	}
	dead("a revoked token", c, out["access_token"])
	s, next := w.refresh(c, out["refresh_token"], nil)
	if s != 200 {
		t.Fatal("the refresh token went with the access token:", s, next)
	}
	revoke(c, next["refresh_token"])
	if s := w.read(next["access_token"], "Patient/p1"); s != 401 {
		t.Error("after revocation of the refresh token:", s)
	}
	if s, _ := w.refresh(c, next["refresh_token"], nil); s != 400 {
		t.Error(s)
	}
	w.reopen()
	dead("after a restart", c, out["access_token"])
	back := w.backend("system/*.rs")
	_, bt, _ := w.postForm(token.Path, back, url.Values{"grant_type": {"client_credentials"}, "scope": {"system/*.rs"}},
		nil)
	if s := w.read(bt["access_token"], "Patient/p1"); s != 200 {
		t.Fatal(s, bt)
	}
	revoke(back, bt["access_token"])
	if s := w.read(bt["access_token"], "Patient/p1"); s != 401 {
		t.Error("a backend's revoked token:", s)
	}
}

// TestClientAddressBehindProxy: the trail names the address that a trusted proxy
// vouches for, for a token and for a look alike; a stranger's word, and what a
// client says to the proxy, is nothing.
func TestClientAddressBehindProxy(t *testing.T) {
	w := newWorld(t)
	back := w.backend("system/*.rs")
	trust := func(p clientaddr.Proxies) {
		w.handler.mu.Lock()
		defer w.handler.mu.Unlock()
		next := w.handler.h
		if h, ok := next.(clientaddr.Handler); ok {
			next = h.Next
		}
		w.handler.h = clientaddr.Handler{Trusted: p, Header: clientaddr.XForwardedFor, Next: next}
	}
	ask := func(says string) {
		t.Helper()
		s, out, _ := w.postForm(token.Path, back,
			url.Values{"grant_type": {"client_credentials"}, "scope": {"system/*.rs"}},
			func(r *http.Request) { r.Header.Set("X-Forwarded-For", says) })
		if s != 200 {
			t.Fatal(s, out)
		}
		r := must(http.NewRequest("GET", w.base+"/fhir/Patient/p1", nil))
		r.Header.Set("Authorization", "Bearer "+out["access_token"].(string))
		r.Header.Set("X-Forwarded-For", says)
		res := must(w.browser.Do(r))
		if err := res.Body.Close(); err != nil || res.StatusCode != 200 {
			t.Fatal(res.Status, err)
		}
	}
	count := func(address string) (n int) {
		q := must(search.Parse("AuditEvent", [][2]string{{"address", address}, {"_count", "1000"}},
			search.ParseOptions{}))
		if err := w.store.Find(t.Context(), store.Find{Query: q, Filter: access.All().Filter(access.Search)},
			func(*store.Found) bool { n++; return true }); err != nil {
			t.Fatal(err)
		}
		return n
	}
	trust(clientaddr.Proxies{netip.MustParsePrefix("192.0.2.0/24")})
	if ask("198.51.100.1"); count("198.51.100.1") != 0 || count("127.0.0.1") == 0 {
		t.Error("a stranger's word is believed")
	}
	before := count("127.0.0.1")
	trust(clientaddr.Proxies{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("192.0.2.7/32")})
	ask("203.0.113.66, 198.51.100.2, 192.0.2.7")
	if n, spoofed, peer := count("198.51.100.2"), count("203.0.113.66"), count("127.0.0.1"); n != 2 ||
		spoofed != 0 || peer != before {
		t.Errorf("%d events of the client, %d of what it claimed, %d more of the proxy", n, spoofed, peer-before)
	}
	if ask("198.51.100.3, not an address"); count("127.0.0.1") != before+2 || count("198.51.100.3") != 0 {
		t.Error("a broken value is not the proxy's own address")
	}
}
