package server

import (
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"time"

	"pulsegate/cmd/internal/config"
	"pulsegate/fhir/cluster/role"
	"pulsegate/fhir/egress"
	"pulsegate/fhir/limit"
	"pulsegate/fhir/searchparameter"
	"pulsegate/fhir/store/pebblestore"
	"pulsegate/fhir/terminology"
)

// environment holds the parameters that the constructors of this package share.
type environment struct {
	config  *config.Config
	version string
	log     *slog.Logger
	now     func() time.Time
	base    string          // the public base URL, without a final slash
	egress  egress.Policy   // for outgoing requests
	shared  *pebblestore.DB // see Main
	lease   time.Duration   // see Main
	// parameters holds the search parameters. They follow the store when it is open.
	parameters *searchparameter.Parameters
	// terminology holds the value sets and code systems of the store when that is open.
	terminology *terminology.Service

	// The fields below are set when the store is open.

	member *member    // nil if this server is alone
	roles  role.Roles // work that one server of a cluster does at a time
}

// clustered reports whether other servers share the store.
func (e environment) clustered() bool {
	_, alone := e.roles.(role.Alone)
	return !alone
}

// limits returns the buckets that the servers of a cluster share, or nil.
func (e environment) limits() limit.Shared {
	if e.member == nil {
		return nil
	}
	return e.member.limits()
}

// newEnvironment returns the environment of a server that listens on addr.
func newEnvironment(m *Main, addr net.Addr) (environment, error) {
	e := environment{config: m.Config, version: m.Version, log: m.Log, now: m.clock, base: m.Config.BaseURL,
		shared: m.shared, lease: m.lease, parameters: m.parameters}
	if e.now == nil {
		e.now = time.Now
	}
	if e.base == "" {
		e.base = listenURL(addr, m.Config.TLSCert != "")
	}
	private, err := m.Config.Egress()
	e.egress = egress.Policy{AllowPrivate: private, AllowHTTP: len(private) > 0}
	return e, err
}

// listenURL returns the URL of a listener. The unspecified address becomes
// localhost, which a browser can open.
func listenURL(addr net.Addr, tls bool) string {
	scheme := "http"
	if tls {
		scheme = "https"
	}
	host, port, err := net.SplitHostPort(addr.String())
	if err != nil {
		return scheme + "://" + addr.String()
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		host = "localhost"
	}
	return scheme + "://" + net.JoinHostPort(host, port)
}

func (e environment) fhirBase() string { return e.base + "/fhir" }

// origin returns the scheme and host of the base URL.
func (e environment) origin() string {
	u, err := url.Parse(e.base)
	if err != nil {
		return e.base
	}
	return u.Scheme + "://" + u.Host
}

// client returns a client for outgoing requests. timeout bounds each exchange, and
// maxResponse the size of each response in bytes.
func (e environment) client(timeout time.Duration, maxResponse int64) *http.Client {
	p := e.egress
	p.Timeout, p.MaxResponse = timeout, maxResponse
	return egress.New(p)
}

// keySetClient returns a client that fetches JSON Web Key Sets.
func (e environment) keySetClient() *http.Client { return e.client(3*time.Second, 64<<10) }
