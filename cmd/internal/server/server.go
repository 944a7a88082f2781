// Package server composes Pulsegate: it opens every service from a Config and
// runs them. The binary and the end-to-end tests start the same Main.
package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"time"

	"pulsegate/cmd/internal/admin"
	"pulsegate/cmd/internal/cli"
	"pulsegate/cmd/internal/config"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/budget"
	"pulsegate/fhir/searchparameter"
	"pulsegate/fhir/store/pebblestore"
	"pulsegate/smart/client"
	"pulsegate/smart/oauth/token"
)

// Main is a server. Run runs it.
type Main struct {
	Config  *config.Config
	Version string
	Stdout  io.Writer
	Log     *slog.Logger

	clock func() time.Time // time.Now if nil

	// The fields below are for tests.

	// the store, instead of the one in the data directory; Run does not close it
	shared *pebblestore.DB
	// the search parameters that shared has
	parameters *searchparameter.Parameters
	lease      time.Duration                    // of the roles; the default if 0
	opened     func(s *services, addr net.Addr) // called when the services are open
}

// Serve returns the function behind the serve command.
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

// Run serves until ctx ends, then drains and returns.
func (m *Main) Run(ctx context.Context) (err error) {
	var opened closers
	defer func() { err = errors.Join(err, opened.close()) }()
	l, err := net.Listen("tcp", m.Config.Listen)
	if err != nil {
		return err
	}
	opened.addListener(l)
	env, err := newEnvironment(m, l.Addr())
	if err != nil {
		return err
	}
	work, stop := context.WithCancel(context.WithoutCancel(ctx))
	opened.add(func() error { stop(); return nil })
	var demo *demoVendors
	if m.Config.Demo && m.Config.Vendors == "" {
		if demo, err = startDemoVendors(work, &env); err != nil {
			return fmt.Errorf("demo: %w", err)
		}
		opened.add(func() error { stop(); return demo.wait() })
	}
	s, err := openServices(work, env)
	if err != nil {
		return err
	}
	s.demo = demo
	opened.add(s.close)
	if m.opened != nil {
		m.opened(s, l.Addr())
	}

	memory := budget.New(int64(m.Config.MemoryMiB) << 20) // for request bodies
	health := &health{store: s.embedded, member: s.member, draining: make(chan struct{})}
	handler, err := s.handler(health)
	if err != nil {
		return err
	}
	srv := m.httpServer(paced{next: memory.Handler(handler), now: env.now})
	adminServer := &admin.Server{Dir: m.Config.Data, Ops: operations{s}, Log: m.Log, Memory: memory,
		Sync: s.store.Sync}
	if s.member != nil {
		adminServer.Refuses = s.member.clockError
	}
	al, err := adminServer.Listen()
	if err != nil {
		return err
	}
	opened.addListener(al)
	metrics, err := m.serveMetrics(s.telemetry.Metrics)
	if err != nil {
		return err
	}
	opened.add(metrics.Close)
	failed := make(chan error, 4)
	if s.member != nil {
		go func() { failed <- s.member.lost(work) }()
	}
	go func() { failed <- m.serveHTTP(srv, l) }()
	go func() { failed <- adminServer.Serve(al) }()
	go keepMemory(work)
	notarized := make(chan error, 1)
	go func() { notarized <- s.audit.notary.Run(work) }()
	go s.keys.Run(work, s.roles, token.MaxUserLife+client.Skew, m.Log)

	if err := m.ready(ctx, s); err != nil {
		m.Log.Error("start", "error", err)
		stop()
		return errors.Join(err, srv.Close(), <-notarized)
	}
	select {
	case <-ctx.Done():
	case err = <-failed:
	}
	close(health.draining)
	s.member.drain()
	m.Log.Info("draining", "timeout", m.Config.DrainTimeout)
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), m.Config.DrainTimeout)
	defer cancel()
	// The record of the stop is the last AuditEvent, and the last checkpoint,
	// which the notary signs when its context ends, covers it.
	s.bulkSubmit.Close()
	err = errors.Join(err, srv.Shutdown(grace), adminServer.Close(grace), s.followers.close(),
		s.audit.recorder.Record(grace, audit.Event{Type: audit.Lifecycle, Interaction: "stop"}))
	stop()
	return errors.Join(err, <-notarized, s.telemetry.Close(grace))
}

// ready records the start, fills the demo, and prints that the server is ready.
func (m *Main) ready(ctx context.Context, s *services) error {
	err := s.audit.recorder.Record(ctx, audit.Event{Type: audit.Lifecycle, Interaction: "start"})
	if err != nil {
		return err
	}
	if m.Config.Demo {
		err := s.inTurn(ctx, "demo", func(ctx context.Context) error { return (operations{s}).fillDemo(ctx, m.Stdout) })
		if err != nil {
			return fmt.Errorf("demo: %w", err)
		}
	}
	if s.member != nil {
		s.member.strict.Store(true)
	}
	_, err = fmt.Fprintf(m.Stdout, "pulsegate ready %s\n", s.base)
	return err
}

func (m *Main) httpServer(h http.Handler) *http.Server {
	srv := &http.Server{
		Handler: h, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute,
		MaxHeaderBytes: 64 << 10, ErrorLog: slog.NewLogLogger(m.Log.Handler(), slog.LevelDebug),
		TLSConfig: serverTLS(),
	}
	if m.Config.ClientCerts {
		// Accept any certificate: a token is bound to its thumbprint, and the
		// handshake proves possession of the key (RFC 8705 6.2).
		srv.TLSConfig.ClientAuth = tls.RequestClientCert
	}
	return srv
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
