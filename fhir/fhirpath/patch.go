package fhirpath

import (
	"context"
	"errors"
	"strings"

	"pulsegate/fhir"
)

// Bounds of a patch.
const (
	maxOperations = 500
	maxPatched    = 16 << 20 // bytes of the resource after each operation
)

// Patch applies a FHIRPath Patch (R4 fhirpatch.html), a Parameters resource in JSON, to
// a resource in JSON. The operations see the results of those before them; if one
// fails, the patch does. What is not changed keeps its text. The result is not
// validated, but an element of the wrong type is refused.
//
// The deletion of an element that does not exist changes nothing. Env is that of the
// paths; its Resource is set by Patch.
func Patch(ctx context.Context, resource, parameters []byte, env Env) ([]byte, error) {
	params, err := Parse(parameters)
	if err != nil {
		return nil, err
	}
	m := model()
	root := params.Root()
	if root.typ != m.byName["Parameters"] {
		return nil, fhir.Errorf(fhir.Invalid, "fhirpath.Patch", "the patch is not a Parameters resource")
	}
	operations := params.append(nil, root.node, "parameter", m.byName["Parameters.parameter"])
	if len(operations) > maxOperations {
		return nil, fhir.Errorf(fhir.TooLarge, "fhirpath.Patch", "the patch has more than %d operations", maxOperations)
	}
	var doc Document
	if err := doc.Reset(resource); err != nil {
		return nil, err
	}
	for i := range operations {
		if err := ctx.Err(); err != nil {
			return nil, &fhir.Error{Kind: fhir.Unavailable, Op: "fhirpath.Patch", Err: err}
		}
		p := patcher{ctx: ctx, number: i + 1, env: env, doc: &doc}
		text, err := p.apply(operations[i])
		if err != nil {
			return nil, err
		}
		if len(text) > maxPatched {
			return nil, fhir.Errorf(fhir.TooLarge, "fhirpath.Patch", "the patched resource is too large")
		}
		if err := doc.Reset([]byte(text)); err != nil {
			return nil, err
		}
	}
	return []byte(doc.text0()), nil
}

// patcher applies one operation.
type patcher struct {
	ctx    context.Context
	number int // of the operation, from 1, for errors
	env    Env
	doc    *Document
}

func (p *patcher) fail(kind fhir.Kind, format string, args ...any) error {
	return fhir.Errorf(kind, "fhirpath.Patch", "operation %d of the patch: "+format,
		append([]any{p.number}, args...)...)
}

// part returns the part of a parameter with a name.
func part(parameter Value, name string) (Value, bool) {
	d := parameter.doc
	for _, v := range d.append(nil, parameter.node, "part", parameter.typ) {
		if n := d.member(v.node, "name"); n != 0 && d.nodes[n].kind == nodeString && d.text(n) == name {
			return v, true
		}
	}
	return Value{}, false
}

// valueOf returns the value[x] or the resource of a parameter.
func valueOf(parameter Value) (Value, bool) {
	t := model().types[parameter.typ]
	for _, name := range []string{"value", "resource"} {
		if found := parameter.member(t.elements[name], nil); len(found) == 1 {
			return found[0], true
		}
	}
	return Value{}, false
}

func (p *patcher) text(operation Value, name string) (string, error) {
	if v, ok := part(operation, name); ok {
		if v, ok := valueOf(v); ok {
			if s := v.system(); s.kind == KindString {
				return s.text, nil
			}
		}
	}
	return "", p.fail(fhir.Invalid, "the part %s is missing or not a string", name)
}

func (p *patcher) index(operation Value, name string) (int, error) {
	if v, ok := part(operation, name); ok {
		if v, ok := valueOf(v); ok {
			if s := v.system(); s.kind == KindInteger && s.num >= 0 && s.num < 1<<31 {
				return int(s.num), nil
			}
		}
	}
	return 0, p.fail(fhir.Invalid, "the part %s is missing or not an index", name)
}

// apply returns the text of the resource after the operation.
func (p *patcher) apply(operation Value) (string, error) {
	if n := operation.doc.member(operation.node, "name"); n == 0 || operation.doc.text(n) != "operation" {
		return "", p.fail(fhir.Invalid, "the parameter is not named operation")
	}
	kind, err := p.text(operation, "type")
	if err != nil {
		return "", err
	}
	path, err := p.text(operation, "path")
	if err != nil {
		return "", err
	}
	e, err := Compile(path)
	if err != nil {
		return "", p.wrap(err)
	}
	p.env.Resource = p.doc.Root()
	found, err := e.Evaluate(p.ctx, p.doc.Root(), &p.env, nil)
	if err != nil {
		return "", p.wrap(err)
	}
	for _, v := range found {
		if v.kind != KindElement || v.doc != p.doc {
			return "", p.fail(fhir.Unprocessable, "the path selects a value that is not an element of the resource")
		}
	}
	switch kind {
	case "add":
		return p.add(operation, found)
	case "insert":
		return p.insert(operation, e, found)
	case "delete":
		return p.remove(found)
	case "replace":
		return p.change(operation, found)
	case "move":
		return p.move(operation, found)
	}
	return "", p.fail(fhir.Invalid, "the type is none of add, insert, delete, replace and move")
}

