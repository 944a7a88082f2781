package dpop

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"net/http"
	"strings"

	"pulsegate/fhir/clientaddr"
)

const (
	clientCert = "Client-Cert"
	// maxCert is the maximum size of a base64 certificate in a header, in
	// bytes.
	maxCert = 16 << 10
)

// Proxied reads the TLS client's certificate from the header Client-Cert (RFC
// 9440) if the request comes from a trusted proxy that terminates TLS, and
// ignores the header otherwise. For requests from a trusted proxy only the
// header counts; the certificate of the proxy itself is ignored. A malformed or
// repeated header counts as no certificate. The proxy must remove Client-Cert
// headers of its clients (RFC 9440 3.2) and must have verified in the handshake
// that the client has the key.
type Proxied struct {
	Trusted clientaddr.Proxies
	Next    http.Handler
}

func (p Proxied) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	values := r.Header.Values(clientCert)
	trusted := p.Trusted.Trusts(r.RemoteAddr)
	if trusted || len(values) > 0 {
		forwarded := *r
		forwarded.Header = r.Header.Clone()
		forwarded.Header.Del(clientCert)
		forwarded.Header.Del("Client-Cert-Chain")
		if trusted {
			state := tls.ConnectionState{}
			if r.TLS != nil {
				state = *r.TLS
			}
			state.PeerCertificates = nil
			if c := certificate(values); c != nil {
				state.PeerCertificates = []*x509.Certificate{c}
			}
			forwarded.TLS = &state
		}
		r = &forwarded
	}
	p.Next.ServeHTTP(w, r)
}

// certificate parses the Client-Cert header (RFC 9440 2.2), a byte sequence of
// RFC 8941 3.3.5. It returns nil if there is no valid one.
func certificate(values []string) *x509.Certificate {
	if len(values) != 1 || len(values[0]) > maxCert {
		return nil
	}
	s, begun := strings.CutPrefix(strings.Trim(values[0], " "), ":")
	s, ended := strings.CutSuffix(s, ":")
	if !begun || !ended {
		return nil
	}
	der, err := base64.StdEncoding.Strict().DecodeString(s)
	if err != nil {
		return nil
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return nil
	}
	return c
}
