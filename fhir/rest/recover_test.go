package rest

import (
	"bytes"
	"crypto/rand"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"pulsegate/fhir/interaction"

	"github.com/gin-gonic/gin"
)

// TestPanic tests that a handler that panics answers 500, that a panic in the middle of
// an answer aborts it, and that the panic value, which may contain anything, is not
// logged.
func TestPanic(t *testing.T) {
	var log lockedBuffer
	s := &Server{Service: &interaction.Service{Store: newModelStore(time.Now)},
		Logger: slog.New(slog.NewTextHandler(&log, nil)), Rand: rand.Reader}
	e := gin.New()
	e.Use(s.identify, s.recover)
	e.GET("/before", func(*gin.Context) { panic("canary") })
	e.POST("/entry", func(*gin.Context) {
		panic(&interaction.EntryPanic{Value: "canary", Stack: []byte("the stack of the entry")})
	})
	e.GET("/amid", func(c *gin.Context) {
		c.String(http.StatusOK, "half of ")
		c.Writer.Flush()
		panic(http.ErrAbortHandler)
	})
	e.GET("/well", func(c *gin.Context) { c.String(http.StatusOK, "whole") })
	for name, h2 := range map[string]bool{"HTTP/1.1": false, "HTTP/2.0": true} {
		t.Run(name, func(t *testing.T) {
			srv := httptest.NewUnstartedServer(e)
			srv.EnableHTTP2 = h2
			srv.StartTLS()
			defer srv.Close()
			get := func(path string) (int, string, error) {
				r, err := srv.Client().Get(srv.URL + path)
				if err != nil {
					return 0, "", err
				}
				defer r.Body.Close()
				if r.Proto != name {
					t.Errorf("spoken is %s", r.Proto)
				}
				b, err := io.ReadAll(r.Body)
				return r.StatusCode, string(b), err
			}
			if status, body, err := get("/before"); err != nil || status != http.StatusInternalServerError ||
				!strings.Contains(body, "OperationOutcome") || strings.Contains(body, "canary") {
				t.Errorf("before the answer: %d %s %v", status, body, err)
			}
			r, err := srv.Client().Post(srv.URL+"/entry", "text/plain", nil)
			if err != nil || r.StatusCode != http.StatusInternalServerError || r.Body.Close() != nil {
				t.Errorf("in an entry of a batch: %v %v", r, err)
			}
			if status, body, err := get("/amid"); err == nil {
				t.Errorf("amid the answer: %d %q looks whole", status, body)
			}
			if status, body, err := get("/well"); err != nil || status != http.StatusOK || body != "whole" {
				t.Errorf("afterwards: %d %q %v", status, body, err)
			}
		})
	}
	if out := log.String(); strings.Contains(out, "canary") || strings.Contains(out, "could not be aborted") ||
		!strings.Contains(out, "msg=panic") || !strings.Contains(out, "the stack of the entry") {
		t.Error(out)
	}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
