package fhirpath

import "github.com/cockroachdb/apd/v3"

// binary holds the operands of an operator.
type binary struct {
	pos         int
	left, right op
}

// singles evaluates both operands to single items. ok is false if either is empty.
func (b *binary) singles(ev *evaluation, sc *scope) (x, y Value, ok bool, err error) {
	if err := ev.step(1); err != nil {
		return x, y, false, err
	}
	x, okX, err := ev.single(b.left, sc, b.pos)
	if err != nil {
		return x, y, false, err
	}
	y, okY, err := ev.single(b.right, sc, b.pos)
	return x, y, okX && okY, err
}

// both evaluates both operands to collections. The caller puts them back.
func (b *binary) both(ev *evaluation, sc *scope) (x, y []Value, err error) {
	if x, err = b.left.eval(ev, sc, ev.get()); err != nil {
		return nil, nil, err
	}
	if y, err = b.right.eval(ev, sc, ev.get()); err != nil {
		return nil, nil, err
	}
	return x, y, ev.step(1)
}

// logicOp evaluates and, or, xor and implies in three-valued logic. The right operand is not
// evaluated if the left one decides.
type logicOp struct {
	binary
	name string
}

func (o *logicOp) eval(ev *evaluation, sc *scope, dst []Value) ([]Value, error) {
	if err := ev.step(1); err != nil {
		return nil, err
	}
	x, err := ev.test(o.left, sc, o.pos)
	if err != nil {
		return nil, err
	}
	switch {
	case o.name == "and" && x == no:
		return no.append(dst), nil
	case o.name == "or" && x == yes, o.name == "implies" && x == no:
		return yes.append(dst), nil
	}
	y, err := ev.test(o.right, sc, o.pos)
	if err != nil {
		return nil, err
	}
	return combine(o.name, x, y).append(dst), nil
}

// combine combines operands of which x alone does not decide.
func combine(name string, x, y logic) logic {
	switch name {
	case "and":
		if y == no || x == yes {
			return y
		}
	case "or":
		if y == yes || x == no {
			return y
		}
	case "implies":
		if y == yes || x == yes {
			return y
		}
	case "xor":
		if x != unknown && y != unknown {
			return logical(x != y)
		}
	}
	return unknown
}

// equalOp evaluates = and !=.
type equalOp struct {
	binary
	negated bool
}

func (o *equalOp) eval(ev *evaluation, sc *scope, dst []Value) ([]Value, error) {
	x, y, err := o.both(ev, sc)
	if err != nil {
		return nil, err
	}
	result, err := ev.equalCollections(x, y)
	ev.put(x)
	ev.put(y)
	if o.negated && result != unknown {
		result = logical(result == no)
	}
	return result.append(dst), err
}

// equivalentOp evaluates ~ and !~.
type equivalentOp struct {
	binary
	negated bool
}

func (o *equivalentOp) eval(ev *evaluation, sc *scope, dst []Value) ([]Value, error) {
	x, y, err := o.both(ev, sc)
	if err != nil {
		return nil, err
	}
	result, err := ev.equivalentCollections(x, y)
	ev.put(x)
	ev.put(y)
	return append(dst, boolean(result != o.negated)), err
}

// compareOp evaluates <, <=, > and >=.
type compareOp struct {
	binary
	name string
}

func (o *compareOp) eval(ev *evaluation, sc *scope, dst []Value) ([]Value, error) {
	x, y, ok, err := o.singles(ev, sc)
	if err != nil || !ok {
		return dst, err
	}
	if err := ev.cost(&x, &y); err != nil {
		return nil, err
	}
	order, known, ok := compare(x, y)
	if !ok {
		return nil, failAt(o.pos, "%s cannot compare %s and %s", o.name, x.kind, y.kind)
	}
	if !known {
		return dst, nil
	}
	var result bool
	switch o.name {
	case "<":
		result = order < 0
	case "<=":
		result = order <= 0
	case ">":
		result = order > 0
	default:
		result = order >= 0
	}
	return append(dst, boolean(result)), nil
}

// membershipOp evaluates "left in right". For contains, the operands are exchanged.
type membershipOp struct{ binary }

