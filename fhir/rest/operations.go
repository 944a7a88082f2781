package rest

import (
	"net/http"
	"strings"

	"github.com/gin-gonic/gin"

	"pulsegate/fhir"
	"pulsegate/fhir/capability"
	"pulsegate/fhir/element"
	"pulsegate/fhir/interaction"
)

// operation is a reading operation, called by GET with its inputs in the query or by
// POST with a Parameters resource.
type operation struct {
	typ, name string
	instance  bool // at the level of an instance, otherwise of the type
	// definition is the canonical URL of the OperationDefinition. If it has no scheme, it
	// is relative to the base URL of this server, which serves it.
	definition string
	// documentation says how the operation differs from its definition, or is "".
	documentation string
	handle        func(*Server, *gin.Context, []interaction.Parameter)
}

// offered lists the operations for the routes and the CapabilityStatement.
func offered() []operation {
	const core = element.HL7 + "OperationDefinition/"
	return []operation{
		{"Observation", "lastn", false, core + "Observation-lastn", "", (*Server).lastN},
		{"Observation", "stats", false, core + "Observation-stats", statsDocumentation, (*Server).stats},
		{"Patient", "ehr-bundle", true, capability.EHRBundlePath, "", (*Server).ehrBundle},
	}
}

// statsDocumentation describes the parameter of $stats that its definition lacks.
const statsDocumentation = "The parameter preferred (boolean) is added: with true, only measurements of the " +
	"preferred source of each day count, and for the code of a preferred value, the preferred values of days and " +
	"nights. Without it, every measurement counts, and preferred values do not."

// Offered returns the operations that Mount adds, for the CapabilityStatement of a server
// with this base URL.
func Offered(base string) []capability.Operation {
	var out []capability.Operation
	for _, o := range offered() {
		definition := o.definition
		if strings.HasPrefix(definition, "/") {
			definition = base + definition
		}
		out = append(out, capability.Operation{Type: o.typ, Name: o.name, Definition: definition,
			Documentation: o.documentation})
	}
	return out
}

func (s *Server) mountOperations(api gin.IRouter) {
	for _, o := range offered() {
		path := "/" + o.typ + "/$" + o.name
		if o.instance {
			// The route cannot begin with the type (see Bulk.Mount).
			path = "/:type/:id/$" + o.name
		}
		serve := func(c *gin.Context) {
			if o.instance && c.Param("type") != o.typ {
				s.fail(c, "operation", fhir.Ref{},
					fhir.Errorf(fhir.NotFound, "rest.mountOperations", "the operation is offered for %s", o.typ))
				return
			}
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
	ps, err := interaction.QueryParameters(c.Request.URL.RawQuery)
	if err != nil || c.Request.Method != http.MethodPost {
		return ps, err
	}
	body, err := parametersBody(c, "rest.parameters")
	if err != nil {
		return nil, err
	}
	more, err := interaction.ParseParameters(body)
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

func (s *Server) ehrBundle(c *gin.Context, ps []interaction.Parameter) {
	p, err := s.Service.EHRBundle(c.Request.Context(), operationRequest(c, ps), c.Param("id"), ps)
	s.page(c, p, err)
}

// definition answers with one of Definitions. Like metadata, it is public.
func (s *Server) definition(c *gin.Context) {
	if s.negotiate(c); c.IsAborted() {
		return
	}
	body, ok := s.Definitions[c.Param("id")]
	if !ok {
		fail(c, fhir.Errorf(fhir.NotFound, "rest.definition", "this server has no such OperationDefinition"))
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
