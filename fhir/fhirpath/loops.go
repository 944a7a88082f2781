package fhirpath

import "slices"

// loopFunctions are the functions that evaluate their argument for each item, and the
// functions on trees and types.
func loopFunctions() map[string]function {
	return map[string]function{
		"exists": {0, 1, exists},
		"all":    {1, 1, all},
		"where": {1, 1, func(c *call, ev *evaluation, sc *scope, in, dst []Value) ([]Value, error) {
			n := len(dst)
			err := each(ev, sc, in, func(inner *scope) (bool, error) {
				t, err := ev.test(c.args[0], inner, c.pos)
				if t == yes {
					dst = append(dst, inner.this[0])
				}
				return true, err
			})
			if err != nil {
				return nil, err
			}
			return dst, ev.size(dst[n:])
		}},
		"select": {1, 1, func(c *call, ev *evaluation, sc *scope, in, dst []Value) ([]Value, error) {
			n := len(dst)
			err := each(ev, sc, in, func(inner *scope) (_ bool, err error) {
				if dst, err = c.args[0].eval(ev, inner, dst); err != nil {
					return false, err
				}
				return true, ev.size(dst[n:])
			})
			if err != nil {
				return nil, err
			}
			return dst, nil
		}},
		"repeat":    {1, 1, repeat},
		"aggregate": {1, 2, aggregate},
		"iif":       {2, 3, iif},
		"sort":      {0, anyArguments, sortItems},
		"trace":     {1, 2, trace},
		"children": {0, 0, func(_ *call, ev *evaluation, _ *scope, in, dst []Value) ([]Value, error) {
			n := len(dst)
			for i := range in {
				dst = in[i].children(dst)
			}
			if err := ev.step(len(dst) - n); err != nil {
				return nil, err
			}
			return dst, ev.size(dst[n:])
		}},
		"descendants": {0, 0, func(_ *call, ev *evaluation, _ *scope, in, dst []Value) ([]Value, error) {
			n := len(dst)
			for i := range in {
				dst = in[i].children(dst)
			}
			for at := n; at < len(dst); at++ {
				v := dst[at]
				dst = v.children(dst)
				if err := ev.step(1); err != nil {
					return nil, err
				}
				if err := ev.size(dst[n:]); err != nil {
					return nil, err
				}
			}
			return dst, nil
		}},
		"is": {0, 0, func(c *call, _ *evaluation, _ *scope, in, dst []Value) ([]Value, error) {
			return isType(c.pos, c.typ, in, dst)
		}},
		"as": {0, 0, func(c *call, _ *evaluation, _ *scope, in, dst []Value) ([]Value, error) {
			return ofType(c.typ, in, dst), nil
		}},
		"ofType": {0, 0, func(c *call, _ *evaluation, _ *scope, in, dst []Value) ([]Value, error) {
			return ofType(c.typ, in, dst), nil
		}},
		"type": {0, 0, func(_ *call, _ *evaluation, _ *scope, in, dst []Value) ([]Value, error) {
			for i := range in {
				if v := in[i].typeInfo(); !v.IsZero() {
					dst = append(dst, v)
				}
			}
			return dst, nil
		}},
	}
}

// typeInfo returns the result of type().
func (v Value) typeInfo() Value {
	switch {
	case v.kind == kindType:
		return Value{}
	case v.kind != KindElement:
		return Value{kind: kindType, text: "System", num: int64(v.kind)}
	case v.typ == noType:
		return Value{}
	}
	return Value{kind: kindType, text: "FHIR", typ: v.typ}
}

// typeName returns the name in the result of type().
func (v Value) typeName() string {
	if v.typ != noType {
		return model().types[v.typ].name
	}
	return systemNames[v.num]
}

// each calls f with each item of in as $this, until f returns false.
func each(ev *evaluation, sc *scope, in []Value, f func(*scope) (bool, error)) error {
	inner := scope{total: sc.total, loop: true}
	for i := range in {
		if err := ev.step(1); err != nil {
			return err
		}
		inner.this, inner.index = in[i:i+1:i+1], i
		if more, err := f(&inner); !more || err != nil {
			return err
		}
	}
	return nil
}

func exists(c *call, ev *evaluation, sc *scope, in, dst []Value) ([]Value, error) {
	if len(c.args) == 0 {
		return append(dst, boolean(len(in) > 0)), nil
	}
	found := false
	err := each(ev, sc, in, func(inner *scope) (bool, error) {
		t, err := ev.test(c.args[0], inner, c.pos)
		found = t == yes
		return !found, err
	})
	return append(dst, boolean(found)), err
}

func all(c *call, ev *evaluation, sc *scope, in, dst []Value) ([]Value, error) {
	holds := true
	err := each(ev, sc, in, func(inner *scope) (bool, error) {
		t, err := ev.test(c.args[0], inner, c.pos)
		holds = t == yes
		return holds, err
	})
	return append(dst, boolean(holds)), err
}

