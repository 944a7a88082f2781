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
)

// Limits bound what the door reads. A zero field means its default.
type Limits struct {
	Bytes   int // of one body; 10 MiB
	Depth   int // of nested objects and arrays in one resource; 50
	Entries int // of a batch or transaction; 1,000
	Values  int // JSON values (objects, arrays, strings, numbers) of one resource; 50,000
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

// Validator admits R4 JSON from outside. It is safe for concurrent use.
type Validator struct {
	limits  Limits
	um      *jsonformat.Unmarshaller
	shapes  *shapes
	parsers fastjson.ParserPool
	// ordinary and large hold one token for each validation by google/fhir under way.
	// One takes processor time and up to 2 KiB of memory for each JSON value: more
	// than one for each processor would only take more memory, and of those with
	// more than manyValues there are fewer.
	ordinary, large chan struct{}
}

const (
	// manyValues is the number of JSON values from which a validation is large.
	manyValues = 2000
	// largeAtOnce bounds the large validations under way.
	largeAtOnce = 2
)

// New returns a door; it loads google/fhir's descriptors.
func New(limits Limits) (*Validator, error) {
	um, err := jsonformat.NewUnmarshaller("UTC", fhirversion.R4)
	if err != nil {
		return nil, fhir.Wrap("r4.New", err)
	}
	d := &Validator{limits: limits.withDefaults(), um: um, shapes: newShapes(),
		ordinary: make(chan struct{}, runtime.GOMAXPROCS(0)), large: make(chan struct{}, largeAtOnce)}
	um.MaxNestingDepth = d.limits.Depth
	return d, nil
}

const op = "r4.Resource"

// Resource validates body as one R4 resource of type typ and returns it in
// canonical form under id. A body that carries no id or another one is refused
// (R4 http.html#update). Failures
// of shape are Invalid, of R4's rules Unprocessable.
func (d *Validator) Resource(typ string, body []byte, id string) (fhir.Resource, error) {
	return d.admit(typ, body, id, false)
}

// Create is Resource for a new resource: an id in the body is dropped, as R4
// says for the create interaction.
func (d *Validator) Create(typ string, body []byte, id string) (fhir.Resource, error) {
	return d.admit(typ, body, id, true)
}

func (d *Validator) admit(typ string, body []byte, id string, dropID bool) (fhir.Resource, error) {
	var none fhir.Resource
	if !fhir.KnownType(typ) {
		return none, fhir.Errorf(fhir.NotFound, op, "resource type is not known to this server")
	}
	if !fhir.ValidID(id) {
		return none, fhir.Errorf(fhir.Invalid, op, "an id is 1 to 64 letters, digits, '-' and '.'")
	}
	v, err := compact(op, body, d.limits.Bytes)
	if err != nil {
		return none, err
	}
	if n := d.limits.Values; len(v)/2 > n && values(v) > n {
		return none, fhir.Errorf(fhir.TooLarge, op, "a resource has at most %d JSON values", n)
	}
	p := d.parsers.Get()
	if len(v) <= kept {
		defer d.parsers.Put(p)
	}
	root, err := p.ParseBytes(v)
	if err != nil {
		return none, fhir.Errorf(fhir.Invalid, op, "body is not one well-formed JSON object")
	}
	r := &rules{typ: typ, all: d.shapes, root: root}
	if string(root.GetStringBytes("resourceType")) != typ {
		return none, refuse(fhir.Invalid, "invalid", typ+".resourceType", "resourceType must be "+typ)
	}
	if !dropID && string(root.GetStringBytes("id")) != id {
		r.malformed = true
		r.add("invalid", "id", "id must be there and be the id of the address")
	}
	r.prepare()
	if !d.plain(typ, v, root) {
		if err := d.slow(r, v); err != nil {
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

// slow holds v against everything that plain was not sure of, and gathers the
// issues in r. An error ends the admission at once.
func (d *Validator) slow(r *rules, v []byte) error {
	s := &scan{op: op, maxDepth: d.limits.Depth, root: r.typ}
	if err := s.run(v); err != nil {
		return err
	}
	r.malformed = r.malformed || len(s.issues) > 0
	for _, is := range s.issues {
		r.issue(is)
	}
	r.nulls(r.root)
	if err := d.validate(r, v, s.repair || r.uneven); err != nil {
		return err
	}
	if sh := d.shapes.of(r.typ); sh != nil {
		r.typed(sh, r.root)
	}
	return nil
}

// kept bounds the body whose parser, with the tree it made, is used again.
const kept = 64 << 10

func refuse(k fhir.Kind, code, place, rule string) *fhir.Error {
	return &fhir.Error{Kind: k, Op: op, Issues: []fhir.Issue{{Severity: "error", Code: code, Diagnostics: rule,
		Expression: []string{place}}}}
}

// canonical reorders the members that the server owns to the front and keeps
// the bytes of all others.
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
				out = append(append(AppendString(out, name), ':'), raw...)
				return nil
			})
		}
		rest = append(append(AppendString(append(rest, ','), name), ':'), raw...)
		return nil
	})
	if err != nil {
		return nil, err
	}
	out = append(append(out, '}'), rest...)
	return append(out, '}'), nil
}

// maxIssues bounds the answer to a body that is wrong all over.
const maxIssues = 20

// located is the form of google/fhir's messages; everything else of them is
// dropped, since it may quote the input.
var located = regexp.MustCompile(`^error at "([A-Za-z0-9_.\[\]]{1,200})": ([A-Za-z ]+)`)

// validate runs google/fhir over v once and adds its issues to r. What it says
// of a place that has an issue already is a consequence, and is left out.
func (d *Validator) validate(r *rules, v []byte, repair bool) error {
	if repair {
		var err error
		if v, err = repaired(v); err != nil {
			return fhir.Wrap(op, err)
		}
	}
	report := errorreporter.NewBasicErrorReporter()
	room := d.ordinary
	if values(v) > manyValues {
		room = d.large
	}
	room <- struct{}{}
	defer func() { <-room }()
	_, err := d.um.UnmarshalWithErrorReporter(v, report)
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
		m := located.FindStringSubmatch(l)
		if m == nil {
			continue
		}
		place := knownPlace(r.typ, m[1])
		if !slices.ContainsFunc(r.issues[:before],
			func(is fhir.Issue) bool { return slices.Contains(is.Expression, place) }) {
			r.issue(fhir.Issue{Severity: "error", Code: "structure", Diagnostics: ruleOf(l, m[2]),
				Expression: []string{place}})
		}
	}
	if len(r.issues) == 0 {
		r.issue(fhir.Issue{Severity: "error", Code: "structure", Diagnostics: "is not a valid R4 " + r.typ,
			Expression: []string{r.typ}})
	}
	return nil
}

// knownPlace drops from a path what is not R4's own name.
func knownPlace(typ, path string) string {
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

const wrongForm = "does not have the form of its data type, or a code outside its required value set"

// ruleOf turns a message of google/fhir into a text of ours.
func ruleOf(line, detail string) string {
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
		return "has more than one form of a choice of types"
	case strings.HasPrefix(detail, "expected array"):
		return "must be an array"
	case strings.HasPrefix(detail, "array length"):
		return "must have as many elements as its array of extensions"
	case strings.HasPrefix(detail, "invalid reference"):
		return "refers to a type that is not allowed here, or is no reference"
	case strings.HasPrefix(detail, "expected"), strings.HasPrefix(detail, "invalid"),
		strings.HasPrefix(detail, "code type"):
		return wrongForm
	}
	return "breaks a rule of R4"
}

func itoa(n int) string { return strconv.Itoa(n) }
