package cli

import (
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pulsegate/cmd/internal/config"
)

// TestHealth checks readiness over HTTP, and over TLS with a self-signed certificate.
func TestHealth(t *testing.T) {
	status := http.StatusOK
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/readyz" {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		w.WriteHeader(status)
		if _, err := w.Write([]byte("text\n")); err != nil {
			t.Error(err)
		}
	})
	plain, secure := httptest.NewServer(h), httptest.NewTLSServer(h)
	defer plain.Close()
	defer secure.Close()
	dir := t.TempDir()
	cert := filepath.Join(dir, "cert.pem")
	raw := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: secure.Certificate().Raw})
	if err := os.WriteFile(cert, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, cfg := range map[string]*config.Config{
		"http":  {Listen: strings.TrimPrefix(plain.URL, "http://")},
		"https": {Listen: strings.TrimPrefix(secure.URL, "https://"), TLSCert: cert},
	} {
		status = http.StatusOK
		if got, err := readiness(t.Context(), cfg); err != nil || got != "text" {
			t.Errorf("%s: %q, %v", name, got, err)
		}
		status = http.StatusServiceUnavailable
		if _, err := readiness(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "not ready: text") {
			t.Errorf("%s: %v, want not ready", name, err)
		}
	}
	plain.Close()
	if _, err := readiness(t.Context(), &config.Config{Listen: strings.TrimPrefix(plain.URL, "http://")}); err == nil {
		t.Error("a stopped server is ready")
	}
}
