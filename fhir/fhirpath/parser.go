package fhirpath

import (
	"strconv"

	"pulsegate/fhir"
)

// Bounds of an expression.
const (
	maxExpression = 32 << 10 // bytes
	maxDepth      = 256      // nested operators, calls and steps
)

// errorAt returns the error of an expression at a byte offset.
func errorAt(pos int, format string, args ...any) error {
	args = append(args, pos+1)
	return fhir.Errorf(fhir.Invalid, "fhirpath.Compile", format+", at character %d of the expression", args...)
}

// parser parses the grammar of FHIRPath 2.0 by precedence climbing.
type parser struct {
	lex    lexer
	tok    token
	nested int
}

// parse parses a whole expression.
func parse(src string) (*expr, error) {
	if len(src) > maxExpression {
		return nil, fhir.Errorf(fhir.TooLarge, "fhirpath.Compile",
			"the expression is longer than %d bytes", maxExpression)
	}
	p := parser{lex: lexer{src: src}}
	if err := p.advance(); err != nil {
		return nil, err
	}
	e, err := p.expression(1)
	if err != nil {
		return nil, err
	}
	if p.tok.kind != tokEnd {
		return nil, errorAt(p.tok.pos, "unexpected text after the end")
	}
	return e, nil
}

func (p *parser) advance() (err error) {
	p.tok, err = p.lex.next()
	return err
}

// symbol reports whether the current token is the operator or punctuation s.
func (p *parser) symbol(s string) bool { return p.tok.kind == tokSymbol && p.tok.text == s }

func (p *parser) expect(s string) error {
	if !p.symbol(s) {
		return errorAt(p.tok.pos, "expected %q", s)
	}
	return p.advance()
}

// Precedences of the binary operators; a higher one binds more tightly.
const (
	precType  = 8
	precUnary = 11
)

var precedences = map[string]int{ // read only
	"implies": 1,
	"or":      2, "xor": 2,
	"and": 3,
	"in":  4, "contains": 4,
	"=": 5, "~": 5, "!=": 5, "!~": 5,
	"<": 6, "<=": 6, ">": 6, ">=": 6,
	"|":  7,
	"is": precType, "as": precType,
	"+": 9, "-": 9, "&": 9,
	"*": 10, "/": 10, "div": 10, "mod": 10,
}

// operator returns the precedence of the current token as a binary operator, or 0.
func (p *parser) operator() int {
	if p.tok.kind == tokSymbol || p.tok.kind == tokIdentifier {
		return precedences[p.tok.text]
	}
	return 0
}

// enter counts the nesting of the parser's own recursion.
func (p *parser) enter() error {
	if p.nested++; p.nested > maxDepth {
		return errorAt(p.tok.pos, "nested deeper than %d", maxDepth)
	}
	return nil
}

// grown sets the depth of e from its operands and checks it.
func grown(e *expr) (*expr, error) {
	if e.left != nil {
		e.depth = e.left.depth
	}
	for _, a := range e.args {
		e.depth = max(e.depth, a.depth)
	}
	if e.depth++; e.depth > maxDepth {
		return nil, errorAt(e.pos, "nested deeper than %d", maxDepth)
	}
	return e, nil
}

// expression parses operators of at least precedence least.
func (p *parser) expression(least int) (*expr, error) {
	if err := p.enter(); err != nil {
		return nil, err
	}
	defer func() { p.nested-- }()
	left, err := p.unary()
	for err == nil {
		op, prec := p.tok, p.operator()
		if prec == 0 || prec < least {
			return left, nil
		}
		if err := p.advance(); err != nil {
			return nil, err
		}
		e := &expr{kind: exprBinary, pos: op.pos, name: op.text, left: left}
		if prec == precType {
			e.kind = exprType
			if e.typ, err = p.typeSpecifier(); err != nil {
				return nil, err
			}
		} else {
			right, err := p.expression(prec + 1)
			if err != nil {
				return nil, err
			}
			e.args = []*expr{right}
		}
		left, err = grown(e)
	}
	return nil, err
}

// unary parses an optional sign and its operand.
func (p *parser) unary() (*expr, error) {
	if !p.symbol("-") && !p.symbol("+") {
		return p.postfix()
	}
	if err := p.enter(); err != nil {
		return nil, err
	}
	defer func() { p.nested-- }()
	op := p.tok
	if err := p.advance(); err != nil {
		return nil, err
	}
	operand, err := p.unary()
	if err != nil {
		return nil, err
	}
	return grown(&expr{kind: exprUnary, pos: op.pos, name: op.text, left: operand})
}

// postfix parses a term with its invocations and indexers.
func (p *parser) postfix() (*expr, error) {
	e, err := p.term()
	for err == nil {
		switch {
		case p.symbol("."):
			if err := p.advance(); err != nil {
				return nil, err
			}
			e, err = p.invocation(e)
		case p.symbol("["):
			pos := p.tok.pos
			if err := p.advance(); err != nil {
				return nil, err
			}
			index, err := p.expression(1)
			if err != nil {
				return nil, err
			}
			if err := p.expect("]"); err != nil {
				return nil, err
			}
			if e, err = grown(&expr{kind: exprIndex, pos: pos, left: e, args: []*expr{index}}); err != nil {
				return nil, err
			}
		default:
			return e, nil
		}
	}
	return nil, err
}

