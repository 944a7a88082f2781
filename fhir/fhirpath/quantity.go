package fhirpath

import (
	"math/big"

	"github.com/cockroachdb/apd/v3"

	"pulsegate/fhir/ucum"
)

// calendarUnits maps the units of the calendar to their singular.
var calendarUnits = map[string]string{ // read only
	"year": "year", "month": "month", "week": "week", "day": "day", "hour": "hour", "minute": "minute",
	"second": "second", "millisecond": "millisecond",
	"years": "year", "months": "month", "weeks": "week", "days": "day", "hours": "hour", "minutes": "minute",
	"seconds": "second", "milliseconds": "millisecond",
}

// definite maps the units of the calendar with a definite duration to UCUM.
var definite = map[string]string{ // read only
	"week": "wk", "day": "d", "hour": "h", "minute": "min", "second": "s", "millisecond": "ms",
}

// unitKind returns the kind of a unit in quotation marks: UCUM, or a unit of the
// calendar by its name.
func unitKind(unit string) int32 {
	if calendarUnits[unit] != "" {
		return unitCalendar
	}
	return unitUCUM
}

// baseMonth is the base unit of the calendar's months and years. They are
// commensurable with each other, but not with UCUM's mo and a, which are definite
// durations.
const baseMonth = "calendar month"

// canonical is a quantity in base units.
type canonical struct {
	base  string
	value *big.Rat
	unit  ucum.Unit
	scale *big.Rat // the size of the unit
}

// canonical returns v in base units, unless its unit is not known.
func (v Value) canonical() (canonical, bool) {
	n, ok := new(big.Rat).SetString(v.decimal().Text('f'))
	if !ok || v.shadow == unitOther {
		return canonical{}, false
	}
	unit := v.text
	if v.shadow == unitCalendar {
		unit = calendarUnits[v.text]
		if unit == "month" || unit == "year" {
			scale := big.NewRat(1, 1)
			if unit == "year" {
				scale = big.NewRat(12, 1)
			}
			return canonical{base: baseMonth, value: n.Mul(n, scale), scale: scale}, true
		}
		unit = definite[unit]
	}
	u, err := ucum.Parse(unit)
	if err != nil {
		return canonical{}, false
	}
	return canonical{base: u.Base, value: u.Canonical(n), unit: u, scale: u.Factor()}, true
}

// compareQuantities orders two quantities. known is false if their units are not
// commensurable.
func compareQuantities(x, y Value) (order int, known bool) {
	if x.text == y.text {
		return compareNumbers(x, y), true
	}
	a, okA := x.canonical()
	b, okB := y.canonical()
	if !okA || !okB || a.base != b.base {
		return 0, false
	}
	return a.value.Cmp(b.value), true
}

// equivalentQuantities compares two quantities in the larger of their units, rounded
// to the precision of the less precise one. A year is equivalent to a UCUM year, and a
// month to a UCUM month.
func equivalentQuantities(x, y Value) bool {
	x, y = asUCUM(x), asUCUM(y)
	if x.text == y.text {
		return equivalentNumbers(numberOf(x), numberOf(y))
	}
	a, okA := x.canonical()
	b, okB := y.canonical()
	if !okA || !okB || a.base != b.base {
		return false
	}
	if a.scale.Cmp(b.scale) < 0 {
		a, b, x, y = b, a, y, x
	}
	converted, ok := decimalOf(a.unit.From(b.value))
	return ok && equivalentNumbers(numberOf(x), converted)
}

func asUCUM(v Value) Value {
	if v.shadow == unitCalendar {
		unit := calendarUnits[v.text]
		v.shadow = unitUCUM
		switch unit {
		case "year":
			v.text = "a"
		case "month":
			v.text = "mo"
		default:
			v.text = definite[unit]
		}
	}
	return v
}

// numberOf returns the value of a Quantity as a Decimal.
func numberOf(v Value) Value {
	v.kind, v.text, v.shadow = KindDecimal, "", 0
	return v
}

// decimalOf returns r as a Decimal, rounded if need be.
func decimalOf(r *big.Rat) (Value, bool) {
	var num, denom, out apd.Decimal
	if len(r.Num().String()) > 3*maxDigits || len(r.Denom().String()) > 3*maxDigits {
		return Value{}, false
	}
	num.Coeff.SetMathBigInt(new(big.Int).Abs(r.Num()))
	num.Negative = r.Sign() < 0
	denom.Coeff.SetMathBigInt(r.Denom())
	if _, err := arithmetic().Quo(&out, &num, &denom); err != nil {
		return Value{}, false
	}
	out.Reduce(&out)
	return decimalValue(&out)
}

// addQuantities returns x + y, or x - y, in the unit of x.
func addQuantities(x, y Value, minus bool) (Value, bool) {
	n := numberOf(y)
	if x.text != y.text {
		a, okA := x.canonical()
		b, okB := y.canonical()
		if !okA || !okB || a.base != b.base {
			return Value{}, false
		}
		var ok bool
		if a.base == baseMonth {
			n, ok = decimalOf(new(big.Rat).Quo(b.value, a.scale))
		} else {
			n, ok = decimalOf(a.unit.From(b.value))
		}
		if !ok {
			return Value{}, false
		}
	}
	if minus {
		n = negate(n)
	}
	sum, ok := calculate("+", numberOf(x), n)
	return quantity(sum, x.text, x.shadow), ok
}

// multiplyQuantities returns x * y or x / y. Units are multiplied as UCUM writes it.
func multiplyQuantities(x, y Value, divide bool) (Value, bool) {
	x, y = asUCUM(x), asUCUM(y)
	name, unit := "*", x.text+"."+y.text
	if divide {
		name, unit = "/", x.text+"/("+y.text+")"
	}
	switch {
	case y.text == "1":
		unit = x.text
	case x.text == "1" && !divide:
		unit = y.text
	case divide && x.text == y.text:
		unit = "1"
	}
	if _, err := ucum.Parse(unit); err != nil {
		return Value{}, false
	}
	n, ok := calculate(name, numberOf(x), numberOf(y))
	return quantity(n, unit, unitUCUM), ok
}
