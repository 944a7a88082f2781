package search

import (
	"encoding/json"
	"strings"
	"unicode"

	"pulsegate/fhir"
)

// _filter (R4 search_filter.html) becomes a clause of clauses. Its bounds:
const (
	maxFilter      = 4096 // bytes
	maxFilterDepth = 16   // nested parentheses and brackets
	maxFilterTerms = 64   // comparisons
)

// filterParser parses one _filter.
type filterParser struct {
	ps    *parser
	text  string
	pos   int
	depth int
	terms *int
}

// filter parses the value of _filter:
//
//	filter    = term *(("and" / "or") term)
//	term      = "not" "(" filter ")" / "(" filter ")" / path op value
//	path      = name *("." name) / name "[" filter "]" "." path
//
// R4 gives "and" and "or" no precedence: they are evaluated from left to right.
func (ps *parser) filter(value string) (Clause, error) {
	if len(value) > maxFilter {
		return Clause{}, fhir.Errorf(fhir.Invalid, op, "_filter is longer than %d bytes", maxFilter)
	}
	terms := 0
	fp := &filterParser{ps: ps, text: value, terms: &terms}
	c, err := fp.expression()
	if err != nil {
		return Clause{}, err
	}
	if fp.space(); fp.pos < len(fp.text) {
		return Clause{}, fp.bad("the end, and, or or")
	}
	return c, nil
}

// bad returns an error that names the place but not the text.
func (fp *filterParser) bad(want string) error {
	return fhir.Errorf(fhir.Invalid, op, "_filter must have %s at character %d", want, fp.pos+1)
}

func (fp *filterParser) space() {
	for fp.pos < len(fp.text) && (fp.text[fp.pos] == ' ' || fp.text[fp.pos] == '\t') {
		fp.pos++
	}
}

// word reads a word if it is the next one. Keywords are not case sensitive.
func (fp *filterParser) word(w string) bool {
	fp.space()
	end := fp.pos + len(w)
	if end > len(fp.text) || !strings.EqualFold(fp.text[fp.pos:end], w) {
		return false
	}
	if end < len(fp.text) && isFilterName(fp.text[end]) {
		return false
	}
	fp.pos = end
	return true
}

func isFilterName(c byte) bool {
	return c == '_' || c == '-' || c == ':' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
}

// next reads a character if it is the next one.
func (fp *filterParser) next(c byte) bool {
	if fp.pos < len(fp.text) && fp.text[fp.pos] == c {
		fp.pos++
		return true
	}
	return false
}

func (fp *filterParser) expression() (Clause, error) {
	if fp.depth++; fp.depth > maxFilterDepth {
		return Clause{}, fhir.Errorf(fhir.Invalid, op, "_filter is nested more than %d deep", maxFilterDepth)
	}
	defer func() { fp.depth-- }()
	left, err := fp.term()
	for err == nil {
		var right Clause
		switch {
		case fp.word("and"):
			if right, err = fp.term(); err == nil {
				left = Clause{Param: AnyOf, Any: [][]Clause{{left, right}}}
			}
		case fp.word("or"):
			if right, err = fp.term(); err == nil {
				left = Clause{Param: AnyOf, Any: [][]Clause{{left}, {right}}}
			}
		default:
			return left, nil
		}
	}
	return Clause{}, err
}

func (fp *filterParser) term() (Clause, error) {
	start := fp.pos
	not := fp.word("not")
	if fp.space(); fp.next('(') {
		c, err := fp.expression()
		if err != nil {
			return Clause{}, err
		}
		if fp.space(); !fp.next(')') {
			return Clause{}, fp.bad("a closing parenthesis")
		}
		if not {
			c = Clause{Param: AnyOf, Any: [][]Clause{{c}}, Not: true}
		}
		return c, nil
	}
	if not {
		fp.pos = start // "not" may only precede a parenthesis; here it is a name
	}
	return fp.comparison()
}

// comparison reads path op value.
func (fp *filterParser) comparison() (Clause, error) {
	if *fp.terms++; *fp.terms > maxFilterTerms {
		return Clause{}, fhir.Errorf(fhir.Invalid, op, "_filter has more than %d comparisons", maxFilterTerms)
	}
	path, err := fp.path()
	if err != nil {
		return Clause{}, err
	}
	return fp.compare(fp.ps, path)
}

