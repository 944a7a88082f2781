package search

import (
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"pulsegate/fhir"
)

// ParseOptions say how a search is read.
type ParseOptions struct {
	// Lenient drops unknown and unsupported parameters into Query.Ignored
	// (Prefer: handling=lenient) instead of failing.
	Lenient bool
	// Base is our own base URL: absolute references below it are local.
	Base string
	// MaxCount caps _count (0: 1,000); DefaultCount is Query.Count when the
	// client gives none (0: -1, not given).
	MaxCount, DefaultCount int
	// Now is asked for prefix ap only; nil means ap is exact overlap.
	Now Now
}

const (
	op = "search.Parse"

	maxParams = 64
	maxValues = 256
	maxLength = 2048 // of one parameter's value; comma lists may be longer
	maxList   = 32 << 10
	maxPage   = 8 << 10 // of the sealed parameter of a page link

	// maxUntyped bounds the ids without a type, for parameters that may refer
	// to any type: each of them stands for a reference to every type.
	maxUntyped = 16
)

// Pairs splits a raw query or form body into its parameters, in order.
func Pairs(raw string) ([][2]string, error) {
	var out [][2]string
	for len(raw) > 0 {
		var part string
		part, raw, _ = strings.Cut(raw, "&")
		if part == "" {
			continue
		}
		if len(out) == maxParams {
			return nil, fhir.Errorf(fhir.Invalid, op, "more than %d parameters", maxParams)
		}
		k, v, _ := strings.Cut(part, "=")
		name, err := url.QueryUnescape(k)
		if err != nil {
			return nil, fhir.Errorf(fhir.Invalid, op, "a parameter name is not correctly percent-encoded")
		}
		value, err := url.QueryUnescape(v)
		if err != nil {
			return nil, fhir.Errorf(fhir.Invalid, op, "parameter %s is not correctly percent-encoded", safeName(name))
		}
		out = append(out, [2]string{name, value})
	}
	return out, nil
}

// SelfQuery renders the honoured parameters of q, encoded, in order.
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

// escape leaves what RFC 3986 allows in a query readable.
func escape(s string) string {
	return readable.Replace(url.QueryEscape(s))
}

var readable = strings.NewReplacer("%3A", ":", "%2C", ",", "%2F", "/", "%24", "$")

// Parse reads the parameters of a search on type typ, given in order.
func Parse(typ string, pairs [][2]string, o ParseOptions) (*Query, error) {
	if index()[typ] == nil {
		return nil, fhir.Errorf(fhir.NotFound, op, "the server does not support this resource type")
	}
	if len(pairs) > maxParams {
		return nil, fhir.Errorf(fhir.Invalid, op, "more than %d parameters", maxParams)
	}
	if o.MaxCount <= 0 {
		o.MaxCount = 1000
	}
	ps := &parser{o: o, q: &Query{Type: typ, Count: -1}, seen: map[string]bool{}}
	if o.DefaultCount > 0 {
		ps.q.Count = o.DefaultCount
	}
	for i, p := range pairs {
		ps.at = i + 1
		if err := ps.pair(p[0], p[1]); err != nil {
			return nil, err
		}
	}
	ps.patient()
	return ps.q, nil
}

type parser struct {
	o    ParseOptions
	q    *Query
	seen map[string]bool // result parameters, which may occur once
	at   int             // number of the parameter being read, from 1
	// untyped counts the ids without a type, see maxUntyped.
	untyped int
}

// pair reads one parameter.
func (ps *parser) pair(name, value string) error {
	if len(value) > maxList {
		return fhir.Errorf(fhir.Invalid, op, "parameter %s is longer than %d bytes", safeName(name), maxList)
	}
	if !utf8.ValidString(value) {
		return fhir.Errorf(fhir.Invalid, op, "the value of parameter %s is not UTF-8", safeName(name))
	}
	if empty(value) {
		return nil // R4 search.html: "Empty parameters are not an error - they are just ignored"
	}
	err := ps.result(name, value)
	if err == errNotResult {
		err = ps.clause(name, value)
	}
	if u, ok := err.(*unknown); ok {
		if ps.o.Lenient {
			ps.q.Ignored = append(ps.q.Ignored, safeName(name))
			return nil
		}
		return u.err
	}
	if err == nil && !strings.HasPrefix(name, "__") {
		ps.q.Applied = append(ps.q.Applied, [2]string{name, value})
	}
	return err
}

// empty reports whether a value is blank, or a list of nothing.
func empty(value string) bool { return strings.Trim(value, ", \t") == "" }

// unknown is an error that lenient handling turns into an ignored parameter.
type unknown struct{ err *fhir.Error }

func (u *unknown) Error() string { return u.err.Error() }

func notKnown(format string, args ...any) error {
	return &unknown{fhir.Errorf(fhir.Invalid, op, format, args...)}
}

func notSupported(format string, args ...any) error {
	e := fhir.Errorf(fhir.Invalid, op, format, args...)
	e.Issues[0].Code = "not-supported"
	return &unknown{e}
}

