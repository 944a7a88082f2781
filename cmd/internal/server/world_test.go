package server

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"pulsegate/cmd/internal/admin"
	"pulsegate/cmd/internal/config"
)

// lockedBuffer is a buffer that a test may read while the server writes.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer // guarded by mu
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// settings returns the configuration of a server on a free port, with the named
// settings changed. It derives no preferred values unless set says so, because they
// appear some time after the measurements: a test that counts Observations would
// depend on the machine's pace.
func settings(t testing.TB, dir string, set map[string]string) *config.Config {
	t.Helper()
	all := map[string]string{"data": dir, "listen": "127.0.0.1:0", "preferred": "false"}
	for k, v := range set {
		all[k] = v
	}
	c, err := config.Load("", func(string) (string, bool) { return "", false }, all)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// open opens the services of a server that does not listen.
func open(t testing.TB, dir string, log io.Writer) (*services, error) {
	t.Helper()
	env := environment{config: settings(t, dir, nil), version: "test", now: time.Now,
		log: slog.New(slog.NewTextHandler(log, nil)), base: "http://localhost:8080"}
	ctx, stop := context.WithCancel(context.Background())
	s, err := openServices(ctx, env)
	t.Cleanup(func() {
		stop()
		if s != nil {
			shut(t, s)
		}
	})
	return s, err
}

// mustOpen is open for a test that expects no error.
func mustOpen(t testing.TB, dir string) *services {
	t.Helper()
	s, err := open(t, dir, t.Output())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// shut closes s, so that another server can open its data. It may be called
// twice.
func shut(t testing.TB, s *services) {
	t.Helper()
	if err := s.close(); err != nil {
		t.Error(err)
	}
}

// versionOfTest has the form that git describe prints when there is no release.
const versionOfTest = "0123abc-dirty"

// running starts a server that listens, and returns its base URL and its output.
func running(t *testing.T, dir string, set map[string]string) (base string, out *lockedBuffer, stop func() error) {
	t.Helper()
	out = &lockedBuffer{}
	ready := make(chan string, 1)
	m := &Main{Config: settings(t, dir, set), Version: versionOfTest,
		Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
		Stdout: writerFunc(func(p []byte) (int, error) {
			if _, url, ok := strings.Cut(string(p), "pulsegate ready "); ok {
				ready <- strings.TrimSpace(url)
			}
			return out.Write(p)
		})}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- m.Run(ctx) }()
	once := sync.OnceValue(func() error { cancel(); return <-ended })
	t.Cleanup(func() {
		if err := once(); err != nil {
			t.Error(err)
		}
	})
	select {
	case base = <-ready:
	case err := <-ended:
		ended <- nil
		t.Fatalf("the server did not start: %v", err)
	}
	return base, out, once
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

var operatorOfTest = admin.Operator{Name: "uid:0"} // read only
