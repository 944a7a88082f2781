package egress

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"syscall"
	"time"

	"pulsegate/fhir"
)

// Policy determines where the server may connect.
type Policy struct {
	// AllowPrivate lists allowed ranges that are not the public internet, for
	// example 10.20.0.0/16 of a hospital.
	AllowPrivate []netip.Prefix
	// AllowHTTP allows http to addresses in AllowPrivate.
	AllowHTTP bool
	// Timeout bounds an exchange including the body. The default is 10 s.
	Timeout time.Duration
	// MaxResponse bounds the body of a response in bytes. The default is 1 MiB.
	MaxResponse int64
	// TLS is the base configuration (root CAs). If it is nil, the system's roots are
	// used. The minimum version is TLS 1.2 in any case.
	TLS *tls.Config
}

const (
	defaultTimeout     = 10 * time.Second
	defaultMaxResponse = 1 << 20
	maxHeaderBytes     = 64 << 10
	idlePerHost        = 4
)

// ErrRefused is the cause of every refusal by policy; errors.Is finds it
// through *url.Error and *net.OpError.
var ErrRefused = errors.New("address refused by the egress policy")

// ErrResponseTooLarge is returned by Read of a body beyond MaxResponse.
var ErrResponseTooLarge = errors.New("response larger than allowed")

// New returns a client that enforces p. It is safe for concurrent use and keeps
// connections alive.
func New(p Policy) *http.Client {
	if p.Timeout <= 0 {
		p.Timeout = defaultTimeout
	}
	if p.MaxResponse <= 0 {
		p.MaxResponse = defaultMaxResponse
	}
	return &http.Client{
		Transport: &transport{
			policy: p,
			https:  p.transport(p.mayDial),
			http:   p.transport(p.allowedPrivate),
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Timeout:       p.Timeout,
	}
}

// transport returns a Transport whose dialer connects only to resolved addresses for
// which may is true.
func (p Policy) transport(may func(netip.Addr) bool) *http.Transport {
	d := &net.Dialer{
		Timeout:   min(p.Timeout, 5*time.Second),
		KeepAlive: 30 * time.Second,
		ControlContext: func(_ context.Context, network, address string, _ syscall.RawConn) error {
			if network != "tcp4" && network != "tcp6" {
				return ErrRefused
			}
			ap, err := netip.ParseAddrPort(address)
			if err != nil || !may(ap.Addr()) {
				return ErrRefused
			}
			return nil
		},
	}
	conf := &tls.Config{}
	if p.TLS != nil {
		conf = p.TLS.Clone()
	}
	conf.MinVersion = max(conf.MinVersion, tls.VersionTLS12)
	if conf.CipherSuites == nil {
		conf.CipherSuites = AEADSuites()
	}
	return &http.Transport{
		Proxy:                  nil,
		DialContext:            d.DialContext,
		TLSClientConfig:        conf,
		TLSHandshakeTimeout:    min(p.Timeout, 5*time.Second),
		ResponseHeaderTimeout:  p.Timeout,
		IdleConnTimeout:        90 * time.Second,
		MaxIdleConnsPerHost:    idlePerHost,
		MaxIdleConns:           256,
		MaxResponseHeaderBytes: maxHeaderBytes,
		ForceAttemptHTTP2:      true,
		// MaxResponse counts the bytes on the wire. Decompression would turn a small
		// response into a huge one.
		DisableCompression: true,
	}
}

// AEADSuites returns the cipher suites of TLS 1.2 with authenticated encryption
// and forward secrecy (RFC 9325 4.2). Those of TLS 1.3 all have both.
func AEADSuites() []uint16 {
	return []uint16{
		tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
		tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
		tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
	}
}

type transport struct {
	policy      Policy
	https, http *http.Transport
}

// RoundTrip implements http.RoundTripper.
func (t *transport) RoundTrip(r *http.Request) (*http.Response, error) {
	if err := t.policy.Check(r.URL); err != nil {
		if r.Body != nil {
			// RoundTripper must close the body even on errors.
			if cerr := r.Body.Close(); cerr != nil {
				return nil, errors.Join(err, cerr)
			}
		}
		return nil, err
	}
	inner := t.https
	if r.URL.Scheme == "http" {
		inner = t.http
	}
	resp, err := inner.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	resp.Body = &limited{body: resp.Body, left: t.policy.MaxResponse}
	return resp, nil
}

// CloseIdleConnections closes the idle connections of both transports, for
// http.Client.CloseIdleConnections.
func (t *transport) CloseIdleConnections() {
	t.https.CloseIdleConnections()
	t.http.CloseIdleConnections()
}

// Check checks a URL without using the network: its scheme, credentials, host and,
// if the host is an address, the address. A name passes, since its address is
// checked when connecting. The error has kind Unprocessable and wraps ErrRefused.
func (p Policy) Check(u *url.URL) error {
	refuse := func(rule string) error {
		e := fhir.Errorf(fhir.Unprocessable, "egress.Check", "%s", rule)
		e.Err = ErrRefused
		return e
	}
	switch {
	case u == nil || u.Host == "" || u.Opaque != "" || u.Hostname() == "":
		return refuse("the address must be an absolute URL with a host")
	case u.User != nil:
		return refuse("the address must not carry credentials")
	case u.Scheme == "https":
	case u.Scheme == "http" && p.AllowHTTP && len(p.AllowPrivate) > 0:
	default:
		return refuse("the address must be an https URL")
	}
	addr, err := netip.ParseAddr(u.Hostname())
	if err != nil {
		return nil
	}
	if !p.mayDial(addr) || u.Scheme == "http" && !p.allowedPrivate(addr) {
		return refuse("the address is not on the public internet and not in an allowed range")
	}
	return nil
}

// checkHost is like Check, but also resolves a host name: at least one of its
// addresses must be allowed. It reports errors early; the protection is the check
// when connecting.
func (p Policy) checkHost(ctx context.Context, r *net.Resolver, u *url.URL) error {
	if err := p.Check(u); err != nil {
		return err
	}
	if _, err := netip.ParseAddr(u.Hostname()); err == nil {
		return nil
	}
	if r == nil {
		r = net.DefaultResolver
	}
	addrs, err := r.LookupNetIP(ctx, "ip", u.Hostname())
	if err != nil {
		e := fhir.Errorf(fhir.Unprocessable, "egress.CheckHost", "the host name of the address cannot be resolved")
		e.Err = err
		return e
	}
	for _, a := range addrs {
		if u.Scheme == "http" && p.allowedPrivate(a) || u.Scheme == "https" && p.mayDial(a) {
			return nil
		}
	}
	e := fhir.Errorf(fhir.Unprocessable, "egress.CheckHost",
		"the address is not on the public internet and not in an allowed range")
	e.Err = ErrRefused
	return e
}

type limited struct {
	body io.ReadCloser
	left int64
}

func (l *limited) Read(b []byte) (int, error) {
	if l.left <= 0 {
		// Read one more byte to distinguish a response of exactly the limit from a
		// longer one.
		var one [1]byte
		n, err := l.body.Read(one[:])
		if n > 0 {
			return 0, ErrResponseTooLarge
		}
		return 0, err
	}
	if int64(len(b)) > l.left {
		b = b[:l.left]
	}
	n, err := l.body.Read(b)
	l.left -= int64(n)
	return n, err
}

func (l *limited) Close() error { return l.body.Close() }
