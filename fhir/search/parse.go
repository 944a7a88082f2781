package search

import (
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/element"
)

// ParseOptions configures Parse.
type ParseOptions struct {
	// Lenient puts unknown and unsupported parameters into Query.Ignored instead of
	// failing (Prefer: handling=lenient).
	Lenient bool
	// Base is the server's base URL. Absolute references below it are local.
	Base string
	// MaxCount is the maximum of _count, 1,000 by default.
	MaxCount int
	// DefaultCount is the value of Query.Count if the client gives no _count. If it
	// is zero, Query.Count is -1.
	DefaultCount int
	// Now is called only for the prefix ap. If it is nil, ap means overlap without a
	// tolerance.
	Now now
	// Registry holds the parameters; nil is Builtin.
	Registry *Registry
	// ValueSets answers :in, :not-in, :above and :below. If it is nil, these modifiers
	// are not supported.
	ValueSets ValueSets
	// Joins says that the caller evaluates Clause.Joins and Query.RevIncludes before the
	// query reaches a store. If it is false, chained parameters, _has, _list and
	// _revinclude are not supported.
	Joins bool
	// Types lists all types of a search of several types, one of which is parsed. An
	// _include of another one of them is then left out, and _sort takes the parameters
	// that all of them have.
	Types []string
}

// ValueSets is the terminology that a search depends on. fhir/terminology implements
// it.
type ValueSets interface {
	// Expand returns the codes of a value set, given by canonical URL or as a reference
	// ("ValueSet/1"), or not ok if it is unknown or has too many codes.
	Expand(url string) (codes []element.Coding, ok bool)
	// Below returns a code and all codes that it subsumes; Above, all that subsume it. The
	// result is not ok if the code system is unknown.
	Below(system, code string) (codes []string, ok bool)
	Above(system, code string) (codes []string, ok bool)
}

const (
	op = "search.Parse"

	maxParams = 64
	maxValues = 256
	maxLength = 2048     // bytes of one element of a comma-separated list
	maxList   = 32 << 10 // bytes of a parameter's value
	maxPage   = 8 << 10  // bytes of the sealed parameter of a page link

	// maxUntyped bounds the ids without a type for parameters that may refer to any
	// type. Each of them stands for a reference to every type.
	maxUntyped = 16

	// maxHops bounds the nesting of chained parameters and _has, and maxJoins the number of
	// searches that they take: a reference to any type takes one for each type.
	maxHops  = 5
	maxJoins = 64

	// maxCodes bounds the codes of the value sets and hierarchies of a parameter.
	maxCodes = 10_000
)

// Pairs decodes a raw query or form body into its parameters, in order.
func Pairs(raw string) ([][2]string, error) {
	var out [][2]string
	for len(raw) > 0 {
		var part string
		part, raw, _ = strings.Cut(raw, "&")
		if part == "" {
			continue
		}
		if len(out) == maxParams {
			return nil, fhir.Errorf(fhir.Invalid, op, "the search has more than %d parameters", maxParams)
		}
		k, v, _ := strings.Cut(part, "=")
		name, err := url.QueryUnescape(k)
		if err != nil {
			return nil, fhir.Errorf(fhir.Invalid, op, "the name of a parameter is not correctly percent-encoded")
		}
		value, err := url.QueryUnescape(v)
		if err != nil {
			return nil, fhir.Errorf(fhir.Invalid, op, "the value of parameter %s is not correctly percent-encoded",
				safeName(name))
		}
		out = append(out, [2]string{name, value})
	}
	return out, nil
}

// SelfQuery encodes the applied parameters of q for the self link, in order.
func SelfQuery(q *Query) string {
	var b strings.Builder
	for i, p := range q.Applied {
		if i > 0 {
			b.WriteByte('&')
		}
		b.WriteString(escape(p[0]))
		b.WriteByte('=')
		b.WriteString(escape(p[1]))
	}
	return b.String()
}

