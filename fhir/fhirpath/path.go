package fhirpath

import (
	"strings"
	"sync/atomic"
)

// memberOp steps to a member.
type memberOp struct {
	pos    int
	name   string
	source op // nil for $this
	// typ is the type with this name, if the name begins a path, or noType. The name then
	// stands for $this, if $this has that type.
	typ typeID
	// last caches the element that the name has in the type met last.
	last atomic.Pointer[element]
}

func (m *memberOp) eval(ev *evaluation, sc *scope, dst []Value) ([]Value, error) {
	if m.source == nil {
		return m.all(ev, sc.this, dst)
	}
	in, err := m.source.eval(ev, sc, ev.get())
	if err != nil {
		return nil, err
	}
	dst, err = m.all(ev, in, dst)
	ev.put(in)
	return dst, err
}

func (m *memberOp) all(ev *evaluation, in, dst []Value) ([]Value, error) {
	if err := ev.step(len(in) + 1); err != nil {
		return nil, err
	}
	n := len(dst)
	for i := range in {
		v := &in[i]
		if m.typ != noType && v.kind == KindElement && model().is(v.typ, m.typ) {
			dst = append(dst, *v)
			continue
		}
		dst = m.step(v, dst)
	}
	if err := ev.step(len(dst) - n); err != nil {
		return nil, err
	}
	return dst, ev.size(dst[n:])
}

// step appends the members of v.
func (m *memberOp) step(v *Value, dst []Value) []Value {
	if v.kind != KindElement {
		if v.kind == kindType || v.kind == KindQuantity {
			return m.ofSystem(v, dst)
		}
		return dst
	}
	if v.doc == nil {
		return dst
	}
	if v.typ == noType {
		return v.doc.append(dst, v.node, m.name, noType)
	}
	e := m.last.Load()
	if e == nil || e.owner != v.typ {
		t := model().types[v.typ]
		if e = t.elements[m.name]; e == nil {
			// The name that a choice has in JSON, such as valueQuantity, is not one of
			// FHIRPath, but some guides write it.
			if j, ok := t.members[m.name]; ok {
				dst = v.doc.append(dst, v.node, m.name, j.typ)
			}
			return dst
		}
		m.last.Store(e)
	}
	return v.member(e, dst)
}

// ofSystem appends the members of the values of System that have some.
func (m *memberOp) ofSystem(v *Value, dst []Value) []Value {
	switch {
	case v.kind == kindType && m.name == "namespace":
		return append(dst, stringValue(v.text))
	case v.kind == kindType && m.name == "name":
		return append(dst, stringValue(v.typeName()))
	case v.kind == KindQuantity && m.name == "value":
		n := *v
		n.kind, n.text, n.shadow = KindDecimal, "", 0
		return append(dst, n)
	case v.kind == KindQuantity && m.name == "unit":
		return append(dst, stringValue(v.text))
	}
	return dst
}

// member appends the values of an element of v.
func (v *Value) member(e *element, dst []Value) []Value {
	d, at := v.doc, v.node
	if model().primitive(v.typ) {
		at = v.shadow // id and extension of a primitive
	}
	if at == 0 || d.nodes[at].kind != nodeObject {
		return dst
	}
	if !e.choice {
		return d.append(dst, at, e.name, e.types[0])
	}
	for c := d.nodes[at].child; c != 0; c = d.nodes[c].next {
		p := &d.nodes[c]
		if int(p.keyLen) <= len(e.name) {
			continue
		}
		key, shadow := strings.CutPrefix(d.key(p), "_")
		if !strings.HasPrefix(key, e.name) {
			continue
		}
		m, ok := model().types[v.typ].members[key]
		if !ok || m.element != e || shadow && d.member(at, key) != 0 {
			continue
		}
		dst = d.append(dst, at, key, m.typ)
	}
	return dst
}

// append appends the values of the member with a name of the object at n, as values of
// a type.
func (d *Document) append(dst []Value, n int32, name string, typ typeID) []Value {
	if n == 0 {
		return dst
	}
	c := d.member(n, name)
	if typ != noType && !model().primitive(typ) {
		return d.appendComplex(dst, c, typ)
	}
	return d.appendPrimitive(dst, c, d.shadow(n, name), typ)
}

func (d *Document) appendComplex(dst []Value, c int32, typ typeID) []Value {
	if c == 0 {
		return dst
	}
	switch p := &d.nodes[c]; p.kind {
	case nodeObject:
		return append(dst, d.typed(c, typ))
	case nodeArray:
		for i := p.child; i != 0; i = d.nodes[i].next {
			if d.nodes[i].kind == nodeObject {
				dst = append(dst, d.typed(i, typ))
			}
		}
	}
	return dst
}

// typed returns the object at c. A resource has the type that it names.
func (d *Document) typed(c int32, typ typeID) Value {
	if m := model(); typ == m.resource || typ == m.domainResource {
		typ = d.typeOfResource(c)
	}
	return d.value(typ, c, 0)
}

