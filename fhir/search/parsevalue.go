package search

import (
	"strings"

	"pulsegate/fhir"
	"pulsegate/fhir/element"
)

// values parses one element of a comma-separated list. An id without a type
// yields one value for each type that the parameter may refer to.
func (ps *parser) values(p *Param, m Modifier, target, s string) ([]Value, error) {
	if len(s) > maxLength {
		return nil, fhir.Errorf(fhir.Invalid, op, "a value of parameter %s is longer than %d bytes", p.Code, maxLength)
	}
	switch p.Type {
	case TypeToken:
		if m == ModText {
			return single(Value{Text: Fold(unescape(s))})
		}
		if m == ModOfType {
			return ofType(p, s)
		}
		vs, err := ps.token(p, s)
		if err == nil && p.ignoresCase() {
			vs = caseVariants(vs[0])
		}
		return vs, err
	case TypeDate:
		return ps.date(p, s)
	case TypeReference:
		if m == ModIdentifier {
			return ps.token(p, s)
		}
		if m == ModBelow {
			return single(Value{Code: unescape(s)})
		}
		return ps.reference(p, target, unescape(s))
	case TypeString:
		return single(stringValue(unescape(s)))
	case TypeQuantity, TypeNumber:
		return ps.quantity(p, s)
	case TypeURI:
		if (m == ModAbove || m == ModBelow) && !strings.Contains(s, "://") {
			return nil, badValue(p.Code+" with :above or :below", "a URL; R4 does not order URNs")
		}
		return single(Value{Code: unescape(s)})
	}
	if p.Type.Composite() {
		return ps.composite(p, s)
	}
	return nil, errUnsupported("search parameter %s is not supported", p.Code)
}

// caseSensitive lists the code systems with case-sensitive codes that occur in
// the data of this server (R4 search.html#token).
var caseSensitive = map[string]bool{ // read only
	element.UCUM: true,
}

// ignoresCase reports whether tokens of p are case-insensitive. Codes and contact
// points are, identifiers and ids are not (R4 search.html#token: "when in doubt,
// servers SHOULD treat tokens in a case-insensitive manner";
// datatypes.html#Identifier).
func (p *Param) ignoresCase() bool {
	for i := range p.Paths {
		switch p.Paths[i].Type {
		case "code", "Coding", "CodeableConcept", "boolean", "ContactPoint":
		default:
			return false
		}
	}
	return true
}

// caseVariants returns a token of a clause as written, in lower case and in upper
// case. The codes of FHIR's and HL7's systems are entirely in one of the two
// cases, so the variants find them in the index.
func caseVariants(v Value) []Value {
	out := []Value{v}
	if caseSensitive[v.System] {
		return out
	}
	for _, c := range []string{strings.ToLower(v.Code), strings.ToUpper(v.Code)} {
		if c != v.Code {
			w := v
			w.Code = c
			out = append(out, w)
		}
	}
	return out
}

// stringValue returns the value for a string of a clause. A string of punctuation
// folds to the empty string, which would match everything; it is not folded and
// matches nothing.
func stringValue(s string) Value {
	v := Value{Code: s, Text: Fold(s)}
	if v.Text == "" {
		v.Text = s
	}
	return v
}

func single(v Value) ([]Value, error) { return []Value{v}, nil }

func (ps *parser) token(p *Param, s string) ([]Value, error) {
	f := split(s, '|')
	switch {
	case len(f) == 1:
		return single(Value{Code: unescape(f[0])})
	case len(f) == 2 && (f[0] != "" || f[1] != ""):
		return single(Value{System: unescape(f[0]), HasSystem: true, Code: unescape(f[1])})
	}
	return nil, badValue(p.Code, "code, system|code, |code or system|")
}

var prefixes = map[string]Prefix{"eq": EQ, "ne": NE, "gt": GT, "lt": LT, "ge": GE, "le": LE, "sa": SA, "eb": EB,
	"ap": AP}

// cutPrefix splits off a comparison prefix.
func cutPrefix(s string) (Prefix, string) {
	if len(s) > 2 {
		if p, ok := prefixes[s[:2]]; ok {
			return p, s[2:]
		}
	}
	return EQ, s
}