// escape percent-encodes s but leaves the characters ":", ",", "/" and "$"
// readable, which RFC 3986 allows in a query.
func escape(s string) string {
	return readable.Replace(url.QueryEscape(s))
}

var readable = strings.NewReplacer("%3A", ":", "%2C", ",", "%2F", "/", "%24", "$")

// Parse parses the parameters of a search for resources of type typ.
func Parse(typ string, pairs [][2]string, o ParseOptions) (*Query, error) {
	if o.Registry.of(typ) == nil {
		return nil, fhir.Errorf(fhir.NotFound, op, "the server does not support this resource type")
	}
	if len(pairs) > maxParams {
		return nil, fhir.Errorf(fhir.Invalid, op, "the search has more than %d parameters", maxParams)
	}
	if o.MaxCount <= 0 {
		o.MaxCount = 1000
	}
	ps := &parser{opts: o, query: &Query{Type: typ, Registry: o.Registry, Count: -1}, seen: map[string]bool{},
		bounds: &bounds{}}
	if o.DefaultCount > 0 {
		ps.query.Count = o.DefaultCount
	}
	for i, p := range pairs {
		ps.at = i + 1
		if err := ps.pair(p[0], p[1]); err != nil {
			return nil, err
		}
	}
	if err := ps.text(); err != nil {
		return nil, err
	}
	ps.patient()
	return ps.query, nil
}

// text keeps _summary=text apart from includes: "the _include and _revinclude parameters
// cannot be mixed with _summary=text" (R4 search.html#summary).
func (ps *parser) text() error {
	q := ps.query
	if q.Summary != SummaryText {
		return nil
	}
	kept := make([][2]string, 0, len(q.Applied))
	for _, p := range q.Applied {
		base, _, _ := strings.Cut(p[0], ":")
		if base != "_include" && base != "_revinclude" {
			kept = append(kept, p)
			continue
		}
		if !ps.opts.Lenient {
			return fhir.Errorf(fhir.Invalid, op, "%s cannot be mixed with _summary=text (R4 search.html#summary); leave "+
				"out one of them", base)
		}
		q.Ignored = append(q.Ignored, base)
	}
	q.Applied, q.Includes, q.RevIncludes = kept, nil, nil
	return nil
}

type parser struct {
	opts  ParseOptions
	query *Query
	seen  map[string]bool // result parameters, which may occur once
	at    int             // number of the parameter being read, from 1
	hops  int             // joins around the clause being read
	*bounds
}

// bounds counts what a search may have only a number of. The parsers of all joins of a
// search share them.
type bounds struct {
	untyped int // ids without a type, see maxUntyped
	joins   int
}

// pair parses one parameter.
func (ps *parser) pair(name, value string) error {
	if len(value) > maxList {
		return fhir.Errorf(fhir.Invalid, op, "parameter %s is longer than %d bytes", safeName(name), maxList)
	}
	if !utf8.ValidString(value) {
		return fhir.Errorf(fhir.Invalid, op, "the value of parameter %s is not valid UTF-8", safeName(name))
	}
	if empty(value) {
		return nil // R4 search.html: "Empty parameters are not an error - they are just ignored"
	}
	err := ps.result(name, value)
	if err == errNotResult {
		err = ps.clause(name, value)
	}
	if u, ok := err.(*unknown); ok {
		if ps.opts.Lenient {
			ps.query.Ignored = append(ps.query.Ignored, safeName(name))
			return nil
		}
		return u.err
	}
	if err == nil && !strings.HasPrefix(name, "__") {
		ps.query.Applied = append(ps.query.Applied, [2]string{name, value})
	}
	return err
}

// empty reports whether a value is blank or a list of blank elements.
func empty(value string) bool { return strings.Trim(value, ", \t") == "" }

// unknown is an error about a parameter that lenient handling ignores.
type unknown struct{ err *fhir.Error }

func (u *unknown) Error() string { return u.err.Error() }

func errUnknown(format string, args ...any) error {
	return &unknown{fhir.Errorf(fhir.Invalid, op, format, args...)}
}