type sentinel string

func (s sentinel) Error() string { return string(s) }

const errNotResult = sentinel("not a result parameter")

// result reads the parameters that shape the answer rather than select.
func (ps *parser) result(name, value string) error {
	base, mod, _ := strings.Cut(name, ":")
	switch base {
	case "_count", "_sort", "_total", "_summary", "_elements", "_format", "_pretty", "__page":
		if mod != "" {
			return notKnown("parameter %s takes no modifier", base)
		}
		if ps.seen[base] {
			return fhir.Errorf(fhir.Invalid, op, "parameter %s may be given once", base)
		}
		ps.seen[base] = true
	case "_include":
		return ps.include(mod, value)
	case "_revinclude", "_has", "_list", "_contained", "_containedType", "_type":
		return notSupported("parameter %s is not supported", base)
	default:
		return errNotResult
	}
	return ps.shape(base, value)
}

func (ps *parser) shape(name, value string) error {
	switch name {
	case "_count":
		n, err := strconv.Atoi(value)
		if err != nil || n < 0 {
			return bad(name, "a whole number from 0")
		}
		ps.q.Count = min(n, ps.o.MaxCount)
	case "_sort":
		return ps.sort(value)
	case "_total":
		i := slices.Index([]string{"none", "estimate", "accurate"}, value)
		if i < 0 {
			return bad(name, "none, estimate or accurate")
		}
		ps.q.Total = Total(i)
	case "_summary":
		i := slices.Index(summaries, value)
		if i < 0 {
			return bad(name, "true, false, text, data or count")
		}
		ps.q.Summary = Summary(i)
	case "_elements":
		for _, e := range strings.Split(value, ",") {
			e = strings.TrimPrefix(strings.TrimSpace(e), ps.q.Type+".")
			if !isName(e) {
				return bad(name, "a comma-separated list of element names of the resource's top level")
			}
			ps.q.Elements = append(ps.q.Elements, e)
		}
	case "_pretty":
		if value != "true" && value != "false" {
			return bad(name, "true or false")
		}
	case "__page":
		if value == "" || len(value) > maxPage {
			return bad("a page link", "as the server gave it")
		}
		ps.q.Page = value
	}
	return nil // _format is for the HTTP layer
}

func bad(name, want string) error {
	return fhir.Errorf(fhir.Invalid, op, "value of %s must be %s", name, want)
}

func (ps *parser) sort(value string) error {
	for _, f := range strings.Split(value, ",") {
		code, desc := strings.CutPrefix(strings.TrimSpace(f), "-")
		p, ok := Lookup(ps.q.Type, code)
		if !ok || !p.Supported() || p.Type.Composite() {
			return notKnown("_sort names %s, which is not a parameter to sort %s by", knownName(code), ps.q.Type)
		}
		ps.q.Sort = append(ps.q.Sort, SortKey{Param: code, Desc: desc})
	}
	if len(ps.q.Sort) > 5 {
		return bad("_sort", "at most 5 parameters")
	}
	return nil
}

func (ps *parser) include(mod, value string) error {
	if mod != "" && mod != "iterate" && mod != "recurse" {
		return notKnown("_include takes no modifier but iterate")
	}
	f := strings.Split(value, ":")
	if len(f) < 2 || len(f) > 3 || f[1] == "*" {
		return notSupported("_include must be Type:parameter or Type:parameter:Target")
	}
	if mod == "" && f[0] != ps.q.Type {
		return notSupported("_include of another source type than %s needs :iterate", ps.q.Type)
	}
	p, ok := Lookup(f[0], f[1])
	if !ok || p.Type != TypeReference || !p.Supported() {
		return notSupported("_include names no reference parameter; %s has %s", ps.q.Type,
			strings.Join(codes(ps.q.Type, TypeReference), ", "))
	}
	in := Include{Source: f[0], Param: f[1], Iterate: mod != ""}
	if len(f) == 3 {
		if len(p.Targets) > 0 && !slices.Contains(p.Targets, f[2]) || !isName(f[2]) {
			return bad("_include", "with a target type that "+f[1]+" may refer to")
		}
		in.Target = f[2]
	}
	if len(ps.q.Includes) == 16 {
		return bad("_include", "given at most 16 times")
	}
	ps.q.Includes = append(ps.q.Includes, in)
	return nil
}

