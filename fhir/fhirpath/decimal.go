package fhirpath

import (
	"math"
	"strings"

	"github.com/cockroachdb/apd/v3"
)

// Bounds of decimals. FHIR asks for 18 digits.
const (
	maxDigits   = 60
	maxExponent = 60 // of the first and of the last digit
	precision   = 40 // digits of results
)

// arithmetic returns a context for results with digits of precision.
func arithmetic() *apd.Context {
	c := apd.BaseContext.WithPrecision(precision)
	c.Rounding = apd.RoundHalfUp
	return c
}

// parseDecimal parses a decimal as JSON and FHIRPath write it. It refuses numbers with
// more digits or a larger exponent than the bounds, so that no operation is costly.
func parseDecimal(s string) (Value, bool) {
	if v, ok := smallDecimal(s); ok {
		return v, true
	}
	if len(s) > 2*maxDigits || s == "" || s[0] == 'N' || s[0] == 'I' {
		return Value{}, false
	}
	var d apd.Decimal
	if _, _, err := arithmetic().WithPrecision(2*maxDigits).SetString(&d, s); err != nil || d.Form != apd.Finite {
		return Value{}, false
	}
	return decimalValue(&d)
}

// decimalValue returns d as a Value, unless it is beyond the bounds.
func decimalValue(d *apd.Decimal) (Value, bool) {
	if d.Form != apd.Finite {
		return Value{}, false
	}
	if d.Exponent > 0 && d.Exponent <= maxExponent { // 1e3 has no digit after the point
		c := arithmetic().WithPrecision(2 * maxDigits)
		if _, err := c.Quantize(d, d, 0); err != nil {
			return Value{}, false
		}
	}
	if d.NumDigits() > maxDigits || d.Exponent > maxExponent || d.Exponent < -maxExponent {
		return Value{}, false
	}
	if d.Coeff.IsInt64() && d.Exponent <= 0 {
		n := d.Coeff.Int64()
		if d.Negative {
			n = -n
		}
		if n != 0 || !d.Negative {
			return Value{kind: KindDecimal, num: n, scale: uint8(-d.Exponent)}, true
		}
	}
	return Value{kind: KindDecimal, dec: d}, true
}

// smallDecimal parses a decimal of up to 18 digits without an exponent.
func smallDecimal(s string) (Value, bool) {
	t := s
	if t != "" && (t[0] == '-' || t[0] == '+') {
		t = t[1:]
	}
	if t == "" || len(t) > 19 || !isDigit(t[0]) || !isDigit(t[len(t)-1]) {
		return Value{}, false
	}
	var n int64
	scale, point := 0, false
	for i := range len(t) {
		switch c := t[i]; {
		case isDigit(c):
			n = n*10 + int64(c-'0')
			if point {
				scale++
			}
		case c == '.' && !point:
			point = true
		default:
			return Value{}, false
		}
	}
	if len(t) == 19 && !point || s[0] == '-' && n == 0 {
		return Value{}, false
	}
	if s[0] == '-' {
		n = -n
	}
	return Value{kind: KindDecimal, num: n, scale: uint8(scale)}, true
}

// decimal returns the number of an Integer, Decimal or Quantity. The result must not
// be changed.
func (v Value) decimal() *apd.Decimal {
	if v.kind == KindInteger {
		return apd.New(v.num, 0)
	}
	if v.dec != nil {
		return v.dec
	}
	return apd.New(v.num, -int32(v.scale))
}

// digitsAfterPoint returns the number of decimal places that v is written with.
func (v Value) digitsAfterPoint() int {
	if v.kind == KindInteger {
		return 0
	}
	if v.dec != nil {
		return max(0, -int(v.dec.Exponent))
	}
	return int(v.scale)
}

// compareNumbers compares Integers, Decimals or the values of Quantities.
func compareNumbers(x, y Value) int {
	if x.dec == nil && y.dec == nil {
		xs, ys := x.digitsAfterPoint(), y.digitsAfterPoint()
		a, aok := scaled(x.num, ys-xs)
		b, bok := scaled(y.num, xs-ys)
		if aok && bok {
			switch {
			case a < b:
				return -1
			case a > b:
				return 1
			}
			return 0
		}
	}
	return x.decimal().Cmp(y.decimal())
}

// scaled returns n * 10^by, and n for a negative by.
func scaled(n int64, by int) (int64, bool) {
	for ; by > 0; by-- {
		if n > math.MaxInt64/10 || n < math.MinInt64/10 {
			return 0, false
		}
		n *= 10
	}
	return n, true
}

// quantize returns d with a number of decimal places. The library drops the sign of
// what it rounds away if no digit remains, so that 0.01 would have the ceiling 0.
func quantize(d *apd.Decimal, places int, rounding apd.Rounder) (*apd.Decimal, bool) {
	c := arithmetic().WithPrecision(3 * maxDigits)
	c.Rounding = rounding
	out := new(apd.Decimal)
	if _, err := c.Quantize(out, d, -int32(places)); err != nil {
		return d, false
	}
	if out.IsZero() && !d.IsZero() && (rounding == apd.RoundFloor && d.Negative ||
		rounding == apd.RoundCeiling && !d.Negative) {
		out.Coeff.SetInt64(1)
	}
	return out, true
}

// plainDecimal writes a decimal without an exponent.
func plainDecimal(d *apd.Decimal) string {
	s := d.Text('f')
	if strings.HasPrefix(s, "-") && d.IsZero() && d.Exponent >= 0 {
		return s[1:]
	}
	return s
}