func errUnsupported(format string, args ...any) error {
	e := fhir.Errorf(fhir.Invalid, op, format, args...)
	e.Issues[0].Code = "not-supported"
	return &unknown{e}
}

type sentinel string

func (s sentinel) Error() string { return string(s) }

const errNotResult = sentinel("not a result parameter")

// result parses parameters that concern the result rather than select resources.
func (ps *parser) result(name, value string) error {
	base, mod, _ := strings.Cut(name, ":")
	switch base {
	case "_count", "_sort", "_total", "_summary", "_elements", "_format", "_pretty", "__page":
		if mod != "" {
			return errUnknown("parameter %s does not take a modifier", base)
		}
		if ps.seen[base] {
			return fhir.Errorf(fhir.Invalid, op, "parameter %s is given more than once; give it once", base)
		}
		ps.seen[base] = true
	case "_include":
		return ps.include(mod, value)
	case "_revinclude":
		return ps.revinclude(mod, value)
	case "_contained":
		if name != base || value != "false" {
			return errUnsupported("parameter _contained must be false: contained resources are not searched")
		}
		return nil
	case "_containedType":
		return errUnsupported("parameter _containedType is not supported")
	case "_type":
		return errUnsupported("parameter _type is for searches of all types, such as GET [base]?_type=Patient")
	default:
		return errNotResult
	}
	return ps.option(base, value)
}

func (ps *parser) option(name, value string) error {
	switch name {
	case "_count":
		n, err := strconv.Atoi(value)
		if err != nil || n < 0 {
			return badValue(name, "a whole number, 0 or greater")
		}
		ps.query.Count = min(n, ps.opts.MaxCount)
	case "_sort":
		return ps.sort(value)
	case "_total":
		i := slices.Index([]string{"none", "estimate", "accurate"}, value)
		if i < 0 {
			return badValue(name, "none, estimate or accurate")
		}
		ps.query.Total = total(i)
	case "_summary":
		i := slices.Index(summaries, value)
		if i < 0 {
			return badValue(name, "true, false, text, data or count")
		}
		ps.query.Summary = Summary(i)
	case "_elements":
		var elements []string
		for _, e := range strings.Split(value, ",") {
			e = strings.TrimPrefix(strings.TrimSpace(e), ps.query.Type+".")
			first, _, nested := strings.Cut(e, ".")
			switch {
			case nested && slices.Contains(ps.opts.Types, first): // an element of another type
			case nested:
				return errUnsupported("_elements takes the names of elements at the base of the resource, such as code " +
					"(R4 search.html#elements); the elements inside of them cannot be selected")
			case !isName(e):
				return badValue(name, "a comma-separated list of elements at the base of the resource")
			default:
				elements = append(elements, e)
			}
		}
		ps.query.Elements = elements
	case "_pretty":
		if value != "true" && value != "false" {
			return badValue(name, "true or false")
		}
	case "__page":
		if value == "" || len(value) > maxPage {
			return badValue("__page", "copied unchanged from a page link of the server")
		}
		ps.query.Page = value
	}
	return nil // the HTTP layer handles _format
}

func badValue(name, want string) error {
	return fhir.Errorf(fhir.Invalid, op, "the value of %s must be %s", name, want)
}

func (ps *parser) sort(value string) error {
	for _, f := range strings.Split(value, ",") {
		code, desc := strings.CutPrefix(strings.TrimSpace(f), "-")
		kind, ok := ps.sortable(ps.query.Type, code)
		if !ok && len(ps.opts.Types) == 0 {
			return errUnknown("_sort names %s, by which %s cannot be sorted", ps.knownName(code), ps.query.Type)
		}
		for _, typ := range ps.opts.Types {
			if other, has := ps.sortable(typ, code); !ok || !has || other != kind {
				return errUnsupported("_sort names %s; a search of several types is sorted by parameters that all "+
					"of the types have, with the same type, such as _lastUpdated and _id", ps.knownName(code))
			}
		}
		ps.query.Sort = append(ps.query.Sort, SortKey{Param: code, Desc: desc})
	}
	if len(ps.query.Sort) > 5 {
		return badValue("_sort", "at most 5 parameters")
	}
	return nil
}

