package server

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"regexp"
	"time"
)

// serveMetrics serves GET /metrics on a separate listener, which the operator
// restricts to the monitoring network (ASVS 13.4.5), and prints its address. If
// none is configured, the returned server serves nothing.
func (m *Main) serveMetrics(metrics http.Handler) (*http.Server, error) {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", metrics)
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 10 * time.Second,
		WriteTimeout: time.Minute, IdleTimeout: 2 * time.Minute,
		MaxHeaderBytes: 16 << 10}
	if m.Config.MetricsListen == "" {
		return srv, nil
	}
	l, err := net.Listen("tcp", m.Config.MetricsListen)
	if err != nil {
		return nil, fmt.Errorf("metrics-listen: %w", err)
	}
	if _, err := fmt.Fprintf(m.Stdout, "pulsegate metrics http://%s/metrics\n", l.Addr()); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	go func() {
		if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			m.Log.Error("the metrics server failed", "error", err)
		}
	}()
	return srv, nil
}

var release = regexp.MustCompile(`^v?([0-9]+\.[0-9]+\.[0-9]+)(-[0-9]+-g[0-9a-f]+)?(-dirty)?$`)

// publicVersion returns the release number within version, without the commit
// that the binary was built from (ASVS 13.4.6).
func publicVersion(v string) string {
	if m := release.FindStringSubmatch(v); m != nil {
		return m[1]
	}
	return "development"
}
