package server

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pulsegate/cmd/internal/config"
)

// tlsServer is a running server over TLS, with a client that trusts it.
type tlsServer struct {
	base string
	http *http.Client
	tls  *tls.Config
}

// start serves with the settings in more.
func start(t *testing.T, more map[string]string) *tlsServer {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	dir := t.TempDir()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	now := time.Now()
	cert := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "localhost"},
		DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(24 * time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, cert, cert, &key.PublicKey, key)
	must(err)
	pkcs, err := x509.MarshalPKCS8PrivateKey(key)
	must(err)
	certFile, keyFile := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	must(os.WriteFile(certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	must(os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs}), 0o600))
	set := map[string]string{"data": filepath.Join(dir, "data"), "listen": "127.0.0.1:0", "tls-cert": certFile,
		"tls-key": keyFile}
	for k, v := range more {
		set[k] = v
	}
	cfg, err := config.Load("", func(string) (string, bool) { return "", false }, set)
	must(err)
	out, in := io.Pipe()
	m := &Main{Config: cfg, Version: "test", Stdout: in, Log: slog.New(slog.DiscardHandler)}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		err := m.Run(ctx)
		if cerr := in.CloseWithError(io.EOF); cerr != nil && err == nil {
			err = cerr
		}
		done <- err
	}()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	must(err)
	go func() { _, _ = io.Copy(io.Discard, out) }() // ends with the server
	pool := x509.NewCertPool()
	leaf, err := x509.ParseCertificate(der)
	must(err)
	pool.AddCert(leaf)
	conf := &tls.Config{RootCAs: pool}
	tr := &http.Transport{TLSClientConfig: conf}
	t.Cleanup(tr.CloseIdleConnections)
	return &tlsServer{base: strings.TrimSpace(strings.TrimPrefix(line, "pulsegate ready ")), tls: conf,
		http: &http.Client{Transport: tr,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}
}

func (s *tlsServer) get(t *testing.T, path string) (*http.Response, string) {
	t.Helper()
	resp, err := s.http.Get(s.base + path)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if err := resp.Body.Close(); err != nil {
		t.Fatal(err)
	}
	return resp, string(b)
}

// TestEveryAnswerIsHardened checks the headers of ASVS 5.0 3.4 on every kind of
// answer, errors included.
func TestEveryAnswerIsHardened(t *testing.T) {
	s := start(t, nil)
	for _, path := range []string{"/", "/livez", "/readyz", "/metrics", "/nothing", "/favicon.ico", "/fhir",
		"/fhir/metadata", "/fhir/Observation", "/fhir/nothing/at/all",
		"/fhir/.well-known/smart-configuration", "/.well-known/jwks.json", "/.well-known/client-jwks.json",
		"/.well-known/openid-configuration",
		"/auth/", "/auth/signin", "/auth/nothing", "/auth/static/none",
		"/oauth/authorize", "/oauth/token", "/oauth/introspect", "/oauth/revoke", "/oauth/register",
		"/oauth/launch", "/brands", "/ingest/apple/health-auto-export?patient=x", "/fhir/$export"} {
		resp, _ := s.get(t, path)
		h := resp.Header
		for name, want := range map[string]string{"Strict-Transport-Security": "max-age=31536000",
			"X-Frame-Options": "DENY", "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"} {
			if vs := h.Values(name); len(vs) != 1 || vs[0] != want {
				t.Errorf("%s: %d %s: %v", path, resp.StatusCode, name, vs)
			}
		}
		if vs := h.Values("Content-Security-Policy"); len(vs) != 1 ||
			!strings.Contains(vs[0], "frame-ancestors 'none'") || !strings.Contains(vs[0], "default-src 'none'") {
			t.Errorf("%s: %d %v", path, resp.StatusCode, vs)
		}
	}
}

// TestPlainHTTPSendsNoHSTS checks that answers over http do not carry
// Strict-Transport-Security. Browsers would ignore it, and a proxy in front would
// pass it on for a host without https.
func TestPlainHTTPSendsNoHSTS(t *testing.T) {
	if securityHeaders.Get("Strict-Transport-Security") != "" || httpsHeaders.Get("X-Frame-Options") == "" {
		t.Errorf("%v %v", securityHeaders, httpsHeaders)
	}
}

// TestTLSAcceptsOnlyAEAD tries every cipher suite that Go implements.
func TestTLSAcceptsOnlyAEAD(t *testing.T) {
	s := start(t, nil)
	addr := strings.TrimPrefix(s.base, "https://")
	shake := func(conf *tls.Config) error {
		c, err := tls.Dial("tcp", addr, conf)
		if err != nil {
			return err
		}
		return c.Close()
	}
	for _, suite := range append(tls.CipherSuites(), tls.InsecureCipherSuites()...) {
		conf := s.tls.Clone()
		conf.MaxVersion, conf.CipherSuites = tls.VersionTLS12, []uint16{suite.ID}
		if suite.SupportedVersions[len(suite.SupportedVersions)-1] == tls.VersionTLS13 {
			continue // TLS 1.3 suites cannot be configured
		}
		ok := shake(conf) == nil
		// The key of the certificate is an ECDSA key.
		good := strings.Contains(suite.Name, "ECDHE_ECDSA") &&
			(strings.Contains(suite.Name, "GCM") || strings.Contains(suite.Name, "POLY1305"))
		if ok != good {
			t.Errorf("%s: accepted %t", suite.Name, ok)
		}
	}
	old := s.tls.Clone()
	old.MinVersion, old.MaxVersion = tls.VersionTLS10, tls.VersionTLS11
	if shake(old) == nil {
		t.Error("TLS 1.1 is accepted")
	}
	if err := shake(s.tls); err != nil {
		t.Error(err)
	}
}

// TestLandingLinksToSignIn checks that the landing page links to the sign-in page,
// and that all pages have an icon.
func TestLandingLinksToSignIn(t *testing.T) {
	s := start(t, nil)
	resp, page := s.get(t, "/")
	if !strings.Contains(page, `href="`+s.base+`/auth/">Sign in</a>`) ||
		!strings.Contains(page, `rel="icon" href="/favicon.ico"`) ||
		!strings.Contains(resp.Header.Get("Content-Security-Policy"), "img-src 'self'") {
		t.Errorf("%v\n%s", resp.Header, page)
	}
	resp, icon := s.get(t, "/favicon.ico")
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != "image/svg+xml" ||
		!strings.HasPrefix(icon, "<svg") {
		t.Errorf("%d %v", resp.StatusCode, resp.Header)
	}
	_, page = s.get(t, "/auth/signin")
	if _, after, ok := strings.Cut(page, `<link rel="icon" href="`); !ok {
		t.Error("the pages have no icon")
	} else if resp, _ := s.get(t, after[:strings.IndexByte(after, '"')]); resp.StatusCode != http.StatusOK ||
		resp.Header.Get("Content-Type") != "image/svg+xml" {
		t.Errorf("%d %v", resp.StatusCode, resp.Header)
	}
	// The error for an unknown app is shown on such a page, too.
	resp, page = s.get(t, "/oauth/authorize?client_id=nobody&redirect_uri=https://app.example/cb")
	if resp.StatusCode != http.StatusBadRequest || !strings.Contains(page, "This app cannot be connected") ||
		!strings.Contains(page, "style.css") {
		t.Errorf("%d %s", resp.StatusCode, page)
	}
}
