package rest

import (
	"context"
	"net/http"

	"github.com/gin-gonic/gin"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/store"
)

// askEvery is the number of bytes of an answer between two checks of the grant. An
// ordinary search page is shorter and is written in one piece. Kernels buffer more
// than this per connection anyway. Before each check, the store is brought up to date,
// so that an answer also ends if the process cannot confirm that it is.
const askEvery = 256 << 10

// asking is the response writer of every authenticated request. It sends a long
// answer in parts, as fast as the client reads. If the grant ends meanwhile, it
// aborts the connection, which clients cannot mistake for the end of the answer.
//
// An answer is complete before it is sent, under the consents at that time. It is
// also aborted if a Consent of a patient in the answer has changed since. (For
// downloads, fhir/bulk checks the consents per block.)
type asking struct {
	gin.ResponseWriter
	context   *gin.Context
	grant     *access.Grant
	store     store.Store
	consents  Consents // nil: not asked
	epoch     uint64   // of the consents, before the answer was made
	disclosed access.Disclosed
	sent      int // bytes since the last question
	begun     bool
	err       error
}

// Consents reports changes of consents. consent.Engine implements it.
type Consents interface {
	Epoch() uint64
	Changed(since uint64, concerned func(patient string, commit uint64) bool) bool
}

var errConsent = fhir.Errorf(fhir.Unavailable, "rest.asking", "a consent has changed while the answer was sent")

// collecting returns the request's context, which records the patients whose data
// are disclosed.
func collecting(c *gin.Context, ctx context.Context) context.Context {
	if w, ok := c.Writer.(*asking); ok && w.consents != nil {
		return w.disclosed.With(ctx)
	}
	return ctx
}

// Unwrap returns the server's writer, bypassing gin's.
func (w *asking) Unwrap() http.ResponseWriter {
	if u, ok := w.ResponseWriter.(interface{ Unwrap() http.ResponseWriter }); ok {
		return u.Unwrap()
	}
	return w.ResponseWriter
}

func (w *asking) Write(b []byte) (n int, err error) {
	if w.consents != nil && !w.begun {
		w.begun = true
		w.askConsents() // making the answer may have taken long
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

// ask aborts the answer if the grant has ended.
func (w *asking) ask() {
	w.sent = 0
	// The timeout applies to the work, not to the transfer.
	ctx := context.WithoutCancel(w.context.Request.Context())
	if w.err = syncStore(ctx, w.store); w.err == nil {
		w.err = w.grant.Live(ctx)
	}
	if w.err != nil {
		w.stop()
		return
	}
	w.askConsents()
}

// askConsents aborts the answer if a Consent of a patient in it has changed.
func (w *asking) askConsents() {
	if w.consents != nil && w.consents.Epoch() != w.epoch && !w.disclosed.Empty() &&
		w.consents.Changed(w.epoch, w.disclosed.Concerned) {
		w.err = errConsent
		w.stop()
	}
}

func (w *asking) stop() {
	w.context.Abort()
	if err := cut(w.context); err != nil {
		logger(w.context).WarnContext(w.context.Request.Context(),
			"an answer could not be aborted after its grant had ended", "request_id", RequestID(w.context),
			"error", err)
	}
}