// repeat appends what the argument gives for the items, for what it gave, and so on.
// An item is visited once, so that a cycle ends.
func repeat(c *call, ev *evaluation, sc *scope, in, dst []Value) ([]Value, error) {
	n := len(dst)
	visited := map[Value]bool{}
	from := in
	for len(from) > 0 {
		at := len(dst)
		err := each(ev, sc, from, func(inner *scope) (bool, error) {
			found, err := c.args[0].eval(ev, inner, ev.get())
			if err != nil {
				return false, err
			}
			defer ev.put(found)
			for i := range found {
				if err := ev.step(1); err != nil {
					return false, err
				}
				if found[i].kind == KindElement && found[i].doc != nil {
					if !visited[found[i]] {
						visited[found[i]] = true
						dst = append(dst, found[i])
					}
				} else if seen, err := ev.contains(dst[n:], found[i]); err != nil {
					return false, err
				} else if !seen {
					dst = append(dst, found[i])
				}
			}
			return true, ev.size(dst[n:])
		})
		if err != nil {
			return nil, err
		}
		from = slices.Clone(dst[at:])
	}
	return dst, nil
}

func aggregate(c *call, ev *evaluation, sc *scope, in, dst []Value) ([]Value, error) {
	var total []Value
	if len(c.args) == 2 {
		var err error
		if total, err = c.args[1].eval(ev, sc, nil); err != nil {
			return nil, err
		}
	}
	for i := range in {
		if err := ev.step(1); err != nil {
			return nil, err
		}
		inner := scope{this: in[i : i+1 : i+1], index: i, total: total, loop: true}
		next, err := c.args[0].eval(ev, &inner, nil)
		if err != nil {
			return nil, err
		}
		if err := ev.size(next); err != nil {
			return nil, err
		}
		total = next
	}
	return append(dst, total...), nil
}

// iif evaluates only the argument that its condition selects.
func iif(c *call, ev *evaluation, sc *scope, in, dst []Value) ([]Value, error) {
	inner := *sc
	if c.source != nil {
		if len(in) > 1 {
			return nil, failAt(c.pos, "iif needs a single item, not %d", len(in))
		}
		inner.this = in
	}
	t, err := ev.test(c.args[0], &inner, c.pos)
	switch {
	case err != nil:
		return nil, err
	case t == yes:
		return c.args[1].eval(ev, &inner, dst)
	case len(c.args) == 3:
		return c.args[2].eval(ev, &inner, dst)
	}
	return dst, nil
}

// trace reports its input, or what the second argument gives for it, and returns the
// input.
func trace(c *call, ev *evaluation, sc *scope, in, dst []Value) ([]Value, error) {
	name, _, err := c.str(ev, sc, 0)
	if err != nil {
		return nil, err
	}
	if ev.env.Trace != nil {
		traced := append(ev.get(), in...)
		if len(c.args) == 2 {
			clear(traced)
			traced = traced[:0]
			err = each(ev, sc, in, func(inner *scope) (_ bool, err error) {
				traced, err = c.args[1].eval(ev, inner, traced)
				return true, err
			})
			if err != nil {
				return nil, err
			}
		}
		ev.env.Trace(name, traced)
		ev.put(traced)
	}
	return append(dst, in...), nil
}

// sortKey is the value of an item for one argument of sort.
type sortKey struct {
	value Value
	ok    bool
}

// sortItems sorts the input by the arguments, or by the items themselves. An argument
// with a minus sign sorts in descending order. Items without a value come last, and
// first in descending order.
func sortItems(c *call, ev *evaluation, sc *scope, in, dst []Value) ([]Value, error) {
	n := max(1, len(c.args))
	keys := make([]sortKey, 0, len(in)*n)
	err := each(ev, sc, in, func(inner *scope) (bool, error) {
		if len(c.args) == 0 {
			keys = append(keys, sortKey{inner.this[0].system(), true})
		}
		for _, a := range c.args {
			v, ok, err := ev.single(a, inner, c.pos)
			if err != nil {
				return false, err
			}
			keys = append(keys, sortKey{v, ok})
		}
		return true, nil
	})
	if err != nil {
		return nil, err
	}
	order := make([]int, len(in))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int {
		for k := range n {
			o, errOrder := c.order(ev, keys[a*n+k], keys[b*n+k])
			if errOrder != nil || ev.step(1) != nil {
				err = errOrder
				return 0
			}
			if len(c.args) > 0 && c.exprs[k].kind == exprUnary && c.exprs[k].name == "-" {
				o = -o
			}
			if o != 0 {
				return o
			}
		}
		return 0
	})
	if err != nil {
		return nil, err
	}
	for _, i := range order {
		dst = append(dst, in[i])
	}
	return dst, ev.step(1)
}

func (c *call) order(ev *evaluation, a, b sortKey) (int, error) {
	switch {
	case !a.ok && !b.ok:
		return 0, nil
	case !a.ok:
		return 1, nil
	case !b.ok:
		return -1, nil
	}
	if err := ev.cost(&a.value, &b.value); err != nil {
		return 0, err
	}
	order, _, ok := compare(a.value, b.value)
	if !ok {
		return 0, failAt(c.pos, "sort cannot compare %s and %s", a.value.kind, b.value.kind)
	}
	return order, nil
}
