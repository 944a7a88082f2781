package rest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"runtime/debug"
	"strings"
	"time"

	"github.com/gin-gonic/gin"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/interaction"
	"pulsegate/fhir/limit"
	"pulsegate/fhir/store"
)

// identify uses the caller's X-Request-Id if it is harmless, and otherwise
// generates one.
func (s *Server) identify(c *gin.Context) {
	c.Set(keyServer, s)
	id := c.GetHeader("X-Request-Id")
	if !harmless(id) {
		var err error
		s.randMu.Lock()
		id, err = fhir.NewID(s.Rand)
		s.randMu.Unlock()
		if err != nil {
			fail(c, err)
			return
		}
	}
	c.Set(keyRequestID, id)
	c.Header("X-Request-Id", id)
	c.Next()
}

// harmless reports whether a request id may appear in a log line and a header.
func harmless(id string) bool {
	if id == "" || len(id) > 64 {
		return false
	}
	return strings.IndexFunc(id, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' ||
			strings.ContainsRune("-._:", r))
	}) < 0
}

// recover answers a panic with a bare 500. It logs the type of the panic value and
// the stack without the contents of arguments, but not the value.
func (s *Server) recover(c *gin.Context) {
	defer func() {
		v := recover()
		if v == nil {
			return
		}
		stack := debug.Stack()
		if e, ok := v.(*interaction.EntryPanic); ok {
			v, stack = e.Value, e.Stack
		}
		s.Logger.ErrorContext(c.Request.Context(), "panic", "request_id", RequestID(c), "value",
			fmt.Sprintf("%T", v), "stack", string(stack))
		if !c.Writer.Written() {
			fail(c, &fhir.Error{Kind: fhir.Internal, Op: "rest.recover"})
			return
		}
		c.Abort()
		if err := cut(c); err != nil {
			s.Logger.ErrorContext(c.Request.Context(), "an answer could not be aborted", "request_id",
				RequestID(c), "error", err)
		}
	}()
	c.Next()
}

// cut aborts an answer that has begun, so that it cannot be mistaken for a complete
// one. It closes the connection in HTTP/1.1 and resets the stream in HTTP/2.
func cut(c *gin.Context) error {
	var raw http.ResponseWriter = c.Writer
	if u, ok := raw.(interface{ Unwrap() http.ResponseWriter }); ok {
		raw = u.Unwrap() // gin's writer refuses once a body has begun
	}
	rc := http.NewResponseController(raw)
	conn, _, err := rc.Hijack()
	if err == nil {
		return conn.Close()
	}
	return rc.SetWriteDeadline(time.Unix(1, 0))
}

// everywhere holds the headers of every answer, onFHIR those of the API. Handlers
// may replace but must not append to them.
var (
	everywhere = http.Header{ // read only
		"X-Content-Type-Options": {"nosniff"},
		"Referrer-Policy":        {"no-referrer"},
	}
	onFHIR = http.Header{ // read only
		"Cache-Control":                 {"no-store"},
		"Content-Security-Policy":       {"default-src 'none'; frame-ancestors 'none'"},
		"Access-Control-Allow-Origin":   {"*"},
		"Access-Control-Expose-Headers": {"Accept-Patch, Content-Location, DPoP-Nonce, ETag, Last-Modified, Location, Retry-After, WWW-Authenticate, X-Progress, X-Request-Id, X-Security-Context"},
	}
)

// headers sets the security headers and CORS. Any origin may call the API, but
// without browser credentials: bearer tokens are the only access.
func (s *Server) headers(c *gin.Context) {
	h := c.Writer.Header()
	maps.Copy(h, everywhere)
	if !isFHIR(c.Request.URL.Path) {
		c.Next()
		return
	}
	maps.Copy(h, onFHIR)
	if c.Request.Method == http.MethodOptions {
		h.Set("Access-Control-Allow-Methods", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS")
		h.Set("Access-Control-Allow-Headers",
			"Accept, Authorization, Content-Type, DPoP, If-Match, If-Modified-Since, If-None-Exist, If-None-Match, If-Unmodified-Since, Prefer, X-Request-Id, X-Security-Context")
		h.Set("Access-Control-Max-Age", "3600")
		c.AbortWithStatus(http.StatusNoContent)
		return
	}
	c.Next()
}

// syncTimeout bounds the time for which a request waits until the store shows all
// that was acknowledged before it.
const syncTimeout = 5 * time.Second

// sync brings the store up to date before anything of it is read, so that the request
// sees what any process has acknowledged before: revoked tokens, withdrawn consents,
// and the client's own writes.
func (s *Server) sync(c *gin.Context) {
	r := c.Request
	if r.Method == http.MethodOptions || !isFHIR(r.URL.Path) && s.Unsynced != nil && s.Unsynced(r) {
		return
	}
	err := syncStore(r.Context(), s.Service.Store)
	switch {
	case err == nil:
	case isFHIR(r.URL.Path) || s.Unavailable == nil:
		fail(c, err)
	default:
		c.Header("Retry-After", "1")
		s.Unavailable(c, err)
		c.Abort()
	}
}

func syncStore(ctx context.Context, st store.Store) error {
	ctx, cancel := context.WithTimeout(ctx, syncTimeout)
	defer cancel()
	err := st.Sync(ctx)
	if err == nil {
		return nil
	}
	return &fhir.Error{Kind: fhir.Unavailable, Op: "rest.sync", Err: err, Issues: []fhir.Issue{{Severity: "error",
		Code: "transient", Diagnostics: "the server cannot confirm that it is up to date; try again"}}}
}

// authenticate puts the principal into the context. It records a limited number of
// refused requests per second, so that callers without a token cannot fill the
// disk.
func (s *Server) authenticate(c *gin.Context) {
	p, err := s.Auth.Authenticate(c.Request)
	if err == nil && p == nil {
		err = fhir.Errorf(fhir.Unauthorized, "rest.authenticate", "an access token is needed")
	}
	if err == nil {
		c.Set(keyPrincipal, p)
		w := &asking{ResponseWriter: c.Writer, context: c, grant: p.Grant, consents: s.Consents,
			store: s.Service.Store}
		if w.consents != nil {
			w.epoch = w.consents.Epoch()
		}
		c.Writer = w
		return
	}
	var challenge access.Challenge
	switch {
	case errors.As(err, &challenge):
		c.Header("WWW-Authenticate", string(challenge))
	case fhir.KindOf(err) == fhir.Unauthorized && c.Request.Header.Get("Authorization") != "":
		c.Header("WWW-Authenticate", `Bearer error="invalid_token"`)
	}
	if fhir.KindOf(err) == fhir.Unauthorized && s.recordDenied() {
		rq := requestOf(c)
		rq.Line = method(c.Request) + " " + c.FullPath()
		err = s.Service.Refused(c.Request.Context(), rq, "operation", fhir.Ref{}, err)
	}
	fail(c, err)
}

// recordDenied counts a request without a valid token, and reports whether it may be
// recorded in the audit trail.
func (s *Server) recordDenied() bool {
	_, ok := s.denied.Take(limit.Named(""), s.Clock(), 1)
	return ok
}

func (s *Server) limitTime(c *gin.Context) {
	ctx, cancel := context.WithTimeout(c.Request.Context(), s.Limits.withDefaults().Timeout)
	defer cancel()
	c.Request = c.Request.WithContext(collecting(c, ctx))
	c.Next()
}

// lastModified formats t for HTTP, which has a precision of one second.
func lastModified(t time.Time) string { return t.UTC().Format(http.TimeFormat) }
