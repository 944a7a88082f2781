package fhirpath

import "github.com/cockroachdb/apd/v3"

// boundaryFunctions are the functions on the precision of values and on units.
func boundaryFunctions() map[string]function {
	return map[string]function{
		"lowBoundary":  {0, 1, boundary(false)},
		"highBoundary": {0, 1, boundary(true)},
		"precision": {0, 0, func(c *call, _ *evaluation, _ *scope, in, dst []Value) ([]Value, error) {
			v, ok, err := c.one(in)
			if err != nil || !ok {
				return dst, err
			}
			switch v.kind {
			case KindInteger, KindDecimal, KindQuantity:
				return append(dst, integer(int64(v.digitsAfterPoint()))), nil
			case KindDate, KindDateTime:
				return append(dst, integer(int64(v.scale))), nil
			case KindTime:
				return append(dst, integer(int64(v.scale)-digitsDay)), nil
			}
			return nil, failAt(c.pos, "precision cannot take %s", v.kind)
		}},
		"comparable": {1, 1, func(c *call, ev *evaluation, sc *scope, in, dst []Value) ([]Value, error) {
			x, ok, err := c.one(in)
			if err != nil {
				return nil, err
			}
			y, given, err := c.arg(ev, sc, 0)
			if err != nil || !ok || !given {
				return dst, err
			}
			if x.kind != KindQuantity || y.kind != KindQuantity {
				return nil, failAt(c.pos, "comparable needs Quantities")
			}
			if err := ev.step(costOfUnits); err != nil {
				return nil, err
			}
			_, known := compareQuantities(x, y)
			return append(dst, boolean(known)), nil
		}},
	}
}

// maxBoundaryDigits is the greatest precision of a boundary of a Decimal.
const maxBoundaryDigits = 28

// boundary returns lowBoundary or highBoundary: the least or the greatest value that
// the input, with its precision, may stand for, in another precision.
func boundary(high bool) func(*call, *evaluation, *scope, []Value, []Value) ([]Value, error) {
	return func(c *call, ev *evaluation, sc *scope, in, dst []Value) ([]Value, error) {
		v, ok, err := c.one(in)
		if err != nil || !ok {
			return dst, err
		}
		digits := int64(-1)
		if len(c.args) == 1 {
			n, given, err := c.integer(ev, sc, 0)
			if err != nil || !given || n < 0 {
				return dst, err
			}
			digits = n
		}
		switch v.kind {
		case KindInteger, KindDecimal, KindQuantity:
			if digits < 0 {
				digits = 8
			}
			n, ok := decimalBoundary(numberLike(v), digits, high)
			if v.kind == KindQuantity {
				n = quantity(n, v.text, v.shadow)
			}
			if ok {
				dst = append(dst, n)
			}
			return dst, nil
		case KindDate, KindDateTime, KindTime:
			t, ok := v.temporal().boundary(v.kind, digits, high)
			if ok {
				dst = append(dst, t.value(v.kind))
			}
			return dst, nil
		}
		return nil, failAt(c.pos, "%s cannot take %s", c.name, v.kind)
	}
}

func numberLike(v Value) Value {
	if v.kind == KindQuantity {
		return numberOf(v)
	}
	return v
}

func decimalBoundary(v Value, digits int64, high bool) (Value, bool) {
	if digits > maxBoundaryDigits {
		return Value{}, false
	}
	half := apd.New(5, -int32(v.digitsAfterPoint())-1)
	rounding := apd.Rounder(apd.RoundCeiling)
	if !high {
		rounding = apd.RoundFloor
		half.Negative = true
	}
	var sum apd.Decimal
	if _, err := arithmetic().WithPrecision(3*maxDigits).Add(&sum, v.decimal(), half); err != nil {
		return Value{}, false
	}
	out, ok := quantize(&sum, int(digits), rounding)
	if !ok {
		return Value{}, false
	}
	return decimalValue(out)
}

// boundary returns the first or the last moment that t may stand for, with digits of
// precision, or the greatest one of its kind if digits is negative. A missing offset
// becomes the one in which the moment is the earliest or the latest.
func (t temporal) boundary(k Kind, digits int64, high bool) (temporal, bool) {
	want := int(digits)
	switch {
	case k == KindTime && digits >= 0:
		want += digitsDay
	case digits >= 0:
	case k == KindDate:
		want = digitsDay
	default:
		want = digitsSeconds + 3
	}
	switch want {
	case digitsYear, digitsMonth, digitsDay:
		if k == KindTime {
			return t, false
		}
	case digitsHour, digitsMinute, digitsSeconds, digitsSeconds + 3:
		if k == KindDate {
			return t, false
		}
	default:
		return t, false
	}
	if high && want > t.digits {
		t = t.last()
	}
	if want < t.digits || want < digitsSeconds {
		t.seconds = t.truncate(want)
		t.nanos = 0
	}
	t.digits = want
	if want < digitsHour {
		t.zoned, t.offset = false, 0
	} else if k == KindDateTime && !t.zoned {
		t.zoned = true
		if t.offset = 14 * 60; high {
			t.offset = -12 * 60
		}
	}
	return t, true
}

// last returns the last millisecond that t may stand for.
func (t temporal) last() temporal {
	y, m, _ := t.date()
	switch {
	case t.digits < digitsMonth:
		t.seconds = daysSince1970(y+1, 1, 1)*86400 - 1
	case t.digits < digitsDay:
		t.seconds += int64(daysIn(y, m))*86400 - 1
	case t.digits < digitsHour:
		t.seconds += 86400 - 1
	case t.digits < digitsMinute:
		t.seconds += 3600 - 1
	case t.digits < digitsSeconds:
		t.seconds += 60 - 1
	}
	if t.digits <= digitsSeconds {
		t.nanos = 999_000_000
	}
	return t
}
