package fhirpath

// compiler turns syntax trees into ops.
type compiler struct {
	// this is the type of $this where it is known, or noType. A path that begins at
	// another type is empty then.
	this typeID
}

func (c compiler) compile(e *expr) (op, error) {
	switch e.kind {
	case exprLiteral:
		return &literalOp{e.value}, nil
	case exprEmpty:
		return emptyOp{}, nil
	case exprConstant:
		return constantOp{e.pos, e.name}, nil
	case exprVariable:
		switch e.name {
		case "index":
			return indexVariableOp{e.pos}, nil
		case "total":
			return totalOp{}, nil
		}
		return thisOp{}, nil
	case exprMember:
		return c.member(e)
	case exprFunction:
		return c.function(e)
	case exprBinary:
		return c.binary(e)
	}
	left, err := c.compile(e.left)
	if err != nil {
		return nil, err
	}
	switch {
	case e.kind == exprIndex:
		index, err := c.compile(e.args[0])
		return &indexOp{e.pos, left, index}, err
	case e.kind == exprUnary:
		return &unaryOp{e.pos, e.name == "-", left}, nil
	case left == op(emptyOp{}):
		return left, nil
	case e.name == "is":
		return &isOp{e.pos, left, e.typ}, nil
	}
	return &asOp{e.pos, left, e.typ}, nil
}

func (c compiler) member(e *expr) (op, error) {
	m := &memberOp{pos: e.pos, name: e.name}
	if e.left != nil {
		source, err := c.compile(e.left)
		switch source {
		case op(emptyOp{}):
			return source, err
		case op(thisOp{}):
			source = nil
		}
		m.source = source
		return m, err
	}
	if !rootName(e.name) {
		return m, nil
	}
	m.typ = model().byName[e.name]
	switch {
	case m.typ == noType || c.this == noType:
	case model().is(c.this, m.typ):
		return thisOp{}, nil
	case !model().is(m.typ, c.this):
		return emptyOp{}, nil
	}
	return m, nil
}

// rootName reports whether a name at the beginning of a path may be one of a type.
// Names of elements and of primitive types begin with a small letter.
func rootName(name string) bool { return name != "" && name[0] >= 'A' && name[0] <= 'Z' }

func (c compiler) binary(e *expr) (op, error) {
	left, err := c.compile(e.left)
	if err != nil {
		return nil, err
	}
	right, err := c.compile(e.args[0])
	if err != nil {
		return nil, err
	}
	b := binary{e.pos, left, right}
	switch e.name {
	case "and", "or", "xor", "implies":
		return &logicOp{b, e.name}, nil
	case "=", "!=":
		return &equalOp{b, e.name == "!="}, nil
	case "~", "!~":
		return &equivalentOp{b, e.name == "!~"}, nil
	case "<", "<=", ">", ">=":
		return &compareOp{b, e.name}, nil
	case "in":
		return &membershipOp{b}, nil
	case "contains":
		b.left, b.right = b.right, b.left
		return &membershipOp{b}, nil
	case "|":
		return union(left, right), nil
	case "&":
		return &concatenateOp{b}, nil
	}
	return &arithmeticOp{b, e.name}, nil
}

// union returns the op of left | right, as one op for a series of unions.
func union(left, right op) op {
	u := &unionOp{}
	for _, o := range []op{left, right} {
		if inner, ok := o.(*unionOp); ok {
			u.operands = append(u.operands, inner.operands...)
		} else if o != op(emptyOp{}) {
			u.operands = append(u.operands, o)
		}
	}
	if len(u.operands) == 0 {
		return emptyOp{}
	}
	return u
}

// function is the implementation of a function.
type function struct {
	least, most int // number of arguments
	// call appends the result for the input to dst.
	call func(c *call, ev *evaluation, sc *scope, in, dst []Value) ([]Value, error)
}

// call is a call of a function.
type call struct {
	pos    int
	name   string
	source op // nil for $this
	args   []op
	exprs  []*expr
	typ    typeSpec
	call   func(c *call, ev *evaluation, sc *scope, in, dst []Value) ([]Value, error)
	data   any // made at compile time, such as a regular expression
}

func (c compiler) function(e *expr) (op, error) {
	f, ok := functions()[e.name]
	if !ok {
		return nil, errorAt(e.pos, "there is no function %q", e.name)
	}
	if len(e.args) < f.least || len(e.args) > f.most {
		if f.least == f.most {
			return nil, errorAt(e.pos, "%s takes %d arguments", e.name, f.least)
		}
		return nil, errorAt(e.pos, "%s takes %d to %d arguments", e.name, f.least, f.most)
	}
	o := &call{pos: e.pos, name: e.name, typ: e.typ, exprs: e.args, call: f.call}
	if e.left != nil {
		source, err := c.compile(e.left)
		if err != nil {
			return nil, err
		}
		o.source = source
	}
	if perItem[e.name] {
		c.this = noType
	}
	for _, a := range e.args {
		if e.name == "sort" && a.kind == exprUnary && a.name == "-" {
			a = a.left // the sign says the direction
		}
		arg, err := c.compile(a)
		if err != nil {
			return nil, err
		}
		o.args = append(o.args, arg)
	}
	if e.name == "where" && o.source == op(emptyOp{}) {
		return o.source, nil
	}
	return o, o.prepare()
}

func (c *call) eval(ev *evaluation, sc *scope, dst []Value) ([]Value, error) {
	if c.source == nil {
		if err := ev.step(1 + len(sc.this)); err != nil {
			return nil, err
		}
		return c.call(c, ev, sc, sc.this, dst)
	}
	in, err := c.source.eval(ev, sc, ev.get())
	if err != nil {
		return nil, err
	}
	if err := ev.step(1 + len(in)); err != nil {
		return nil, err
	}
	dst, err = c.call(c, ev, sc, in, dst)
	ev.put(in)
	return dst, err
}
