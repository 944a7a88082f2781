package mapping

import (
	"math"
	"math/big"
	"math/bits"
	"strings"

	"pulsegate/fhir/series"
)

// maxMant bounds the mantissa of a series.Decimal: 18 digits.
const (
	maxMant  = 1e18 - 1
	maxScale = 18
)

var tens = [...]uint64{1, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16,
	1e17, 1e18}

// short is d as a series holds it; ok is false when it would be written in
// another way, or does not fit.
func (d decimal) short() (v series.Decimal, ok bool) {
	n, zeros := len(d.digits), max(-d.scale, 0)
	if d.digits == "0" {
		zeros = 0
	}
	if n+zeros > 18 || d.scale > maxScale || d.neg && strings.Trim(d.digits, "0") == "" {
		return v, false
	}
	for i := range n {
		v.Mant = v.Mant*10 + int64(d.digits[i]-'0')
	}
	v.Mant *= int64(tens[zeros])
	if d.neg {
		v.Mant = -v.Mant
	}
	v.Scale = uint8(max(d.scale, 0))
	return v, true
}

// trimmed is d without zeros at the end of its fraction.
func (d decimal) trimmed() decimal {
	for d.scale > 0 && len(d.digits) > 1 && d.digits[len(d.digits)-1] == '0' {
		d.digits, d.scale = d.digits[:len(d.digits)-1], d.scale-1
	}
	if d.digits == "0" {
		d.scale, d.neg = 0, false
	}
	return d
}

// parseShort reads the numbers that vendors mostly write: JSON numbers
// without exponent of up to 18 digits.
func parseShort(s string) (v series.Decimal, ok bool) {
	i, neg := 0, false
	if len(s) > 0 && s[0] == '-' {
		i, neg = 1, true
	}
	first := i
	if len(s)-first > 19 || len(s) == first {
		return v, false
	}
	dot := -1
	var m int64
	for ; i < len(s); i++ {
		c := s[i] - '0'
		if c > 9 {
			if s[i] != '.' || dot >= 0 {
				return v, false
			}
			dot = i
			continue
		}
		m = m*10 + int64(c)
	}
	digits := len(s) - first
	if dot >= 0 {
		digits--
		v.Scale = uint8(len(s) - dot - 1)
		if dot == first || v.Scale == 0 {
			return v, false
		}
	}
	if digits > 18 || s[first] == '0' && digits > 1 && dot != first+1 || neg && m == 0 {
		return v, false
	}
	if v.Mant = m; neg {
		v.Mant = -m
	}
	return v, true
}

// quick is a conversion in machine integers:
// (x*times + plus) / over, over = odd * 2^i * 5^j.
type quick struct {
	exact bool // a shift of the decimal point, which keeps the written precision
	shift int

	times, plus int64
	over, odd   uint64
	adjust      int64 // 10^places / (2^i * 5^j)
	places      uint8
	none        bool // not in machine integers
	full        conversion
}

func newQuick(c conversion) quick {
	q := quick{full: c}
	if c.times == nil && c.plus == nil {
		q.exact, q.shift = true, c.shift
		return q
	}
	plus := c.plus
	if plus == nil {
		plus = new(big.Rat)
	}
	times := c.factor()
	g := new(big.Int).GCD(nil, nil, times.Denom(), plus.Denom())
	over := new(big.Int).Mul(times.Denom(), plus.Denom())
	over.Quo(over, g)
	scaled := func(r *big.Rat) *big.Int {
		n := new(big.Int).Mul(r.Num(), over)
		return n.Quo(n, r.Denom())
	}
	t, p := scaled(times), scaled(plus)
	if !over.IsInt64() || !t.IsInt64() || !p.IsInt64() {
		q.none = true
		return q
	}
	q.times, q.plus, q.over = t.Int64(), p.Int64(), over.Uint64()
	q.odd = q.over
	twos, fives := 0, 0
	for ; q.odd%2 == 0; q.odd /= 2 {
		twos++
	}
	for ; q.odd%5 == 0; q.odd /= 5 {
		fives++
	}
	if max(twos, fives) > 15 {
		q.none = true
		return q
	}
	q.places = uint8(max(twos, fives))
	q.adjust = int64(tens[q.places] / (q.over / q.odd))
	return q
}