func (o *membershipOp) eval(ev *evaluation, sc *scope, dst []Value) ([]Value, error) {
	x, y, err := o.both(ev, sc)
	if err != nil {
		return nil, err
	}
	defer ev.put(x)
	defer ev.put(y)
	switch len(x) {
	case 0:
		return dst, nil
	case 1:
		found, err := ev.contains(y, x[0])
		return append(dst, boolean(found)), err
	}
	return nil, failAt(o.pos, "expected a single item, not %d", len(x))
}

// unionOp evaluates a series of |.
type unionOp struct{ operands []op }

func (o *unionOp) eval(ev *evaluation, sc *scope, dst []Value) ([]Value, error) {
	all := ev.get()
	for _, operand := range o.operands {
		var err error
		if all, err = operand.eval(ev, sc, all); err != nil {
			return nil, err
		}
	}
	dst, err := ev.distinct(all, dst)
	ev.put(all)
	return dst, err
}

// concatenateOp evaluates &.
type concatenateOp struct{ binary }

func (o *concatenateOp) eval(ev *evaluation, sc *scope, dst []Value) ([]Value, error) {
	x, okX, err := ev.single(o.left, sc, o.pos)
	if err != nil {
		return nil, err
	}
	y, okY, err := ev.single(o.right, sc, o.pos)
	if err != nil {
		return nil, err
	}
	var a, b string
	if okX && x.kind != KindString || okY && y.kind != KindString {
		return nil, failAt(o.pos, "& needs Strings")
	}
	a, b = x.text, y.text
	return ev.appendString(dst, a+b)
}

// appendString appends a string that a function made.
func (ev *evaluation) appendString(dst []Value, s string) ([]Value, error) {
	if len(s) > ev.bytes {
		return nil, costly("bytes of a string")
	}
	return append(dst, stringValue(s)), ev.step(len(s) / 64)
}

// unaryOp applies a sign.
type unaryOp struct {
	pos     int
	minus   bool
	operand op
}

func (o *unaryOp) eval(ev *evaluation, sc *scope, dst []Value) ([]Value, error) {
	v, ok, err := ev.single(o.operand, sc, o.pos)
	if err != nil || !ok {
		return dst, err
	}
	if v.kind != KindInteger && v.kind != KindDecimal && v.kind != KindQuantity {
		return nil, failAt(o.pos, "a sign needs a number or a Quantity, not %s", v.kind)
	}
	if o.minus {
		v = negate(v)
	}
	return append(dst, v), nil
}

func negate(v Value) Value {
	v.num = -v.num
	if v.dec != nil {
		v.dec = new(apd.Decimal).Neg(v.dec)
	}
	return v
}

// isOp evaluates the operator is.
type isOp struct {
	pos    int
	source op
	typ    typeSpec
}

func (o *isOp) eval(ev *evaluation, sc *scope, dst []Value) ([]Value, error) {
	in, err := o.source.eval(ev, sc, ev.get())
	if err != nil {
		return nil, err
	}
	dst, err = isType(o.pos, o.typ, in, dst)
	ev.put(in)
	return dst, err
}

func isType(pos int, t typeSpec, in, dst []Value) ([]Value, error) {
	switch len(in) {
	case 0:
		return dst, nil
	case 1:
		return append(dst, boolean(in[0].is(t))), nil
	}
	return nil, failAt(pos, "expected a single item, not %d", len(in))
}

// is reports whether v has the type t or one derived from it.
func (v *Value) is(t typeSpec) bool {
	if v.kind != KindElement {
		return v.kind == t.system
	}
	return t.id != noType && model().is(v.typ, t.id)
}

// isExactly is like is, except that a primitive must be of the very type, as HL7's
// test cases for as and ofType have it: a code is not selected as a string.
func (v *Value) isExactly(t typeSpec) bool {
	if v.kind == KindElement && t.id != noType && model().primitive(t.id) {
		return v.typ == t.id
	}
	return v.is(t)
}

// asOp evaluates the operator as. It keeps the items of the type; in R4, expressions apply it
// to collections.
type asOp struct {
	pos    int
	source op
	typ    typeSpec
}

func (o *asOp) eval(ev *evaluation, sc *scope, dst []Value) ([]Value, error) {
	in, err := o.source.eval(ev, sc, ev.get())
	if err != nil {
		return nil, err
	}
	dst = ofType(o.typ, in, dst)
	ev.put(in)
	return dst, ev.step(1)
}

func ofType(t typeSpec, in, dst []Value) []Value {
	for i := range in {
		if in[i].isExactly(t) {
			dst = append(dst, in[i])
		}
	}
	return dst
}
