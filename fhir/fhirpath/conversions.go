package fhirpath

import (
	"strconv"
	"strings"
)

// conversionFunctions are toX and convertsToX.
func conversionFunctions() map[string]function {
	m := map[string]function{}
	for _, k := range []Kind{KindBoolean, KindInteger, KindDecimal, KindString, KindDate, KindDateTime, KindTime} {
		m["to"+systemNames[k]] = function{0, 0,
			func(c *call, _ *evaluation, _ *scope, in, dst []Value) ([]Value, error) {
				v, ok, err := c.one(in)
				if err != nil || !ok {
					return dst, err
				}
				if v, ok = convert(v, k); ok {
					dst = append(dst, v)
				}
				return dst, nil
			}}
		m["convertsTo"+systemNames[k]] = function{0, 0,
			func(c *call, _ *evaluation, _ *scope, in, dst []Value) ([]Value, error) {
				v, ok, err := c.one(in)
				if err != nil || !ok {
					return dst, err
				}
				_, ok = convert(v, k)
				return append(dst, boolean(ok)), nil
			}}
	}
	m["toQuantity"] = function{0, 1, func(c *call, ev *evaluation, sc *scope, in, dst []Value) ([]Value, error) {
		v, ok, err := c.toQuantity(ev, sc, in)
		if err == nil && ok {
			dst = append(dst, v)
		}
		return dst, err
	}}
	m["convertsToQuantity"] = function{0, 1,
		func(c *call, ev *evaluation, sc *scope, in, dst []Value) ([]Value, error) {
			if len(in) == 0 {
				return dst, nil
			}
			_, ok, err := c.toQuantity(ev, sc, in)
			return append(dst, boolean(ok)), err
		}}
	return m
}

// maxConverted is more than the longest text of a type other than String, in bytes.
const maxConverted = 256

// convert converts a value in System to another type.
func convert(v Value, to Kind) (Value, bool) {
	if v.kind == to {
		return v, true
	}
	if v.kind == KindString && len(v.text) > maxConverted {
		return Value{}, false
	}
	switch to {
	case KindBoolean:
		return toBoolean(v)
	case KindInteger:
		switch v.kind {
		case KindBoolean:
			return integer(v.num), true
		case KindString:
			n, err := strconv.ParseInt(v.text, 10, 32)
			return integer(n), err == nil
		}
	case KindDecimal:
		switch v.kind {
		case KindBoolean, KindInteger:
			return Value{kind: KindDecimal, num: v.num}, true
		case KindString:
			if strings.ContainsAny(v.text, "eE") {
				return Value{}, false
			}
			return parseDecimal(v.text)
		}
	case KindString:
		if v.kind == KindElement || v.kind == kindType {
			return Value{}, false
		}
		return stringValue(v.toText()), true
	case KindDate, KindDateTime:
		return toTemporal(v, to)
	case KindTime:
		if v.kind == KindString {
			t, ok := parseClock(strings.TrimPrefix(v.text, "T"))
			return t.value(KindTime), ok
		}
	}
	return Value{}, false
}

func toBoolean(v Value) (Value, bool) {
	switch v.kind {
	case KindInteger, KindDecimal:
		if compareNumbers(v, integer(0)) == 0 {
			return boolean(false), true
		}
		return boolean(true), compareNumbers(v, integer(1)) == 0
	case KindString:
		switch strings.ToLower(v.text) {
		case "true", "t", "yes", "y", "1", "1.0":
			return boolean(true), true
		case "false", "f", "no", "n", "0", "0.0":
			return boolean(false), true
		}
	}
	return Value{}, false
}

func toTemporal(v Value, to Kind) (Value, bool) {
	switch v.kind {
	case KindString:
		t, ok := parseTemporal(v.text, true)
		if to == KindDate && t.digits > digitsDay {
			t = t.onlyDate()
		}
		return t.value(to), ok
	case KindDate:
		return v.temporal().value(to), true
	case KindDateTime:
		return v.temporal().onlyDate().value(to), true
	}
	return Value{}, false
}

// onlyDate returns t without its time.
func (t temporal) onlyDate() temporal {
	if t.digits > digitsDay {
		t.seconds, t.nanos, t.digits = floor(t.seconds, 86400), 0, digitsDay
	}
	t.zoned, t.offset = false, 0
	return t
}

// toText writes a value in System as toString() does.
func (v Value) toText() string {
	switch v.kind {
	case KindBoolean:
		return strconv.FormatBool(v.num == 1)
	case KindInteger:
		return strconv.FormatInt(v.num, 10)
	case KindDecimal:
		return plainDecimal(v.decimal())
	case KindString:
		return v.text
	case KindDate, KindDateTime, KindTime:
		return v.temporal().text(v.kind)
	case KindQuantity:
		if v.shadow == unitCalendar {
			return plainDecimal(v.decimal()) + " " + v.text
		}
		return plainDecimal(v.decimal()) + " '" + v.text + "'"
	}
	return ""
}

// toQuantity converts the input, and to the unit of the argument if there is one.
func (c *call) toQuantity(ev *evaluation, sc *scope, in []Value) (v Value, ok bool, err error) {
	v, ok, err = c.one(in)
	if err != nil || !ok {
		return v, false, err
	}
	switch v.kind {
	case KindInteger, KindDecimal, KindBoolean:
		if v.kind == KindBoolean {
			v.kind = KindDecimal
			v.scale = 1
			v.num *= 10
		}
		v = quantity(v, "1", unitUCUM)
	case KindString:
		v, ok = parseQuantity(v.text)
	case KindQuantity:
	default:
		ok = false
	}
	if !ok || len(c.args) == 0 {
		return v, ok, nil
	}
	if err := ev.step(costOfUnits); err != nil {
		return v, false, err
	}
	unit, given, err := c.str(ev, sc, 0)
	if err != nil || !given {
		return v, false, err
	}
	zero := quantity(integer(0), unit, unitKind(unit))
	zero.kind = KindQuantity
	v, ok = addQuantities(zero, v, false)
	return v, ok, nil
}

// parseQuantity parses a number with an optional unit: a word of the calendar, or UCUM
// in quotation marks.
func parseQuantity(s string) (Value, bool) {
	if len(s) > maxConverted {
		return Value{}, false
	}
	i := 0
	for i < len(s) && (isDigit(s[i]) || s[i] == '.' || i == 0 && (s[i] == '-' || s[i] == '+')) {
		i++
	}
	n, ok := smallDecimal(s[:i])
	if !ok {
		if n, ok = parseDecimal(s[:i]); !ok {
			return Value{}, false
		}
	}
	rest := s[i:]
	unit := strings.TrimLeft(rest, " \t\r\n")
	switch {
	case unit == "" && rest == "":
		return quantity(n, "1", unitUCUM), true
	case len(unit) > 2 && unit[0] == '\'' && unit[len(unit)-1] == '\'' && strings.Count(unit, "'") == 2:
		unit = unit[1 : len(unit)-1]
		return quantity(n, unit, unitKind(unit)), true
	case len(unit) < len(rest) && calendarUnits[unit] != "":
		return quantity(n, unit, unitCalendar), true
	}
	return Value{}, false
}