// appendPrimitive appends the values of a primitive: c is the member, and shadow the
// one with the ids and extensions. Either may be 0.
func (d *Document) appendPrimitive(dst []Value, c, shadow int32, typ typeID) []Value {
	if c != 0 && d.nodes[c].kind != nodeArray || c == 0 && shadow != 0 && d.nodes[shadow].kind != nodeArray {
		return d.appendOne(dst, c, shadow, typ)
	}
	var x int32
	if c != 0 {
		c = d.nodes[c].child
	}
	if shadow != 0 && d.nodes[shadow].kind == nodeArray {
		x = d.nodes[shadow].child
	}
	for c != 0 || x != 0 {
		dst = d.appendOne(dst, c, x, typ)
		if c != 0 {
			c = d.nodes[c].next
		}
		if x != 0 {
			x = d.nodes[x].next
		}
	}
	return dst
}

func (d *Document) appendOne(dst []Value, c, shadow int32, typ typeID) []Value {
	if c != 0 && d.nodes[c].kind == nodeNull {
		c = 0
	}
	if shadow != 0 && d.nodes[shadow].kind != nodeObject {
		shadow = 0
	}
	if c == 0 && shadow == 0 {
		return dst
	}
	if c != 0 && d.nodes[c].kind >= nodeObject && typ != noType {
		return dst // not a primitive
	}
	return append(dst, d.value(typ, c, shadow))
}

// children appends all children of v, in the order of the text.
func (v *Value) children(dst []Value) []Value {
	if v.kind != KindElement || v.doc == nil {
		return dst
	}
	d, at, m := v.doc, v.node, model()
	if m.primitive(v.typ) {
		at = v.shadow
	}
	if at == 0 || d.nodes[at].kind != nodeObject {
		return dst
	}
	isResource := m.types[v.typ].kind == "resource"
	for c := d.nodes[at].child; c != 0; c = d.nodes[c].next {
		key, shadow := strings.CutPrefix(d.key(&d.nodes[c]), "_")
		if key == "resourceType" && (isResource || v.typ == noType) || shadow && d.member(at, key) != 0 {
			continue
		}
		typ, value, other := m.types[v.typ].members[key].typ, c, int32(0)
		switch {
		case typ != noType && !m.primitive(typ):
			dst = d.appendComplex(dst, c, typ)
			continue
		case shadow:
			value, other = 0, c
		default:
			other = d.shadow(at, key)
		}
		dst = d.appendPrimitive(dst, value, other, typ)
	}
	return dst
}

// thisOp returns $this.
type thisOp struct{}

func (thisOp) eval(_ *evaluation, sc *scope, dst []Value) ([]Value, error) {
	return append(dst, sc.this...), nil
}

// indexVariableOp returns $index.
type indexVariableOp struct{ pos int }

func (o indexVariableOp) eval(_ *evaluation, sc *scope, dst []Value) ([]Value, error) {
	if !sc.loop {
		return nil, failAt(o.pos, "$index has no value here")
	}
	return append(dst, integer(int64(sc.index))), nil
}

// totalOp returns $total.
type totalOp struct{}

func (totalOp) eval(_ *evaluation, sc *scope, dst []Value) ([]Value, error) {
	return append(dst, sc.total...), nil
}

// literalOp returns a literal.
type literalOp struct{ value Value }

func (o *literalOp) eval(_ *evaluation, _ *scope, dst []Value) ([]Value, error) {
	return append(dst, o.value), nil
}

// emptyOp returns the empty collection.
type emptyOp struct{}

func (emptyOp) eval(_ *evaluation, _ *scope, dst []Value) ([]Value, error) { return dst, nil }

// constantOp returns an external constant.
type constantOp struct {
	pos  int
	name string
}

func (o constantOp) eval(ev *evaluation, _ *scope, dst []Value) ([]Value, error) {
	switch o.name {
	case "resource":
		return append(dst, ev.resource()), nil
	case "rootResource":
		return append(dst, ev.rootResource()), nil
	case "context":
		if !ev.env.Context.IsZero() {
			return append(dst, ev.env.Context), nil
		}
		return append(dst, ev.focus), nil
	}
	if c, ok := ev.env.Variables[o.name]; ok {
		return append(dst, c...), nil
	}
	if s, ok := constants[o.name]; ok {
		return append(dst, stringValue(s)), nil
	}
	if name, ok := strings.CutPrefix(o.name, "vs-"); ok {
		return append(dst, stringValue("http://hl7.org/fhir/ValueSet/"+name)), nil
	}
	if name, ok := strings.CutPrefix(o.name, "ext-"); ok {
		return append(dst, stringValue("http://hl7.org/fhir/StructureDefinition/"+name)), nil
	}
	return nil, failAt(o.pos, "no such constant")
}

var constants = map[string]string{ // read only
	"ucum": systemUCUM, "sct": "http://snomed.info/sct", "loinc": "http://loinc.org",
}

// indexOp selects an item by its index.
type indexOp struct {
	pos           int
	source, index op
}

func (o *indexOp) eval(ev *evaluation, sc *scope, dst []Value) ([]Value, error) {
	i, ok, err := ev.single(o.index, sc, o.pos)
	if err != nil || !ok {
		return dst, err
	}
	if i.kind != KindInteger {
		return nil, failAt(o.pos, "an index must be an Integer")
	}
	in, err := o.source.eval(ev, sc, ev.get())
	if err != nil {
		return nil, err
	}
	if i.num >= 0 && i.num < int64(len(in)) {
		dst = append(dst, in[i.num])
	}
	ev.put(in)
	return dst, nil
}
