package r4

import (
	"bytes"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/fhir/go/fhirversion"
	"github.com/google/fhir/go/jsonformat"
	"github.com/google/fhir/go/jsonformat/errorreporter"
	"github.com/valyala/fastjson"

	"pulsegate/fhir"
	"pulsegate/fhir/element"
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
	limits     Limits
	um         *jsonformat.Unmarshaller
	structures *structures
	parsers    fastjson.ParserPool
	// ordinary and large are semaphores for validations by google/fhir, which use
	// processor time and up to 2 KiB of memory per JSON value. More than one per
	// processor would only use more memory. Resources with more than manyValues
	// values use large, which allows fewer.
	ordinary, large chan struct{}
}

const (
	// manyValues is the largest number of JSON values of an ordinary validation.
	manyValues = 2000
	// maxLarge bounds the concurrent large validations.
	maxLarge = 2
)

// New returns a Validator. It loads google/fhir's descriptors.
func New(limits Limits) (*Validator, error) {
	um, err := jsonformat.NewUnmarshaller("UTC", fhirversion.R4)
	if err != nil {
		return nil, fhir.Wrap("r4.New", err)
	}
	val := &Validator{limits: limits.withDefaults(), um: um, structures: newStructures(),
		ordinary: make(chan struct{}, runtime.GOMAXPROCS(0)), large: make(chan struct{}, maxLarge)}
	um.MaxNestingDepth = val.limits.Depth
	return val, nil
}

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
	v, err := compact(op, body, val.limits.Bytes)
	if err != nil {
		return none, err
	}
	if n := val.limits.Values; len(v)/2 > n && values(v) > n {
		return none, fhir.Errorf(fhir.TooLarge, op, "the resource has more than %d JSON values", n)
	}
	p := val.parsers.Get()
	if len(v) <= maxPooledBody {
		defer val.parsers.Put(p)
	}
	root, err := p.ParseBytes(v)
	if err != nil {
		return none, fhir.Errorf(fhir.Invalid, op, "the body is not a single well-formed JSON object")
	}
	r := &rules{typ: typ, all: val.structures, root: root}
	if string(root.GetStringBytes("resourceType")) != typ {
		return none, issueError(fhir.Invalid, "invalid", typ+".resourceType", "resourceType must be "+typ)
	}
	if !dropID && string(root.GetStringBytes("id")) != id {
		r.malformed = true
		r.add("invalid", "id", "id is required and must be the id in the URL")
	}
	r.prepare()
	if !val.precheck(typ, v, root) {
		if err := val.validateFully(r, v); err != nil {
			return none, err
		}
	}
	r.check()
	if err := r.err(bytes.TrimPrefix(body, byteOrderMark)); err != nil {
		return none, err
	}
	out, err := canonical(typ, id, v)
	if err != nil {
		return none, fhir.Wrap(op, err)
	}
	return fhir.Resource{Type: typ, ID: id, JSON: out}, nil
}

// validateFully runs the checks that precheck leaves undecided and collects
// their issues in r. An error means that validation cannot go on.
func (val *Validator) validateFully(r *rules, v []byte) error {
	s := &scan{op: op, maxDepth: val.limits.Depth, root: r.typ}
	if err := s.run(v); err != nil {
		return err
	}
	r.malformed = r.malformed || len(s.issues) > 0
	for _, is := range s.issues {
		r.issue(is)
	}
	r.checkNulls(r.root)
	if err := val.validate(r, v, s.repair || r.misaligned); err != nil {
		return err
	}
	if st := val.structures.of(r.typ); st != nil {
		r.checkTypes(st, r.root)
	}
	return nil
}

// maxPooledBody is the size of the largest body, in bytes, whose parser goes
// back to the pool. Parsers keep the memory of their tree.
const maxPooledBody = 64 << 10

func issueError(k fhir.Kind, code, path, rule string) *fhir.Error {
	return &fhir.Error{Kind: k, Op: op, Issues: []fhir.Issue{{Severity: "error", Code: code, Diagnostics: rule,
		Expression: []string{path}}}}
}

