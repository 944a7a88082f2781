package server

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"

	"pulsegate/fhir"
)

const (
	// paceGrace bounds the total time that a client may keep the server waiting
	// for a request body.
	paceGrace = 30 * time.Second
	// paceRate is the minimum transfer rate in bytes per second. Every paceRate
	// bytes received extend paceGrace by one second, so that large uploads over
	// slow links succeed.
	paceRate = 1 << 10
	// paceRest bounds the time for the rest of a body that the handler did not
	// read. net/http discards part of it before it sends the answer.
	paceRest = 5 * time.Second
)

// paced bounds the time that a client may take to send a request body and to read
// the answer. The read timeout of http.Server cannot do that, because a payload
// may have any length.
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
			return // the connection is closed
		}
	}
}

const (
	// writeGrace bounds the total time that a client may keep an answer waiting.
	writeGrace = 30 * time.Second
	// writeRate is the minimum transfer rate in bytes per second. Every writeRate
	// bytes written restore one second of writeGrace.
	writeRate = 4 << 10
	// writeChunk is the most bytes written under one deadline. At writeRate they
	// take a fraction of writeGrace, so that slow links are not cut off.
	writeChunk = 32 << 10
	// maxAnswer bounds the transfer of one answer, because its snapshot of the
	// store keeps superseded data on disk.
	maxAnswer = 6 * time.Hour
)

// pacedWriter ends an answer that the client does not read. Such an answer would
// hold memory, and a download a snapshot of the store, for as long as the client
// likes. pacedWriter works on HTTP/1 connections and HTTP/2 streams.
type pacedWriter struct {
	http.ResponseWriter
	control *http.ResponseController
	now     func() time.Time
	begin   time.Time
	credit  time.Duration // time that the next write may take
	// hijacked is set if the connection belongs to the handler.
	hijacked bool
}

// Unwrap implements the method that http.ResponseController looks for.
func (w *pacedWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// allow sets the deadline of the next write. Writers that support no deadlines
// have no client that could be slow.
func (w *pacedWriter) allow() {
	now := w.now()
	end := now.Add(w.credit)
	if last := w.begin.Add(maxAnswer); end.After(last) {
		end = last
	}
	if err := w.control.SetWriteDeadline(end); err != nil {
		return // the connection is closed, and the write will fail
	}
}

// clear removes the deadline while the server works, because that time does not
// count against the client and an HTTP/2 stream is reset at its deadline even if
// nothing is being written.
func (w *pacedWriter) clear() {
	if err := w.control.SetWriteDeadline(time.Time{}); err != nil {
		return // as in allow
	}
}

// took accounts for a write of n bytes that began at begin.
func (w *pacedWriter) took(n int, begin time.Time) {
	w.clear()
	w.credit += time.Duration(n)*time.Second/writeRate - w.now().Sub(begin)
	w.credit = min(w.credit, writeGrace)
}

func (w *pacedWriter) Write(p []byte) (n int, err error) {
	for {
		begin := w.now()
		w.allow()
		written, err := w.ResponseWriter.Write(p[n:min(len(p), n+writeChunk)])
		n += written
		w.took(written, begin)
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
		return // the next write will fail
	}
	w.took(0, begin)
}

// Hijack implements http.Hijacker, which gin demands of the writer below its own. A handler that
// takes the connection over, as for a WebSocket, bounds its own reads and writes.
func (w *pacedWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	c, rw, err := w.control.Hijack()
	if err != nil { // HTTP/2 has no connection to give
		return nil, nil, err
	}
	w.hijacked = true
	return c, rw, nil
}

// finish sets the deadline for the data that the server has buffered.
func (w *pacedWriter) finish() {
	if !w.hijacked {
		w.allow()
	}
}

// pacedBody is a request body. Reads from it fail if the client sends too slowly.
type pacedBody struct {
	io.ReadCloser
	deadline func(time.Time) error
	now      func() time.Time
	ended    bool
	received int64         // in bytes
	waited   time.Duration // time spent in Read, without the work of the server
}

func (b *pacedBody) Read(p []byte) (int, error) {
	left := paceGrace + time.Duration(b.received/paceRate)*time.Second - b.waited
	begin := b.now()
	if err := b.deadline(begin.Add(left)); err != nil {
		return 0, fhir.Wrap("server.pace", err)
	}
	n, err := b.ReadCloser.Read(p)
	b.ended = err != nil
	b.received, b.waited = b.received+int64(n), b.waited+b.now().Sub(begin)
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		// Keep the deadline, so that the server does not wait for the rest.
		return n, &fhir.Error{Kind: fhir.Invalid, Op: "server.pace", Err: err,
			Issues: []fhir.Issue{{Code: "timeout",
				Diagnostics: fmt.Sprintf("the body arrives too slowly; send at least %d bytes per second", paceRate)}}}
	case err != nil:
		// net/http keeps reading from the connection while the handler works. A
		// deadline would end that read and cancel the request.
		if derr := b.deadline(time.Time{}); derr != nil {
			return n, errors.Join(err, derr)
		}
	}
	return n, err
}
