package rest

import (
	"context"
	"net/http"

	"github.com/gin-gonic/gin"

	"pulsegate/fhir/access"
)

// askEvery is how many bytes of an answer are sent before it is asked again
// whether the caller may have the rest. What a kernel holds of a connection is
// out of reach.
const askEvery = 64 << 10

// asking is the body of every answer to a token. A long one is sent in parts,
// at the pace at which its reader takes them; when the grant has ended, the
// answer is broken off, which no reader can take for its end.
type asking struct {
	gin.ResponseWriter
	c     *gin.Context
	grant *access.Grant
	sent  int // bytes since the last question
	err   error
}

// Unwrap leads to the server's own writer, past gin's.
func (w *asking) Unwrap() http.ResponseWriter {
	if u, ok := w.ResponseWriter.(interface{ Unwrap() http.ResponseWriter }); ok {
		return u.Unwrap()
	}
	return w.ResponseWriter
}

func (w *asking) Write(b []byte) (n int, err error) {
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
	if w.err = w.grant.Live(context.WithoutCancel(w.c.Request.Context())); w.err == nil {
		return
	}
	w.c.Abort()
	if err := cut(w.c); err != nil {
		logger(w.c).WarnContext(w.c.Request.Context(), "an answer whose token has ended could not be broken off", "requestId", RequestID(w.c), "err", err)
	}
}
