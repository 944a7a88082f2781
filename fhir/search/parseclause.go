package search

import (
	"slices"
	"strings"

	"pulsegate/fhir"
)

// parseClause parses a parameter that selects resources.
func (ps *parser) parseClause(name, value string) (Clause, error) {
	switch {
	case strings.HasPrefix(name, "_has:"):
		return ps.has(name, value)
	case name == "_list":
		return ps.list(value)
	case name == "_filter":
		return ps.filter(value)
	case strings.Contains(name, "."):
		return ps.chain(name, value)
	}
	code, mod, hasMod := strings.Cut(name, ":")
	p, err := ps.param(code)
	if err != nil {
		return Clause{}, err
	}
	c := Clause{Param: p}
	target := ""
	if hasMod {
		if c.Modifier, target, err = ps.modifier(p, mod); err != nil {
			return Clause{}, err
		}
	}
	if c.Modifier == ModMissing {
		if value != "true" && value != "false" {
			return Clause{}, badValue(code+":missing", "true or false")
		}
		c.Missing = value == "true"
		return c, nil
	}
	list := split(value, ',')
	if len(list) > maxValues {
		return Clause{}, fhir.Errorf(fhir.Invalid, op, "parameter %s has more than %d values", code, maxValues)
	}
	for at, s := range list {
		if s == "" {
			continue
		}
		var vs []Value
		if terminology[mod] != nil && p.Type == TypeToken {
			vs, err = ps.coded(p, mod, s)
		} else {
			vs, err = ps.values(p, c.Modifier, target, s)
		}
		if err != nil {
			return Clause{}, err
		}
		for i := range vs {
			if p.Type == typeParts {
				vs[i].Group = uint16(at)
			}
		}
		if c.Values = append(c.Values, vs...); len(c.Values) > maxCodes {
			return Clause{}, fhir.Errorf(fhir.TooCostly, op, "parameter %s stands for more than %d codes", code,
				maxCodes)
		}
	}
	c.Index()
	return c, nil
}

// param returns a supported parameter of the type that is searched.
func (ps *parser) param(code string) (*Param, error) {
	p, ok := ps.opts.Registry.Lookup(ps.query.Type, code)
	if !ok {
		name := safeName(code)
		if ps.hops > 0 { // only the first name of a chain is repeated
			name = ps.knownName(code)
		}
		return nil, errUnknown("parameter %d, %s, is not a search parameter of %s; use one of %s", ps.at, name,
			ps.query.Type, strings.Join(ps.codes(ps.query.Type, 0), ", "))
	}
	if !p.Supported() {
		return nil, errUnsupported("search parameter %s of %s is not supported", code, ps.query.Type)
	}
	return p, nil
}

// modifiers lists the supported modifiers of each parameter type.
var modifiers = map[ParamType][]string{
	TypeToken:     {"missing", "not", "text", "in", "not-in", "above", "below", "of-type"},
	TypeDate:      {"missing"},
	TypeReference: {"missing", "identifier", "below", "[type]"},
	TypeString:    {"missing", "exact", "contains"},
	TypeQuantity:  {"missing"},
	TypeURI:       {"missing", "above", "below"},
	TypeNumber:    {"missing"},

	typeCodeQuantity: {"missing"}, typeCodeConcept: {"missing"}, typeCodeString: {"missing"}, typeCodeDate: {"missing"},
	typeParts: {"missing"},
}

// named maps the modifiers to those of a Clause. A clause with one of terminology holds
// the codes for which it stands, so it needs no modifier but ModNot.
var named = map[string]Modifier{ // read only
	"missing": ModMissing, "not": ModNot, "text": ModText, "identifier": ModIdentifier, "exact": ModExact,
	"contains": ModContains, "of-type": ModOfType, "above": ModAbove, "below": ModBelow,
	"in": NoModifier, "not-in": ModNot,
}

// Modifiers returns the modifiers that a parameter takes. "[type]" stands for the types
// that a reference may have. terminology says whether the server has value sets.
func Modifiers(p *Param, terminology bool) []string {
	var out []string
	for _, m := range modifiers[p.Type] {
		if p.takes(m, terminology) {
			out = append(out, m)
		}
	}
	return out
}

