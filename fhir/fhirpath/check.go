package fhirpath

import (
	"slices"

	"pulsegate/fhir"
)

// shape describes the items of a collection before an evaluation.
type shape struct {
	known     bool // types holds all types that items may have
	types     []staticType
	unordered bool // the order of the items is not defined
	// foreign is the error of a path that begins at another type. It is one only if no
	// operand of a union begins at the type: the expression of a search parameter may
	// serve several types.
	foreign error
}

// staticType is a type of FHIR, or a kind of System.
type staticType struct {
	typ    typeID
	system Kind
}

func systemShape(k Kind) shape { return shape{known: true, types: []staticType{{system: k}}} }

func (s shape) add(t staticType) shape {
	if !slices.Contains(s.types, t) {
		s.types = append(slices.Clip(s.types), t)
	}
	return s
}

// checker checks an expression against the types of R4.
type checker struct{ model *modelTables }

// Check reports an error if the expression cannot be right for a focus of a type of
// R4, given by its name or by the path of a backbone element: a path that the type
// does not have, a selection of a type that an element cannot have, or a function on
// items of a type that it does not take. Such an expression can be evaluated, but its
// result is empty or an error. Check does not know what %-constants and resolve()
// return, and takes any path there.
func (e *Expression) Check(typ string) error {
	_, err := e.shape(typ)
	return err
}

// Types returns the types that items of the result may have for a focus of a type of
// R4, such as "FHIR.Quantity" or "System.Boolean", sorted. It returns nil if they are
// not known, and an error if Check does.
func (e *Expression) Types(typ string) ([]string, error) {
	s, err := e.shape(typ)
	if err != nil || !s.known {
		return nil, err
	}
	out := make([]string, 0, len(s.types))
	for _, t := range s.types {
		if t.typ == noType {
			out = append(out, "System."+systemNames[t.system])
		} else {
			out = append(out, "FHIR."+model().types[t.typ].name)
		}
	}
	slices.Sort(out)
	return out, nil
}

func (e *Expression) shape(typ string) (shape, error) {
	c := checker{model()}
	id, ok := c.model.byName[typ]
	if !ok {
		return shape{}, fhir.Errorf(fhir.Invalid, "fhirpath.Check", "R4 has no such type")
	}
	result, err := c.check(e.tree, shape{known: true, types: []staticType{{typ: id}}})
	if err == nil {
		err = result.foreign
	}
	return result, err
}

func (c *checker) check(e *expr, this shape) (shape, error) {
	switch e.kind {
	case exprLiteral:
		return systemShape(e.value.kind), nil
	case exprEmpty:
		return shape{known: true}, nil
	case exprConstant:
		return shape{}, nil
	case exprVariable:
		switch e.name {
		case "this":
			return this, nil
		case "index":
			return systemShape(KindInteger), nil
		}
		return shape{}, nil
	case exprMember:
		return c.member(e, this)
	case exprFunction:
		return c.function(e, this)
	}
	left, err := c.check(e.left, this)
	if err != nil {
		return shape{}, err
	}
	if left.foreign != nil && e.kind != exprBinary {
		return left, nil
	}
	switch e.kind {
	case exprIndex:
		if left.unordered {
			return shape{}, errorAt(e.pos, "the items have no order")
		}
		_, err := c.check(e.args[0], this)
		return left, err
	case exprUnary:
		return left, nil
	case exprType:
		if e.name == "is" {
			return systemShape(KindBoolean), nil
		}
		return c.narrow(e, left)
	}
	right, err := c.check(e.args[0], this)
	if err != nil {
		return shape{}, err
	}
	if e.name != "|" {
		for _, s := range []shape{left, right} {
			if s.foreign != nil {
				return s, s.foreign
			}
		}
	}
	return c.binary(e, left, right), nil
}