// clause reads a parameter that selects.
func (ps *parser) clause(name, value string) error {
	code, mod, hasMod := strings.Cut(name, ":")
	if strings.Contains(name, ".") {
		return notSupported("chained parameters are not supported: %s", safeName(name))
	}
	p, ok := Lookup(ps.q.Type, code)
	if !ok {
		return notKnown("parameter %d, %s, is not a search parameter of %s; known are %s", ps.at, safeName(code),
			ps.q.Type, strings.Join(codes(ps.q.Type, 0), ", "))
	}
	if !p.Supported() {
		return notSupported("search parameter %s of %s is not supported", code, ps.q.Type)
	}
	c := Clause{Param: p}
	target := ""
	if hasMod {
		var err error
		if c.Modifier, target, err = modifier(p, mod); err != nil {
			return err
		}
	}
	if c.Modifier == ModMissing {
		if value != "true" && value != "false" {
			return bad(code+":missing", "true or false")
		}
		c.Missing = value == "true"
		ps.q.Clauses = append(ps.q.Clauses, c)
		return nil
	}
	list := split(value, ',')
	if len(list) > maxValues {
		return fhir.Errorf(fhir.Invalid, op, "parameter %s has more than %d values", code, maxValues)
	}
	for _, s := range list {
		if s == "" {
			continue
		}
		vs, err := ps.values(p, c.Modifier, target, s)
		if err != nil {
			return err
		}
		c.Values = append(c.Values, vs...)
	}
	ps.q.Clauses = append(ps.q.Clauses, c)
	return nil
}

// modifiers lists what each kind takes, for the reader and for the error.
var modifiers = map[ParamType][]string{
	TypeToken:     {"missing", "not", "text"},
	TypeDate:      {"missing"},
	TypeReference: {"missing", "identifier", "[type]"},
	TypeString:    {"missing", "exact", "contains"},
	TypeQuantity:  {"missing"},
	TypeURI:       {"missing"},

	kindCodeQuantity: {"missing"}, kindCodeConcept: {"missing"}, kindCodeString: {"missing"}, kindCodeDate: {"missing"},
}

func modifier(p *Param, mod string) (Modifier, string, error) {
	allowed := modifiers[p.Type]
	if p.Type == TypeReference && isName(mod) && mod[0] >= 'A' && mod[0] <= 'Z' {
		if len(p.Targets) > 0 && !slices.Contains(p.Targets, mod) {
			return 0, "", notKnown("parameter %s may not refer to that type; its targets are %s", p.Code,
				strings.Join(p.Targets, ", "))
		}
		return ModType, mod, nil
	}
	if !slices.Contains(allowed, mod) || mod == "[type]" {
		return 0, "", notKnown("modifier of parameter %s is not supported; known are :%s", p.Code,
			strings.Join(allowed, ", :"))
	}
	return map[string]Modifier{"missing": ModMissing, "not": ModNot, "text": ModText, "identifier": ModIdentifier,
		"exact": ModExact, "contains": ModContains}[mod], "", nil
}

// codes lists the supported parameters of a type, of one kind or (0) of any.
func codes(typ string, k ParamType) []string {
	var out []string
	for _, p := range Params(typ) {
		if k == 0 || p.Type == k {
			out = append(out, p.Code)
		}
	}
	return out
}

// patient finds out whether the query asks for exactly one patient.
func (ps *parser) patient() {
	want, single := PatientParam(ps.q.Type)
	if !single {
		return
	}
	for i := range ps.q.Clauses {
		c := &ps.q.Clauses[i]
		if len(c.Values) != 1 || c.Modifier != NoModifier && c.Modifier != ModType {
			continue
		}
		v := &c.Values[0]
		switch {
		case want == "_id" && c.Param.Code == "_id" && !v.HasSystem && fhir.ValidID(v.Code):
			ps.q.Patient = v.Code
			return
		case want != "_id" && (c.Param.Code == want || c.Param.Code == "subject") && v.RefType == "Patient":
			ps.q.Patient = v.RefID
			return
		}
	}
}

// Display reads _summary and _elements, the parameters of a read that shape
// the answer (R4 http.html#general). Others are ignored, as R4 says.
func Display(typ string, pairs [][2]string) (Summary, []string, error) {
	ps := &parser{q: &Query{Type: typ}, seen: map[string]bool{}}
	for _, p := range pairs {
		if (p[0] == "_summary" || p[0] == "_elements") && !empty(p[1]) {
			if err := ps.result(p[0], p[1]); err != nil {
				return 0, nil, err
			}
		}
	}
	if ps.q.Summary == SummaryCount {
		return 0, nil, bad("_summary", "true, false, text or data: count is for searches")
	}
	return ps.q.Summary, ps.q.Elements, nil
}

// safeName returns a parameter's name for an error text: it is repeated if it
// has the form of a name, which is short and has no blanks. Anything else is
// input like a value, and is not repeated.
func safeName(s string) string {
	base, _, _ := strings.Cut(s, ":")
	base, _, _ = strings.Cut(base, ".")
	if isName(base) {
		return base
	}
	return "(not the form of a name)"
}

// knownName returns the name of a parameter in a value for an error text if a
// type of this server has the parameter. Anything else is not repeated.
func knownName(s string) string {
	for _, t := range index() {
		if t.byCode[s] != nil {
			return s
		}
	}
	return "(a name that R4 does not define)"
}

// now is the time for prefix ap.
func (ps *parser) now() (time.Time, bool) {
	if ps.o.Now == nil {
		return time.Time{}, false
	}
	return ps.o.Now(), true
}

// isName reports whether s has the form of an element's or parameter's name.
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
