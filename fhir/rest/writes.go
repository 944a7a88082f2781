package rest

import (
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/gin-gonic/gin"

	"pulsegate/fhir"
	"pulsegate/fhir/interaction"
	"pulsegate/fhir/patch"
)

func (s *Server) create(c *gin.Context) {
	typ := c.Param("type")
	body, err := s.resourceBody(c, fhir.Ref{Type: typ})
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

// update serves PUT of a resource and, without an id in the path, of what the query
// matches.
func (s *Server) update(c *gin.Context) {
	pre, err := preconditions(c.Request.Header)
	var body []byte
	if err == nil {
		body, err = s.resourceBody(c, refOf(c))
	}
	if err != nil {
		s.fail(c, "update", refOf(c), err)
		return
	}
	var w interaction.Written
	if ref := refOf(c); ref.ID != "" {
		w, err = s.Service.Update(c.Request.Context(), requestOf(c), ref, body, pre)
	} else {
		w, err = s.Service.ConditionalUpdate(c.Request.Context(), requestOf(c), ref.Type, c.Request.URL.RawQuery,
			body, pre)
	}
	s.written(c, w, err)
}

// acceptPatch lists the media types of patches, for the header Accept-Patch (RFC 5789
// section 3.1) and for errors.
const acceptPatch = patch.TypeJSONPatch + ", " + patch.TypeFHIR + ", " + mimeXML

// patch serves PATCH of a resource and, without an id in the path, of what the query
// matches.
func (s *Server) patch(c *gin.Context) {
	pre, err := preconditions(c.Request.Header)
	var p interaction.Patch
	if err == nil {
		p, err = s.patchBody(c)
	}
	if err != nil {
		if fhir.KindOf(err) == fhir.Unsupported {
			c.Header("Accept-Patch", acceptPatch)
		}
		s.fail(c, "patch", refOf(c), err)
		return
	}
	var w interaction.Written
	if ref := refOf(c); ref.ID != "" {
		w, err = s.Service.Patch(c.Request.Context(), requestOf(c), ref, p, pre)
	} else {
		w, err = s.Service.ConditionalPatch(c.Request.Context(), requestOf(c), ref.Type, c.Request.URL.RawQuery, p, pre)
	}
	s.written(c, w, err)
}

// patchBody reads a patch, whose media type tells what it is.
func (s *Server) patchBody(c *gin.Context) (p interaction.Patch, err error) {
	const op = "rest.patchBody"
	t, params, err := mime.ParseMediaType(c.GetHeader("Content-Type"))
	if cs := params["charset"]; err == nil && cs != "" && !strings.EqualFold(cs, "utf-8") {
		return p, fhir.Errorf(fhir.Unsupported, op, "the charset must be UTF-8")
	}
	switch {
	case err == nil && t == patch.TypeJSONPatch:
		p.Body, err = s.readAll(c, op)
		return p, err
	case err == nil && slices.Contains([]string{mimeFHIR, "application/json+fhir", mimeXML, "application/xml+fhir"}, t) &&
		version4(params):
		p.FHIRPath = true
		p.Body, err = s.body(c)
		return p, err
	}
	return p, fhir.Errorf(fhir.Unsupported, op, "a PATCH takes a JSON Patch (%s), or a FHIRPath Patch in a Parameters "+
		"resource (%s or %s, FHIR version 4.0)", patch.TypeJSONPatch, patch.TypeFHIR, mimeXML)
}

// delete serves DELETE of a resource and, without an id in the path, of what the query
// matches.
func (s *Server) delete(c *gin.Context) {
	pre, err := preconditions(c.Request.Header)
	if err != nil {
		s.fail(c, "delete", refOf(c), err)
		return
	}
	var w interaction.Written
	if ref := refOf(c); ref.ID != "" {
		w, err = s.Service.Delete(c.Request.Context(), requestOf(c), ref, pre)
	} else {
		w, err = s.Service.ConditionalDelete(c.Request.Context(), requestOf(c), ref.Type, c.Request.URL.RawQuery, pre)
	}
	if err != nil {
		fail(c, err)
		return
	}
	if w.Resource.Version > 0 {
		c.Header("ETag", interaction.ETag(w.Resource.Version))
	}
	if returned(c.Request) == interaction.ReturnOutcome {
		send(c, http.StatusOK, []byte(interaction.Done))
		return
	}
	c.Status(http.StatusNoContent)
	c.Writer.WriteHeaderNow()
}

// returned reads the preference return (R4 http.html#return). Others than those of R4 are
// ignored (RFC 7240 section 2).
func returned(r *http.Request) interaction.Return {
	switch prefers(r, "return") {
	case "minimal":
		return interaction.ReturnMinimal
	case "OperationOutcome":
		return interaction.ReturnOutcome
	}
	return interaction.ReturnRepresentation
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
	switch r := returned(c.Request); {
	case r == interaction.ReturnOutcome:
		send(c, status, []byte(interaction.Done))
	case r == interaction.ReturnMinimal, len(w.Resource.JSON) == 0: // the caller may not read it
		c.Status(status)
		c.Writer.WriteHeaderNow()
	default:
		send(c, status, w.Resource.JSON)
	}
}
