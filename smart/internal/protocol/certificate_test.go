package protocol

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"fmt"
	"math/big"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"

	"pulsegate/smart/client"
	"pulsegate/smart/oauth/token"
	"pulsegate/smart/proof/dpop"
)

// certificate returns a new self-signed client certificate.
func certificate(t *testing.T) tls.Certificate {
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "app"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	return tls.Certificate{Certificate: [][]byte{must(x509.CreateCertificate(rand.Reader, tmpl, tmpl,
		&key.PublicKey, key))}, PrivateKey: key}
}

// TestCertificateBound checks that a bound token requires the TLS certificate that
// it was issued for (RFC 8705).
func TestCertificateBound(t *testing.T) {
	w := newWorldTLS(t, true)
	c := w.app(client.None, func(c *client.Client) { c.CertBound = true })
	original := w.browser
	useCertificates := func(certs ...tls.Certificate) {
		browser := *original
		transport := original.Transport.(*http.Transport).Clone()
		transport.TLSClientConfig.Certificates = certs
		browser.Transport = transport
		w.browser = &browser
	}
	code := w.code(c, "patient/*.rs launch/patient", nil)
	if s, out, _ := w.redeem(c, code, nil); s != 400 || out["error"] != "invalid_request" {
		t.Fatal("without a certificate:", s, out)
	}
	mine, other := certificate(t), certificate(t)
	useCertificates(mine)
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
	useCertificates(other)
	if s := w.read(out["access_token"], "Patient/p1"); s != 401 {
		t.Error("token with another certificate:", s)
	}
	useCertificates()
	if s := w.read(out["access_token"], "Patient/p1"); s != 401 {
		t.Error("token without a certificate:", s)
	}
}

// TestCertificateBoundBehindProxy checks that the certificate in Client-Cert
// (RFC 9440) is accepted from a trusted proxy only.
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
		t.Error("Client-Cert from an untrusted address:", s, out)
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
	for name, certs := range map[string][]string{"another certificate": {other}, "no header": nil, "empty": {""},
		"no colons": {strings.Trim(mine, ":")}, "no leading colon": {mine[1:]},
		"one colon": {":"}, "empty byte sequence": {"::"}, "two headers": {mine, mine},
		"list of two":    {mine + ", " + mine},
		"invalid base64": {":?:"}, "not a certificate": {":AAAA:"},
		"too long": {":" + strings.Repeat("A", 20<<10) + ":"}} {
		if s := read(tok, certs...); s != 401 {
			t.Errorf("%s: %d", name, s)
		}
	}
	trust()
	if s := read(tok, mine); s != 401 {
		t.Error("valid Client-Cert without trusted proxies:", s)
	}
}
