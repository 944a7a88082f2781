package r4

import (
	"bytes"
	"errors"
	"strconv"
	"sync/atomic"

	"pulsegate/fhir"
	"pulsegate/fhir/fhirpath"
	"pulsegate/fhir/validate"
)

// Limits bounds the input of a Validator. A zero field means the default.
type Limits struct {
	Bytes   int // size of a body; 10 MiB by default
	Depth   int // nesting of objects and arrays in a resource; 50 by default
	Entries int // entries of a batch or transaction; 1,000 by default
	Values  int // JSON values (objects, arrays, strings, numbers) in a resource; 50,000 by default
}

func (l Limits) withDefaults() Limits {
	if l.Bytes <= 0 {
		l.Bytes = 10 << 20
	}
	if l.Depth <= 0 {
		l.Depth = 50
	}
	if l.Entries <= 0 {
		l.Entries = 1000
	}
	if l.Values <= 0 {
		l.Values = 50_000
	}
	return l
}

// Validator validates untrusted R4 JSON. It is safe for concurrent use.
type Validator struct {
	limits Limits
	tables *validate.Validator
	// terminology answers the questions of invariants. It is nil until Use.
	terminology atomic.Pointer[fhirpath.Terminology]
}

// New returns a Validator. It loads the tables of R4.
func New(limits Limits) (*Validator, error) {
	l := limits.withDefaults()
	val := &Validator{limits: l}
	val.tables = validate.New(validate.Options{
		Limits:          validate.Limits{Depth: l.Depth, Values: l.Values},
		RefuseModifiers: true,
		AllowIDOnly:     true,
		Compile:         val.compileInvariant,
	})
	return val, nil
}

// Use lets invariants ask about terminology. Without it, an invariant with memberOf() or
// subsumes() cannot be evaluated and is passed over.
func (val *Validator) Use(t fhirpath.Terminology) { val.terminology.Store(&t) }

const op = "r4.Resource"

// Resource validates body as an R4 resource of type typ and returns it in
// canonical form. The body must carry the given id (R4 http.html#update). The
// error is Invalid if the body does not have the structure of the type, and
// Unprocessable if it breaks an invariant.
func (val *Validator) Resource(typ string, body []byte, id string) (fhir.Resource, error) {
	return val.resource(typ, body, id, false)
}

// Create is like Resource, but replaces an id in the body by the given one, as
// R4 requires for the create interaction (R4 http.html#create).
func (val *Validator) Create(typ string, body []byte, id string) (fhir.Resource, error) {
	return val.resource(typ, body, id, true)
}

func (val *Validator) resource(typ string, body []byte, id string, dropID bool) (fhir.Resource, error) {
	var none fhir.Resource
	if !fhir.KnownType(typ) {
		return none, fhir.Errorf(fhir.NotFound, op, "the server does not support this resource type")
	}
	if !fhir.ValidID(id) {
		return none, fhir.Errorf(fhir.Invalid, op, "an id must be 1 to 64 letters, digits, '-' and '.'")
	}
	if len(body) > val.limits.Bytes {
		return none, fhir.Errorf(fhir.TooLarge, op, "the body is larger than %d bytes", val.limits.Bytes)
	}
	r := validate.Request{Op: op, Type: typ, ID: id}
	if dropID {
		r.ID = ""
	}
	// RFC 8259 section 8.1 allows parsers to ignore a byte order mark.
	d, err := val.tables.Resource(r, bytes.TrimPrefix(body, byteOrderMark))
	if d != nil {
		defer d.Release()
	}
	if err != nil {
		return none, err
	}
	return fhir.Resource{Type: typ, ID: id, JSON: d.Canonical(id)}, nil
}

// Check returns all that validation says of an R4 resource of type typ, without the rules
// about its id: errors, which refuse it, and warnings, which do not. It must conform to the
// given profiles in addition to those that it claims.
func (val *Validator) Check(typ string, body []byte, profiles []string) (problems, warnings []fhir.Issue, err error) {
	if len(body) > val.limits.Bytes {
		return nil, nil, fhir.Errorf(fhir.TooLarge, op, "the body is larger than %d bytes", val.limits.Bytes)
	}
	d, err := val.tables.Resource(validate.Request{Op: op, Type: typ, Profiles: profiles}, body)
	if d != nil {
		defer d.Release()
		warnings = val.tables.Warnings(d)
	}
	var e *fhir.Error
	if errors.As(err, &e) && (e.Kind == fhir.Invalid || e.Kind == fhir.Unprocessable || e.Kind == fhir.TooLarge) {
		return e.Issues, warnings, nil
	}
	return nil, warnings, err
}

func issueError(k fhir.Kind, code, path, rule string) *fhir.Error {
	return &fhir.Error{Kind: k, Op: op, Issues: []fhir.Issue{{Severity: "error", Code: code, Diagnostics: rule,
		Expression: []string{path}}}}
}

// maxIssues bounds the issues that are reported for a body.
const maxIssues = 20

func itoa(n int) string { return strconv.Itoa(n) }
