package rest

import (
	"net/http"
	"slices"

	"github.com/gin-gonic/gin"

	"pulsegate/fhir"
	"pulsegate/fhir/capability"
	"pulsegate/fhir/interaction"
)

// statsDocumentation describes the parameter of $stats that its definition lacks.
const statsDocumentation = "The parameter preferred (boolean) is added: with true, only measurements of the " +
	"preferred source of each day count, and for the code of a preferred value, the preferred values of days and " +
	"nights. Without it, every measurement counts, and preferred values do not."

// docRefDocumentation says what $docref finds.
const docRefDocumentation = "The answer holds the stored current DocumentReferences of any of the types, the newest " +
	"first, whose context.period overlaps start and end; without type, those of all types. No documents are made on " +
	"demand. profile is not supported."

// everythingDocumentation says what $everything leaves out.
const everythingDocumentation = "Without an id, the patient is the one in the context of the token. Types that the " +
	"scopes do not cover, Groups and resources of other patients are left out, and AuditEvents unless _type names them. " +
	"start and end restrict events of care, such as Observations, and no other types."

// documentation says how operations differ from their definitions, by name.
var documentation = map[string]string{ // read only
	"stats": statsDocumentation, "everything": everythingDocumentation, "docref": docRefDocumentation,
}

// Offered returns the operations that Mount adds, for the CapabilityStatement. An
// operation of all types has the type Resource.
func Offered() []capability.Operation {
	var out []capability.Operation
	for _, o := range interaction.Operations() {
		types := o.Types
		if types == nil {
			types = []string{capability.AllTypes}
		}
		for _, t := range types {
			one := capability.Operation{Type: t, Name: o.Name, Definition: o.Definition,
				Documentation: documentation[o.Name]}
			if !slices.Contains(out, one) {
				out = append(out, one)
			}
		}
	}
	return out
}

// operationRoute is a route of the operations with one name at one level.
type operationRoute struct {
	path, name string
	level      interaction.Level
	changes    bool
}

// mountOperations adds a route for each name and level. The routes cannot begin with the
// type (see Bulk.Mount).
func (s *Server) mountOperations(api gin.IRouter) {
	var routes []operationRoute
	for _, o := range interaction.Operations() {
		r := operationRoute{"/:type/$" + o.Name, o.Name, o.Level, o.Changes}
		if o.Level == interaction.OnInstance {
			r.path = "/:type/:id/$" + o.Name
		}
		if !slices.Contains(routes, r) {
			routes = append(routes, r)
		}
	}
	for _, r := range routes {
		for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodPost} {
			if method != http.MethodPost && r.changes {
				api.Handle(method, r.path, s.noMethod) // otherwise it would be a compartment
				continue
			}
			api.Handle(method, r.path, func(c *gin.Context) { s.operation(c, &r) })
		}
	}
}

// operation calls the operation that is offered for the type in the URL.
func (s *Server) operation(c *gin.Context, r *operationRoute) {
	ref := refOf(c)
	o, err := interaction.FindOperation(r.name, r.level, ref.Type)
	if err != nil {
		s.fail(c, "operation", fhir.Ref{}, err)
		return
	}
	v := &interaction.Invocation{Operation: o, Ref: ref, Query: c.Request.URL.RawQuery}
	rq := requestOf(c)
	if c.Request.Method == http.MethodPost {
		rq.Line = "POST " + c.Request.URL.Path
		v.Body = func() ([]byte, error) {
			if o.Input == interaction.Simple {
				return s.smallBody(c)
			}
			return s.body(c)
		}
	}
	parts, err := s.Service.Operate(c.Request.Context(), rq, v)
	if err != nil {
		fail(c, err)
		return
	}
	send(c, http.StatusOK, parts...)
}

// smallBody reads a small Parameters resource.
func (s *Server) smallBody(c *gin.Context) ([]byte, error) {
	if c.Request.ContentLength == 0 && c.GetHeader("Content-Type") == "" {
		return []byte(`{"resourceType":"Parameters"}`), nil // the inputs are in the query
	}
	return parametersBody(c, "rest.parameters")
}

// definition answers with one of Definitions. Like metadata, they are public. All other
// reads are left to the next handlers of the route, which need a token.
func (s *Server) definition(c *gin.Context) {
	if c.Param("type") != "OperationDefinition" {
		return
	}
	body, ok := s.Definitions[c.Param("id")]
	if !ok {
		return
	}
	if s.negotiate(c); !c.IsAborted() {
		send(c, http.StatusOK, body)
		c.Abort()
	}
}
