package fhirpath

import (
	"math"
	"math/bits"
	"time"

	"github.com/cockroachdb/apd/v3"
)

// arithmeticOp evaluates +, -, *, /, div and mod. An overflow and a division by zero have an
// empty result.
type arithmeticOp struct {
	binary
	name string
}

func (o *arithmeticOp) eval(ev *evaluation, sc *scope, dst []Value) ([]Value, error) {
	x, y, ok, err := o.singles(ev, sc)
	if err != nil || !ok {
		return dst, err
	}
	if err := ev.cost(&x, &y); err != nil {
		return nil, err
	}
	var v Value
	switch {
	case numeric(x.kind) && numeric(y.kind):
		v, ok = calculate(o.name, x, y)
	case o.name == "+" && x.kind == KindString && y.kind == KindString:
		return ev.appendString(dst, x.text+y.text)
	case (o.name == "+" || o.name == "-") && isTemporal(x.kind) && y.kind == KindQuantity:
		if v, ok = shift(x, y, o.name == "-"); !ok {
			return nil, failAt(o.pos, "a %s cannot be moved by this unit", x.kind)
		}
		if v.IsZero() {
			return dst, nil
		}
	case (o.name == "+" || o.name == "-") && x.kind == KindQuantity && y.kind == KindQuantity:
		v, ok = addQuantities(x, y, o.name == "-")
	case (o.name == "*" || o.name == "/") && (x.kind == KindQuantity || y.kind == KindQuantity) &&
		(x.kind == KindQuantity || numeric(x.kind)) && (y.kind == KindQuantity || numeric(y.kind)):
		v, ok = multiplyQuantities(asQuantity(x), asQuantity(y), o.name == "/")
	default:
		return nil, failAt(o.pos, "%s cannot take %s and %s", o.name, x.kind, y.kind)
	}
	if ok {
		dst = append(dst, v)
	}
	return dst, nil
}

func isTemporal(k Kind) bool { return k == KindDate || k == KindDateTime || k == KindTime }

func asQuantity(v Value) Value {
	if v.kind == KindQuantity {
		return v
	}
	return quantity(v, "1", unitUCUM)
}

// calculate applies an operator to two numbers. It reports false for an overflow and
// for a division by zero.
func calculate(name string, x, y Value) (Value, bool) {
	if x.kind == KindInteger && y.kind == KindInteger && name != "/" {
		return calculateIntegers(name, x.num, y.num)
	}
	var out apd.Decimal
	var err error
	c, a, b := arithmetic(), x.decimal(), y.decimal()
	switch name {
	case "+":
		_, err = c.WithPrecision(2*maxDigits).Add(&out, a, b)
	case "-":
		_, err = c.WithPrecision(2*maxDigits).Sub(&out, a, b)
	case "*":
		_, err = c.WithPrecision(2*maxDigits).Mul(&out, a, b)
	case "/":
		_, err = c.Quo(&out, a, b)
		trimZeros(&out, x, y)
	case "div":
		if _, err = c.WithPrecision(2*maxDigits).QuoInteger(&out, a, b); err == nil {
			n, errInt := out.Int64()
			return integer(n), errInt == nil
		}
	case "mod":
		_, err = c.WithPrecision(2*maxDigits).Rem(&out, a, b)
	}
	if err != nil {
		return Value{}, false
	}
	return decimalValue(&out)
}

// trimZeros removes the zeros that a division leaves behind the digits that its
// operands have.
func trimZeros(d *apd.Decimal, x, y Value) {
	keep := max(x.digitsAfterPoint(), y.digitsAfterPoint())
	if d.Form != apd.Finite || -int(d.Exponent) <= keep {
		return
	}
	var r apd.Decimal
	r.Reduce(d)
	if -int(r.Exponent) < keep {
		r.Set(round(&r, keep))
	}
	d.Set(&r)
}

