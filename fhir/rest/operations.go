package rest

import (
	"errors"
	"io"
	"mime"
	"net/http"

	"github.com/gin-gonic/gin"

	"pulsegate/fhir"
	"pulsegate/fhir/capability"
	"pulsegate/fhir/element"
	"pulsegate/fhir/interaction"
)

// operation is a reading operation at the type level, called by GET with its inputs
// in the query or by POST with a Parameters resource.
type operation struct {
	typ, name, definition string
	documentation         string
	handle                func(*Server, *gin.Context, []interaction.Parameter)
}

// typeOperations lists the operations for the routes and the CapabilityStatement.
func typeOperations() []operation {
	const core = element.HL7 + "OperationDefinition/"
	return []operation{
		{"Observation", "lastn", core + "Observation-lastn", "", (*Server).lastN},
		{"Observation", "stats", core + "Observation-stats", statsDocumentation, (*Server).stats},
	}
}

// statsDocumentation describes the parameter of $stats that its definition lacks.
const statsDocumentation = "The parameter preferred (boolean) is added: with true, only measurements of the " +
	"preferred source of each day count, and for the code of a preferred value, the preferred values of days and " +
	"nights. Without it, every measurement counts, and preferred values do not."

// Offered returns the operations that Mount adds, for the CapabilityStatement.
func Offered() []capability.Operation {
	var out []capability.Operation
	for _, o := range typeOperations() {
		out = append(out, capability.Operation{Type: o.typ, Name: o.name, Definition: o.definition,
			Documentation: o.documentation})
	}
	return out
}

func (s *Server) mountOperations(api gin.IRouter) {
	for _, o := range typeOperations() {
		path := "/" + o.typ + "/$" + o.name
		serve := func(c *gin.Context) {
			ps, err := s.parameters(c)
			if err != nil {
				s.fail(c, "search-type", fhir.Ref{Type: o.typ}, err)
				return
			}
			o.handle(s, c, ps)
		}
		for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodPost} {
			api.Handle(method, path, serve)
		}
	}
}

// parameters parses the inputs of an operation in the query and, for a POST, in the
// Parameters resource.
func (s *Server) parameters(c *gin.Context) ([]interaction.Parameter, error) {
	const op = "rest.parameters"
	ps, err := interaction.QueryParameters(c.Request.URL.RawQuery)
	if err != nil || c.Request.Method != http.MethodPost {
		return ps, err
	}
	t, params, err := mime.ParseMediaType(c.GetHeader("Content-Type"))
	if err != nil || !version4(params) || t != mimeFHIR && t != "application/json" {
		return nil, fhir.Errorf(fhir.Unsupported, op, "the body must be a Parameters resource, application/fhir+json")
	}
	body, err := io.ReadAll(http.MaxBytesReader(c.Writer, c.Request.Body, maxParametersBody))
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		return nil, fhir.Errorf(fhir.TooLarge, op, "the Parameters are larger than %d bytes", maxParametersBody)
	case err != nil:
		return nil, fhir.Errorf(fhir.Invalid, op, "the body could not be read to its end")
	}
	more, err := interaction.ParseParameters(withoutMark(body))
	return append(ps, more...), err
}

func (s *Server) lastN(c *gin.Context, ps []interaction.Parameter) {
	p, err := s.Service.LastN(c.Request.Context(), operationRequest(c, ps), ps)
	s.page(c, p, err)
}

func (s *Server) stats(c *gin.Context, ps []interaction.Parameter) {
	body, err := s.Service.Stats(c.Request.Context(), operationRequest(c, ps), ps)
	if err != nil {
		fail(c, err)
		return
	}
	send(c, http.StatusOK, body)
}

// operationRequest adds the inputs of a POST to the recorded request line.
func operationRequest(c *gin.Context, ps []interaction.Parameter) *interaction.Request {
	rq := requestOf(c)
	if c.Request.Method == http.MethodPost {
		rq.Line = "POST " + c.Request.URL.Path + "?" + interaction.FormatParameters(ps)
	}
	return rq
}