// apply converts as conversion.apply does; ok is false when the result, or
// what leads to it, does not fit.
func (q *quick) apply(v series.Decimal) (out series.Decimal, ok bool) {
	if q.exact {
		return shifted(v, q.shift)
	}
	if q.none {
		return v, false
	}
	num, ok := mul(v.Mant, q.times)
	if !ok {
		return v, false
	}
	if q.plus != 0 {
		p, ok := mul(q.plus, int64(tens[v.Scale]))
		if !ok || num > 0 && p > math.MaxInt64-num || num < 0 && p < math.MinInt64+1-num {
			return v, false
		}
		num += p
	}
	scale := v.Scale + q.places
	if num%int64(q.odd) == 0 {
		m, ok := mul(num/int64(q.odd), q.adjust)
		if !ok {
			return v, false
		}
		for scale > 0 && m%10 == 0 {
			m, scale = m/10, scale-1
		}
		out = series.Decimal{Mant: m, Scale: scale}
		return out, scale <= maxScale && m >= -maxMant && m <= maxMant
	}
	return q.rounded(num, v.Scale)
}

// rounded is num/(over*10^scale) to nine places, halves away from zero, as
// big.Rat.FloatString rounds.
func (q *quick) rounded(num int64, scale uint8) (out series.Decimal, ok bool) {
	neg := num < 0
	if neg {
		num = -num
	}
	hi, den := bits.Mul64(q.over, tens[scale])
	nhi, nlo := bits.Mul64(uint64(num), tens[fraction])
	if hi != 0 || nhi >= den {
		return out, false
	}
	m, rest := bits.Div64(nhi, nlo, den)
	if rest >= den-rest {
		m++
	}
	if m > maxMant || m == 0 && neg { // -0 is written as such
		return out, false
	}
	out = series.Decimal{Mant: int64(m), Scale: fraction}
	for out.Scale > 0 && out.Mant%10 == 0 {
		out.Mant, out.Scale = out.Mant/10, out.Scale-1
	}
	if neg {
		out.Mant = -out.Mant
	}
	return out, true
}

func shifted(v series.Decimal, shift int) (series.Decimal, bool) {
	scale := int(v.Scale) - shift
	if scale > maxScale {
		return v, false
	}
	if v.Mant == 0 {
		scale = max(scale, 0)
	}
	if scale < 0 {
		if scale < -maxScale {
			return v, false
		}
		m, ok := mul(v.Mant, int64(tens[-scale]))
		if !ok || m > maxMant || m < -maxMant {
			return v, false
		}
		v.Mant, scale = m, 0
	}
	v.Scale = uint8(scale)
	return v, true
}

func mul(a, b int64) (int64, bool) {
	neg := (a < 0) != (b < 0)
	hi, lo := bits.Mul64(magnitude(a), magnitude(b))
	if hi != 0 || lo > math.MaxInt64 {
		return 0, false
	}
	if neg {
		return -int64(lo), true
	}
	return int64(lo), true
}

func magnitude(a int64) uint64 {
	if a < 0 {
		return uint64(-a)
	}
	return uint64(a)
}

// number reads a vendor's number and converts it. What parseShort does not
// read, or apply not convert, goes the long way, with the same result.
func (q *quick) number(text string) (series.Decimal, bool) {
	if v, ok := parseShort(text); ok {
		if v, ok = q.apply(v); ok {
			return v, true
		}
	}
	d, ok := parseDecimal(text)
	if !ok {
		return series.Decimal{}, false
	}
	return q.full.apply(d).short()
}