// canonical moves the members that the server manages to the front and keeps the
// bytes of all others.
func canonical(typ, id string, v jsontext.Value) ([]byte, error) {
	out := append(make([]byte, 0, len(v)+96), fhir.Prefix(typ, id)...)
	var rest []byte
	err := members(v, func(name string, raw jsontext.Value) error {
		switch name {
		case "resourceType", "id", "_id":
			return nil
		case "meta":
			first := true
			return members(raw, func(name string, raw jsontext.Value) error {
				switch strings.TrimPrefix(name, "_") {
				case "versionId", "lastUpdated":
					return nil
				}
				if !first {
					out = append(out, ',')
				}
				first = false
				out = append(append(element.AppendString(out, name), ':'), raw...)
				return nil
			})
		}
		rest = append(append(element.AppendString(append(rest, ','), name), ':'), raw...)
		return nil
	})
	if err != nil {
		return nil, err
	}
	out = append(append(out, '}'), rest...)
	return append(out, '}'), nil
}

// maxIssues bounds the issues that are reported for a body.
const maxIssues = 20

// messagePattern matches google/fhir's messages. The rest of a message is
// dropped, because it may quote the input.
var messagePattern = regexp.MustCompile(`^error at "([A-Za-z0-9_.\[\]]{1,200})": ([A-Za-z ]+)`)

// validate runs google/fhir on v and adds its issues to r. It drops issues of
// elements that already have one, because they are consequences.
func (val *Validator) validate(r *rules, v []byte, repair bool) error {
	if repair {
		var err error
		if v, err = repaired(v); err != nil {
			return fhir.Wrap(op, err)
		}
	}
	report := errorreporter.NewBasicErrorReporter()
	slots := val.ordinary
	if values(v) > manyValues {
		slots = val.large
	}
	slots <- struct{}{}
	defer func() { <-slots }()
	_, err := val.um.UnmarshalWithErrorReporter(v, report)
	if err == nil && len(report.Errors) == 0 {
		return nil
	}
	r.malformed = true
	before := len(r.issues)
	var lines []string
	if err != nil {
		lines = strings.Split(err.Error(), "\n")
	}
	for _, r := range report.Errors {
		lines = append(lines, (*r).Error())
	}
	for _, l := range lines {
		m := messagePattern.FindStringSubmatch(l)
		if m == nil {
			continue
		}
		path := disclosablePath(r.typ, m[1])
		if !slices.ContainsFunc(r.issues[:before],
			func(is fhir.Issue) bool { return slices.Contains(is.Expression, path) }) {
			r.issue(fhir.Issue{Severity: "error", Code: "structure", Diagnostics: diagnosticsOf(l, m[2]),
				Expression: []string{path}})
		}
	}
	if len(r.issues) == 0 {
		r.issue(fhir.Issue{Severity: "error", Code: "structure", Diagnostics: "is not a valid R4 " + r.typ,
			Expression: []string{r.typ}})
	}
	return nil
}

// disclosablePath cuts a path before the first name that R4 does not define.
func disclosablePath(typ, path string) string {
	parts := strings.Split(path, ".")
	for i, p := range parts {
		name, index, _ := strings.Cut(strings.TrimPrefix(p, "_"), "[")
		if i == 0 && name == typ {
			continue
		}
		if !names().elements[name] && !fhir.IsR4Type(name) {
			return strings.Join(parts[:i], ".")
		}
		if index != "" {
			name += "[" + index
		}
		parts[i] = name
	}
	return strings.Join(parts, ".")
}

const wrongDataType = "does not match its data type, or is a code outside its required value set"

// diagnosticsOf translates a message of google/fhir.
func diagnosticsOf(line, detail string) string {
	detail = strings.TrimSpace(detail)
	switch {
	case strings.HasPrefix(detail, "unknown field"):
		return "has an element that R4 does not define here"
	case strings.HasPrefix(detail, "unknown resource type"):
		return "is of an unknown resource type"
	case strings.HasPrefix(detail, "missing required field"):
		if _, name, ok := strings.Cut(line, "missing required field \""); ok {
			if name, _, ok = strings.Cut(name, `"`); ok && names().elements[name] {
				return "lacks the required element " + name
			}
		}
		return "lacks a required element"
	case strings.HasPrefix(detail, "cannot accept multiple values"):
		return "has more than one type of a choice element"
	case strings.HasPrefix(detail, "expected array"):
		return "must be an array"
	case strings.HasPrefix(detail, "array length"):
		return "must have as many elements as its array of extensions"
	case strings.HasPrefix(detail, "invalid reference"):
		return "refers to a type that is not allowed here, or is not a reference"
	case strings.HasPrefix(detail, "expected"), strings.HasPrefix(detail, "invalid"),
		strings.HasPrefix(detail, "code type"):
		return wrongDataType
	}
	return "breaks a rule of R4"
}

func itoa(n int) string { return strconv.Itoa(n) }
