package interaction

import (
	"bytes"
	"context"
	"encoding/json"
	"slices"
	"strings"

	"pulsegate/fhir"
	"pulsegate/fhir/element"
)

// Level is the level at which an operation is called.
type Level uint8

const (
	OnType Level = iota
	OnInstance
)

// Input says how an operation takes its inputs in the body of a POST.
type Input uint8

const (
	Simple  Input = iota // a Parameters resource with primitives, Codings and Periods
	Complex              // also with resources, CodeableConcepts and Metas
	Alone                // like Complex, or the resource alone
)

// Operation is an operation at one level.
type Operation struct {
	Name       string
	Level      Level
	Types      []string // resource types; nil means all
	Definition string   // canonical URL of the OperationDefinition
	Input      Input
	Changes    bool // it changes something, and is called by POST only
	// event is the interaction in the AuditEvent of a call that cannot be read.
	event string
	run   func(*Service, context.Context, *Request, fhir.Ref, *call) ([][]byte, error)
}

// call holds the inputs of one call.
type call struct {
	parameters []Parameter
	// resource is a body that is not a Parameters resource.
	resource []byte
	body     []byte // of a POST with the input Complex or Alone
}

// Bases of the canonical URLs of OperationDefinitions: HL7's, and those of fhir/guide.
const (
	coreOperation = element.HL7 + "OperationDefinition/"
	ownOperation  = fhir.Canonical + "/OperationDefinition/"
)

// Operations lists the operations of this package. A Bundle may have them as entries.
func Operations() []Operation {
	observation, patient := []string{"Observation"}, []string{"Patient"}
	return slices.Concat([]Operation{
		{Name: "lastn", Types: observation, Definition: coreOperation + "Observation-lastn",
			run: onParameters((*Service).LastN)},
		{Name: "stats", Types: observation, Definition: coreOperation + "Observation-stats", run: runStats},
		{Name: "time-buckets", Types: observation, Definition: ownOperation + "time-buckets",
			run: onParameters((*Service).TimeBuckets)},
		{Name: "everything", Types: patient, Definition: coreOperation + "Patient-everything",
			run: onPatient((*Service).Everything)},
		{Name: "everything", Level: OnInstance, Types: patient, Definition: coreOperation + "Patient-everything",
			run: onPatient((*Service).Everything)},
		{Name: "ehr-bundle", Level: OnInstance, Types: patient, Definition: ownOperation + "ehr-bundle",
			run: onPatient((*Service).EHRBundle)},
		{Name: "docref", Types: []string{"DocumentReference"},
			Definition: element.HL7 + "us/core/OperationDefinition/docref", run: onParameters((*Service).DocRef)},
		{Name: "validate", Definition: coreOperation + "Resource-validate", Input: Alone, event: "operation",
			run: runValidate},
		{Name: "validate", Level: OnInstance, Definition: coreOperation + "Resource-validate", Input: Alone,
			event: "operation", run: runValidate},
		{Name: "meta", Level: OnInstance, Definition: coreOperation + "Resource-meta", event: "read", run: runMeta},
		{Name: "meta-add", Level: OnInstance, Definition: coreOperation + "Resource-meta-add", Input: Complex,
			Changes: true, event: "update", run: onMeta((*Service).MetaAdd)},
		{Name: "meta-delete", Level: OnInstance, Definition: coreOperation + "Resource-meta-delete", Input: Complex,
			Changes: true, event: "update", run: onMeta((*Service).MetaDelete)},
	}, operationsOnTerminology())
}

// operationsOnTerminology lists the operations on terminology.
func operationsOnTerminology() (out []Operation) {
	for _, o := range []struct {
		typ, name string
		instance  bool
	}{{"ValueSet", "expand", true}, {"ValueSet", "validate-code", true}, {"CodeSystem", "lookup", false},
		{"CodeSystem", "validate-code", true}, {"CodeSystem", "subsumes", true}, {"ConceptMap", "translate", true}} {
		one := Operation{Name: o.name, Types: []string{o.typ}, Definition: coreOperation + o.typ + "-" + o.name,
			Input: Complex, event: "operation",
			run: func(s *Service, ctx context.Context, rq *Request, ref fhir.Ref, in *call) ([][]byte, error) {
				body, err := s.TerminologyOperation(ctx, rq, o.name, ref, in.parameters)
				return whole(body), err
			}}
		out = append(out, one)
		if o.instance {
			one.Level = OnInstance
			out = append(out, one)
		}
	}
	return out
}

// FindOperation returns the operation with a name at a level for a type.
func FindOperation(name string, level Level, typ string) (*Operation, error) {
	types := ""
	for _, o := range Operations() {
		if o.Name != name || o.Level != level {
			continue
		}
		if o.Types == nil || slices.Contains(o.Types, typ) {
			return &o, nil
		}
		types = strings.Join(o.Types, ", ")
	}
	return nil, fhir.Errorf(fhir.NotFound, "interaction.Operation", "the operation is offered for %s", types)
}