func (ps *parser) date(p *Param, s string) ([]Value, error) {
	pre, rest := cutPrefix(s)
	d, ok := parseInstant(Plus(rest))
	if !ok {
		return nil, badValue(p.Code, "[prefix]YYYY, YYYY-MM, YYYY-MM-DD or YYYY-MM-DDThh:mm[:ss[.fff]][Z|±hh:mm]")
	}
	v := d.value()
	v.Prefix = pre
	if pre == AP {
		if now, ok := ps.now(); ok {
			iv := approximate(d.interval, now)
			v = Value{Lo: iv.lo, Hi: iv.hi, Prefix: pre}
		}
	}
	if v.subMillisecond() {
		v.roundToMilliseconds()
	}
	return single(v)
}

// roundToMilliseconds rounds Lo and Hi of a clause's date that has digits beyond
// the millisecond, and adjusts LoNs and HiNs. Afterwards everything that matches
// to the nanosecond also matches to the millisecond, so that a store can use
// milliseconds to skip resources.
func (v *Value) roundToMilliseconds() {
	switch v.Prefix {
	case GT, GE, SA:
		v.Hi, v.HiNs = v.Hi-1, v.HiNs+nsPerMs
	case LT, LE, EB:
		v.Lo, v.LoNs = v.Lo+1, v.LoNs-nsPerMs
	}
}

func (ps *parser) quantity(p *Param, s string) ([]Value, error) {
	pre, rest := cutPrefix(s)
	f := split(rest, '|')
	n, ok := parseNumber(f[0])
	if p.Type == TypeNumber && (!ok || len(f) != 1) {
		return nil, badValue(p.Code, "[prefix]number")
	}
	if !ok || len(f) != 1 && len(f) != 3 {
		return nil, badValue(p.Code, "[prefix]number or [prefix]number|system|code")
	}
	v := Value{Prefix: pre, Num: n.num, NumLo: n.lo, NumHi: n.hi}
	if len(f) == 3 {
		v.System, v.Code = unescape(f[1]), unescape(f[2])
		v.HasSystem = v.System != ""
	}
	return single(v)
}

func (ps *parser) reference(p *Param, target, s string) ([]Value, error) {
	if rest, ok := strings.CutPrefix(s, ps.opts.Base+"/"); ok && ps.opts.Base != "" {
		if r, ok := fhir.ParseRef(rest); ok {
			s = r.String()
		}
	}
	if r, ok := fhir.ParseRef(s); ok {
		if target != "" && r.Type != target {
			return nil, badValue(p.Code+":"+target, "an id, or a reference to that type")
		}
		return single(ps.local(r.Type, r.ID))
	}
	if target == "" && (strings.Contains(s, ":") || strings.Contains(s, "/")) {
		return single(Value{Code: s})
	}
	if !fhir.ValidID(s) {
		return nil, badValue(p.Code, "an id, Type/id or an absolute URL")
	}
	types := p.Targets
	if target != "" {
		types = []string{target}
	} else if len(types) == 0 {
		types = fhir.R4Types() // including types that this server does not store
		if ps.untyped++; ps.untyped > maxUntyped {
			return nil, fhir.Errorf(fhir.Invalid, op,
				"there are more than %d ids without a type; write Type/id instead", maxUntyped)
		}
	}
	out := make([]Value, 0, len(types))
	for _, t := range types {
		out = append(out, ps.local(t, s))
	}
	return out, nil
}

// local returns the value for a local reference. Code is its absolute form, for
// resources that were indexed without the base URL.
func (ps *parser) local(typ, id string) Value {
	v := Value{RefType: typ, RefID: id}
	if ps.opts.Base != "" {
		v.Code = ps.opts.Base + "/" + typ + "/" + id
	}
	return v
}

// split splits s at unescaped separators. The parts keep their escapes.
func split(s string, sep byte) []string {
	var out []string
	from := 0
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case sep:
			out = append(out, s[from:i])
			from = i + 1
		}
	}
	return append(out, s[from:])
}

// unescape resolves the escapes \, \| \$ and \\ (R4 3.1.1.4.0.5). Any other
// backslash stands for itself.
func unescape(s string) string {
	if strings.IndexByte(s, '\\') < 0 {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+1 < len(s) && strings.IndexByte(`,|$\`, s[i+1]) >= 0 {
			i++
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
