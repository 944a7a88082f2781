package decimal

import (
	"math"
	"math/big"
	"math/bits"

	"pulsegate/fhir/series"
)

// Limits of a series.Decimal: 18 digits, before or after the decimal point.
const (
	maxMant  = 1e18 - 1
	maxScale = 18
)

var tens = [...]uint64{1, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16,
	1e17, 1e18}

// Short returns d as a series.Decimal. It reports false if d does not fit or
// if a series would write it differently.
func (d Decimal) Short() (v series.Decimal, ok bool) {
	n, zeros := len(d.digits), max(-d.scale, 0)
	if d.digits == "0" {
		zeros = 0
	}
	if n+zeros > 18 || d.scale > maxScale || d.neg && d.IsZero() {
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

// Trimmed returns d without trailing zeros in its fraction.
func (d Decimal) Trimmed() Decimal {
	for d.scale > 0 && len(d.digits) > 1 && d.digits[len(d.digits)-1] == '0' {
		d.digits, d.scale = d.digits[:len(d.digits)-1], d.scale-1
	}
	if d.digits == "0" {
		d.scale, d.neg = 0, false
	}
	return d
}

// parseShort parses the numbers that vendors mostly write: JSON numbers of up
// to 18 digits without an exponent.
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

// Converter parses and converts numbers in 64-bit integers. It computes
// (x*times + plus) / divisor, where divisor = odd * 2^i * 5^j.
type Converter struct {
	// shiftOnly is set if the conversion moves the decimal point by shift,
	// which keeps the written precision.
	shiftOnly bool
	shift     int

	times, plus  int64
	divisor, odd uint64
	adjust       int64 // 10^places / (2^i * 5^j)
	places       uint8
	tooLarge     bool // times, plus or divisor exceeds 64 bits
	exact        Conversion
}

// NewConverter returns a Converter with the results of c.
func NewConverter(c Conversion) Converter {
	conv := Converter{exact: c}
	if c.times == nil && c.plus == nil {
		conv.shiftOnly, conv.shift = true, c.shift
		return conv
	}
	plus := c.plus
	if plus == nil {
		plus = new(big.Rat)
	}
	times := c.factor()
	g := new(big.Int).GCD(nil, nil, times.Denom(), plus.Denom())
	divisor := new(big.Int).Mul(times.Denom(), plus.Denom())
	divisor.Quo(divisor, g)
	scaled := func(r *big.Rat) *big.Int {
		n := new(big.Int).Mul(r.Num(), divisor)
		return n.Quo(n, r.Denom())
	}
	t, p := scaled(times), scaled(plus)
	if !divisor.IsInt64() || !t.IsInt64() || !p.IsInt64() {
		conv.tooLarge = true
		return conv
	}
	conv.times, conv.plus, conv.divisor = t.Int64(), p.Int64(), divisor.Uint64()
	conv.odd = conv.divisor
	twos, fives := 0, 0
	for ; conv.odd%2 == 0; conv.odd /= 2 {
		twos++
	}
	for ; conv.odd%5 == 0; conv.odd /= 5 {
		fives++
	}
	if max(twos, fives) > 15 {
		conv.tooLarge = true
		return conv
	}
	conv.places = uint8(max(twos, fives))
	conv.adjust = int64(tens[conv.places] / (conv.divisor / conv.odd))
	return conv
}

// Conversion returns the conversion whose results c has.
func (c *Converter) Conversion() Conversion { return c.exact }

// apply computes Conversion.Apply. It reports false if the result or an
// intermediate value does not fit in 64 bits.
func (c *Converter) apply(v series.Decimal) (out series.Decimal, ok bool) {
	if c.shiftOnly {
		return shifted(v, c.shift)
	}
	if c.tooLarge {
		return v, false
	}
	num, ok := mul(v.Mant, c.times)
	if !ok {
		return v, false
	}
	if c.plus != 0 {
		p, ok := mul(c.plus, int64(tens[v.Scale]))
		if !ok || num > 0 && p > math.MaxInt64-num || num < 0 && p < math.MinInt64+1-num {
			return v, false
		}
		num += p
	}
	scale := v.Scale + c.places
	if num%int64(c.odd) == 0 {
		m, ok := mul(num/int64(c.odd), c.adjust)
		if !ok {
			return v, false
		}
		for scale > 0 && m%10 == 0 {
			m, scale = m/10, scale-1
		}
		out = series.Decimal{Mant: m, Scale: scale}
		return out, scale <= maxScale && m >= -maxMant && m <= maxMant
	}
	return c.rounded(num, v.Scale)
}

// rounded returns num/(divisor*10^scale) to nine places, with halves rounded
// away from zero as in big.Rat.FloatString.
func (c *Converter) rounded(num int64, scale uint8) (out series.Decimal, ok bool) {
	neg := num < 0
	if neg {
		num = -num
	}
	hi, den := bits.Mul64(c.divisor, tens[scale])
	nhi, nlo := bits.Mul64(uint64(num), tens[fraction])
	if hi != 0 || nhi >= den {
		return out, false
	}
	m, rest := bits.Div64(nhi, nlo, den)
	if rest >= den-rest {
		m++
	}
	if m > maxMant || m == 0 && neg { // a series cannot hold -0
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

// Number parses and converts a vendor's number. It uses Parse and
// Conversion.Apply for the numbers that parseShort or apply cannot process; the
// result is the same.
func (c *Converter) Number(text string) (series.Decimal, bool) {
	if v, ok := parseShort(text); ok {
		if v, ok = c.apply(v); ok {
			return v, true
		}
	}
	d, ok := Parse(text)
	if !ok {
		return series.Decimal{}, false
	}
	return c.exact.Apply(d).Short()
}
