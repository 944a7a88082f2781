package ingest

import (
	"encoding/json"
	"log/slog"
	"net"
	"net/http"

	"github.com/gin-gonic/gin"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/r4"
)

// Authenticator authenticates the caller of a request.
type Authenticator interface {
	Authenticate(*http.Request) (*access.Principal, error)
}

// Handler serves POST /ingest/{vendor}/{format}?patient=ID. The body is one
// payload, and the answer is its Summary. The token must allow creating
// Observations of the patient. If the format is "auto", it is detected. The
// parameter name gives a file name. Headers that a format lists as facts about
// its delivery are passed to its adapter.
type Handler struct {
	Pipeline *Pipeline
	Auth     Authenticator
	// RequestID returns the id of the request for the audit trail. If it is nil,
	// the header X-Request-Id is used.
	RequestID func(*gin.Context) string
	Limits    Limits
	Logger    *slog.Logger
}

// Mount adds the route to r.
func (h *Handler) Mount(r gin.IRouter) { r.POST("/ingest/:vendor/:format", h.post) }

func (h *Handler) post(c *gin.Context) {
	sum, err := h.run(c)
	if err != nil {
		h.fail(c, err)
		return
	}
	out, err := json.Marshal(sum)
	if err != nil {
		h.fail(c, fhir.Wrap("ingest.Handler", err))
		return
	}
	c.Data(http.StatusOK, "application/json; charset=utf-8", out)
}

func (h *Handler) run(c *gin.Context) (Summary, error) {
	principal, err := h.Auth.Authenticate(c.Request)
	if err != nil {
		return Summary{}, err
	}
	ip, _, err := net.SplitHostPort(c.Request.RemoteAddr)
	if err != nil {
		ip = c.Request.RemoteAddr
	}
	id := c.GetHeader("X-Request-Id")
	if h.RequestID != nil {
		id = h.RequestID(c)
	}
	ctx := c.Request.Context()
	req := Request{Patient: c.Query("patient"), Vendor: c.Param("vendor"), Format: c.Param("format"),
		Name: c.Query("name"), Delivery: c.GetHeader,
		Caller: audit.Caller{Principal: principal, RemoteIP: ip, RequestID: id}}
	if !fhir.ValidID(req.Patient) {
		err := fhir.Errorf(fhir.Invalid, "ingest.Handler", "the parameter patient is not a valid id")
		return Summary{}, h.Pipeline.recordRefusal(ctx, &req, err, reasonUnknown)
	}
	if !mayCreate(principal) {
		err := fhir.Errorf(fhir.Forbidden, "ingest.Handler",
			"the token does not allow creating Observations of this patient")
		return Summary{}, h.Pipeline.recordRefusal(ctx, &req, err, reasonNoScope)
	}
	body, err := body(c.Request.Body, c.GetHeader("Content-Encoding"), h.Limits)
	if err != nil {
		return Summary{}, h.Pipeline.recordRefusal(ctx, &req, err, reasonUnreadable)
	}
	req.Body = body
	sum, err := h.Pipeline.Run(ctx, req)
	if cerr := body.Close(); err == nil && cerr != nil {
		err = fhir.Wrap("ingest.Handler", cerr)
	}
	return sum, err
}

// mayCreate reports whether the grant of principal allows creating
// Observations. Rules with a limit (…?category=…, or the compartment of one
// patient) cannot be evaluated before the payload is read, so only rules
// without a limit count.
func mayCreate(principal *access.Principal) bool {
	return principal != nil && principal.Grant.MayAll(access.Create, "Observation")
}

func (h *Handler) fail(c *gin.Context, err error) {
	kind := fhir.KindOf(err)
	if kind == fhir.Internal && h.Logger != nil {
		h.Logger.ErrorContext(c.Request.Context(), "ingest failed", "error", err)
	}
	if kind == fhir.Unavailable {
		c.Header("Retry-After", "1")
	}
	if kind == fhir.Unauthorized {
		c.Header("WWW-Authenticate", "Bearer")
	}
	c.Data(kind.HTTPStatus(), "application/fhir+json; charset=utf-8", r4.OutcomeJSON(err))
}
