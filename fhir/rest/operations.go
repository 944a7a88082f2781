package rest

import (
	"bytes"
	"encoding/json"
	"net/http"
	"slices"
	"strings"

	"github.com/gin-gonic/gin"

	"pulsegate/fhir"
	"pulsegate/fhir/capability"
	"pulsegate/fhir/element"
	"pulsegate/fhir/interaction"
)

// level is the level at which an operation is called.
type level uint8

const (
	onType level = iota
	onInstance
)

// input says how an operation takes its inputs in the body of a POST.
type input uint8

const (
	simple   input = iota // a Parameters resource with primitives, Codings and Periods
	complete              // also with resources, CodeableConcepts and Metas
	resource              // like complete, or the resource alone
)

// operation is an operation at one level.
type operation struct {
	name       string
	level      level
	types      []string // resource types; nil means all
	definition string   // canonical URL of the OperationDefinition
	// documentation says how the operation differs from its definition, or is "".
	documentation string
	input         input
	postOnly      bool // it changes something
	// event is the interaction in the AuditEvent of a call that cannot be read.
	event  string
	handle func(*Server, *gin.Context, *call)
}

// call holds the inputs of one call.
type call struct {
	parameters []interaction.Parameter
	// resource is a body that is not a Parameters resource.
	resource []byte
	body     []byte // of a POST with the input resource
}

// Bases of the canonical URLs of OperationDefinitions: HL7's, and those of fhir/guide.
const (
	coreOperation = element.HL7 + "OperationDefinition/"
	ownOperation  = fhir.Canonical + "/OperationDefinition/"
)

// offered lists the operations for the routes and the CapabilityStatement.
func offered() []operation {
	observation, patient := []string{"Observation"}, []string{"Patient"}
	return slices.Concat([]operation{
		{name: "lastn", types: observation, definition: coreOperation + "Observation-lastn", handle: (*Server).lastN},
		{name: "stats", types: observation, definition: coreOperation + "Observation-stats",
			documentation: statsDocumentation, handle: (*Server).stats},
		{name: "time-buckets", types: observation, definition: ownOperation + "time-buckets",
			handle: (*Server).timeBuckets},
		{name: "everything", types: patient, definition: coreOperation + "Patient-everything",
			documentation: everythingDocumentation, handle: (*Server).everything},
		{name: "everything", level: onInstance, types: patient, definition: coreOperation + "Patient-everything",
			documentation: everythingDocumentation, handle: (*Server).everything},
		{name: "ehr-bundle", level: onInstance, types: patient, definition: ownOperation + "ehr-bundle",
			handle: (*Server).ehrBundle},
		{name: "docref", types: []string{"DocumentReference"}, documentation: docRefDocumentation,
			definition: element.HL7 + "us/core/OperationDefinition/docref", handle: (*Server).docRef},
	}, []operation{
		{name: "validate", definition: coreOperation + "Resource-validate", input: resource, event: "operation",
			handle: (*Server).validate},
		{name: "validate", level: onInstance, definition: coreOperation + "Resource-validate", input: resource,
			event: "operation", handle: (*Server).validate},
		{name: "meta", level: onInstance, definition: coreOperation + "Resource-meta", event: "read",
			handle: (*Server).meta},
		{name: "meta-add", level: onInstance, definition: coreOperation + "Resource-meta-add", input: complete,
			postOnly: true, event: "update", handle: (*Server).metaAdd},
		{name: "meta-delete", level: onInstance, definition: coreOperation + "Resource-meta-delete", input: complete,
			postOnly: true, event: "update", handle: (*Server).metaDelete},
	}, terminologyOperations())
}

