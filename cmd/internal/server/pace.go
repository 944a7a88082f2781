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
	if r.Body == nil || r.Body == http.NoBody {
		p.next.ServeHTTP(w, r)
		return
	}
	b := &pacedBody{ReadCloser: r.Body, deadline: http.NewResponseController(w).SetReadDeadline, now: p.now}
	r.Body = b
	p.next.ServeHTTP(w, r)
	if !b.ended {
		if err := b.deadline(p.now().Add(paceRest)); err != nil {
			return // the connection is gone
		}
	}
}

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
