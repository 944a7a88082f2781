package fhirpath

import "github.com/cockroachdb/apd/v3"

// mathFunction returns a function on one number. The result is empty if the input is,
// and if f reports false, as for the root of a negative number.
func mathFunction(f func(v Value) (Value, bool)) function {
	return function{0, 0, func(c *call, ev *evaluation, _ *scope, in, dst []Value) ([]Value, error) {
		v, ok, err := c.number(ev, in)
		if err != nil || !ok {
			return dst, err
		}
		if v, ok = f(v); ok {
			dst = append(dst, v)
		}
		return dst, nil
	}}
}

// costOfMath is the number of steps that a function with many digits counts for.
const costOfMath = 200

// number returns the input as a number or a Quantity.
func (c *call) number(ev *evaluation, in []Value) (v Value, ok bool, err error) {
	v, ok, err = c.one(in)
	if err == nil && ok && !numeric(v.kind) && v.kind != KindQuantity {
		err = failAt(c.pos, "%s needs a number, not %s", c.name, v.kind)
	}
	if err == nil {
		err = ev.step(costOfMath)
	}
	return v, ok, err
}

// decimalFunction wraps a function of the decimal library.
func decimalFunction(f func(c *apd.Context, out, x *apd.Decimal) (apd.Condition, error)) function {
	return mathFunction(func(v Value) (Value, bool) {
		var out apd.Decimal
		if v.kind == KindQuantity {
			return Value{}, false
		}
		if _, err := f(arithmetic(), &out, v.decimal()); err != nil {
			return Value{}, false
		}
		out.Reduce(&out)
		return decimalValue(&out)
	})
}

// integral returns a function that rounds to an Integer.
func integral(rounding apd.Rounder) function {
	return mathFunction(func(v Value) (Value, bool) {
		if v.kind == KindInteger {
			return v, true
		}
		out, ok := quantize(v.decimal(), 0, rounding)
		if !ok {
			return Value{}, false
		}
		if v.kind == KindQuantity {
			n, ok := decimalValue(out)
			return quantity(n, v.text, v.shadow), ok
		}
		n, err := out.Int64()
		return integer(n), err == nil
	})
}

func mathFunctions() map[string]function {
	return map[string]function{
		"abs": mathFunction(func(v Value) (Value, bool) {
			if compareNumbers(Value{kind: KindDecimal, num: v.num, scale: v.scale, dec: v.dec}, integer(0)) < 0 {
				v = negate(v)
			}
			return v, true
		}),
		"ceiling":  integral(apd.RoundCeiling),
		"floor":    integral(apd.RoundFloor),
		"truncate": integral(apd.RoundDown),
		"exp": mathFunction(func(v Value) (Value, bool) {
			// The result would be beyond the bounds, and costly.
			if compareNumbers(v, integer(200)) > 0 || compareNumbers(v, integer(-200)) < 0 || v.kind == KindQuantity {
				return Value{}, false
			}
			var out apd.Decimal
			if _, err := arithmetic().Exp(&out, v.decimal()); err != nil {
				return Value{}, false
			}
			out.Reduce(&out)
			return decimalValue(&out)
		}),
		"ln":    decimalFunction((*apd.Context).Ln),
		"sqrt":  decimalFunction((*apd.Context).Sqrt),
		"log":   {1, 1, logarithm},
		"power": {1, 1, power},
		"round": {0, 1, roundTo},
	}
}

func logarithm(c *call, ev *evaluation, sc *scope, in, dst []Value) ([]Value, error) {
	x, ok, err := c.number(ev, in)
	if err != nil {
		return nil, err
	}
	base, given, err := c.numberArg(ev, sc)
	if err != nil || !ok || !given {
		return dst, err
	}
	var a, b, out apd.Decimal
	ctx := arithmetic()
	if _, err := ctx.Ln(&a, x.decimal()); err != nil {
		return dst, nil
	}
	if _, err := ctx.Ln(&b, base.decimal()); err != nil {
		return dst, nil
	}
	// The last digits of the logarithms are rounded; those of the quotient are cut.
	if _, err := ctx.WithPrecision(precision-8).Quo(&out, &a, &b); err != nil {
		return dst, nil
	}
	out.Reduce(&out)
	if v, ok := decimalValue(&out); ok {
		dst = append(dst, v)
	}
	return dst, nil
}

// numberArg evaluates the argument to a number.
func (c *call) numberArg(ev *evaluation, sc *scope) (v Value, ok bool, err error) {
	v, ok, err = c.arg(ev, sc, 0)
	if err == nil && ok && !numeric(v.kind) {
		err = failAt(c.pos, "%s needs a number as its argument", c.name)
	}
	return v, ok, err
}

func power(c *call, ev *evaluation, sc *scope, in, dst []Value) ([]Value, error) {
	x, ok, err := c.number(ev, in)
	if err != nil {
		return nil, err
	}
	n, given, err := c.numberArg(ev, sc)
	if err != nil || !ok || !given {
		return dst, err
	}
	if compareNumbers(n, integer(1000)) > 0 || compareNumbers(n, integer(-1000)) < 0 {
		return dst, nil // beyond the bounds, or 0 or 1
	}
	var out apd.Decimal
	if _, err := arithmetic().Pow(&out, x.decimal(), n.decimal()); err != nil || out.Form != apd.Finite {
		return dst, nil
	}
	v, ok := decimalValue(&out)
	if ok && x.kind == KindInteger && n.kind == KindInteger && n.num >= 0 {
		whole, errInt := out.Int64()
		v, ok = integer(whole), errInt == nil
	}
	if ok {
		dst = append(dst, v)
	}
	return dst, nil
}

func roundTo(c *call, ev *evaluation, sc *scope, in, dst []Value) ([]Value, error) {
	v, ok, err := c.number(ev, in)
	if err != nil {
		return nil, err
	}
	digits := int64(0)
	if len(c.args) == 1 {
		n, given, err := c.integer(ev, sc, 0)
		if err != nil {
			return nil, err
		}
		if !given {
			return dst, nil
		}
		if digits = n; n < 0 || n > maxExponent {
			return nil, failAt(c.pos, "round needs 0 to %d decimal places", maxExponent)
		}
	}
	if !ok {
		return dst, nil
	}
	if v.kind == KindInteger {
		return append(dst, Value{kind: KindDecimal, num: v.num}), nil
	}
	out, ok := decimalValue(round(v.decimal(), int(digits)))
	if v.kind == KindQuantity {
		out = quantity(out, v.text, v.shadow)
	}
	if ok {
		dst = append(dst, out)
	}
	return dst, nil
}
