package rest

import (
	"bytes"
	"io"
	"mime"
	"net/http"

	"github.com/gin-gonic/gin"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/bulk/submit"
	"pulsegate/fhir/interaction"
)

// BulkSubmit serves the operations of a Data Consumer:
//
//	POST        /$bulk-submit
//	POST        /$bulk-submit-status
//	GET, DELETE /$bulk-submit-status/:id
//	GET         /$bulk-submit-file/:id/:file
type BulkSubmit struct {
	Consumer *submit.Consumer
	// Service records failed requests. If it is nil, none are recorded.
	Service *interaction.Service
	// StepUp returns an error if the caller must sign in again. It may be nil.
	StepUp func(*access.Principal) error
}

// Mount adds the routes below the FHIR base.
func (h BulkSubmit) Mount(r gin.IRouter) {
	r.POST("/$bulk-submit", h.submit)
	r.POST("/$bulk-submit-status", h.start)
	r.GET("/$bulk-submit-status/:id", h.status)
	r.DELETE("/$bulk-submit-status/:id", h.delete)
	r.GET("/$bulk-submit-file/:id/:file", h.file)
}

// params returns the parameters of a request, or answers it.
func (h BulkSubmit) params(c *gin.Context, status bool) *submit.Params {
	const op = "rest.BulkSubmit"
	if !accepts(c, "application/fhir+json", "application/json") {
		notAcceptable(c, "application/fhir+json")
		return nil
	}
	p, err := func() (*submit.Params, error) {
		if h.StepUp != nil {
			if err := h.StepUp(principalOf(c)); err != nil {
				return nil, err
			}
		}
		media, _, err := mime.ParseMediaType(c.ContentType())
		if err != nil || media != "application/fhir+json" && media != "application/json" {
			return nil, fhir.Errorf(fhir.Unsupported, op, "the body must be application/fhir+json")
		}
		body, err := io.ReadAll(io.LimitReader(c.Request.Body, maxParametersBody+1))
		if err != nil {
			return nil, fhir.Errorf(fhir.Invalid, op, "the body could not be read")
		}
		if len(body) > maxParametersBody {
			return nil, fhir.Errorf(fhir.TooLarge, op, "the body is larger than %d bytes", maxParametersBody)
		}
		return submit.ParseParams(withoutMark(body), status)
	}()
	if err != nil {
		refuse(c, h.Service, fhir.Ref{}, err)
		return nil
	}
	return p
}

// information answers with an OperationOutcome of a text.
func information(c *gin.Context, status int, text string) {
	send(c, status,
		[]byte(`{"resourceType":"OperationOutcome","issue":[{"severity":"information","code":"informational","diagnostics":"`+text+`"}]}`))
}

func (h BulkSubmit) submit(c *gin.Context) {
	p := h.params(c, false)
	if p == nil {
		return
	}
	if err := h.Consumer.Submit(c.Request.Context(), callerOf(c), p); err != nil {
		if fhir.KindOf(err) == fhir.TooMany {
			c.Header("Retry-After", "60")
		}
		refuse(c, h.Service, fhir.Ref{}, err)
		return
	}
	information(c, http.StatusOK, "The request was accepted; $bulk-submit-status has the progress.")
}

func (h BulkSubmit) start(c *gin.Context) {
	p := h.params(c, true)
	if p == nil {
		return
	}
	location, err := h.Consumer.StatusURL(c.Request.Context(), callerOf(c), p)
	if err != nil {
		refuse(c, h.Service, fhir.Ref{}, err)
		return
	}
	c.Header("Content-Location", location)
	information(c, http.StatusAccepted, "Poll the Content-Location.")
}

func (h BulkSubmit) status(c *gin.Context) {
	s, err := h.Consumer.Status(c.Request.Context(), callerOf(c), c.Param("id"))
	if err != nil {
		refuse(c, h.Service, fhir.Ref{}, err)
		return
	}
	c.Header("Cache-Control", "no-store")
	c.Header("Expires", s.Expires.UTC().Format(http.TimeFormat))
	code := http.StatusOK
	if s.Progress != "" {
		code = http.StatusAccepted
		c.Header("X-Progress", s.Progress)
		c.Header("Retry-After", "5")
	}
	c.Data(code, "application/json", s.Manifest)
}

func (h BulkSubmit) delete(c *gin.Context) {
	if err := h.Consumer.Delete(c.Request.Context(), callerOf(c), c.Param("id")); err != nil {
		refuse(c, h.Service, fhir.Ref{}, err)
		return
	}
	c.Status(http.StatusAccepted)
	c.Writer.WriteHeaderNow()
}

// file answers with a file of outcomes, which has at most 10,000 lines.
func (h BulkSubmit) file(c *gin.Context) {
	var body bytes.Buffer
	if err := h.Consumer.WriteOutcomes(c.Request.Context(), callerOf(c), c.Param("id"), c.Param("file"),
		&body); err != nil {
		refuse(c, h.Service, fhir.Ref{}, err)
		return
	}
	c.Header("Cache-Control", "no-store")
	c.Data(http.StatusOK, "application/fhir+ndjson", body.Bytes())
}
