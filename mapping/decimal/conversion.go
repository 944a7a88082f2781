package decimal

import (
	"math/big"
	"strings"
)

// Conversion is the exact conversion x*times + plus between two units.
// The zero Conversion returns its argument.
type Conversion struct {
	// shift moves the decimal point if times is nil: the factor is 10^shift.
	shift int
	times *big.Rat
	plus  *big.Rat // nil is 0
}

// NewConversion parses a factor and an offset. Both are decimals or quotients
// of decimals ("1/60"). An empty factor is 1, and an empty offset is 0.
func NewConversion(times, plus string) (Conversion, bool) {
	c := Conversion{}
	var ok bool
	if c.times, ok = quotient(orOne(times)); !ok || c.times.Sign() == 0 {
		return c, false
	}
	if plus != "" && plus != "0" {
		if c.plus, ok = quotient(plus); !ok {
			return c, false
		}
	}
	return c.simplify(), true
}

// quotient parses "a" or "a/b", where both are decimals.
func quotient(s string) (*big.Rat, bool) {
	num, den, _ := strings.Cut(s, "/")
	n, ok := Parse(num)
	if !ok {
		return nil, false
	}
	d, ok := Parse(orOne(den))
	if !ok || d.rat().Sign() == 0 {
		return nil, false
	}
	return new(big.Rat).Quo(n.rat(), d.rat()), true
}

func orOne(s string) string {
	if s == "" {
		return "1"
	}
	return s
}

// simplify turns a factor that is a power of ten into a shift of the decimal
// point, which keeps the written precision.
func (c Conversion) simplify() Conversion {
	if c.plus != nil || c.times == nil {
		return c
	}
	ten := big.NewRat(10, 1)
	for shift := -12; shift <= 12; shift++ {
		p := big.NewRat(1, 1)
		for i := 0; i < max(shift, -shift); i++ {
			p.Mul(p, ten)
		}
		if shift < 0 {
			p.Inv(p)
		}
		if p.Cmp(c.times) == 0 {
			return Conversion{shift: shift}
		}
	}
	return c
}

// HasOffset reports whether c adds an offset, so that it cannot be expressed as
// a factor.
func (c Conversion) HasOffset() bool { return c.plus != nil }

// After returns the conversion that multiplies by the factor of scale and then
// applies c.
func (c Conversion) After(scale Conversion) Conversion {
	if c.times == nil && scale.times == nil {
		return Conversion{shift: c.shift + scale.shift}
	}
	t := new(big.Rat).Mul(c.factor(), scale.factor())
	return Conversion{times: t, plus: c.plus}.simplify()
}

func (c Conversion) factor() *big.Rat {
	if c.times != nil {
		return c.times
	}
	return Decimal{digits: "1", scale: -c.shift}.rat()
}

// Apply converts d. A result with a finite expansion of at most 18 places is
// exact; any other is rounded to nine places, with halves rounded away from
// zero.
func (c Conversion) Apply(d Decimal) Decimal {
	if c.times == nil && c.plus == nil {
		if c.shift != 0 {
			d.scale -= c.shift
			d.plain = false
		}
		return d
	}
	r := c.exact(d)
	n, _ := places(r)
	out, ok := Parse(trimFraction(r.FloatString(n)))
	if !ok {
		return d
	}
	out.plain = false // d's text is a different number
	return out
}

// exact returns d converted, without rounding.
func (c Conversion) exact(d Decimal) *big.Rat {
	r := new(big.Rat).Mul(d.rat(), c.factor())
	if c.plus != nil {
		r.Add(r, c.plus)
	}
	return r
}

// places returns the number of decimal places with which r is written, and whether r is
// rounded to them.
func places(r *big.Rat) (n int, rounded bool) {
	n, exact := r.FloatPrec()
	if !exact || n > 2*fraction {
		return fraction, true
	}
	return n, false
}

// Rounds reports whether Apply rounds the result for d.
func (c Conversion) Rounds(d Decimal) bool {
	if c.times == nil && c.plus == nil {
		return false
	}
	_, rounded := places(c.exact(d))
	return rounded
}

func trimFraction(s string) string {
	if !strings.Contains(s, ".") {
		return s
	}
	return strings.TrimRight(strings.TrimRight(s, "0"), ".")
}