// takes reports whether p takes a modifier of its type.
func (p *Param) takes(mod string, valueSets bool) bool {
	switch {
	case p.Type == TypeToken && terminology[mod] != nil:
		return valueSets && p.hasPath("code", "Coding", "CodeableConcept")
	case mod == "of-type":
		return p.hasPath("Identifier")
	case mod == "below" && p.Type == TypeReference:
		return p.hasPath("canonical", "uri")
	}
	return true
}

// hasPath reports whether a path of p has one of the data types. It is true for a
// parameter without paths, whose types are not known.
func (p *Param) hasPath(types ...string) bool {
	return len(p.Paths) == 0 || slices.ContainsFunc(p.Paths,
		func(x Path) bool { return slices.Contains(types, x.Type) })
}

func (ps *parser) modifier(p *Param, mod string) (Modifier, string, error) {
	if p.Type == TypeReference && isName(mod) && mod[0] >= 'A' && mod[0] <= 'Z' {
		if len(p.Targets) > 0 && !slices.Contains(p.Targets, mod) {
			return 0, "", errUnknown("parameter %s cannot refer to that type; use one of %s", p.Code,
				strings.Join(p.Targets, ", "))
		}
		return ModType, mod, nil
	}
	allowed := Modifiers(p, ps.opts.ValueSets != nil)
	if !slices.Contains(allowed, mod) || mod == "[type]" {
		return 0, "", errUnknown("this modifier is not supported for parameter %s; use one of :%s", p.Code,
			strings.Join(allowed, ", :"))
	}
	if p.Type == TypeToken && terminology[mod] != nil {
		return map[bool]Modifier{true: ModNot}[mod == "not-in"], "", nil
	}
	return named[mod], "", nil
}

// terminology maps the modifiers of tokens that stand for several codes to the functions
// that find them.
var terminology = map[string]func(ValueSets, string, string) ([]string, bool){ // read only
	"in": noCodes, "not-in": noCodes, "above": ValueSets.Above, "below": ValueSets.Below,
}

func noCodes(ValueSets, string, string) ([]string, bool) { return nil, false }

// coded returns the codes for which a value stands: those of a value set (:in and
// :not-in), or the code with all that it subsumes (:below) or that subsume it (:above).
func (ps *parser) coded(p *Param, mod, s string) ([]Value, error) {
	if len(s) > maxLength {
		return nil, fhir.Errorf(fhir.Invalid, op, "a value of parameter %s is longer than %d bytes", p.Code, maxLength)
	}
	var out []Value
	if mod == "in" || mod == "not-in" {
		codes, ok := ps.opts.ValueSets.Expand(unescape(s))
		if !ok {
			return nil, errUnsupported("the value set of %s:%s is not known to this server, or has too many codes",
				p.Code, mod)
		}
		for _, c := range codes {
			out = append(out, Value{System: c.System, HasSystem: c.System != "", Code: c.Code})
		}
		return out, nil
	}
	vs, err := ps.token(p, s)
	if err != nil {
		return nil, err
	}
	if !vs[0].HasSystem || vs[0].System == "" || vs[0].Code == "" {
		return nil, badValue(p.Code+":"+mod, "system|code, because codes are compared within a code system")
	}
	codes, ok := terminology[mod](ps.opts.ValueSets, vs[0].System, vs[0].Code)
	if !ok {
		return nil, errUnsupported("the code system of %s:%s is not known to this server", p.Code, mod)
	}
	for _, c := range codes {
		out = append(out, Value{System: vs[0].System, HasSystem: true, Code: c})
	}
	return out, nil
}

// ofType parses the value of :of-type, system|code|value: the type of an identifier and
// its value (R4 search.html#token).
func ofType(p *Param, s string) ([]Value, error) {
	f := split(s, '|')
	if len(f) != 3 || f[1] == "" || f[2] == "" {
		return nil, badValue(p.Code+":of-type", "system|code|value, the type of the identifier and its value")
	}
	return single(Value{RefType: unescape(f[0]), RefID: unescape(f[1]), Code: unescape(f[2])})
}
