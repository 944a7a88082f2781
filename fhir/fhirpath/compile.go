package fhirpath

// compile turns a syntax tree into ops.
func compile(e *expr) (op, error) {
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
		return compileMember(e)
	case exprIndex:
		source, err := compile(e.left)
		if err != nil {
			return nil, err
		}
		index, err := compile(e.args[0])
		return &indexOp{e.pos, source, index}, err
	case exprUnary:
		operand, err := compile(e.left)
		return &unaryOp{e.pos, e.name == "-", operand}, err
	case exprBinary:
		return compileBinary(e)
	case exprType:
		source, err := compile(e.left)
		if e.name == "is" {
			return &isOp{e.pos, source, e.typ}, err
		}
		return &asOp{e.pos, source, e.typ}, err
	}
	return compileFunction(e)
}

func compileMember(e *expr) (op, error) {
	m := &memberOp{pos: e.pos, name: e.name}
	if e.left == nil {
		if e.name != "" && e.name[0] >= 'A' && e.name[0] <= 'Z' { // primitive types are no roots
			m.typ = model().byName[e.name]
		}
		return m, nil
	}
	source, err := compile(e.left)
	m.source = source
	return m, err
}

func compileBinary(e *expr) (op, error) {
	left, err := compile(e.left)
	if err != nil {
		return nil, err
	}
	right, err := compile(e.args[0])
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
		return &unionOp{b}, nil
	case "&":
		return &concatenateOp{b}, nil
	}
	return &arithmeticOp{b, e.name}, nil
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

func compileFunction(e *expr) (op, error) {
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
	c := &call{pos: e.pos, name: e.name, typ: e.typ, exprs: e.args, call: f.call}
	if e.left != nil {
		source, err := compile(e.left)
		if err != nil {
			return nil, err
		}
		c.source = source
	}
	for _, a := range e.args {
		if e.name == "sort" && a.kind == exprUnary && a.name == "-" {
			a = a.left // the sign says the direction
		}
		arg, err := compile(a)
		if err != nil {
			return nil, err
		}
		c.args = append(c.args, arg)
	}
	return c, c.prepare()
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
