package fhirpath

import "sync"

const anyArguments = 16

// functions returns the functions by name.
var functions = sync.OnceValue(func() map[string]function {
	m := map[string]function{}
	for _, table := range []map[string]function{
		collectionFunctions(), loopFunctions(), conversionFunctions(), stringFunctions(), mathFunctions(),
		boundaryFunctions(), resourceFunctions(),
	} {
		for name, f := range table {
			m[name] = f
		}
	}
	return m
})

// prepare does what can be done at compile time.
func (c *call) prepare() error {
	switch c.name {
	case "matches", "matchesFull", "replaceMatches":
		if c.exprs[0].kind == exprLiteral && c.exprs[0].value.kind == KindString {
			p, err := compilePattern(c.pos, c.exprs[0].value.text, c.name == "matchesFull")
			if err != nil {
				return err
			}
			c.data = p
		}
	}
	return nil
}

// arg evaluates an argument to at most one item in System. Arguments are evaluated in
// the scope of the call: a path in them begins at $this, not at the input.
func (c *call) arg(ev *evaluation, sc *scope, i int) (v Value, ok bool, err error) {
	return ev.single(c.args[i], sc, c.pos)
}

// integer evaluates an argument to an Integer.
func (c *call) integer(ev *evaluation, sc *scope, i int) (n int64, ok bool, err error) {
	v, ok, err := c.arg(ev, sc, i)
	if err == nil && ok && v.kind != KindInteger {
		err = failAt(c.pos, "%s needs an Integer", c.name)
	}
	return v.num, ok, err
}

// str evaluates an argument to a String.
func (c *call) str(ev *evaluation, sc *scope, i int) (s string, ok bool, err error) {
	v, ok, err := c.arg(ev, sc, i)
	if err == nil && ok && v.kind != KindString {
		err = failAt(c.pos, "%s needs a String as its argument", c.name)
	}
	return v.text, ok, err
}

// one returns the input as at most one item in System.
func (c *call) one(in []Value) (v Value, ok bool, err error) {
	switch len(in) {
	case 0:
		return Value{}, false, nil
	case 1:
		return in[0].system(), true, nil
	}
	return Value{}, false, failAt(c.pos, "%s needs a single item, not %d", c.name, len(in))
}

// collectionFunctions are the functions on existence, subsets and combinations.
func collectionFunctions() map[string]function {
	return map[string]function{
		"empty": {0, 0, func(_ *call, _ *evaluation, _ *scope, in, dst []Value) ([]Value, error) {
			return append(dst, boolean(len(in) == 0)), nil
		}},
		"count": {0, 0, func(_ *call, _ *evaluation, _ *scope, in, dst []Value) ([]Value, error) {
			return append(dst, integer(int64(len(in)))), nil
		}},
		"not": {0, 0, func(c *call, _ *evaluation, _ *scope, in, dst []Value) ([]Value, error) {
			t, err := truth(in, c.pos)
			if t != unknown {
				t = logical(t == no)
			}
			return t.append(dst), err
		}},
		"allTrue":  {0, 0, every(true, false)},
		"allFalse": {0, 0, every(false, false)},
		"anyTrue":  {0, 0, every(false, true)},
		"anyFalse": {0, 0, every(true, true)},
		"subsetOf": {1, 1, func(c *call, ev *evaluation, sc *scope, in, dst []Value) ([]Value, error) {
			return c.subset(ev, sc, in, dst, false)
		}},
		"supersetOf": {1, 1, func(c *call, ev *evaluation, sc *scope, in, dst []Value) ([]Value, error) {
			return c.subset(ev, sc, in, dst, true)
		}},
		"distinct": {0, 0, func(_ *call, ev *evaluation, _ *scope, in, dst []Value) ([]Value, error) {
			return ev.distinct(in, dst)
		}},
		"isDistinct": {0, 0, func(_ *call, ev *evaluation, _ *scope, in, dst []Value) ([]Value, error) {
			once, err := ev.distinct(in, ev.get())
			if err != nil {
				return nil, err
			}
			ev.put(once)
			return append(dst, boolean(len(once) == len(in))), nil
		}},
		"single": {0, 0, func(c *call, _ *evaluation, _ *scope, in, dst []Value) ([]Value, error) {
			if len(in) > 1 {
				return nil, failAt(c.pos, "single needs a single item, not %d", len(in))
			}
			return append(dst, in...), nil
		}},
		"first": {0, 0, func(_ *call, _ *evaluation, _ *scope, in, dst []Value) ([]Value, error) {
			return append(dst, in[:min(1, len(in))]...), nil
		}},
		"last": {0, 0, func(_ *call, _ *evaluation, _ *scope, in, dst []Value) ([]Value, error) {
			return append(dst, in[max(0, len(in)-1):]...), nil
		}},
		"tail": {0, 0, func(_ *call, _ *evaluation, _ *scope, in, dst []Value) ([]Value, error) {
			return append(dst, in[min(1, len(in)):]...), nil
		}},
		"skip":      {1, 1, skip},
		"take":      {1, 1, take},
		"intersect": {1, 1, intersect},
		"exclude":   {1, 1, exclude},
		"union": {1, 1, func(c *call, ev *evaluation, sc *scope, in, dst []Value) ([]Value, error) {
			both := append(ev.get(), in...)
			both, err := c.args[0].eval(ev, sc, both)
			if err != nil {
				return nil, err
			}
			dst, err = ev.distinct(both, dst)
			ev.put(both)
			return dst, err
		}},
		"combine": {1, 1, func(c *call, ev *evaluation, sc *scope, in, dst []Value) ([]Value, error) {
			n := len(dst)
			dst, err := c.args[0].eval(ev, sc, append(dst, in...))
			if err != nil {
				return nil, err
			}
			return dst, ev.size(dst[n:])
		}},
	}
}