// term parses a literal, an external constant, a parenthesized expression, or an
// invocation on $this.
func (p *parser) term() (*expr, error) {
	t := p.tok
	switch t.kind {
	case tokSymbol:
		return p.symbolTerm()
	case tokIdentifier:
		if t.text == "true" || t.text == "false" {
			return p.literal(boolean(t.text == "true"))
		}
		return p.invocation(nil)
	case tokDelimited, tokVariable:
		return p.invocation(nil)
	case tokEnd:
		return nil, errorAt(t.pos, "unexpected end")
	case tokString:
		return p.literal(stringValue(t.text))
	case tokInteger, tokDecimal:
		return p.number()
	}
	v, ok := temporal{}, false
	var kind Kind
	switch t.kind {
	case tokDate:
		kind = KindDate
		v, ok = parseTemporal(t.text, false)
	case tokDateTime:
		kind = KindDateTime
		v, ok = parseTemporal(t.text, true)
	case tokTime:
		kind = KindTime
		v, ok = parseClock(t.text)
	}
	if !ok {
		return nil, errorAt(t.pos, "no such date or time")
	}
	return p.literal(v.value(kind))
}

func (p *parser) symbolTerm() (*expr, error) {
	t := p.tok
	switch t.text {
	case "(":
		if err := p.advance(); err != nil {
			return nil, err
		}
		e, err := p.expression(1)
		if err != nil {
			return nil, err
		}
		return e, p.expect(")")
	case "{":
		if err := p.advance(); err != nil {
			return nil, err
		}
		return &expr{kind: exprEmpty, pos: t.pos, depth: 1}, p.expect("}")
	case "%":
		if err := p.advance(); err != nil {
			return nil, err
		}
		if k := p.tok.kind; k != tokIdentifier && k != tokDelimited && k != tokString {
			return nil, errorAt(p.tok.pos, "expected the name of a constant")
		}
		e := &expr{kind: exprConstant, pos: t.pos, name: p.tok.text, depth: 1}
		return e, p.advance()
	}
	return nil, errorAt(t.pos, "unexpected %q", t.text)
}

func (p *parser) literal(v Value) (*expr, error) {
	e := &expr{kind: exprLiteral, pos: p.tok.pos, value: v, depth: 1}
	return e, p.advance()
}

// number parses a number or a quantity.
func (p *parser) number() (*expr, error) {
	t := p.tok
	if err := p.advance(); err != nil {
		return nil, err
	}
	e := &expr{kind: exprLiteral, pos: t.pos, depth: 1}
	if t.kind == tokInteger {
		n, err := strconv.ParseInt(t.text, 10, 64)
		if err != nil {
			return nil, errorAt(t.pos, "the integer is too large")
		}
		e.value = integer(n)
	} else {
		v, ok := parseDecimal(t.text)
		if !ok {
			return nil, errorAt(t.pos, "the number has too many digits")
		}
		e.value = v
	}
	switch {
	case p.tok.kind == tokString:
		e.value = quantity(e.value, p.tok.text, unitKind(p.tok.text))
	case p.tok.kind == tokIdentifier && calendarUnits[p.tok.text] != "":
		e.value = quantity(e.value, p.tok.text, unitCalendar)
	default:
		return e, nil
	}
	return e, p.advance()
}

// identifier returns the current token as an identifier and goes on to the next.
func (p *parser) identifier() (token, error) {
	t := p.tok
	if t.kind != tokIdentifier && t.kind != tokDelimited {
		return t, errorAt(t.pos, "expected a name")
	}
	if t.kind == tokIdentifier {
		switch t.text {
		case "and", "or", "xor", "implies", "div", "mod", "true", "false":
			return t, errorAt(t.pos, "%q is a keyword; write it in backquotes", t.text)
		}
	}
	return t, p.advance()
}

// invocation parses a member, a function or a variable.
func (p *parser) invocation(left *expr) (*expr, error) {
	t := p.tok
	if t.kind == tokVariable {
		switch t.text {
		case "this", "index", "total":
		default:
			return nil, errorAt(t.pos, "no such variable")
		}
		e, err := grown(&expr{kind: exprVariable, pos: t.pos, name: t.text, left: left})
		if err != nil {
			return nil, err
		}
		return e, p.advance()
	}
	if left == nil || t.kind != tokIdentifier { // after a point, a keyword can only be a name
		if _, err := p.identifier(); err != nil {
			return nil, err
		}
	} else if err := p.advance(); err != nil {
		return nil, err
	}
	var err error
	if !p.symbol("(") {
		return grown(&expr{kind: exprMember, pos: t.pos, name: t.text, left: left, delimited: t.kind == tokDelimited})
	}
	e := &expr{kind: exprFunction, pos: t.pos, name: t.text, left: left}
	if err := p.advance(); err != nil {
		return nil, err
	}
	if typeFunctions[t.text] {
		if e.typ, err = p.typeSpecifier(); err != nil {
			return nil, err
		}
	} else {
		for !p.symbol(")") {
			if len(e.args) > 0 {
				if err := p.expect(","); err != nil {
					return nil, err
				}
			}
			arg, err := p.expression(1)
			if err != nil {
				return nil, err
			}
			e.args = append(e.args, arg)
		}
	}
	if err := p.expect(")"); err != nil {
		return nil, err
	}
	return grown(e)
}

// typeFunctions lists the functions with a type specifier as their argument.
var typeFunctions = map[string]bool{"is": true, "as": true, "ofType": true} // read only

func (p *parser) typeSpecifier() (typeSpec, error) {
	pos := p.tok.pos
	t, err := p.identifier()
	if err != nil {
		return typeSpec{}, err
	}
	namespace, name := "", t.text
	for p.symbol(".") && (name == "FHIR" || name == "System") && namespace == "" {
		if err := p.advance(); err != nil {
			return typeSpec{}, err
		}
		if t, err = p.identifier(); err != nil {
			return typeSpec{}, err
		}
		namespace, name = name, t.text
	}
	s, ok := spec(namespace, name)
	if !ok {
		return s, errorAt(pos, "no such type")
	}
	return s, nil
}
