package decimal

import (
	"math/big"
	"strconv"
)

// Text returns the factor and the offset of c, from which NewConversion makes it again.
func (c Conversion) Text() (times, plus string) {
	if times = c.factor().RatString(); times == "1" {
		times = ""
	}
	if c.plus != nil {
		plus = c.plus.RatString()
	}
	return times, plus
}

// Invert returns a number that c converts to d: the shortest one.
//
// It is the number that the vendor wrote, except for zeros at the end of a fraction. If
// the factor is a power of ten, they are kept (97.0 is 0.970), except for those of a
// whole number that the factor has moved before the decimal point (90 is 0.9, also if
// the vendor wrote 0.90). If not, the conversion has dropped them. A result that was
// rounded to nine places is that of all numbers that agree to about nine places; the
// shortest one of these is the one that a vendor would write. If no number is found, as
// for a d that is no result of c, Invert reports false.
func (c Conversion) Invert(d Decimal) (Decimal, bool) {
	if c.times == nil && c.plus == nil {
		if c.shift == 0 {
			return d, true
		}
		whole := d.scale <= 0
		d.scale += c.shift
		d.plain = false
		if neg := d.neg; whole && c.shift > 0 {
			d = d.Trimmed()
			d.neg = neg
		}
		return d, true
	}
	want := d.rat()
	exact := new(big.Rat).Set(want)
	if c.plus != nil {
		exact.Sub(exact, c.plus)
	}
	exact.Quo(exact, c.factor())
	for places := range maxDigits {
		text := exact.FloatString(places)
		number, ok := Parse(text)
		if !ok {
			break
		}
		if c.Apply(number).rat().Cmp(want) == 0 {
			return number, true
		}
		if number.rat().Cmp(exact) == 0 {
			break // further places are zeros
		}
	}
	return Decimal{}, false
}

// String returns d as Parse reads it, with the written precision: "1e3" is not "1000".
func (d Decimal) String() string {
	if d.scale >= 0 {
		return string(d.Append(nil))
	}
	exponent := d.scale
	d.scale = 0
	return string(strconv.AppendInt(append(d.Append(nil), 'e'), int64(-exponent), 10))
}
