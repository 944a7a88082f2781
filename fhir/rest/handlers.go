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

const allOK = `{"resourceType":"OperationOutcome","issue":[{"severity":"information","code":"informational","diagnostics":"done"}]}`

func refOf(c *gin.Context) fhir.Ref { return fhir.Ref{Type: c.Param("type"), ID: c.Param("id")} }

// metadata answers with the statement that the parameter mode selects (R4
// http.html#capabilities).
func (s *Server) metadata(c *gin.Context) {
	if s.negotiate(c); c.IsAborted() {
		return
	}
	switch mode := c.Query("mode"); mode {
	case "", "full", "normative":
		send(c, http.StatusOK, s.Metadata())
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
	p, err := s.Service.Bundle(c.Request.Context(), requestOf(c), body, prefers(c.Request, "return") == "minimal")
	s.page(c, p, err)
}

func (s *Server) page(c *gin.Context, p *interaction.Page, err error) {
	if err != nil {
		fail(c, err)
		return
	}
	send(c, http.StatusOK, p.Parts()...)
}

func (s *Server) history(c *gin.Context) {
	h, err := interaction.ParseHistory(c.Request.URL.RawQuery)
	if err != nil {
		s.fail(c, "history-instance", refOf(c), err)
		return
	}
	p, err := s.Service.History(c.Request.Context(), requestOf(c), refOf(c), h)
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
		c.Status(http.StatusNotModified)
		c.Writer.WriteHeaderNow()
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

func (s *Server) create(c *gin.Context) {
	typ := c.Param("type")
	body, err := s.body(c)
	if err != nil {
		s.fail(c, "create", fhir.Ref{Type: typ}, err)
		return
	}
	w, err := s.Service.Create(c.Request.Context(), requestOf(c), typ, body, c.GetHeader("If-None-Exist"))
	s.written(c, w, err)
}

// preconditions parses the preconditions of a write (RFC 9110 section 13.1). It
// ignores an invalid date, as section 13.1.4 requires.
func preconditions(h http.Header) (p interaction.Preconditions, err error) {
	if p.IfMatch, err = interaction.ParseTags(strings.Join(h.Values("If-Match"), ",")); err != nil {
		return p, err
	}
	if p.IfNoneMatch, err = interaction.ParseTags(strings.Join(h.Values("If-None-Match"), ",")); err != nil {
		return p, err
	}
	if t, err := http.ParseTime(h.Get("If-Unmodified-Since")); err == nil {
		p.IfUnmodifiedSince = t
	}
	return p, nil
}

func (s *Server) update(c *gin.Context) {
	pre, err := preconditions(c.Request.Header)
	var body []byte
	if err == nil {
		body, err = s.body(c)
	}
	if err != nil {
		s.fail(c, "update", refOf(c), err)
		return
	}
	w, err := s.Service.Update(c.Request.Context(), requestOf(c), refOf(c), body, pre)
	s.written(c, w, err)
}

func (s *Server) delete(c *gin.Context) {
	pre, err := preconditions(c.Request.Header)
	if err != nil {
		s.fail(c, "delete", refOf(c), err)
		return
	}
	w, err := s.Service.Delete(c.Request.Context(), requestOf(c), refOf(c), pre)
	if err != nil {
		fail(c, err)
		return
	}
	if w.Resource.Version > 0 {
		c.Header("ETag", interaction.ETag(w.Resource.Version))
	}
	c.Status(http.StatusNoContent)
	c.Writer.WriteHeaderNow()
}

func (s *Server) written(c *gin.Context, w interaction.Written, err error) {
	if err != nil {
		fail(c, err)
		return
	}
	s.versionHeaders(c, &w.Resource)
	c.Header("Location", s.Service.Base+"/"+w.Resource.Ref().String()+"/_history/"+
		strconv.FormatUint(w.Resource.Version, 10))
	status := http.StatusOK
	if w.Created {
		status = http.StatusCreated
	}
	switch returned := prefers(c.Request, "return"); {
	case returned == "minimal", len(w.Resource.JSON) == 0: // the caller may not read it
		c.Status(status)
		c.Writer.WriteHeaderNow()
	case returned == "OperationOutcome":
		send(c, status, []byte(allOK))
	default:
		send(c, status, w.Resource.JSON)
	}
}