// wrap says of which operation an error of its path is.
func (p *patcher) wrap(err error) error {
	var e *fhir.Error
	if errors.As(err, &e) && len(e.Issues) > 0 {
		return p.fail(e.Kind, "%s", e.Issues[0].Diagnostics)
	}
	return err
}

// one returns the only element that a path selects.
func (p *patcher) one(found Collection) (Value, error) {
	if len(found) != 1 {
		return Value{}, p.fail(fhir.Unprocessable, "the path selects %d elements, not one", len(found))
	}
	return found[0], nil
}

func (p *patcher) add(operation Value, found Collection) (string, error) {
	v, err := p.one(found)
	if err != nil {
		return "", err
	}
	name, err := p.text(operation, "name")
	if err != nil {
		return "", err
	}
	typ := v.typ
	value, ok := part(operation, "value")
	if !ok {
		return "", p.fail(fhir.Invalid, "the part value is missing")
	}
	key, c, many, err := p.content(typ, name, value)
	if err != nil {
		return "", err
	}
	if !many && len(v.member(model().types[typ].members[key].element, nil)) > 0 {
		return "", p.fail(fhir.Unprocessable, "the element exists and does not repeat")
	}
	if model().primitive(v.typ) {
		return p.addToPrimitive(v, key, c, many)
	}
	list := p.doc.contents(v.node, key)
	return p.doc.replace(v.node, key, append(list, c), many), nil
}

// addToPrimitive adds an id or an extension to a primitive.
func (p *patcher) addToPrimitive(v Value, key string, c content, many bool) (string, error) {
	text := "{}"
	if v.shadow != 0 {
		text = p.doc.raw(v.shadow)
	}
	shadow, err := Parse([]byte(text))
	if err != nil {
		return "", err
	}
	at := p.doc.placeOf(v)
	list := p.doc.contents(at.object, at.name)
	list[max(0, at.index)].shadow = shadow.replace(1, key, append(shadow.contents(1, key), c), many)
	return p.doc.replace(at.object, at.name, list, at.index >= 0), nil
}

// content returns the member of JSON and its text for an element of a type, from a
// parameter that holds its value, and whether the element repeats.
func (p *patcher) content(typ typeID, name string, value Value) (key string, c content, many bool, err error) {
	m := model()
	t := m.types[typ]
	e := t.elements[name]
	if e == nil {
		e = t.members[name].element // with the type of a choice
	}
	if e == nil {
		return "", c, false, p.fail(fhir.Unprocessable, "%s has no such element", t.name)
	}
	given, ok := valueOf(value)
	if !ok { // the parts of an element without a type of its own
		c.value, err = p.parts(e.types[0], value)
		return e.name, c, e.many, err
	}
	key = e.name
	if e.choice {
		key += title(m.types[given.typ].name)
	}
	target, ok := t.members[key]
	if !ok || !convertible(given.typ, target.typ) {
		return "", c, false, p.fail(fhir.Unprocessable, "the value has a type that %s.%s does not take", t.name, e.name)
	}
	if given.node != 0 {
		c.value = given.doc.raw(given.node)
	}
	if given.shadow != 0 {
		c.shadow = given.doc.raw(given.shadow)
	}
	return key, c, e.many, nil
}

// convertible reports whether a value of type from may be written where R4 has type to:
// primitives by their form in JSON, and others if they are of that type.
func convertible(from, to typeID) bool {
	m := model()
	if !m.primitive(from) || !m.primitive(to) {
		return m.is(from, to)
	}
	a, b := m.types[from].system, m.types[to].system
	isText := func(k Kind) bool { return k == KindString || isTemporal(k) }
	return a == b || isText(a) && isText(b)
}

// parts returns the text of an object made of the parts of a parameter.
func (p *patcher) parts(typ typeID, value Value) (string, error) {
	m, d := model(), value.doc
	parts := d.append(nil, value.node, "part", value.typ)
	if len(parts) == 0 || m.primitive(typ) {
		return "", p.fail(fhir.Invalid, "the part value has no value")
	}
	empty, err := Parse([]byte("{}"))
	if err != nil {
		return "", err
	}
	for _, x := range parts {
		n := d.member(x.node, "name")
		if n == 0 || d.nodes[n].kind != nodeString {
			return "", p.fail(fhir.Invalid, "a part of the value has no name")
		}
		key, c, many, err := p.content(typ, d.text(n), x)
		if err != nil {
			return "", err
		}
		list := empty.contents(1, key)
		if len(list) > 0 && !many {
			return "", p.fail(fhir.Unprocessable, "a part of the value is given twice, but does not repeat")
		}
		if err := empty.Reset([]byte(empty.replace(1, key, append(list, c), many))); err != nil {
			return "", err
		}
	}
	return empty.text0(), nil
}

