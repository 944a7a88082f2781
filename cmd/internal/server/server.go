// Package server is the composition of Pulsegate: it builds every service from
// a Config, in the one place where all of them are known, and runs them. The
// binary and the end-to-end tests start the same Main.
package server

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"time"

	"pulsegate/adapters"
	"pulsegate/adapters/vendors"
	"pulsegate/cmd/internal/admin"
	"pulsegate/cmd/internal/cli"
	"pulsegate/cmd/internal/config"
	"pulsegate/cmd/internal/recovery"
	"pulsegate/cmd/internal/telemetry"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/budget"
	"pulsegate/fhir/bulk"
	"pulsegate/fhir/consent"
	"pulsegate/fhir/egress"
	"pulsegate/fhir/interaction"
	"pulsegate/fhir/store/pebblestore"
	"pulsegate/fhir/subscription"
	"pulsegate/mapping/ingest"
	"pulsegate/smart/authz"
	"pulsegate/smart/brands"
	"pulsegate/smart/client"
	"pulsegate/smart/oauth/authorize"
	"pulsegate/smart/oauth/introspect"
	"pulsegate/smart/oauth/launch"
	"pulsegate/smart/oauth/register"
	"pulsegate/smart/oauth/token"
	"pulsegate/smart/pages"
	"pulsegate/smart/people/breakglass"
	"pulsegate/smart/people/session"
	"pulsegate/smart/people/signin"
	"pulsegate/smart/people/user"
	"pulsegate/smart/policy"
	"pulsegate/smart/proof/dpop"
	"pulsegate/smart/proof/issuer"
	"pulsegate/smart/proof/keys"
)

// Main is a whole server.
type Main struct {
	Config  *config.Config
	Version string
	Stdout  io.Writer
	Log     *slog.Logger

	clock     func() time.Time // nil: time.Now
	base      string
	memory    *budget.Budget // of request bodies
	fresh     bool           // the store held no AuditEvent when it was opened
	telemetry *telemetry.Telemetry
	store     *pebblestore.DB
	recorder  *audit.Recorder
	notary    *audit.Notary
	consents  *consent.Engine
	ring      *keys.Ring
	clients   *client.Registry
	policy    *policy.Engine
	tokens    *token.Endpoint
	people    people
	users     *user.Registry
	sessions  *session.Sessions
	cookies   session.Cookies
	signs     *signin.Service
	glass     *breakglass.Glass
	grants    *authz.Store
	nonces    *dpop.Nonces // nil: none are demanded
	authorize *authorize.Service
	page      *pages.Pages
	launches  *launch.Service

	registration  *register.Handler
	introspection *introspect.Handler
	brand         brands.Brand
	bundle        []byte
	outside       *issuer.Verifier

	service  *interaction.Service
	exporter *bulk.Exporter
	subs     *subscription.Engine
	adapters []adapters.Adapter
	pipeline *ingest.Pipeline
	egress   egress.Policy
	draining chan struct{}
}

// Serve is the serve command.
func Serve(version string) cli.Serve {
	return func(ctx context.Context, cfg *config.Config, stdout, stderr io.Writer) error {
		log, lines, err := logger(cfg, stderr)
		if err != nil {
			return err
		}
		if err := cli.InUse(cfg.Data); err != nil {
			return err
		}
		m := &Main{Config: cfg, Version: version, Stdout: stdout, Log: log}
		return errors.Join(m.Run(ctx), lines.Flush())
	}
}

func (m *Main) now() time.Time {
	if m.clock != nil {
		return m.clock()
	}
	return time.Now()
}

func (m *Main) fhirBase() string { return m.base + "/fhir" }