// terminologyOperations lists the operations on terminology.
func terminologyOperations() (out []operation) {
	for _, o := range []struct {
		typ, name string
		instance  bool
	}{{"ValueSet", "expand", true}, {"ValueSet", "validate-code", true}, {"CodeSystem", "lookup", false},
		{"CodeSystem", "validate-code", true}, {"CodeSystem", "subsumes", true}, {"ConceptMap", "translate", true}} {
		one := operation{name: o.name, types: []string{o.typ}, definition: coreOperation + o.typ + "-" + o.name,
			input: complete, event: "operation", handle: func(s *Server, c *gin.Context, in *call) {
				body, err := s.Service.TerminologyOperation(c.Request.Context(), operationRequest(c, in.parameters),
					o.name,
					refOf(c), in.parameters)
				outcome(c, body, err)
			}}
		out = append(out, one)
		if o.instance {
			one.level = onInstance
			out = append(out, one)
		}
	}
	return out
}

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

// Offered returns the operations that Mount adds, for the CapabilityStatement. An
// operation of all types has the type Resource.
func Offered() []capability.Operation {
	var out []capability.Operation
	for _, o := range offered() {
		types := o.types
		if types == nil {
			types = []string{capability.AllTypes}
		}
		for _, t := range types {
			one := capability.Operation{Type: t, Name: o.name, Definition: o.definition, Documentation: o.documentation}
			if !slices.Contains(out, one) {
				out = append(out, one)
			}
		}
	}
	return out
}

// mountOperations adds a route for each name and level. The routes cannot begin with the
// type (see Bulk.Mount).
func (s *Server) mountOperations(api gin.IRouter) {
	routes := map[string][]operation{}
	var paths []string
	for _, o := range offered() {
		path := "/:type/$" + o.name
		if o.level == onInstance {
			path = "/:type/:id/$" + o.name
		}
		if routes[path] == nil {
			paths = append(paths, path)
		}
		routes[path] = append(routes[path], o)
	}
	for _, path := range paths {
		list := routes[path]
		serve := func(c *gin.Context) { s.operation(c, list) }
		for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodPost} {
			if method != http.MethodPost && list[0].postOnly {
				api.Handle(method, path, s.noMethod) // otherwise it would be a compartment
				continue
			}
			api.Handle(method, path, serve)
		}
	}
}

// operation calls the operation of list that is offered for the type in the URL.
func (s *Server) operation(c *gin.Context, list []operation) {
	ref := refOf(c)
	i := slices.IndexFunc(list, func(o operation) bool {
		return o.types == nil || slices.Contains(o.types, ref.Type)
	})
	if i < 0 {
		s.fail(c, "operation", fhir.Ref{},
			fhir.Errorf(fhir.NotFound, "rest.operation", "the operation is offered for %s",
				strings.Join(list[0].types, ", ")))
		return
	}
	o := &list[i]
	in, err := s.inputs(c, o)
	if err != nil {
		event := o.event
		if event == "" {
			event, ref.ID = "search-type", ""
		}
		s.fail(c, event, ref, err)
		return
	}
	o.handle(s, c, in)
}

// inputs parses the inputs of an operation in the query and, for a POST, in the body.
func (s *Server) inputs(c *gin.Context, o *operation) (*call, error) {
	ps, err := interaction.QueryParameters(c.Request.URL.RawQuery)
	in := &call{parameters: ps}
	if err != nil || c.Request.Method != http.MethodPost {
		return in, err
	}
	if o.input == simple {
		body, err := s.smallBody(c)
		if err != nil {
			return nil, err
		}
		more, err := interaction.ParseParameters(body)
		in.parameters = append(in.parameters, more...)
		return in, err
	}
	if in.body, err = s.body(c); err != nil {
		return nil, err
	}
	if o.input == resource && !isParameters(in.body) {
		in.resource = in.body
		return in, nil
	}
	more, err := interaction.ParseComplex(in.body)
	in.parameters = append(in.parameters, more...)
	return in, err
}

// isParameters reports whether a body is a Parameters resource.
func isParameters(body []byte) bool {
	var head struct {
		ResourceType string `json:"resourceType"`
	}
	return bytes.Contains(body, []byte(`"Parameters"`)) && json.Unmarshal(body, &head) == nil &&
		head.ResourceType == "Parameters"
}