func (c *checker) binary(e *expr, left, right shape) shape {
	switch e.name {
	case "|":
		if left.foreign != nil {
			return right
		}
		if right.foreign != nil {
			return left
		}
		out := shape{known: left.known && right.known, types: left.types}
		for _, t := range right.types {
			out = out.add(t)
		}
		return out
	case "+", "-", "*", "/", "div", "mod":
		return shape{}
	case "&":
		return systemShape(KindString)
	}
	return systemShape(KindBoolean)
}

// member checks a step.
func (c *checker) member(e *expr, this shape) (shape, error) {
	in := this
	if e.left != nil {
		var err error
		if in, err = c.check(e.left, this); err != nil {
			return shape{}, err
		}
	}
	out := shape{known: true, unordered: in.unordered}
	if in.foreign != nil {
		return in, nil
	}
	if !in.known {
		return shape{unordered: in.unordered}, nil
	}
	if e.left == nil && rootName(e.name) {
		if id := c.model.byName[e.name]; id != noType {
			return c.root(e, in, id)
		}
	}
	found := len(in.types) == 0
	for _, t := range in.types {
		if t.typ == c.model.resource || t.typ == c.model.domainResource {
			return shape{unordered: in.unordered}, nil // of any type
		}
		el := c.model.types[t.typ].elements[e.name]
		if el == nil {
			if t.system == KindQuantity && (e.name == "value" || e.name == "unit") {
				return shape{}, nil
			}
			continue
		}
		found = true
		for _, id := range el.types {
			out = out.add(staticType{typ: id})
		}
	}
	if !found {
		return shape{}, errorAt(e.pos, "%s has no element %q", c.names(in), e.name)
	}
	return out, nil
}

// root checks a type's name at the beginning of a path.
func (c *checker) root(e *expr, in shape, id typeID) (shape, error) {
	out := shape{known: true}
	for _, t := range in.types {
		if c.model.is(t.typ, id) {
			out = out.add(t)
		} else if c.model.is(id, t.typ) { // $this may be of that type
			out = out.add(staticType{typ: id})
		}
	}
	if len(out.types) == 0 {
		out.foreign = errorAt(e.pos, "%s is not a %s", c.names(in), e.name)
	}
	return out, nil
}

// names returns the names of the types for an error.
func (c *checker) names(s shape) string {
	if len(s.types) != 1 {
		return "no possible type"
	}
	if s.types[0].typ == noType {
		return s.types[0].system.String()
	}
	return c.model.types[s.types[0].typ].name
}

// narrow checks the selection of a type.
func (c *checker) narrow(e *expr, in shape) (shape, error) {
	selected := staticType{typ: e.typ.id}
	if selected.typ == noType {
		selected.system = e.typ.system
	}
	possible := !in.known || len(in.types) == 0
	for _, t := range in.types {
		possible = possible || t.typ != noType && (c.model.is(t.typ, e.typ.id) || c.model.is(e.typ.id, t.typ)) ||
			t.typ == noType && t.system == e.typ.system
	}
	if !possible {
		return shape{}, errorAt(e.pos, "%s cannot be a %s", c.names(in), e.typ.name)
	}
	return shape{known: true, types: []staticType{selected}, unordered: in.unordered}, nil
}

// resultKinds holds the functions with a result of one kind of System.
var resultKinds = map[string]Kind{ // read only
	"empty": KindBoolean, "exists": KindBoolean, "all": KindBoolean, "allTrue": KindBoolean, "anyTrue": KindBoolean,
	"allFalse": KindBoolean, "anyFalse": KindBoolean, "subsetOf": KindBoolean, "supersetOf": KindBoolean,
	"isDistinct": KindBoolean, "is": KindBoolean, "not": KindBoolean, "hasValue": KindBoolean,
	"hasExtension": KindBoolean,
	"memberOf":     KindBoolean, "conformsTo": KindBoolean, "htmlChecks": KindBoolean, "subsumes": KindBoolean,
	"subsumedBy": KindBoolean, "comparable": KindBoolean, "startsWith": KindBoolean, "endsWith": KindBoolean,
	"contains": KindBoolean, "matches": KindBoolean, "matchesFull": KindBoolean,
	"count": KindInteger, "length": KindInteger, "indexOf": KindInteger, "lastIndexOf": KindInteger,
	"precision": KindInteger, "toInteger": KindInteger, "toBoolean": KindBoolean, "toDecimal": KindDecimal,
	"toString": KindString, "toDate": KindDate, "toDateTime": KindDateTime, "toTime": KindTime,
	"toQuantity": KindQuantity, "upper": KindString, "lower": KindString, "trim": KindString,
	"substring": KindString, "replace": KindString, "replaceMatches": KindString, "toChars": KindString,
	"split": KindString, "join": KindString, "encode": KindString, "decode": KindString, "escape": KindString,
	"unescape": KindString, "now": KindDateTime, "today": KindDate, "timeOfDay": KindTime,
}

