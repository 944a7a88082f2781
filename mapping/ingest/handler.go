package ingest

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/gin-gonic/gin"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/limit"
	"pulsegate/fhir/r4"
)

// Authenticator authenticates the caller of a request.
type Authenticator interface {
	Authenticate(*http.Request) (*access.Principal, error)
}

// Handler serves POST /ingest/{vendor}/{format}?patient=ID. The body is one
// payload, and the answer is its Summary. The token must allow creating
// Observations of the patient. A push key allows it for one patient and one vendor,
// and the parameter patient may be left out. If the format is "auto", it is
// detected. The parameter name gives a file name. Headers that a format lists as
// facts about its delivery are passed to its adapter.
//
// If the same caller sends the same body again within a day, with the same session
// (adapters.Format.Session), the part is not processed again: an app that has lost
// an answer repeats the part later, when newer statements may have arrived.
type Handler struct {
	Pipeline *Pipeline
	Auth     Authenticator
	// RequestID returns the id of the request for the audit trail. If it is nil,
	// the header X-Request-Id is used.
	RequestID func(*gin.Context) string
	Limits    Limits
	Logger    *slog.Logger
	// Shared, if set, makes the limit of recorded refusals that of all processes
	// together.
	Shared limit.Shared

	once    sync.Once
	refused *limit.Limiter // bounds the recorded refusals of callers without access
	parts   partLocks
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
	if err == nil && principal == nil {
		err = fhir.Errorf(fhir.Unauthorized, "ingest.Handler", "an access token or a push key is needed")
	}
	req := h.request(c, principal)
	ctx := c.Request.Context()
	if err != nil {
		return Summary{}, h.recordNoAccess(ctx, &req, err)
	}
	if patient, _, ok := principal.Grant.Delivers(); ok && req.Patient == "" && !c.Request.URL.Query().Has("patient") {
		req.Patient = patient
	}
	if !fhir.ValidID(req.Patient) {
		err := fhir.Errorf(fhir.Invalid, "ingest.Handler", "the parameter patient is not a valid id")
		return Summary{}, h.Pipeline.recordRefusal(ctx, &req, err, reasonUnknown)
	}
	if err := mayDeliver(principal, req.Patient, req.Vendor); err != nil {
		return Summary{}, h.Pipeline.recordRefusal(ctx, &req, err, reasonNoScope)
	}
	body, err := body(c.Request.Body, c.GetHeader("Content-Encoding"), h.Limits)
	if err != nil {
		return Summary{}, h.Pipeline.recordRefusal(ctx, &req, err, reasonUnreadable)
	}
	req.Body = body
	sum, err := h.deliver(ctx, req)
	if cerr := body.Close(); err == nil && cerr != nil {
		err = fhir.Wrap("ingest.Handler", cerr)
	}
	return sum, err
}

// request returns the delivery that c describes, without its body.
func (h *Handler) request(c *gin.Context, principal *access.Principal) Request {
	ip, _, err := net.SplitHostPort(c.Request.RemoteAddr)
	if err != nil {
		ip = c.Request.RemoteAddr
	}
	id := c.GetHeader("X-Request-Id")
	if h.RequestID != nil {
		id = h.RequestID(c)
	}
	return Request{Patient: c.Query("patient"), Vendor: c.Param("vendor"), Format: c.Param("format"),
		Name: c.Query("name"), Delivery: c.GetHeader,
		Caller: audit.Caller{Principal: principal, RemoteIP: ip, RequestID: id}}
}

// recordNoAccess records a request that was refused because of its credential, and
// returns err. It records a limited number per second, so that callers without access
// cannot fill the disk. Only the credential tells whom the request is about.
func (h *Handler) recordNoAccess(ctx context.Context, req *Request, err error) error {
	h.once.Do(func() { h.refused = limit.New(limit.Limits{Shared: h.Shared, Name: "ingest"}) })
	if k := fhir.KindOf(err); k != fhir.Unauthorized && k != fhir.Forbidden ||
		!h.refused.Record(h.Pipeline.Clock()) {
		return err
	}
	req.Patient = ""
	if req.Principal != nil {
		req.Patient = req.Principal.Patient
	}
	return h.Pipeline.recordRefusal(ctx, req, err, reasonNoAccess)
}

// mayDeliver returns an error unless the grant of a caller allows creating the
// Observations of a vendor's payload for a patient. Rules with other limits than the
// patient and the vendor of a push key (…?category=…, or the compartment of one
// patient) cannot be evaluated before the payload is read, so they do not count.
func mayDeliver(principal *access.Principal, patient, vendor string) error {
	const op = "ingest.Handler"
	of, from, ok := principal.Grant.Delivers()
	switch {
	case ok && of != patient:
		return fhir.Errorf(fhir.Forbidden, op, "the push key is for another patient")
	case ok && !strings.EqualFold(from, vendor):
		return fhir.Errorf(fhir.Forbidden, op, "the push key is for data of %s", from)
	case !ok && !principal.Grant.MayAll(access.Create, "Observation"):
		return fhir.Errorf(fhir.Forbidden, op, "the token does not allow creating Observations of this patient")
	}
	return nil
}

func (h *Handler) fail(c *gin.Context, err error) {
	kind := fhir.KindOf(err)
	if kind == fhir.Internal && h.Logger != nil {
		h.Logger.ErrorContext(c.Request.Context(), "ingest failed", "error", err)
	}
	if kind == fhir.Unavailable {
		c.Header("Retry-After", "1")
	}
	var wait interface{ RetryAfter() time.Duration }
	if errors.As(err, &wait) {
		c.Header("Retry-After", strconv.Itoa(limit.RetryAfter(wait.RetryAfter())))
	}
	if kind == fhir.Unauthorized {
		c.Header("WWW-Authenticate", "Bearer")
	}
	c.Data(kind.HTTPStatus(), "application/fhir+json; charset=utf-8", r4.OutcomeJSON(err))
}
