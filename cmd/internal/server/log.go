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

// logWriter gathers lines, so that an access log does not cost a system call
// for each request. What waits is written after logDelay at the latest.
type logWriter struct {
	mu    sync.Mutex
	w     io.Writer
	buf   []byte
	armed bool
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
		time.AfterFunc(logDelay, l.late)
	}
	return len(p), nil
}

func (l *logWriter) late() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.armed = false
	if err := l.flush(); err != nil {
		return // there is no place left to say so
	}
}

// flush writes what waits; the caller holds mu.
func (l *logWriter) flush() error {
	if len(l.buf) == 0 {
		return nil
	}
	_, err := l.w.Write(l.buf)
	l.buf = l.buf[:0]
	return err
}

// Flush writes what waits.
func (l *logWriter) Flush() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.flush()
}

// prompt writes warnings and errors at once: what comes after them may be the
// end of the process.
type prompt struct {
	slog.Handler
	out *logWriter
}

func (p prompt) Handle(ctx context.Context, r slog.Record) error {
	err := p.Handler.Handle(ctx, r)
	if r.Level >= slog.LevelWarn {
		err = errors.Join(err, p.out.Flush())
	}
	return err
}

func (p prompt) WithAttrs(as []slog.Attr) slog.Handler {
	return prompt{p.Handler.WithAttrs(as), p.out}
}
func (p prompt) WithGroup(name string) slog.Handler {
	return prompt{p.Handler.WithGroup(name), p.out}
}

// logger logs to w; what it returns beside must be flushed at the end.
func logger(cfg *config.Config, w io.Writer) (*slog.Logger, *logWriter, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(cfg.LogLevel)); err != nil {
		return nil, nil, fmt.Errorf("log-level: %w", err)
	}
	opts := &slog.HandlerOptions{Level: level}
	out := &logWriter{w: w}
	switch cfg.LogFormat {
	case "text":
		return slog.New(prompt{slog.NewTextHandler(out, opts), out}), out, nil
	case "json":
		return slog.New(prompt{slog.NewJSONHandler(out, opts), out}), out, nil
	}
	return nil, nil, errors.New("log-format: text or json")
}