// onStrings holds the functions that take a String.
var onStrings = map[string]bool{ // read only
	"startsWith": true, "endsWith": true, "contains": true, "matches": true, "matchesFull": true, "length": true,
	"indexOf": true, "lastIndexOf": true, "upper": true, "lower": true, "trim": true, "substring": true,
	"replace": true, "replaceMatches": true, "toChars": true, "split": true, "join": true, "encode": true,
	"decode": true, "escape": true, "unescape": true,
}

// needOrder holds the functions that depend on the order of the items.
var needOrder = map[string]bool{"first": true, "last": true, "tail": true, "skip": true, "take": true} // read only

// perItem holds the functions with arguments that see each item as $this.
var perItem = map[string]bool{ // read only
	"where": true, "select": true, "exists": true, "all": true, "repeat": true, "aggregate": true, "iif": true,
	"sort": true, "trace": true,
}

func (c *checker) function(e *expr, this shape) (shape, error) {
	in := this
	if e.left != nil {
		var err error
		if in, err = c.check(e.left, this); err != nil {
			return shape{}, err
		}
	}
	if in.foreign != nil {
		return in, nil
	}
	if in.unordered && needOrder[e.name] {
		return shape{}, errorAt(e.pos, "the items have no order")
	}
	if onStrings[e.name] && !c.mayBe(in, KindString) {
		return shape{}, errorAt(e.pos, "%s needs a String, not %s", e.name, c.names(in))
	}
	inner := this
	if perItem[e.name] {
		inner = in
	}
	var args []shape
	for i, a := range e.args {
		if e.name == "repeat" && i == 0 { // also over what it returns
			args = append(args, shape{})
			continue
		}
		s, err := c.check(a, inner)
		if err != nil {
			return shape{}, err
		}
		args = append(args, s)
	}
	return c.result(e, in, args)
}

// mayBe reports whether an item may convert to a kind of System.
func (c *checker) mayBe(s shape, k Kind) bool {
	for _, t := range s.types {
		if t.typ == noType && t.system == k || t.typ != noType && c.model.types[t.typ].system == k {
			return true
		}
	}
	return !s.known || len(s.types) == 0
}

func (c *checker) result(e *expr, in shape, args []shape) (shape, error) {
	if k, ok := resultKinds[e.name]; ok {
		return systemShape(k), nil
	}
	switch e.name {
	case "where", "first", "last", "single", "tail", "skip", "take", "distinct", "trace", "intersect", "exclude":
		return in, nil
	case "sort":
		in.unordered = false
		return in, nil
	case "as", "ofType":
		return c.narrow(e, in)
	case "select":
		return args[0], nil
	case "union", "combine":
		out := shape{known: in.known && args[0].known, types: in.types}
		for _, t := range args[0].types {
			out = out.add(t)
		}
		return out, nil
	case "iif":
		if args[0].known && len(args[0].types) > 0 && !c.mayBe(args[0], KindBoolean) {
			return shape{}, errorAt(e.pos, "the condition of iif is not a Boolean")
		}
	case "extension":
		return shape{known: true, types: []staticType{{typ: c.model.extension}}}, nil
	case "children", "descendants":
		return shape{unordered: true}, nil
	}
	return shape{}, nil
}
