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

// Authenticator tells who sends a request.
type Authenticator interface {
	Authenticate(*http.Request) (*access.Principal, error)
}

// Handler is POST /ingest/{vendor}/{format}?patient=ID: the body is one
// payload, the answer the Summary. The token must be allowed to create
// Observations of that patient; format "auto" finds the format by itself,
// the parameter name gives a file name. Headers that a format lists as facts
// of its delivery are passed on to its adapter.
type Handler struct {
	Pipeline *Pipeline
	Auth     Authenticator
	// RequestID names the request in the audit trail; nil: the header
	// X-Request-Id.
	RequestID func(*gin.Context) string
	Limits    Limits
	Logger    *slog.Logger
}

// Mount adds the route.
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
	who, err := h.Auth.Authenticate(c.Request)
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
	q := Request{Patient: c.Query("patient"), Vendor: c.Param("vendor"), Format: c.Param("format"),
		Name: c.Query("name"), Delivery: c.GetHeader, Caller: audit.Caller{Principal: who, RemoteIP: ip, RequestID: id}}
	if !fhir.ValidID(q.Patient) {
		err := fhir.Errorf(fhir.Invalid, "ingest.Handler", "the parameter patient names the patient's id")
		return Summary{}, h.Pipeline.refused(ctx, &q, err, reasonNobody)
	}
	if !mayCreate(who) {
		err := fhir.Errorf(fhir.Forbidden, "ingest.Handler",
			"the token does not allow creating Observations of this patient")
		return Summary{}, h.Pipeline.refused(ctx, &q, err, reasonNoScope)
	}
	body, err := Body(c.Request.Body, c.GetHeader("Content-Encoding"), h.Limits)
	if err != nil {
		return Summary{}, h.Pipeline.refused(ctx, &q, err, reasonUnreadable)
	}
	q.Body = body
	sum, err := h.Pipeline.Run(ctx, q)
	if cerr := body.Close(); err == nil && cerr != nil {
		err = fhir.Wrap("ingest.Handler", cerr)
	}
	return sum, err
}

// mayCreate asks the grant for Create on Observation. A rule with a limit
// (…?category=…, or one patient's compartment) cannot be judged before the
// payload is read, so only rules without count.
func mayCreate(who *access.Principal) bool {
	return who != nil && who.Grant.MayAll(access.Create, "Observation")
}

func (h *Handler) fail(c *gin.Context, err error) {
	kind := fhir.KindOf(err)
	if kind == fhir.Internal && h.Logger != nil {
		h.Logger.ErrorContext(c.Request.Context(), "ingest failed", "err", err)
	}
	if kind == fhir.Unavailable {
		c.Header("Retry-After", "1")
	}
	if kind == fhir.Unauthorized {
		c.Header("WWW-Authenticate", "Bearer")
	}
	c.Data(kind.HTTPStatus(), "application/fhir+json; charset=utf-8", r4.OutcomeJSON(err))
}
