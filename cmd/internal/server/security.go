package server

import (
	"crypto/tls"
	"maps"
	"net/http"
	"strings"

	"pulsegate/fhir/egress"
)

// securityHeaders are set on every answer. Handlers may replace them but must
// not append to them.
var securityHeaders = http.Header{ // read only
	"X-Content-Type-Options":  {"nosniff"},
	"X-Frame-Options":         {"DENY"},
	"Referrer-Policy":         {"no-referrer"},
	"Content-Security-Policy": {"default-src 'none'; frame-ancestors 'none'"},
}

// httpsHeaders are the securityHeaders of a server that is reached by https (ASVS
// 5.0 3.4.1).
var httpsHeaders = func() http.Header {
	h := maps.Clone(securityHeaders)
	h["Strict-Transport-Security"] = []string{"max-age=31536000"}
	return h
}()

// secured sets the security headers on every answer of next.
func secured(base string, next http.Handler) http.Handler {
	headers := securityHeaders
	if strings.HasPrefix(base, "https://") {
		headers = httpsHeaders
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		maps.Copy(w.Header(), headers)
		next.ServeHTTP(w, r)
	})
}

// serverTLS allows TLS 1.3, and TLS 1.2 only with authenticated encryption and
// forward secrecy (RFC 9325 4.2; ASVS 5.0 12.1.2).
func serverTLS() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, CipherSuites: egress.AEADSuites()}
}
