package search

import (
	"strings"

	"pulsegate/fhir"
)

// values reads one element of a comma list. A reference by id alone stands
// for one value of each type that the parameter may refer to.
func (ps *parser) values(p *Param, m Modifier, target, s string) ([]Value, error) {
	if len(s) > maxLength {
		return nil, fhir.Errorf(fhir.Invalid, op, "a value of parameter %s is longer than %d bytes", p.Code, maxLength)
	}
	switch p.Type {
	case TypeToken:
		if m == ModText {
			return one(Value{Text: Fold(unescape(s))})
		}
		vs, err := ps.token(p, s)
		if err == nil && p.anyCase() {
			vs = anyCase(vs[0])
		}
		return vs, err
	case TypeDate:
		return ps.date(p, s)
	case TypeReference:
		if m == ModIdentifier {
			return ps.token(p, s)
		}
		return ps.reference(p, target, unescape(s))
	case TypeString:
		return one(stringValue(unescape(s)))
	case TypeQuantity:
		return ps.quantity(p, s)
	case TypeURI:
		return one(Value{Code: unescape(s)})
	}
	if p.Type.Composite() {
		return ps.composite(p, s)
	}
	return nil, notSupported("search parameter %s is not supported", p.Code)
}

// caseSensitive are the code systems whose codes differ by case, among those
// that this server meets (R4 search.html#token).
var caseSensitive = map[string]bool{ // read only
	"http://unitsofmeasure.org": true,
}

// anyCase reports whether the tokens of p are compared without regard to case:
// codes and contact points are, identifiers and ids are not (R4
// search.html#token: "when in doubt, servers SHOULD treat tokens in a
// case-insensitive manner"; datatypes.html#Identifier).
func (p *Param) anyCase() bool {
	for i := range p.Paths {
		switch p.Paths[i].Type {
		case "code", "Coding", "CodeableConcept", "boolean", "ContactPoint":
		default:
			return false
		}
	}
	return true
}

// anyCase returns a wanted token as written, in lower case and in upper case.
// The codes of FHIR's and HL7's own systems have one of the two cases
// throughout, so that these find them by their index.
func anyCase(v Value) []Value {
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

// stringValue is a wanted string. Nothing but punctuation folds to nothing,
// with which every string begins; it stays as it is, and finds nothing.
func stringValue(s string) Value {
	v := Value{Code: s, Text: Fold(s)}
	if v.Text == "" {
		v.Text = s
	}
	return v
}

func one(v Value) ([]Value, error) { return []Value{v}, nil }

func (ps *parser) token(p *Param, s string) ([]Value, error) {
	f := split(s, '|')
	switch {
	case len(f) == 1:
		return one(Value{Code: unescape(f[0])})
	case len(f) == 2 && (f[0] != "" || f[1] != ""):
		return one(Value{System: unescape(f[0]), HasSystem: true, Code: unescape(f[1])})
	}
	return nil, bad(p.Code, "code, system|code, |code or system|")
}

var prefixes = map[string]Prefix{"eq": EQ, "ne": NE, "gt": GT, "lt": LT, "ge": GE, "le": LE, "sa": SA, "eb": EB,
	"ap": AP}

// cutPrefix takes a comparison from the front.
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
		return nil, bad(p.Code, "[prefix]YYYY, YYYY-MM, YYYY-MM-DD or YYYY-MM-DDThh:mm[:ss[.fff]][Z|±hh:mm]")
	}
	v := d.value()
	v.Prefix = pre
	if pre == AP {
		if now, ok := ps.now(); ok {
			iv := approximate(d.interval, now)
			v = Value{Lo: iv.lo, Hi: iv.hi, Prefix: pre}
		}
	}
	if v.fine() {
		v.round()
	}
	return one(v)
}

// round sets the milliseconds of a clause's date that is finer, so that what
// matches to the nanosecond also matches to the millisecond: a store may use
// them to leave out what cannot match.
func (v *Value) round() {
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
	if !ok || len(f) != 1 && len(f) != 3 {
		return nil, bad(p.Code, "[prefix]number or [prefix]number|system|code")
	}
	v := Value{Prefix: pre, Num: n.num, NumLo: n.lo, NumHi: n.hi}
	if len(f) == 3 {
		v.System, v.Code = unescape(f[1]), unescape(f[2])
		v.HasSystem = v.System != ""
	}
	return one(v)
}

func (ps *parser) reference(p *Param, target, s string) ([]Value, error) {
	if rest, ok := strings.CutPrefix(s, ps.o.Base+"/"); ok && ps.o.Base != "" {
		if r, ok := fhir.ParseRef(rest); ok {
			s = r.String()
		}
	}
	if r, ok := fhir.ParseRef(s); ok {
		if target != "" && r.Type != target {
			return nil, bad(p.Code+":"+target, "an id, or a reference to that type")
		}
		return one(ps.local(r.Type, r.ID))
	}
	if target == "" && (strings.Contains(s, ":") || strings.Contains(s, "/")) {
		return one(Value{Code: s})
	}
	if !fhir.ValidID(s) {
		return nil, bad(p.Code, "an id, Type/id or an absolute URL")
	}
	types := p.Targets
	if target != "" {
		types = []string{target}
	} else if len(types) == 0 {
		types = fhir.R4Types() // of any server, not only those that this one stores
		if ps.untyped++; ps.untyped > maxUntyped {
			return nil, fhir.Errorf(fhir.Invalid, op, "more than %d ids without a type; write Type/id", maxUntyped)
		}
	}
	out := make([]Value, 0, len(types))
	for _, t := range types {
		out = append(out, ps.local(t, s))
	}
	return out, nil
}

// local is a reference to a resource of ours; Code is the absolute form, for
// resources that were indexed without knowledge of our base.
func (ps *parser) local(typ, id string) Value {
	v := Value{RefType: typ, RefID: id}
	if ps.o.Base != "" {
		v.Code = ps.o.Base + "/" + typ + "/" + id
	}
	return v
}

// split cuts s at unescaped separators; the parts keep their escapes.
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

// unescape resolves \, \| \$ and \\ (R4 3.1.1.4.0.5); another backslash
// stands for itself.
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