// sortable returns the type of a parameter by which resources can be sorted.
func (ps *parser) sortable(typ, code string) (ParamType, bool) {
	p, ok := ps.opts.Registry.Lookup(typ, code)
	if !ok || !p.Supported() || p.Type.Composite() {
		return 0, false
	}
	return p.Type, true
}

// clause parses a parameter that selects resources.
func (ps *parser) clause(name, value string) error {
	c, err := ps.parseClause(name, value)
	if err == nil {
		ps.query.Clauses = append(ps.query.Clauses, c)
	}
	return err
}

// codes lists the supported parameters of a resource type. If k is not zero, it
// lists only those of type k.
func (ps *parser) codes(typ string, k ParamType) []string {
	var out []string
	for _, p := range ps.opts.Registry.Params(typ) {
		if k == 0 || p.Type == k {
			out = append(out, p.Code)
		}
	}
	return out
}

// patient sets Query.Patient if the query is limited to one patient.
func (ps *parser) patient() {
	want, single := PatientParam(ps.query.Type)
	if !single {
		return
	}
	codes := access.PatientCodes(ps.query.Type)
	for i := range ps.query.Clauses {
		c := &ps.query.Clauses[i]
		if len(c.Values) != 1 || c.Modifier != NoModifier && c.Modifier != ModType {
			continue
		}
		v := &c.Values[0]
		switch {
		case want == "_id" && c.Param.Code == "_id" && !v.HasSystem && fhir.ValidID(v.Code):
			ps.query.Patient = v.Code
			return
		case want != "_id" && slices.Contains(codes, c.Param.Code) && v.RefType == "Patient":
			ps.query.Patient = v.RefID
			return
		}
	}
}

// Display parses _summary and _elements, the parameters of a read (R4
// http.html#general). It ignores all others, as R4 requires.
func Display(typ string, pairs [][2]string) (Summary, []string, error) {
	ps := &parser{query: &Query{Type: typ}, seen: map[string]bool{}}
	for _, p := range pairs {
		if (p[0] == "_summary" || p[0] == "_elements") && !empty(p[1]) {
			err := ps.result(p[0], p[1])
			if u, ok := err.(*unknown); ok {
				err = u.err
			}
			if err != nil {
				return 0, nil, err
			}
		}
	}
	if ps.query.Summary == SummaryCount {
		return 0, nil, badValue("_summary", "true, false, text or data; count is only for searches")
	}
	return ps.query.Summary, ps.query.Elements, nil
}

// safeName returns a parameter's name for an error text. It returns a placeholder
// if s does not look like a name (short and without spaces), because it may be
// any input.
func safeName(s string) string {
	base, _, _ := strings.Cut(s, ":")
	base, _, _ = strings.Cut(base, ".")
	if isName(base) {
		return base
	}
	return "(not a valid name)"
}

// knownName returns s for an error text if it is the name of a search parameter.
// Otherwise it returns a placeholder, because s may be any input.
func (ps *parser) knownName(s string) string {
	registry := ps.opts.Registry
	if registry == nil {
		registry = builtin()
	}
	for typ := range registry.types {
		if registry.of(typ).byCode[s] != nil {
			return s
		}
	}
	return "(a name that R4 does not define)"
}

// now returns the time for the prefix ap.
func (ps *parser) now() (time.Time, bool) {
	if ps.opts.Now == nil {
		return time.Time{}, false
	}
	return ps.opts.Now(), true
}

// isName reports whether s looks like the name of an element or parameter.
func isName(s string) bool {
	if s == "" || len(s) > 48 {
		return false
	}
	for i := 0; i < len(s); i++ {
		c := s[i]
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '_' || c == '-' || i > 0 && c >= '0' && c <= '9') {
			return false
		}
	}
	return true
}