func (p *patcher) remove(found Collection) (string, error) {
	if len(found) == 0 {
		return p.doc.text0(), nil
	}
	v, err := p.one(found)
	if err != nil {
		return "", err
	}
	at := p.doc.placeOf(v)
	if at.object == 0 {
		return "", p.fail(fhir.Unprocessable, "the resource cannot be deleted by a patch")
	}
	if at.index < 0 {
		return p.doc.replace(at.object, at.name, nil, false), nil
	}
	list := p.doc.contents(at.object, at.name)
	return p.doc.replace(at.object, at.name, append(list[:at.index:at.index], list[at.index+1:]...), true), nil
}

// change replaces an element. A choice may get another type.
func (p *patcher) change(operation Value, found Collection) (string, error) {
	v, err := p.one(found)
	if err != nil {
		return "", err
	}
	at := p.doc.placeOf(v)
	if at.object == 0 {
		return "", p.fail(fhir.Unprocessable, "the resource cannot be replaced by a patch")
	}
	value, ok := part(operation, "value")
	if !ok {
		return "", p.fail(fhir.Invalid, "the part value is missing")
	}
	typ := p.doc.typeOfNode(at.object)
	e := model().types[typ].members[at.name].element
	if e == nil {
		return "", p.fail(fhir.Unprocessable, "R4 has no such element")
	}
	key, c, many, err := p.content(typ, e.name, value)
	if err != nil {
		return "", err
	}
	if key == at.name {
		list := p.doc.contents(at.object, at.name)
		list[max(0, at.index)] = c
		return p.doc.replace(at.object, at.name, list, many), nil
	}
	var next Document
	if err := next.Reset([]byte(p.doc.replace(at.object, key, []content{c}, false))); err != nil {
		return "", err
	}
	// The object has grown at its end, so its node and those before it are the same.
	return next.replace(at.object, at.name, nil, false), nil
}

// list returns the place of a list that found has all items of.
func (p *patcher) list(found Collection) (place, []content, error) {
	at := p.doc.placeOf(found[0])
	list := p.doc.contents(at.object, at.name)
	for i, v := range found {
		if x := p.doc.placeOf(v); x != (place{at.object, at.name, i}) {
			return at, nil, p.fail(fhir.Unprocessable, "the path does not select one whole list")
		}
	}
	if len(list) != len(found) {
		return at, nil, p.fail(fhir.Unprocessable, "the path does not select one whole list")
	}
	return at, list, nil
}

func (p *patcher) insert(operation Value, e *Expression, found Collection) (string, error) {
	value, ok := part(operation, "value")
	if !ok {
		return "", p.fail(fhir.Invalid, "the part value is missing")
	}
	i, err := p.index(operation, "index")
	if err != nil {
		return "", err
	}
	at := place{name: e.tree.name}
	var list []content
	if len(found) > 0 {
		if at, list, err = p.list(found); err != nil {
			return "", err
		}
	} else if at.object, err = p.parent(e); err != nil {
		return "", err
	}
	if i > len(list) {
		return "", p.fail(fhir.Unprocessable, "the index is beyond the list")
	}
	key, c, many, err := p.content(p.doc.typeOfNode(at.object), strings.TrimSuffix(at.name, "[x]"), value)
	if err != nil {
		return "", err
	}
	if !many {
		return "", p.fail(fhir.Unprocessable, "the element does not repeat")
	}
	list = append(list[:i:i], append([]content{c}, list[i:]...)...)
	return p.doc.replace(at.object, key, list, true), nil
}

// parent returns the object of which a path, without items, names a member.
func (p *patcher) parent(e *Expression) (int32, error) {
	if e.tree.kind == exprMember && e.tree.left != nil {
		o, err := compiler{}.compile(e.tree.left)
		if err != nil {
			return 0, err
		}
		left := Expression{tree: e.tree.left, op: o}
		found, err := left.Evaluate(p.ctx, p.doc.Root(), &p.env, nil)
		if err != nil {
			return 0, p.wrap(err)
		}
		if len(found) == 1 && found[0].doc == p.doc && found[0].node != 0 && !model().primitive(found[0].typ) {
			return found[0].node, nil
		}
	}
	return 0, p.fail(fhir.Unprocessable, "the path selects no list")
}

func (p *patcher) move(operation Value, found Collection) (string, error) {
	source, err := p.index(operation, "source")
	if err != nil {
		return "", err
	}
	destination, err := p.index(operation, "destination")
	if err != nil {
		return "", err
	}
	if source >= len(found) || destination >= len(found) {
		return "", p.fail(fhir.Unprocessable, "an index is beyond the list")
	}
	at, list, err := p.list(found)
	if err != nil {
		return "", err
	}
	c := list[source]
	list = append(list[:source:source], list[source+1:]...)
	list = append(list[:destination:destination], append([]content{c}, list[destination:]...)...)
	return p.doc.replace(at.object, at.name, list, true), nil
}
