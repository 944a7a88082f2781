package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"pulsegate/cmd/internal/config"
)

const (
	logDelay  = 100 * time.Millisecond
	logBuffer = 64 << 10
)

// logWriter buffers lines for at most logDelay, so that an access log does not
// cost one system call per request.
type logWriter struct {
	out io.Writer

	mu    sync.Mutex // guards the fields below
	buf   []byte
	armed bool // a timer will call flushLate
}

func (l *logWriter) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.buf = append(l.buf, p...)
	if len(l.buf) >= logBuffer {
		return len(p), l.flush()
	}
	if !l.armed {
		l.armed = true
		time.AfterFunc(logDelay, l.flushLate)
	}
	return len(p), nil
}

func (l *logWriter) flushLate() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.armed = false
	if err := l.flush(); err != nil {
		return // an error of the log cannot be logged
	}
}

// flush writes the buffer. The caller holds mu.
func (l *logWriter) flush() error {
	if len(l.buf) == 0 {
		return nil
	}
	_, err := l.out.Write(l.buf)
	l.buf = l.buf[:0]
	return err
}

// Flush writes the buffer.
func (l *logWriter) Flush() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.flush()
}

// promptHandler flushes warnings and errors immediately, because the process may
// end before the buffer is due.
type promptHandler struct {
	slog.Handler
	out *logWriter
}

func (p promptHandler) Handle(ctx context.Context, r slog.Record) error {
	err := p.Handler.Handle(ctx, r)
	if r.Level >= slog.LevelWarn {
		err = errors.Join(err, p.out.Flush())
	}
	return err
}

func (p promptHandler) WithAttrs(as []slog.Attr) slog.Handler {
	return promptHandler{p.Handler.WithAttrs(as), p.out}
}

func (p promptHandler) WithGroup(name string) slog.Handler {
	return promptHandler{p.Handler.WithGroup(name), p.out}
}

// logger returns a logger that writes to w, and its buffer, which the caller must
// flush at the end.
func logger(cfg *config.Config, w io.Writer) (*slog.Logger, *logWriter, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(cfg.LogLevel)); err != nil {
		return nil, nil, fmt.Errorf("log-level: %w", err)
	}
	opts := &slog.HandlerOptions{Level: level}
	out := &logWriter{out: w}
	switch cfg.LogFormat {
	case "text":
		return slog.New(promptHandler{slog.NewTextHandler(out, opts), out}), out, nil
	case "json":
		return slog.New(promptHandler{slog.NewJSONHandler(out, opts), out}), out, nil
	}
	return nil, nil, errors.New("log-format: must be text or json")
}
