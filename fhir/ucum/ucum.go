// Package ucum converts quantities between units of UCUM (The Unified Code for Units
// of Measure, case sensitive).
//
// It owns the grammar of UCUM's terms and a table of the units that health data uses:
// SI units with all prefixes, customary units of length, mass, volume, pressure and
// energy, and units of laboratories. Factors are exact fractions, so that comparing
// converted values has no rounding errors.
//
// A unit is reduced to a factor and a product of base units. Two units are
// commensurable if their products are the same. Arbitrary units such as [IU] are base
// units of their own. Of the special units only Cel and [degF] are known, and only
// alone: they do not combine with others. Annotations such as {beats} count as 1.
//
// It does not own the calendar's years and months, which are not UCUM's "a" and "mo".
package ucum

import (
	"errors"
	"math/big"
	"sort"
	"strconv"
	"strings"
	"sync"
)

// Bounds of a unit.
const (
	maxLength   = 128 // bytes
	maxNesting  = 16  // parentheses
	maxExponent = 30
	maxBits     = 4096 // of the numerator and of the denominator of a factor
)

var errUnit = errors.New("ucum: not a known unit")

// Unit is a unit in terms of base units. It must not be changed.
type Unit struct {
	// Base is the product of base units in a canonical form, such as "g.m-1.s-2", or
	// "" for a number.
	Base   string
	factor *big.Rat
	offset *big.Rat // added before the factor; nil except for special units
}

// Canonical returns a value in the unit as a value in base units.
func (u Unit) Canonical(value *big.Rat) *big.Rat {
	out := new(big.Rat).Set(value)
	if u.offset != nil {
		out.Add(out, u.offset)
	}
	return out.Mul(out, u.factor)
}

// From returns a value in base units as a value in the unit.
func (u Unit) From(canonical *big.Rat) *big.Rat {
	out := new(big.Rat).Quo(canonical, u.factor)
	if u.offset != nil {
		out.Sub(out, u.offset)
	}
	return out
}

// Factor returns the size of the unit in base units.
func (u Unit) Factor() *big.Rat { return new(big.Rat).Set(u.factor) }

// product is a product of powers of base units with a factor.
type product struct {
	factor  *big.Rat
	powers  map[string]int
	special *big.Rat // the offset of a special unit
}

func number(n *big.Rat) product { return product{factor: n, powers: map[string]int{}} }

// times multiplies p by the power n of q.
func (p *product) times(q product, n int) error {
	if n > maxExponent || n < -maxExponent || q.special != nil && n != 1 {
		return errUnit
	}
	f := new(big.Rat).SetInt64(1)
	for range max(n, -n) {
		f.Mul(f, q.factor)
	}
	if n < 0 {
		f.Inv(f)
	}
	p.factor = new(big.Rat).Mul(p.factor, f)
	if p.factor.Num().BitLen() > maxBits || p.factor.Denom().BitLen() > maxBits {
		return errUnit
	}
	for u, e := range q.powers {
		p.powers[u] += e * n
		if p.powers[u] == 0 {
			delete(p.powers, u)
		}
	}
	if q.special != nil {
		if p.special != nil || len(p.powers) != 1 {
			return errUnit
		}
		p.special = q.special
	}
	return nil
}

// Parse returns the Unit of a term of UCUM. The empty term is the number 1.
func Parse(term string) (Unit, error) {
	if u, ok := common(term); ok {
		return u, nil
	}
	return parse(term)
}

func parse(term string) (Unit, error) {
	if len(term) > maxLength {
		return Unit{}, errUnit
	}
	if term == "" {
		term = "1"
	}
	p := parser{text: term}
	out, err := p.term(0)
	if err != nil || p.pos != len(term) {
		return Unit{}, errUnit
	}
	return Unit{Base: out.base(), factor: out.factor, offset: out.special}, nil
}

// commons holds the units of the table without prefixes and of vital signs, parsed
// once.
var commons = sync.OnceValue(func() map[string]Unit {
	m := map[string]Unit{}
	for _, u := range []string{"", "1", "%", "/min", "mm[Hg]", "kg", "cm", "mg", "mg/dL", "mmol/L", "ms", "kcal",
		"km", "mL", "kg/m2", "{score}", "{steps}", "10*3/uL"} {
		if x, err := parse(u); err == nil {
			m[u] = x
		}
	}
	for u := range units {
		if x, err := parse(u); err == nil {
			m[u] = x
		}
	}
	return m
})

func common(term string) (Unit, bool) {
	u, ok := commons()[term]
	return u, ok
}

func (p *product) base() string {
	names := make([]string, 0, len(p.powers))
	for u := range p.powers {
		names = append(names, u)
	}
	sort.Strings(names)
	for i, u := range names {
		if n := p.powers[u]; n != 1 {
			names[i] = u + strconv.Itoa(n)
		}
	}
	return strings.Join(names, ".")
}

