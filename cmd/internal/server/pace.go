package server

import (
	"errors"
	"io"
	"net/http"
	"os"
	"time"

	"pulsegate/fhir"
)

const (
	// paceGrace is how long in all a body may keep us waiting.
	paceGrace = 30 * time.Second
	// paceRate, in bytes a second, is how what has come earns more time: a
	// large payload over a thin line is no attack.
	paceRate = 1 << 10
	// paceRest is how long the rest of a body may take that nobody reads:
	// net/http takes some of it in before it sends the answer.
	paceRest = 5 * time.Second
)

// paced ends a request whose body comes next to not at all. The server's own
// read timeout cannot do that, because a payload may be of any length.
type paced struct {
	next http.Handler
	now  func() time.Time
}

func (p paced) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	pw := &pacedWriter{ResponseWriter: w, control: http.NewResponseController(w), now: p.now, begin: p.now(),
		credit: writeGrace}
	defer pw.finish()
	w = pw
	if r.Body == nil || r.Body == http.NoBody {
		pw.clear()
		p.next.ServeHTTP(w, r)
		return
	}
	pw.clear()
	b := &pacedBody{ReadCloser: r.Body, deadline: http.NewResponseController(w).SetReadDeadline, now: p.now}
	r.Body = b
	p.next.ServeHTTP(w, r)
	if !b.ended {
		if err := b.deadline(p.now().Add(paceRest)); err != nil {
			return // the connection is gone
		}
	}
}

const (
	// writeGrace bounds the total time that a client may keep an answer waiting.
	writeGrace = 30 * time.Second
	// writeRate is the minimum transfer rate in bytes per second. Every writeRate
	// bytes that were taken give back a second of writeGrace.
	writeRate = 4 << 10
	// writeChunk is written under one deadline: at writeRate it takes a fraction
	// of writeGrace, so that a thin line is not cut off.
	writeChunk = 32 << 10
	// maxAnswer bounds the transfer of one answer, whose snapshot of the store
	// keeps superseded data on disk.
	maxAnswer = 6 * time.Hour
)

// pacedWriter ends an answer that the client does not read: it would hold its
// memory, and for a download a snapshot of the store, for as long as the client
// likes. It serves HTTP/1 connections and HTTP/2 streams alike.
type pacedWriter struct {
	http.ResponseWriter
	control *http.ResponseController
	now     func() time.Time
	begin   time.Time
	credit  time.Duration // how long the next write may wait
}

// Unwrap serves http.ResponseController.
func (w *pacedWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// allow sets the deadline of the next write. Writers that cannot be given one
// have no client that could be slow.
func (w *pacedWriter) allow() {
	now := w.now()
	end := now.Add(w.credit)
	if last := w.begin.Add(maxAnswer); end.After(last) {
		end = last
	}
	if err := w.control.SetWriteDeadline(end); err != nil {
		return // the connection is gone, and the write says so
	}
}

// clear takes the deadline away: the time in which the server itself works is
// not the client's, and an HTTP/2 stream is reset at its deadline whether
// something is being written or not.
func (w *pacedWriter) clear() {
	if err := w.control.SetWriteDeadline(time.Time{}); err != nil {
		return // as in allow
	}
}

// took counts a write of n bytes that began at a time.
func (w *pacedWriter) took(n int, begin time.Time) {
	w.clear()
	w.credit += time.Duration(n)*time.Second/writeRate - w.now().Sub(begin)
	w.credit = min(w.credit, writeGrace)
}

func (w *pacedWriter) Write(p []byte) (n int, err error) {
	for {
		begin := w.now()
		w.allow()
		m, err := w.ResponseWriter.Write(p[n:min(len(p), n+writeChunk)])
		n += m
		w.took(m, begin)
		if err != nil || n == len(p) {
			return n, err
		}
	}
}

// Flush implements http.Flusher.
func (w *pacedWriter) Flush() {
	begin := w.now()
	w.allow()
	if err := w.control.Flush(); err != nil {
		return // the next write says so
	}
	w.took(0, begin)
}

// finish gives the server time to send what it has buffered.
func (w *pacedWriter) finish() { w.allow() }

type pacedBody struct {
	io.ReadCloser
	deadline func(time.Time) error
	now      func() time.Time
	ended    bool
	got      int64
	waited   time.Duration // inside Read only: our own work is not the sender's fault
}

func (b *pacedBody) Read(p []byte) (int, error) {
	left := paceGrace + time.Duration(b.got/paceRate)*time.Second - b.waited
	begin := b.now()
	if err := b.deadline(begin.Add(left)); err != nil {
		return 0, fhir.Wrap("server.pace", err)
	}
	n, err := b.ReadCloser.Read(p)
	b.ended = err != nil
	b.got, b.waited = b.got+int64(n), b.waited+b.now().Sub(begin)
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		// The deadline stays: what is left of the body is not waited for.
		return n, &fhir.Error{Kind: fhir.Invalid, Op: "server.pace", Err: err,
			Issues: []fhir.Issue{{Code: "timeout", Diagnostics: "the body comes too slowly"}}}
	case err != nil:
		// The connection is watched while the request is worked on; that must
		// not end it.
		if derr := b.deadline(time.Time{}); derr != nil {
			return n, errors.Join(err, derr)
		}
	}
	return n, err
}