// path reads the names of a path.
func (fp *filterParser) path() ([]string, error) {
	var path []string
	for {
		fp.space()
		from := fp.pos
		for fp.pos < len(fp.text) && isFilterName(fp.text[fp.pos]) {
			fp.pos++
		}
		if from == fp.pos {
			return nil, fp.bad("the name of a search parameter")
		}
		path = append(path, fp.text[from:fp.pos])
		if fp.pos < len(fp.text) && fp.text[fp.pos] == '[' {
			e := fhir.Errorf(fhir.Invalid, op,
				"a _filter with a condition in brackets is not supported; use a chained parameter")
			e.Issues[0].Code = "not-supported"
			return nil, e
		}
		if !fp.next('.') {
			return path, nil
		}
		if len(path) > maxHops {
			return nil, fhir.Errorf(fhir.Invalid, op, "a path of _filter has more than %d names", maxHops)
		}
	}
}

// compare reads an operator and a value and returns the clause for a path.
func (fp *filterParser) compare(ps *parser, path []string) (Clause, error) {
	var operator string
	fp.space()
	if from := fp.pos; from+2 <= len(fp.text) {
		operator = strings.ToLower(fp.text[from : from+2])
		fp.pos += 2
	}
	if _, known := filterOperators[operator]; !known || fp.pos >= len(fp.text) || fp.text[fp.pos] != ' ' {
		return Clause{}, fp.bad("an operator, such as eq, co or pr, and a space")
	}
	value, err := fp.value()
	if err != nil {
		return Clause{}, err
	}
	return ps.comparison(path, operator, value)
}

// value reads a JSON string or a word.
func (fp *filterParser) value() (string, error) {
	fp.space()
	from := fp.pos
	if fp.next('"') {
		for fp.pos < len(fp.text) && fp.text[fp.pos] != '"' {
			if fp.text[fp.pos] == '\\' {
				fp.pos++
			}
			fp.pos++
		}
		if !fp.next('"') {
			return "", fp.bad("a closing quotation mark")
		}
		var s string
		if json.Unmarshal([]byte(fp.text[from:fp.pos]), &s) != nil {
			return "", fp.bad("a JSON string")
		}
		return s, nil
	}
	for i, c := range fp.text[from:] {
		if unicode.IsSpace(c) || c == ')' || c == ']' {
			break
		}
		fp.pos = from + i + len(string(c))
	}
	if from == fp.pos {
		return "", fp.bad("a value")
	}
	return fp.text[from:fp.pos], nil
}

// filterOperators maps the operators of _filter to prefixes, where they have one.
var filterOperators = map[string]Prefix{ // read only
	"eq": EQ, "ne": NE, "gt": GT, "lt": LT, "ge": GE, "le": LE, "sa": SA, "eb": EB, "ap": AP, "po": AP,
	"co": EQ, "sw": EQ, "ew": EQ, "pr": EQ, "ss": EQ, "sb": EQ, "in": EQ, "re": EQ,
}

// comparison returns the clause for path operator value. A path of several names is a
// chained parameter.
func (ps *parser) comparison(path []string, operator, value string) (Clause, error) {
	if len(path) > 1 {
		return ps.chained(path, operator, value)
	}
	name := path[0]
	if strings.HasPrefix(name, "_has:") {
		if operator != "eq" {
			return Clause{}, ps.operators("_has", "eq")
		}
		return ps.has(name, escapeValue(value))
	}
	code, target, _ := strings.Cut(name, ":")
	p, err := ps.param(code)
	if err != nil {
		return Clause{}, err
	}
	if operator == "pr" { // "true or false": whether the set has a value
		if value != "true" && value != "false" {
			return Clause{}, badValue("pr in _filter", "true or false")
		}
		return Clause{Param: p, Modifier: ModMissing, Missing: value == "false"}, nil
	}
	return ps.compared(p, target, operator, value)
}

// operators returns an error that lists the operators of a parameter.
func (ps *parser) operators(name, list string) error {
	return errUnsupported("the operator is not supported for %s in _filter; use one of %s", name, list)
}

// chained returns the clause for a path of several names. The filter that the chain ends
// with is parsed for each type that the reference may have.
func (ps *parser) chained(path []string, operator, value string) (Clause, error) {
	return ps.joined(path[0], strings.Join(path[1:], "."), func(in *parser) error {
		c, err := in.comparison(path[1:], operator, value)
		if err == nil {
			in.query.Clauses = append(in.query.Clauses, c)
		}
		return err
	})
}

// escapeValue escapes the separators of a value that is written in another syntax.
func escapeValue(s string) string { return filterEscapes.Replace(s) }

