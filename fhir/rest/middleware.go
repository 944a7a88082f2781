package rest

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime/debug"
	"strings"
	"time"

	"github.com/gin-gonic/gin"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/metric/noop"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
)

const scopeName = "pulsegate/fhir/rest"

// identify takes over the caller's X-Request-Id when it is harmless, or makes
// one.
func (s *Server) identify(c *gin.Context) {
	id := c.GetHeader("X-Request-Id")
	if !harmless(id) {
		var b [16]byte
		s.randMu.Lock()
		_, err := io.ReadFull(s.Rand, b[:])
		s.randMu.Unlock()
		if err != nil {
			Fail(c, fhir.Wrap("rest.identify", err))
			return
		}
		id = hex.EncodeToString(b[:])
	}
	c.Set(keyRequestID, id)
	c.Set(keyLogger, s.Logger)
	c.Header("X-Request-Id", id)
	c.Next()
}

// harmless: what may stand in a log line and a header.
func harmless(id string) bool {
	if id == "" || len(id) > 64 {
		return false
	}
	return strings.IndexFunc(id, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-._:", r))
	}) < 0
}

// observe writes the access log, the request metrics and the span.
func (s *Server) observe() gin.HandlerFunc {
	tracer := otel.Tracer(scopeName)
	duration, err := otel.Meter(scopeName).Float64Histogram("pulsegate.http.server.duration",
		metric.WithDescription("Time from the request's head to the last byte of the answer"), metric.WithUnit("s"))
	if err != nil {
		s.Logger.Error("no request metrics", "err", err)
		duration = noop.Float64Histogram{}
	}
	return func(c *gin.Context) {
		start := s.Clock()
		route := c.FullPath()
		if route == "" {
			route = "none"
		}
		ctx, span := tracer.Start(c.Request.Context(), method(c.Request)+" "+route)
		defer span.End()
		c.Request = c.Request.WithContext(ctx)
		c.Next()
		took := s.Clock().Sub(start)
		status := c.Writer.Status()
		attrs := []attribute.KeyValue{
			attribute.String("method", method(c.Request)), attribute.String("route", route),
			attribute.String("type", typeLabel(c)), attribute.Int("status", status),
		}
		span.SetAttributes(attrs...)
		if status >= 500 {
			span.SetStatus(codes.Error, http.StatusText(status))
		}
		duration.Record(ctx, took.Seconds(), metric.WithAttributes(attrs...))
		client := ""
		if p := PrincipalOf(c); p != nil {
			client = p.ClientID
		}
		s.Logger.InfoContext(ctx, "request", "method", method(c.Request), "route", route, "type", typeLabel(c), "status", status,
			"seconds", took.Seconds(), "bytes", max(c.Writer.Size(), 0), "client", client, "requestId", RequestID(c))
	}
}

// method and typeLabel keep what a caller may invent out of logs and labels.
func method(r *http.Request) string {
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions:
		return r.Method
	}
	return "other"
}

func typeLabel(c *gin.Context) string {
	switch t := c.Param("type"); {
	case t == "":
		return ""
	case fhir.KnownType(t):
		return t
	}
	return "other"
}

// recover turns a panic into a bare 500. The log gets the type of the panic
// value and the stack without arguments' contents, not the value.
func (s *Server) recover(c *gin.Context) {
	defer func() {
		v := recover()
		if v == nil {
			return
		}
		if err, ok := v.(error); ok && errors.Is(err, http.ErrAbortHandler) {
			panic(v) // net/http's own way to drop a connection
		}
		s.Logger.ErrorContext(c.Request.Context(), "panic", "requestId", RequestID(c), "value", fmt.Sprintf("%T", v), "stack", string(debug.Stack()))
		if c.Writer.Written() {
			c.Abort()
			return
		}
		Fail(c, &fhir.Error{Kind: fhir.Internal, Op: "rest.recover"})
	}()
	c.Next()
}

// headers are security headers and CORS. Any origin may call the API, without
// credentials of the browser: access is by bearer token alone.
func (s *Server) headers(c *gin.Context) {
	h := c.Writer.Header()
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	if !isFHIR(c.Request.URL.Path) {
		c.Next()
		return
	}
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
	h.Set("Access-Control-Allow-Origin", "*")
	h.Set("Access-Control-Expose-Headers", "Content-Location, ETag, Last-Modified, Location, Retry-After, WWW-Authenticate, X-Progress, X-Request-Id")
	if c.Request.Method == http.MethodOptions {
		h.Set("Access-Control-Allow-Methods", "GET, HEAD, POST, PUT, DELETE, OPTIONS")
		h.Set("Access-Control-Allow-Headers", "Accept, Authorization, Content-Type, DPoP, If-Match, If-Modified-Since, If-None-Exist, If-None-Match, Prefer, X-Request-Id")
		h.Set("Access-Control-Max-Age", "3600")
		c.AbortWithStatus(http.StatusNoContent)
		return
	}
	c.Next()
}

// authenticate puts the principal into the context. Refused requests go into
// the trail, but not more than some per second: nobody without a token may
// fill the disk.
func (s *Server) authenticate(c *gin.Context) {
	p, err := s.Auth.Authenticate(c.Request)
	if err == nil && p == nil {
		err = fhir.Errorf(fhir.Unauthorized, "rest.authenticate", "an access token is needed")
	}
	if err == nil {
		c.Set(keyPrincipal, p)
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
		rq := RequestOf(c)
		rq.Line = method(c.Request) + " " + c.FullPath()
		err = s.Service.Refused(c.Request.Context(), rq, "operation", fhir.Ref{}, err)
	}
	Fail(c, err)
}

func (s *Server) recordDenied() bool {
	now := s.Clock().Unix()
	s.denied.Lock()
	defer s.denied.Unlock()
	if s.denied.second != now {
		s.denied.second, s.denied.n = now, 0
	}
	s.denied.n++
	return s.denied.n <= s.Limits.withDefaults().Denied
}

func (s *Server) limitTime(c *gin.Context) {
	ctx, cancel := context.WithTimeout(c.Request.Context(), s.Limits.withDefaults().Timeout)
	defer cancel()
	c.Request = c.Request.WithContext(ctx)
	c.Next()
}

// lastModified is t as HTTP writes it, to the second.
func lastModified(t time.Time) string { return t.UTC().Format(http.TimeFormat) }