func calculateIntegers(name string, x, y int64) (Value, bool) {
	switch name {
	case "+":
		sum := x + y
		return integer(sum), (sum > x) == (y > 0)
	case "-":
		difference := x - y
		return integer(difference), (difference < x) == (y > 0)
	case "*":
		if x == 0 || y == 0 {
			return integer(0), true
		}
		high, low := bits.Mul64(magnitude(x), magnitude(y))
		return integer(x * y), high == 0 && low <= math.MaxInt64
	case "div":
		if y == 0 || x == math.MinInt64 && y == -1 {
			return Value{}, false
		}
		return integer(x / y), true
	}
	if y == 0 || y == -1 {
		return integer(0), y != 0
	}
	return integer(x % y), true
}

func magnitude(n int64) uint64 {
	if n < 0 {
		return uint64(-n)
	}
	return uint64(n)
}

// shift moves a Date, DateTime or Time by a Quantity of time. It reports false for a
// unit that is not one of time, or that has no definite length, such as UCUM's month.
// The result is the zero Value if it is beyond the years 1 to 9999.
func shift(v, by Value, minus bool) (Value, bool) {
	unit := calendarUnits[by.text]
	if by.shadow != unitCalendar {
		unit = ""
		for calendar, u := range definite {
			if u == by.text {
				unit = calendar
			}
		}
	}
	if unit == "" || v.kind == KindTime && (unit == "year" || unit == "month" || unit == "week" || unit == "day") {
		return Value{}, false
	}
	amount, ok := numberOf(by), true
	if unit == "second" { // seconds and milliseconds are one precision with decimals
		amount, ok = calculate("*", amount, integer(1000))
		unit = "millisecond"
	}
	whole, fits := calculate("div", amount, integer(1))
	const most = int64(400_000_000_000_000) // milliseconds, more than all years
	if !ok || !fits || whole.num > most || whole.num < -most {
		return Value{}, true
	}
	n := whole.num
	if minus {
		n = -n
	}
	t := v.temporal()
	t, ok = t.shift(n, unit, v.kind)
	if !ok {
		return Value{}, true
	}
	return t.value(v.kind), true
}

// unitMillis holds the lengths of the units below the month in milliseconds.
var unitMillis = map[string]int64{ // read only
	"week": 7 * 86_400_000, "day": 86_400_000, "hour": 3_600_000, "minute": 60_000, "second": 1000, "millisecond": 1,
}

// shift moves t by n units. The move is made in the precision of t if that is less
// than the unit's: a year takes 12 months or 365 days, a month 30 days.
func (t temporal) shift(n int64, unit string, k Kind) (temporal, bool) {
	if unit != "year" && unit != "month" {
		return t.shiftMillis(n*unitMillis[unit], k)
	}
	if n > 200_000 || n < -200_000 {
		return t, false
	}
	if unit == "year" {
		n *= 12
	}
	if t.digits == digitsYear {
		n = n / 12 * 12
	}
	y, m, d := t.date()
	months := int64(y)*12 + int64(m-1) + n
	if months < 12 || months >= 10_000*12 {
		return t, false
	}
	y, m = int(months/12), int(months%12)+1
	clock := t.seconds - floor(t.seconds, 86400)
	t.seconds = daysSince1970(y, m, min(d, daysIn(y, m)))*86400 + clock
	return t, true
}

func (t temporal) shiftMillis(ms int64, k Kind) (temporal, bool) {
	if ms > 400_000_000_000_000 || ms < -400_000_000_000_000 {
		return t, false
	}
	switch days := ms / 86_400_000; {
	case t.digits == digitsYear:
		return t.shift(days/365*12, "month", k)
	case t.digits == digitsMonth:
		return t.shift(days/30, "month", k)
	case t.digits == digitsDay:
		ms = days * 86_400_000
	case t.digits == digitsHour:
		ms = ms / 3_600_000 * 3_600_000
	case t.digits == digitsMinute:
		ms = ms / 60_000 * 60_000
	}
	at := time.Unix(t.seconds, int64(t.nanos)).Add(time.Duration(ms%1000) * time.Millisecond)
	t.seconds, t.nanos = at.Unix()+ms/1000, int32(at.Nanosecond())
	if ms%1000 != 0 {
		t.digits = max(t.digits, digitsSeconds+3)
	}
	if k == KindTime {
		t.seconds -= floor(t.seconds, 86400)
		return t, true
	}
	y, _, _ := t.date()
	return t, y >= 1 && y <= 9999
}
