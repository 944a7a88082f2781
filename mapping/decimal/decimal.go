// Package decimal implements the decimal arithmetic of mapping: parsing the
// numbers that vendors write, converting them between units exactly, and
// writing them with the precision that the vendor wrote.
//
// Decimal and Conversion are exact for every input. Converter computes the same
// results in 64-bit integers and falls back on them for the few numbers that
// do not fit.
package decimal

import (
	"math/big"
	"strings"
)

// Limits of untrusted input.
const (
	maxDigits   = 40 // digits of the mantissa
	maxExponent = 30
)

// fraction is the number of decimal places to which a quotient is rounded if
// its expansion does not end.
const fraction = 9

// Decimal is a decimal number with its written precision: digits, which hold
// at least one digit and no leading zeros, times 10^-scale. The zero Decimal is
// not valid; see Zero and One.
type Decimal struct {
	neg    bool
	digits string
	scale  int
	plain  bool // parsed from a JSON number without an exponent
}

// Zero and One are the numbers 0 and 1.
var (
	Zero = Decimal{digits: "0"}
	One  = Decimal{digits: "1"}
)

// Parse parses a number as vendors write it: "62", "62.0", "+1", ".5", "5.",
// "1.2E-3". It reports false for NaN, infinities and numbers that exceed the
// limits of this package.
func Parse(s string) (Decimal, bool) {
	var d Decimal
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

// IsJSON reports whether the text that d was parsed from is a JSON number
// without an exponent, so that it can be written as it is.
func (d Decimal) IsJSON() bool { return d.plain }

// IsZero reports whether d is 0, with any sign and precision.
func (d Decimal) IsZero() bool { return strings.Trim(d.digits, "0") == "" }

// IsOne reports whether d is 1 and is written as "1".
func (d Decimal) IsOne() bool { return d.digits == "1" && d.scale == 0 && !d.neg }

// Append appends d to b without an exponent.
func (d Decimal) Append(b []byte) []byte {
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

func (d Decimal) rat() *big.Rat {
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

// Float64 returns an approximation of d for range checks. Numbers that a
// series.Decimal holds have the value of series.Decimal.Float.
func (d Decimal) Float64() float64 {
	if v, ok := d.Short(); ok {
		return v.Float()
	}
	return d.float()
}

func (d Decimal) float() float64 {
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
