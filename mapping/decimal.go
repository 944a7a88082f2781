package mapping

import (
	"math/big"
	"strings"
)

// Bounds of a decimal from outside: digits written and size of the exponent.
const (
	maxDigits   = 40
	maxExponent = 30
	// fraction is how many decimal places an inexact quotient keeps.
	fraction = 9
)

// decimal is a number as written: digits (no leading zeros, at least one)
// times 10^-scale.
type decimal struct {
	neg    bool
	digits string
	scale  int
	plain  bool // the text it came from is a JSON number without exponent
}

// parseDecimal reads what vendors write: "62", "62.0", "+1", ".5", "5.",
// "1.2E-3". It refuses NaN, infinities and numbers beyond the bounds.
func parseDecimal(s string) (decimal, bool) {
	var d decimal
	if len(s) == 0 || len(s) > maxDigits+8 {
		return d, false
	}
	i := 0
	switch s[0] {
	case '-':
		d.neg, i = true, 1
	case '+':
		i = 1
	}
	start, dot := i, -1
	for ; i < len(s); i++ {
		c := s[i]
		if c == '.' && dot < 0 {
			dot = i
			continue
		}
		if c < '0' || c > '9' {
			break
		}
	}
	mant := s[start:i]
	n := len(mant)
	if dot >= 0 {
		n--
		d.scale = i - dot - 1
	}
	if n == 0 || n > maxDigits {
		return d, false
	}
	exp, ok := parseExponent(s[i:])
	if !ok {
		return d, false
	}
	d.plain = i == len(s) && s[0] != '+' && dot != start && d.scale >= 0 && (dot < 0 || dot < i-1) &&
		(mant[0] != '0' || len(mant) == 1 || mant[1] == '.')
	if dot >= 0 {
		d.digits = s[start:dot] + s[dot+1:i]
	} else {
		d.digits = mant
	}
	d.scale -= exp
	d.digits = strings.TrimLeft(d.digits[:len(d.digits)-1], "0") + d.digits[len(d.digits)-1:]
	return d, true
}

func parseExponent(s string) (int, bool) {
	if s == "" {
		return 0, true
	}
	if s[0] != 'e' && s[0] != 'E' {
		return 0, false
	}
	s = s[1:]
	neg := false
	if s != "" && (s[0] == '+' || s[0] == '-') {
		neg, s = s[0] == '-', s[1:]
	}
	if s == "" || len(s) > 2 {
		return 0, false
	}
	e := 0
	for i := 0; i < len(s); i++ {
		if s[i] < '0' || s[i] > '9' {
			return 0, false
		}
		e = e*10 + int(s[i]-'0')
	}
	if e > maxExponent {
		return 0, false
	}
	if neg {
		e = -e
	}
	return e, true
}

// append writes d without exponent.
func (d decimal) append(b []byte) []byte {
	if d.neg {
		b = append(b, '-')
	}
	switch {
	case d.scale <= 0:
		b = append(b, d.digits...)
		if d.digits != "0" {
			for i := d.scale; i < 0; i++ {
				b = append(b, '0')
			}
		}
	case d.scale >= len(d.digits):
		b = append(b, "0."...)
		for i := len(d.digits); i < d.scale; i++ {
			b = append(b, '0')
		}
		b = append(b, d.digits...)
	default:
		p := len(d.digits) - d.scale
		b = append(b, d.digits[:p]...)
		b = append(b, '.')
		b = append(b, d.digits[p:]...)
	}
	return b
}

func (d decimal) rat() *big.Rat {
	n, ok := new(big.Int).SetString(d.digits, 10)
	if !ok {
		return new(big.Rat)
	}
	if d.neg {
		n.Neg(n)
	}
	r := new(big.Rat).SetInt(n)
	p := new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(max(d.scale, -d.scale))), nil)
	if d.scale >= 0 {
		return r.Quo(r, new(big.Rat).SetInt(p))
	}
	return r.Mul(r, new(big.Rat).SetInt(p))
}

// float is for range checks only.
func (d decimal) float() float64 {
	f := 0.0
	for i := 0; i < len(d.digits); i++ {
		f = f*10 + float64(d.digits[i]-'0')
	}
	for i := 0; i < d.scale; i++ {
		f /= 10
	}
	for i := d.scale; i < 0; i++ {
		f *= 10
	}
	if d.neg {
		return -f
	}
	return f
}

// conversion is x*times + plus, exact.
type conversion struct {
	shift int // times is 10^shift when exact is nil
	times *big.Rat
	plus  *big.Rat
}

// newConversion reads factor and offset: decimals or quotients ("1/60").
func newConversion(times, plus string) (conversion, bool) {
	c := conversion{}
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

// quotient reads "a" or "a/b", both decimals.
func quotient(s string) (*big.Rat, bool) {
	num, den, _ := strings.Cut(s, "/")
	n, ok := parseDecimal(num)
	if !ok {
		return nil, false
	}
	d, ok := parseDecimal(orOne(den))
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

// simplify finds powers of ten, which are a shift of the decimal point and
// keep the written precision.
func (c conversion) simplify() conversion {
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
			return conversion{shift: shift}
		}
	}
	return c
}

// after returns the conversion that first multiplies by the scale.
func (c conversion) after(scale conversion) conversion {
	if c.times == nil && scale.times == nil {
		return conversion{shift: c.shift + scale.shift}
	}
	t := new(big.Rat).Mul(c.factor(), scale.factor())
	return conversion{times: t, plus: c.plus}.simplify()
}

func (c conversion) factor() *big.Rat {
	if c.times != nil {
		return c.times
	}
	return decimal{digits: "1", scale: -c.shift}.rat()
}

// apply converts d. Products are exact; quotients that do not end are rounded
// to nine places, half to even.
func (c conversion) apply(d decimal) decimal {
	if c.times == nil && c.plus == nil {
		if c.shift != 0 {
			d.scale -= c.shift
			d.plain = false
		}
		return d
	}
	r := new(big.Rat).Mul(d.rat(), c.factor())
	if c.plus != nil {
		r.Add(r, c.plus)
	}
	n, exact := r.FloatPrec()
	if !exact || n > 2*fraction {
		n = fraction
	}
	out, ok := parseDecimal(trimFraction(r.FloatString(n)))
	if !ok {
		return d
	}
	out.plain = false // the vendor's text is another number
	return out
}

func trimFraction(s string) string {
	if !strings.Contains(s, ".") {
		return s
	}
	return strings.TrimRight(strings.TrimRight(s, "0"), ".")
}