var filterEscapes = strings.NewReplacer(`\`, `\\`, `,`, `\,`)

// compared returns the clause of one parameter. The set of operators depends on its type.
func (ps *parser) compared(p *Param, target, operator, value string) (Clause, error) {
	c := Clause{Param: p}
	prefix := filterOperators[operator]
	switch p.Type {
	case TypeDate, TypeNumber, TypeQuantity:
		return ps.ordered(p, operator, value)
	case TypeString:
		m, ok := map[string]Modifier{"eq": ModEqual, "ne": ModEqual, "co": ModContains, "sw": NoModifier,
			"ew": ModEnds}[operator]
		if !ok {
			return Clause{}, ps.operators(p.Code, "eq, ne, co, sw, ew, pr")
		}
		v := stringValue(value)
		v.Prefix = prefix
		c.Modifier, c.Values = m, []Value{v}
		return c, nil
	case TypeURI:
		m, ok := map[string]Modifier{"eq": NoModifier, "ne": NoModifier, "co": ModContains, "sw": ModEqual,
			"ew": ModEnds,
			"sb": ModBelow, "ss": ModAbove}[operator]
		if !ok {
			return Clause{}, ps.operators(p.Code, "eq, ne, co, sw, ew, sb, ss, pr")
		}
		c.Modifier, c.Values = m, []Value{{Code: value, Prefix: prefix}}
		return c, nil
	case TypeToken:
		return ps.codedComparison(p, operator, value)
	case TypeReference:
		if operator != "eq" && operator != "ne" && operator != "re" {
			return Clause{}, ps.operators(p.Code, "eq, ne, re, pr")
		}
		vs, err := ps.reference(p, target, value)
		return withPrefix(c, vs, prefix), err
	}
	if operator != "eq" {
		return Clause{}, ps.operators(p.Code, "eq, pr")
	}
	vs, err := ps.values(p, NoModifier, "", value)
	c.Values = vs
	return c, err
}

// withPrefix sets the values of a clause. A value stands for several tokens or
// references: to be unequal is to be unequal to all of them, so it takes a clause of its
// own.
func withPrefix(c Clause, vs []Value, prefix Prefix) Clause {
	if prefix != NE || len(vs) < 2 {
		for i := range vs {
			vs[i].Prefix = prefix
		}
		c.Values = vs
		return c
	}
	var all []Clause
	for _, v := range vs {
		v.Prefix = prefix
		one := c
		one.Values = []Value{v}
		all = append(all, one)
	}
	return Clause{Param: AnyOf, Any: [][]Clause{all}}
}

// ordered returns the clause of a date, number or quantity.
func (ps *parser) ordered(p *Param, operator, value string) (Clause, error) {
	switch operator {
	case "co", "sw", "ew", "ss", "sb", "in", "re":
		return Clause{}, ps.operators(p.Code, "eq, ne, gt, lt, ge, le, sa, eb, ap, po, pr")
	}
	prefix := operator
	if operator == "po" { // "the value overlaps": ap without a tolerance
		prefix = "eq"
	}
	if n := len(value); n > 2 && value[0] >= 'a' && value[0] <= 'z' {
		return Clause{}, badValue(p.Code+" in _filter", "written without a prefix; the operator takes its place")
	}
	vs, err := ps.values(p, NoModifier, "", prefix+value)
	if err == nil && operator == "po" {
		vs[0].Prefix = AP
		if p.Type != TypeDate {
			return Clause{}, ps.operators(p.Code, "eq, ne, gt, lt, ge, le, sa, eb, ap, pr")
		}
	}
	return Clause{Param: p, Values: vs}, err
}

// codedComparison returns the clause of a token.
func (ps *parser) codedComparison(p *Param, operator, value string) (Clause, error) {
	mod, ok := map[string]string{"eq": "", "ne": "", "co": "text", "sw": "text", "in": "in", "ss": "above",
		"sb": "below"}[operator]
	if !ok || mod == "text" {
		return Clause{}, ps.operators(p.Code, "eq, ne, in, ss, sb, pr")
	}
	if mod != "" {
		if _, _, err := ps.modifier(p, mod); err != nil {
			return Clause{}, err
		}
		vs, err := ps.coded(p, mod, value)
		return Clause{Param: p, Values: vs}, err
	}
	vs, err := ps.values(p, NoModifier, "", value)
	return withPrefix(Clause{Param: p}, vs, filterOperators[operator]), err
}
