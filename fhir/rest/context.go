package rest

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"strings"

	"github.com/gin-gonic/gin"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/budget"
	"pulsegate/fhir/interaction"
)

// Keys in the gin context.
const (
	keyPrincipal = "pulsegate.principal"
	keyRequestID = "pulsegate.requestID"
	keyServer    = "pulsegate.server"
	keyRendering = "pulsegate.rendering"
)

// principalOf returns the authenticated caller, or nil before authentication.
func principalOf(c *gin.Context) *access.Principal {
	v, ok := c.Get(keyPrincipal)
	if !ok {
		return nil
	}
	p, ok := v.(*access.Principal)
	if !ok {
		return nil
	}
	return p
}

// RequestID returns the id under which the request is logged and audited.
func RequestID(c *gin.Context) string { return c.GetString(keyRequestID) }

// callerOf returns the caller of an authenticated request.
func callerOf(c *gin.Context) audit.Caller {
	return audit.Caller{Principal: principalOf(c), RemoteIP: c.RemoteIP(), RequestID: RequestID(c)}
}

// requestOf returns the request for fhir/interaction.
func requestOf(c *gin.Context) *interaction.Request {
	return &interaction.Request{
		Caller:  callerOf(c),
		Line:    c.Request.Method + " " + requestURI(c.Request),
		Lenient: prefers(c.Request, "handling") == "lenient",
	}
}

// requestURI returns the request target as received. It removes the scheme and host
// of the absolute form, which proxies use.
func requestURI(r *http.Request) string {
	if strings.HasPrefix(r.RequestURI, "/") {
		return r.RequestURI
	}
	return r.URL.RequestURI()
}

// serverOf returns the server of a request, or nil outside of its middleware.
func serverOf(c *gin.Context) *Server {
	if v, ok := c.Get(keyServer); ok {
		if s, ok := v.(*Server); ok {
			return s
		}
	}
	return nil
}

func logger(c *gin.Context) *slog.Logger {
	if s := serverOf(c); s != nil {
		return s.Logger
	}
	return slog.New(slog.DiscardHandler)
}

// fail renders err as an OperationOutcome and ends the request. An Internal error,
// or one that is not an *fhir.Error, is a bare 500; its cause is logged with the
// request id.
func fail(c *gin.Context, err error) {
	if errors.Is(err, context.DeadlineExceeded) {
		err = &fhir.Error{Kind: fhir.Unavailable, Op: "rest.Fail", Err: err,
			Issues: []fhir.Issue{{Code: "timeout", Diagnostics: "the work took longer than this server allows"}}}
	}
	kind := fhir.KindOf(err)
	status := kind.HTTPStatus()
	if status >= 500 && !errors.Is(err, context.Canceled) {
		level := slog.LevelError
		if errors.Is(err, budget.ErrFull) {
			level = slog.LevelWarn
		}
		logger(c).Log(c.Request.Context(), level, "request failed", "request_id", RequestID(c), "status", status,
			"error", err.Error())
	}
	switch kind {
	case fhir.Unauthorized:
		if challenge := access.Challenge(""); errors.As(err, &challenge) {
			c.Header("WWW-Authenticate", string(challenge))
		}
		if c.Writer.Header().Get("WWW-Authenticate") == "" {
			c.Header("WWW-Authenticate", "Bearer")
		}
	case fhir.TooMany, fhir.Unavailable:
		if c.Writer.Header().Get("Retry-After") == "" {
			c.Header("Retry-After", "1")
		}
	}
	for _, h := range []string{"ETag", "Last-Modified", "Location"} {
		c.Writer.Header().Del(h)
	}
	c.Abort()
	sendError(c, status, err)
}
