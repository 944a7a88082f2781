package server

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"regexp"
	"time"
)

// metricsServer serves /metrics on an address of its own, which the operator
// keeps to the network of the monitoring (ASVS 13.4.5). It is nil when none is
// configured.
func (m *Main) metricsServer() (*http.Server, net.Listener, error) {
	if m.Config.MetricsListen == "" {
		return nil, nil, nil
	}
	l, err := net.Listen("tcp", m.Config.MetricsListen)
	if err != nil {
		return nil, nil, fmt.Errorf("metrics-listen: %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", m.telemetry.Metrics)
	return &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 10 * time.Second,
		WriteTimeout: time.Minute, IdleTimeout: 2 * time.Minute,
		MaxHeaderBytes: 16 << 10}, l, nil
}

// serveMetrics announces the address and serves until the server is closed.
func (m *Main) serveMetrics(s *http.Server, l net.Listener) error {
	if s == nil {
		return nil
	}
	if _, err := fmt.Fprintf(m.Stdout, "pulsegate metrics http://%s/metrics\n", l.Addr()); err != nil {
		return errors.Join(err, l.Close())
	}
	go func() {
		if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			m.Log.Error("metrics are not served any more", "error", err)
		}
	}()
	return nil
}

var release = regexp.MustCompile(`^v?([0-9]+\.[0-9]+\.[0-9]+)(-[0-9]+-g[0-9a-f]+)?(-dirty)?$`)

// publicVersion returns the release in a version, without the commit that it
// was built from (ASVS 13.4.6).
func publicVersion(v string) string {
	if m := release.FindStringSubmatch(v); m != nil {
		return m[1]
	}
	return "development"
}
