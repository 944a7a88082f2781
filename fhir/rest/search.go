package rest

import (
	"context"
	"strings"

	"github.com/gin-gonic/gin"

	"pulsegate/fhir"
	"pulsegate/fhir/interaction"
)

// search answers GET [base]/[type]?parameters.
func (s *Server) search(c *gin.Context) {
	s.searched(c, c.Request.URL.RawQuery, requestOf(c), s.searchType)
}

// searchForm answers POST [base]/[type]/_search. It is equal to the search by GET with
// the parameters of the form and, as FHIR allows, of the URL.
func (s *Server) searchForm(c *gin.Context) { s.form(c, "search-type", s.searchType) }

// searchSystem answers GET [base]?parameters, and searchSystemForm POST [base]/_search.
func (s *Server) searchSystem(c *gin.Context) {
	s.searched(c, c.Request.URL.RawQuery, requestOf(c), s.searchTypes)
}

func (s *Server) searchSystemForm(c *gin.Context) { s.form(c, "search-system", s.searchTypes) }

// searchCompartment answers GET [base]/Patient/[id]/[type]?parameters, and
// searchCompartmentForm POST [base]/Patient/[id]/[type]/_search.
func (s *Server) searchCompartment(c *gin.Context) {
	s.searched(c, c.Request.URL.RawQuery, requestOf(c), s.searchWithin)
}

func (s *Server) searchCompartmentForm(c *gin.Context) { s.form(c, "search-type", s.searchWithin) }

// searching performs a search with parameters.
type searching func(ctx context.Context, c *gin.Context, rq *interaction.Request, raw string) (*interaction.Page, error)

func (s *Server) searchType(ctx context.Context, c *gin.Context, rq *interaction.Request, raw string) (
	*interaction.Page, error) {
	return s.Service.Search(ctx, rq, c.Param("type"), raw)
}

func (s *Server) searchTypes(ctx context.Context, _ *gin.Context, rq *interaction.Request, raw string) (
	*interaction.Page, error) {
	return s.Service.SearchSystem(ctx, rq, raw)
}

func (s *Server) searchWithin(ctx context.Context, c *gin.Context, rq *interaction.Request, raw string) (
	*interaction.Page, error) {
	return s.Service.SearchCompartment(ctx, rq, refOf(c), c.Param("compartment"), raw)
}

func (s *Server) searched(c *gin.Context, raw string, rq *interaction.Request, search searching) {
	p, err := search(c.Request.Context(), c, rq, raw)
	s.page(c, p, err)
}

// form reads the parameters of a search by POST.
func (s *Server) form(c *gin.Context, name string, search searching) {
	const op = "rest.searchForm"
	raw := c.Request.URL.RawQuery
	ref := fhir.Ref{Type: c.Param("type")}
	if c.Request.ContentLength != 0 {
		if c.ContentType() != "application/x-www-form-urlencoded" {
			s.fail(c, name, ref, fhir.Errorf(fhir.Unsupported, op,
				"a search by POST takes application/x-www-form-urlencoded"))
			return
		}
		form, err := s.readAll(c, op)
		if err != nil {
			s.fail(c, name, ref, err)
			return
		}
		raw = strings.Trim(raw+"&"+string(form), "&")
		if !renegotiate(c, raw) {
			return
		}
	}
	rq := requestOf(c)
	rq.Line = "POST " + c.Request.URL.Path + "?" + raw
	s.searched(c, raw, rq, search)
}