// parser parses a term: components with "." or "/" between them.
type parser struct {
	text string
	pos  int
}

func (p *parser) at(c byte) bool { return p.pos < len(p.text) && p.text[p.pos] == c }

func (p *parser) term(depth int) (product, error) {
	out := number(big.NewRat(1, 1))
	if depth > maxNesting {
		return out, errUnit
	}
	sign := 1
	if p.at('/') {
		p.pos++
		sign = -1
	}
	for {
		c, n, err := p.component(depth)
		if err != nil {
			return out, err
		}
		if out.special != nil || c.special != nil && (p.pos != len(p.text) || len(out.powers) > 0) {
			return out, errUnit
		}
		if err := out.times(c, sign*n); err != nil {
			return out, err
		}
		switch {
		case p.at('.'):
			sign = 1
		case p.at('/'):
			sign = -1
		default:
			return out, nil
		}
		p.pos++
	}
}

// component parses a unit or a number with an exponent, or a term in parentheses, and
// the annotation after it.
func (p *parser) component(depth int) (product, int, error) {
	start := p.pos
	switch {
	case p.at('('):
		p.pos++
		out, err := p.term(depth + 1)
		if err != nil || !p.at(')') {
			return out, 0, errUnit
		}
		p.pos++
		return out, 1, p.annotation()
	case p.at('{'):
		return number(big.NewRat(1, 1)), 1, p.annotation()
	}
	inside := false
	for ; p.pos < len(p.text); p.pos++ {
		c := p.text[p.pos]
		if c <= ' ' || c > '~' {
			return product{}, 0, errUnit
		}
		if inside = c == '[' || inside && c != ']'; !inside && strings.IndexByte("./(){", c) >= 0 {
			break
		}
	}
	symbol, n, err := exponent(p.text[start:p.pos])
	if err != nil {
		return product{}, 0, err
	}
	out, err := lookup(symbol, 0)
	if err != nil {
		return out, 0, err
	}
	return out, n, p.annotation()
}

// annotation skips an optional annotation.
func (p *parser) annotation() error {
	if !p.at('{') {
		return nil
	}
	n := strings.IndexByte(p.text[p.pos:], '}')
	if n < 0 {
		return errUnit
	}
	p.pos += n + 1
	return nil
}

// exponent splits the exponent from a symbol: "s-2" is s to the power of -2. A number
// alone is a factor.
func exponent(s string) (symbol string, n int, err error) {
	i := len(s)
	for i > 0 && s[i-1] >= '0' && s[i-1] <= '9' {
		i--
	}
	if i == 0 || i == len(s) {
		return s, 1, nil
	}
	if s[i-1] == '-' || s[i-1] == '+' {
		i--
	}
	if len(s)-i > 4 || i == 0 {
		return "", 0, errUnit
	}
	n, err = strconv.Atoi(s[i:])
	return s[:i], n, err
}

// lookup returns the product of a symbol of the table, with or without a prefix, or of
// a number. depth counts definitions by other units.
func lookup(symbol string, depth int) (product, error) {
	if depth > maxNesting || symbol == "" {
		return product{}, errUnit
	}
	if symbol[0] >= '0' && symbol[0] <= '9' && symbol != "10*" && symbol != "10^" {
		n, ok := new(big.Rat).SetString(symbol)
		if !ok || len(symbol) > 20 || n.Sign() == 0 || strings.ContainsAny(symbol, "eEpPxX/_") {
			return product{}, errUnit
		}
		return number(n), nil
	}
	if d, ok := units[symbol]; ok {
		return d.product(symbol)
	}
	for i := 1; i <= 2 && i < len(symbol); i++ {
		f, ok := prefixes[symbol[:i]]
		d, known := units[symbol[i:]]
		if !ok || !known || !d.metric {
			continue
		}
		out, err := d.product(symbol[i:])
		if err != nil || out.special != nil {
			return out, errUnit
		}
		factor, _ := new(big.Rat).SetString(f)
		out.factor = new(big.Rat).Mul(out.factor, factor)
		return out, nil
	}
	return product{}, errUnit
}

// product returns the unit d of the table in base units.
func (d definition) product(symbol string) (product, error) {
	if d.value == "" { // a base unit, also an arbitrary one
		out := number(big.NewRat(1, 1))
		out.powers[symbol] = 1
		return out, nil
	}
	factor, ok := new(big.Rat).SetString(d.value)
	if !ok {
		return product{}, errUnit
	}
	p := parser{text: d.unit}
	out := number(big.NewRat(1, 1))
	if d.unit != "" {
		var err error
		if out, err = p.term(1); err != nil {
			return out, err
		}
	}
	out.factor = new(big.Rat).Mul(out.factor, factor)
	if d.offset != "" {
		out.special, _ = new(big.Rat).SetString(d.offset)
	}
	return out, nil
}