// Run serves until ctx ends, drains, and returns.
func (m *Main) Run(ctx context.Context) (err error) {
	l, err := net.Listen("tcp", m.Config.Listen)
	if err != nil {
		return err
	}
	m.base = m.Config.BaseURL
	if m.base == "" {
		m.base = m.ownURL(l.Addr())
	}
	m.draining = make(chan struct{})
	work, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	m.memory = budget.New(int64(m.Config.MemoryMiB) << 20)
	if err := m.open(work); err != nil {
		return errors.Join(err, l.Close(), m.close())
	}
	defer func() { err = errors.Join(err, m.close()) }()

	handler, err := m.handler()
	if err != nil {
		return errors.Join(err, l.Close())
	}
	srv := &http.Server{
		Handler: paced{next: m.memory.Handler(handler), now: m.now}, ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:    2 * time.Minute,
		MaxHeaderBytes: 64 << 10, ErrorLog: slog.NewLogLogger(m.Log.Handler(), slog.LevelDebug),
		TLSConfig: serverTLS(),
	}
	if m.Config.ClientCerts {
		// Any certificate: its thumbprint is what a token is bound to, and the
		// handshake proves the key (RFC 8705 6.2).
		srv.TLSConfig.ClientAuth = tls.RequestClientCert
	}
	ops := &admin.Server{Dir: m.Config.Data, Ops: operator{m}, Log: m.Log, Memory: m.memory}
	al, err := ops.Listen()
	if err != nil {
		return errors.Join(err, l.Close())
	}
	metrics, ml, err := m.metricsServer()
	if err != nil {
		return errors.Join(err, l.Close(), al.Close())
	}
	if metrics != nil {
		defer func() { err = errors.Join(err, metrics.Close()) }()
	}
	if err := m.serveMetrics(metrics, ml); err != nil {
		return errors.Join(err, l.Close(), al.Close())
	}
	failed := make(chan error, 3)
	go func() { failed <- m.serveHTTP(srv, l) }()
	go func() { failed <- ops.Serve(al) }()
	go keepMemory(work)
	notarized := make(chan error, 1)
	go func() { notarized <- m.notary.Run(work) }()
	go m.ring.Run(work, token.MaxUserLife+client.Skew, m.Log)

	if err := m.ready(ctx); err != nil {
		m.Log.Error("start", "error", err)
		stop()
		return errors.Join(err, srv.Close(), <-notarized)
	}
	select {
	case <-ctx.Done():
	case err = <-failed:
	}
	close(m.draining)
	m.Log.Info("draining", "timeout", m.Config.DrainTimeout)
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), m.Config.DrainTimeout)
	defer cancel()
	err = errors.Join(err, srv.Shutdown(grace), ops.Close(grace))
	m.subs.Close()
	m.exporter.Close()
	if rerr := m.recorder.Record(grace, audit.Event{Type: audit.Lifecycle, Interaction: "stop"}); rerr != nil {
		err = errors.Join(err, rerr)
	}
	stop()
	return errors.Join(err, <-notarized, m.telemetry.Close(grace))
}

// ready records the start, fills the demo, and says that it serves.
func (m *Main) ready(ctx context.Context) error {
	if err := m.recorder.Record(ctx, audit.Event{Type: audit.Lifecycle, Interaction: "start"}); err != nil {
		return err
	}
	if m.Config.Demo {
		if err := m.demo(ctx); err != nil {
			return fmt.Errorf("demo: %w", err)
		}
	}
	_, err := fmt.Fprintf(m.Stdout, "pulsegate ready %s\n", m.base)
	return err
}

func (m *Main) serveHTTP(srv *http.Server, l net.Listener) error {
	var err error
	if m.Config.TLSCert != "" {
		err = srv.ServeTLS(l, m.Config.TLSCert, m.Config.TLSKey)
	} else {
		err = srv.Serve(l)
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// ownURL is the base URL when none is configured.
func (m *Main) ownURL(a net.Addr) string {
	scheme := "http"
	if m.Config.TLSCert != "" {
		scheme = "https"
	}
	host, port, err := net.SplitHostPort(a.String())
	if err != nil {
		return scheme + "://" + a.String()
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		host = "localhost"
	}
	return scheme + "://" + net.JoinHostPort(host, port)
}

// open builds every service, in the order in which they stand on each other.
func (m *Main) open(ctx context.Context) error {
	dir := m.Config.Data
	if err := secureData(dir, m.Log); err != nil {
		return err
	}
	var err error
	if m.telemetry, err = telemetry.Start(ctx, m.Version, m.Log); err != nil {
		return err
	}
	private, err := m.Config.Egress()
	if err != nil {
		return err
	}
	m.egress = egress.Policy{AllowPrivate: private, AllowHTTP: len(private) > 0}
	m.store, err = pebblestore.Open(filepath.Join(dir, "store"), pebblestore.Options{
		Clock: m.now, Logger: m.Log, CacheBytes: int64(m.Config.CacheMiB) << 20})
	if err != nil {
		return err
	}
	m.adapters = vendors.All()
	for _, step := range []func(context.Context) error{m.openAudit, m.openAccess, m.openFHIR, m.openIngest,
		m.openOrganizations} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (m *Main) openAudit(ctx context.Context) error {
	m.fresh = m.store.Log().Size() == 0
	decision, err := recovery.Requested(m.Config.Data, recovery.AuditLog)
	if err != nil {
		return err
	}
	if m.recorder, err = audit.NewRecorder(audit.Options{Store: m.store, Clock: m.now, Rand: rand.Reader,
		Observer: m.base, Logger: m.Log}); err != nil {
		return err
	}
	m.notary, err = audit.OpenNotary(audit.NotaryOptions{Store: m.store, Dir: m.Config.Data, Origin: m.origin(),
		Rand: rand.Reader, Clock: m.now, Logger: m.Log, Accept: decision != nil})
	if err != nil {
		return err
	}
	return m.recovered(ctx, recovery.AuditLog, decision, m.notary.Accepted())
}

// origin names the log independently of a port that changes.
func (m *Main) origin() string { return "pulsegate/audit" }

// close ends what open made.
func (m *Main) close() error {
	if m.consents != nil {
		m.consents.Close()
	}
	if m.store != nil {
		return m.store.Close()
	}
	return nil
}
