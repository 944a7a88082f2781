package rest

import (
	"context"
	"net/http"

	"github.com/gin-gonic/gin"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
)

// askEvery is the number of bytes of an answer that are sent between two
// questions whether the caller may have the rest. An ordinary page of a search
// is shorter and is written at once. Kernels hold more of a connection than
// this anyway.
const askEvery = 256 << 10

// asking is the body of every answer to a token. A long one is sent in parts,
// at the pace at which its reader takes them; when the grant has ended, the
// answer is broken off, which no reader can take for its end.
//
// An answer is made before it is sent, under the consents of that time. It is
// also broken off when a Consent of a patient whose data it holds has changed
// since. (A download is held to the consents block by block: fhir/bulk.)
type asking struct {
	gin.ResponseWriter
	c         *gin.Context
	grant     *access.Grant
	consents  Consents // nil: not asked
	epoch     uint64   // of the consents, before the answer was made
	disclosed access.Disclosed
	sent      int // bytes since the last question
	begun     bool
	err       error
}

// Consents tells whether consents have changed. It is the consent.Engine.
type Consents interface {
	Epoch() uint64
	Changed(since uint64, concerned func(patient string, commit uint64) bool) bool
}

var errConsent = fhir.Errorf(fhir.Unavailable, "rest.asking", "a consent has changed while the answer was sent")

// collecting returns the request's context with a note of whose data is
// disclosed under it.
func collecting(c *gin.Context, ctx context.Context) context.Context {
	if w, ok := c.Writer.(*asking); ok && w.consents != nil {
		return w.disclosed.With(ctx)
	}
	return ctx
}

// Unwrap leads to the server's own writer, past gin's.
func (w *asking) Unwrap() http.ResponseWriter {
	if u, ok := w.ResponseWriter.(interface{ Unwrap() http.ResponseWriter }); ok {
		return u.Unwrap()
	}
	return w.ResponseWriter
}

func (w *asking) Write(b []byte) (n int, err error) {
	if w.consents != nil && !w.begun {
		w.begun = true
		w.askConsents() // the answer may have been long in the making
	}
	for {
		if w.err != nil {
			return n, w.err
		}
		part := b[n:min(len(b), n+askEvery-w.sent)]
		m, err := w.ResponseWriter.Write(part)
		n += m
		w.sent += m
		if err != nil || n == len(b) {
			return n, err
		}
		w.ask()
	}
}

// WriteString implements gin.ResponseWriter.
func (w *asking) WriteString(s string) (int, error) { return w.Write([]byte(s)) }

// ask breaks the answer off unless the grant still holds.
func (w *asking) ask() {
	w.sent = 0
	// The limit of time is on the work, not on the transfer.
	w.err = w.grant.Live(context.WithoutCancel(w.c.Request.Context()))
	if w.err != nil {
		w.stop()
		return
	}
	w.askConsents()
}

// askConsents breaks the answer off if a Consent of somebody in it has changed.
func (w *asking) askConsents() {
	if w.consents != nil && w.consents.Epoch() != w.epoch && !w.disclosed.Empty() &&
		w.consents.Changed(w.epoch, w.disclosed.Concerned) {
		w.err = errConsent
		w.stop()
	}
}

func (w *asking) stop() {
	w.c.Abort()
	if err := cut(w.c); err != nil {
		logger(w.c).WarnContext(w.c.Request.Context(),
			"an answer that its reader may not have any more could not be broken off", "request_id", RequestID(w.c),
			"error", err)
	}
}