const (
	// MaxParameters bounds the body of an operation with the input Simple, in bytes.
	MaxParameters = 64 << 10
	// emptyParameters is the body of a POST that has none.
	emptyParameters = `{"resourceType":"Parameters"}`
)

// Invocation is one call of an operation.
type Invocation struct {
	Operation *Operation
	Ref       fhir.Ref // without an id at the level of a type
	Query     string
	// Body returns the body of a POST. It is nil if the operation is called by GET.
	Body func() ([]byte, error)
}

// Operate calls an operation and returns the JSON of its answer, in parts. For a POST,
// the line of rq has the path; the inputs are added to it.
func (s *Service) Operate(ctx context.Context, rq *Request, v *Invocation) ([][]byte, error) {
	in, err := v.inputs()
	if err != nil {
		event, ref := v.Operation.event, v.Ref
		if event == "" {
			event, ref.ID = "search-type", ""
		}
		return nil, s.refuse(ctx, rq, event, ref, err)
	}
	if v.Body != nil {
		path, _, _ := strings.Cut(rq.Line, "?")
		rq.Line = path + "?" + FormatParameters(in.parameters)
	}
	return v.Operation.run(s, ctx, rq, v.Ref, in)
}

// inputs parses the inputs of an operation in the query and, for a POST, in the body.
func (v *Invocation) inputs() (*call, error) {
	o := v.Operation
	if o.Changes && v.Body == nil {
		return nil, fhir.Errorf(fhir.NotAllowed, "interaction.Operation",
			"$%s changes something; call it by POST", o.Name)
	}
	ps, err := QueryParameters(v.Query)
	in := &call{parameters: ps}
	if err != nil || v.Body == nil {
		return in, err
	}
	body, err := v.Body()
	if err != nil {
		return nil, err
	}
	parse := ParseParameters
	if o.Input != Simple {
		in.body, parse = body, ParseComplex
	}
	if o.Input == Alone && !isParameters(body) {
		in.resource = body
		return in, nil
	}
	more, err := parse(body)
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

// parts returns the parts of a page, unless there was an error.
func parts(p *Page, err error) ([][]byte, error) {
	if err != nil {
		return nil, err
	}
	return p.Parts(), nil
}

func onParameters(f func(*Service, context.Context, *Request, []Parameter) (*Page, error)) func(*Service,
	context.Context, *Request, fhir.Ref, *call) ([][]byte, error) {
	return func(s *Service, ctx context.Context, rq *Request, _ fhir.Ref, in *call) ([][]byte, error) {
		return parts(f(s, ctx, rq, in.parameters))
	}
}

func onPatient(f func(*Service, context.Context, *Request, string, []Parameter) (*Page, error)) func(*Service,
	context.Context, *Request, fhir.Ref, *call) ([][]byte, error) {
	return func(s *Service, ctx context.Context, rq *Request, ref fhir.Ref, in *call) ([][]byte, error) {
		return parts(f(s, ctx, rq, ref.ID, in.parameters))
	}
}

func onMeta(f func(*Service, context.Context, *Request, fhir.Ref, []Parameter) ([]byte, error)) func(*Service,
	context.Context, *Request, fhir.Ref, *call) ([][]byte, error) {
	return func(s *Service, ctx context.Context, rq *Request, ref fhir.Ref, in *call) ([][]byte, error) {
		body, err := f(s, ctx, rq, ref, in.parameters)
		return whole(body), err
	}
}

func runStats(s *Service, ctx context.Context, rq *Request, _ fhir.Ref, in *call) ([][]byte, error) {
	body, err := s.Stats(ctx, rq, in.parameters)
	return whole(body), err
}

func runMeta(s *Service, ctx context.Context, rq *Request, ref fhir.Ref, in *call) ([][]byte, error) {
	ps := slices.DeleteFunc(in.parameters, func(p Parameter) bool { return p.Name == "_format" || p.Name == "_pretty" })
	body, err := s.Meta(ctx, rq, ref, ps)
	return whole(body), err
}

// runValidate reads the inputs of $validate.
func runValidate(s *Service, ctx context.Context, rq *Request, ref fhir.Ref, in *call) ([][]byte, error) {
	v := Validation{Type: ref.Type, ID: ref.ID, Resource: in.resource, Body: in.body}
	for i := range in.parameters {
		p := &in.parameters[i]
		switch {
		case p.Name == "resource" && p.Resource != nil && v.Resource == nil:
			v.Resource, v.Position = p.Resource, p.Position
		case p.Name == "mode" && p.Value != "" && v.Mode == "":
			v.Mode = p.Value
		case p.Name == "profile" && p.Value != "":
			v.Profiles = append(v.Profiles, p.Value)
		case p.Name == "_format" || p.Name == "_pretty":
		default:
			return nil, s.refuse(ctx, rq, "operation", ref, fhir.Errorf(fhir.Invalid, "interaction.Validate",
				"$validate takes resource and mode, each once and with a value, and profile"))
		}
	}
	body, err := s.Validate(ctx, rq, v)
	return whole(body), err
}