// every returns a function that reports whether all Booleans of the input equal good
// or, if negated is set, whether one of them does not.
func every(good, negated bool) func(*call, *evaluation, *scope, []Value, []Value) ([]Value, error) {
	return func(c *call, _ *evaluation, _ *scope, in, dst []Value) ([]Value, error) {
		all := true
		for i := range in {
			b, ok := in[i].Bool()
			if !ok {
				return nil, failAt(c.pos, "%s needs Booleans", c.name)
			}
			all = all && b == good
		}
		return append(dst, boolean(all != negated)), nil
	}
}

func (c *call) subset(ev *evaluation, sc *scope, in, dst []Value, swap bool) ([]Value, error) {
	other, err := c.args[0].eval(ev, sc, ev.get())
	if err != nil {
		return nil, err
	}
	defer ev.put(other)
	small, large := in, other
	if swap {
		small, large = other, in
	}
	for i := range small {
		found, err := ev.contains(large, small[i])
		if err != nil {
			return nil, err
		}
		if !found {
			return append(dst, boolean(false)), nil
		}
	}
	return append(dst, boolean(true)), nil
}

func skip(c *call, ev *evaluation, sc *scope, in, dst []Value) ([]Value, error) {
	n, ok, err := c.integer(ev, sc, 0)
	if err != nil || !ok {
		return dst, err
	}
	return append(dst, in[min(max(n, 0), int64(len(in))):]...), nil
}

func take(c *call, ev *evaluation, sc *scope, in, dst []Value) ([]Value, error) {
	n, ok, err := c.integer(ev, sc, 0)
	if err != nil || !ok {
		return dst, err
	}
	return append(dst, in[:min(max(n, 0), int64(len(in)))]...), nil
}

func intersect(c *call, ev *evaluation, sc *scope, in, dst []Value) ([]Value, error) {
	other, err := c.args[0].eval(ev, sc, ev.get())
	if err != nil {
		return nil, err
	}
	defer ev.put(other)
	n := len(dst)
	for i := range in {
		found, err := ev.contains(other, in[i])
		if err != nil {
			return nil, err
		}
		if !found {
			continue
		}
		if found, err = ev.contains(dst[n:], in[i]); err != nil {
			return nil, err
		}
		if !found {
			dst = append(dst, in[i])
		}
	}
	return dst, nil
}

func exclude(c *call, ev *evaluation, sc *scope, in, dst []Value) ([]Value, error) {
	other, err := c.args[0].eval(ev, sc, ev.get())
	if err != nil {
		return nil, err
	}
	defer ev.put(other)
	for i := range in {
		found, err := ev.contains(other, in[i])
		if err != nil {
			return nil, err
		}
		if !found {
			dst = append(dst, in[i])
		}
	}
	return dst, nil
}
