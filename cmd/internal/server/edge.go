package server

import (
	"crypto/tls"
	"maps"
	"net/http"
	"strings"

	"pulsegate/fhir/egress"
)

// onAll are headers of every answer, whoever gives it. Handlers may replace
// them, never append to them.
var onAll = http.Header{ // read only
	"X-Content-Type-Options":  {"nosniff"},
	"X-Frame-Options":         {"DENY"},
	"Referrer-Policy":         {"no-referrer"},
	"Content-Security-Policy": {"default-src 'none'; frame-ancestors 'none'"},
}

// strict is onAll for a server that is reached by https (ASVS 5.0 3.4.1).
var strict = func() http.Header {
	h := maps.Clone(onAll)
	h["Strict-Transport-Security"] = []string{"max-age=31536000"}
	return h
}()

// secured puts the security headers on every answer.
func secured(base string, next http.Handler) http.Handler {
	headers := onAll
	if strings.HasPrefix(base, "https://") {
		headers = strict
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		maps.Copy(w.Header(), headers)
		next.ServeHTTP(w, r)
	})
}

// serverTLS is TLS 1.3, and 1.2 with authenticated encryption and forward
// secrecy alone (RFC 9325 4.2; ASVS 5.0 12.1.2).
func serverTLS() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, CipherSuites: egress.AEADSuites()}
}
