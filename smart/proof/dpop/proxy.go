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
	// maxCert bounds a certificate in a header, base64.
	maxCert = 16 << 10
)

// Proxied takes the TLS client's certificate from a proxy that ends TLS before
// this server: the header Client-Cert (RFC 9440), from the addresses Trusted
// and from nobody else. Of a trusted proxy only the header counts, so its own
// certificate is nobody's; a header that is no certificate, or comes twice, is
// none. The proxy has to remove what a client sends under that name (RFC 9440
// 3.2) and has checked, in the handshake, that the client has the key.
type Proxied struct {
	Trusted clientaddr.Proxies
	Next    http.Handler
}

func (p Proxied) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	values := r.Header.Values(clientCert)
	trusted := p.Trusted.Trusts(r.RemoteAddr)
	if trusted || len(values) > 0 {
		q := *r
		q.Header = r.Header.Clone()
		q.Header.Del(clientCert)
		q.Header.Del("Client-Cert-Chain")
		if trusted {
			state := tls.ConnectionState{}
			if r.TLS != nil {
				state = *r.TLS
			}
			state.PeerCertificates = nil
			if c := certificate(values); c != nil {
				state.PeerCertificates = []*x509.Certificate{c}
			}
			q.TLS = &state
		}
		r = &q
	}
	p.Next.ServeHTTP(w, r)
}

// certificate reads the byte sequence of RFC 8941 3.3.5 that RFC 9440 2.2 has
// in Client-Cert; nil when there is none.
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
