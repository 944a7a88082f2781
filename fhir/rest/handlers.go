package rest

import (
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/gin-gonic/gin"

	"pulsegate/fhir"
	"pulsegate/fhir/interaction"
)

func refOf(c *gin.Context) fhir.Ref { return fhir.Ref{Type: c.Param("type"), ID: c.Param("id")} }

// metadata answers with the statement that the parameter mode selects (R4
// http.html#capabilities).
func (s *Server) metadata(c *gin.Context) {
	if s.negotiate(c); c.IsAborted() {
		return
	}
	switch mode := c.Query("mode"); mode {
	case "", "full", "normative":
		s.statement(c)
	case "terminology":
		if s.Terminology == nil {
			fail(c, fhir.Errorf(fhir.NotFound, "rest.metadata", "this server has no TerminologyCapabilities"))
			return
		}
		send(c, http.StatusOK, s.Terminology())
	default:
		fail(c, fhir.Errorf(fhir.Invalid, "rest.metadata", "mode must be full, normative or terminology"))
	}
}

// fail records and answers a request that did not reach an interaction.
func (s *Server) fail(c *gin.Context, name string, ref fhir.Ref, err error) {
	fail(c, s.Service.Refused(c.Request.Context(), requestOf(c), name, ref, err))
}

func (s *Server) bundle(c *gin.Context) {
	body, err := s.body(c)
	if err != nil {
		s.fail(c, "transaction", fhir.Ref{}, err)
		return
	}
	p, err := s.Service.Bundle(c.Request.Context(), requestOf(c), body, returned(c.Request))
	s.page(c, p, err)
}

func (s *Server) page(c *gin.Context, p *interaction.Page, err error) {
	if err != nil {
		fail(c, err)
		return
	}
	send(c, http.StatusOK, p.Parts()...)
}

// history serves the history of a resource, of a type, or of the whole system.
func (s *Server) history(c *gin.Context) {
	ref := refOf(c)
	h, err := interaction.ParseHistory(c.Request.URL.RawQuery)
	if err != nil {
		s.fail(c, interaction.HistoryCode(ref), ref, err)
		return
	}
	p, err := s.Service.History(c.Request.Context(), requestOf(c), ref, h)
	s.page(c, p, err)
}

func (s *Server) read(c *gin.Context) {
	s.readOne(c, "read", func(rq *interaction.Request) (fhir.Resource, error) {
		return s.Service.Read(c.Request.Context(), rq, refOf(c))
	})
}

// readOne answers with the part of a resource that _summary and _elements select.
func (s *Server) readOne(c *gin.Context, name string, get func(*interaction.Request) (fhir.Resource, error)) {
	view, err := interaction.ParseView(c.Param("type"), c.Request.URL.RawQuery)
	if err != nil {
		s.fail(c, name, refOf(c), err)
		return
	}
	r, err := get(requestOf(c))
	if err == nil {
		err = view.Narrow(&r)
	}
	s.resource(c, &r, err)
}

func (s *Server) vread(c *gin.Context) {
	v, err := strconv.ParseUint(c.Param("vid"), 10, 64)
	if err != nil {
		v = 0 // not a version of this server
	}
	s.readOne(c, "vread", func(rq *interaction.Request) (fhir.Resource, error) {
		return s.Service.VRead(c.Request.Context(), rq, refOf(c), v)
	})
}

func (s *Server) resource(c *gin.Context, r *fhir.Resource, err error) {
	if err != nil {
		fail(c, err)
		return
	}
	s.versionHeaders(c, r)
	if unchanged(c.Request, r) {
		c.Writer.Header()["Vary"] = vary
		c.Status(http.StatusNotModified)
		c.Writer.WriteHeaderNow()
		return
	}
	if r.Type == typeBinary {
		sendBinary(c, r)
		return
	}
	send(c, http.StatusOK, r.JSON)
}

func (s *Server) versionHeaders(c *gin.Context, r *fhir.Resource) {
	h := c.Writer.Header()
	h["Etag"] = []string{interaction.ETag(r.Version)}
	if !r.LastUpdated.IsZero() {
		h["Last-Modified"] = []string{lastModified(r.LastUpdated)}
	}
}

// unchanged evaluates If-None-Match or, if it is absent, If-Modified-Since.
func unchanged(q *http.Request, r *fhir.Resource) bool {
	if tags := q.Header.Values("If-None-Match"); len(tags) > 0 {
		for _, t := range strings.Split(strings.Join(tags, ","), ",") {
			t = strings.TrimSpace(t)
			if t == "*" || "W/"+strings.TrimPrefix(t, "W/") == interaction.ETag(r.Version) {
				return true
			}
		}
		return false
	}
	since, err := time.Parse(http.TimeFormat, q.Header.Get("If-Modified-Since"))
	return err == nil && !r.LastUpdated.Truncate(time.Second).After(since)
}