// smallBody reads a small Parameters resource.
func (s *Server) smallBody(c *gin.Context) ([]byte, error) {
	if c.Request.ContentLength == 0 && c.GetHeader("Content-Type") == "" {
		return []byte(`{"resourceType":"Parameters"}`), nil // the inputs are in the query
	}
	return parametersBody(c, "rest.parameters")
}

// outcome answers with a resource that an operation has made.
func outcome(c *gin.Context, body []byte, err error) {
	if err != nil {
		fail(c, err)
		return
	}
	send(c, http.StatusOK, body)
}

func (s *Server) lastN(c *gin.Context, in *call) {
	p, err := s.Service.LastN(c.Request.Context(), operationRequest(c, in.parameters), in.parameters)
	s.page(c, p, err)
}

func (s *Server) stats(c *gin.Context, in *call) {
	body, err := s.Service.Stats(c.Request.Context(), operationRequest(c, in.parameters), in.parameters)
	outcome(c, body, err)
}

func (s *Server) timeBuckets(c *gin.Context, in *call) {
	p, err := s.Service.TimeBuckets(c.Request.Context(), operationRequest(c, in.parameters), in.parameters)
	s.page(c, p, err)
}

func (s *Server) ehrBundle(c *gin.Context, in *call) {
	p, err := s.Service.EHRBundle(c.Request.Context(), operationRequest(c, in.parameters), c.Param("id"), in.parameters)
	s.page(c, p, err)
}

func (s *Server) docRef(c *gin.Context, in *call) {
	p, err := s.Service.DocRef(c.Request.Context(), operationRequest(c, in.parameters), in.parameters)
	s.page(c, p, err)
}

func (s *Server) everything(c *gin.Context, in *call) {
	p, err := s.Service.Everything(c.Request.Context(), operationRequest(c, in.parameters), c.Param("id"),
		in.parameters)
	s.page(c, p, err)
}

func (s *Server) validate(c *gin.Context, in *call) {
	rq, ref := operationRequest(c, in.parameters), refOf(c)
	v := interaction.Validation{Type: ref.Type, ID: ref.ID, Resource: in.resource, Body: in.body}
	for i := range in.parameters {
		p := &in.parameters[i]
		var err error
		switch {
		case p.Name == "resource" && p.Resource != nil && v.Resource == nil:
			v.Resource, v.Position = p.Resource, p.Position
		case p.Name == "mode" && p.Value != "" && v.Mode == "":
			v.Mode = p.Value
		case p.Name == "profile" && p.Value != "":
			v.Profiles = append(v.Profiles, p.Value)
		case p.Name == "_format" || p.Name == "_pretty":
		default:
			err = fhir.Errorf(fhir.Invalid, "rest.validate",
				"$validate takes resource and mode, each once and with a value, and profile")
		}
		if err != nil {
			s.fail(c, "operation", ref, err)
			return
		}
	}
	body, err := s.Service.Validate(c.Request.Context(), rq, v)
	outcome(c, body, err)
}

func (s *Server) meta(c *gin.Context, in *call) {
	ps := slices.DeleteFunc(in.parameters,
		func(p interaction.Parameter) bool { return p.Name == "_format" || p.Name == "_pretty" })
	body, err := s.Service.Meta(c.Request.Context(), requestOf(c), refOf(c), ps)
	outcome(c, body, err)
}

func (s *Server) metaAdd(c *gin.Context, in *call) {
	body, err := s.Service.MetaAdd(c.Request.Context(), requestOf(c), refOf(c), in.parameters)
	outcome(c, body, err)
}

func (s *Server) metaDelete(c *gin.Context, in *call) {
	body, err := s.Service.MetaDelete(c.Request.Context(), requestOf(c), refOf(c), in.parameters)
	outcome(c, body, err)
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

// operationRequest adds the inputs of a POST to the recorded request line.
func operationRequest(c *gin.Context, ps []interaction.Parameter) *interaction.Request {
	rq := requestOf(c)
	if c.Request.Method == http.MethodPost {
		rq.Line = "POST " + c.Request.URL.Path + "?" + interaction.FormatParameters(ps)
	}
	return rq
}
