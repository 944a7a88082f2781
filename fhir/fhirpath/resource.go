package fhirpath

import (
	"strings"
	"time"
)

// resourceFunctions are the functions that FHIR adds, and those on the time.
func resourceFunctions() map[string]function {
	return map[string]function{
		"extension": {1, 1, extension},
		// Some search parameters of R4 use hasExtension, which is not defined anywhere.
		"hasExtension": {1, 1, func(c *call, ev *evaluation, sc *scope, in, dst []Value) ([]Value, error) {
			found, err := extension(c, ev, sc, in, ev.get())
			if err != nil {
				return nil, err
			}
			n := len(found)
			ev.put(found)
			return append(dst, boolean(n > 0)), nil
		}},
		"hasValue": {0, 0, func(_ *call, _ *evaluation, _ *scope, in, dst []Value) ([]Value, error) {
			return append(dst, boolean(len(in) == 1 && in[0].hasValue())), nil
		}},
		"getValue": {0, 0, func(_ *call, _ *evaluation, _ *scope, in, dst []Value) ([]Value, error) {
			if len(in) == 1 && in[0].hasValue() {
				dst = append(dst, in[0].system())
			}
			return dst, nil
		}},
		"resolve":    {0, 0, resolve},
		"memberOf":   {1, 1, memberOf},
		"subsumes":   {1, 1, subsumes},
		"subsumedBy": {1, 1, subsumes},
		"conformsTo": {1, 1, conformsTo},
		"htmlChecks": {0, 0, htmlChecks},
		"now":        {0, 0, now},
		"today":      {0, 0, now},
		"timeOfDay":  {0, 0, now},
	}
}

// extension returns the extensions of the input with a URL.
func extension(c *call, ev *evaluation, sc *scope, in, dst []Value) ([]Value, error) {
	url, ok, err := c.str(ev, sc, 0)
	if err != nil || !ok {
		return dst, err
	}
	all, m := ev.get(), model()
	for i := range in {
		v := &in[i]
		if v.kind != KindElement || v.doc == nil {
			continue
		}
		at := v.node
		if m.primitive(v.typ) {
			at = v.shadow
		}
		if at != 0 && v.doc.nodes[at].kind == nodeObject {
			all = v.doc.appendComplex(all, v.doc.member(at, "extension"), m.extension)
		}
	}
	for _, x := range all {
		if u := x.doc.member(x.node, "url"); u != 0 && x.doc.nodes[u].kind == nodeString && x.doc.text(u) == url {
			dst = append(dst, x)
		}
	}
	n := len(all)
	ev.put(all)
	return dst, ev.step(n)
}

// costOfCall is the number of steps that a call of a function of Env counts for.
const costOfCall = 50

// costOfTerminology is the number of steps of a question about terminology, which may look
// at a whole value set.
const costOfTerminology = 1000

// resolve returns the resources that the input refers to.
func resolve(_ *call, ev *evaluation, _ *scope, in, dst []Value) ([]Value, error) {
	for i := range in {
		if err := ev.step(costOfCall); err != nil {
			return nil, err
		}
		v := &in[i]
		text, typ := v.reference()
		if target, ok := ev.contained(text); ok {
			if !target.IsZero() {
				dst = append(dst, target)
			}
			continue
		}
		if ev.env.Resolve != nil && text != "" {
			target, err := ev.env.Resolve(ev.ctx, text)
			if err != nil {
				return nil, err
			}
			if !target.IsZero() {
				dst = append(dst, target)
				continue
			}
		}
		if id := typeOfReference(text); id != noType {
			dst = append(dst, Value{kind: KindElement, typ: id})
		} else if id := model().resourceType(typ); id != noType {
			dst = append(dst, Value{kind: KindElement, typ: id})
		}
	}
	return dst, nil
}

// reference returns the text of a reference, and the type that it claims to refer to.
func (v *Value) reference() (text, typ string) {
	if v.kind != KindElement || v.node == 0 {
		return v.text, ""
	}
	if v.typ != model().reference {
		if s := v.system(); s.kind == KindString {
			return s.text, ""
		}
		return "", ""
	}
	d := v.doc
	if n := d.member(v.node, "reference"); n != 0 && d.nodes[n].kind == nodeString {
		text = d.text(n)
	}
	if n := d.member(v.node, "type"); n != 0 && d.nodes[n].kind == nodeString {
		typ = d.text(n)
	}
	return text, typ
}

// contained returns the resource that a fragment refers to. It reports false for a
// reference that is not a fragment.
func (ev *evaluation) contained(ref string) (Value, bool) {
	id, ok := strings.CutPrefix(ref, "#")
	if !ok {
		return Value{}, false
	}
	root := ev.rootResource()
	if root.kind != KindElement || root.doc == nil || root.node == 0 {
		return Value{}, true
	}
	if id == "" {
		return root, true
	}
	d := root.doc
	for _, c := range d.appendComplex(nil, d.member(root.node, "contained"), model().resource) {
		if n := d.member(c.node, "id"); n != 0 && d.nodes[n].kind == nodeString && d.text(n) == id {
			return c, true
		}
	}
	return Value{}, true
}

// typeOfReference returns the type in a relative or absolute reference:
// [base/]Type/id[/_history/version].
func typeOfReference(ref string) typeID {
	if i := strings.Index(ref, "/_history/"); i >= 0 {
		ref = ref[:i]
	}
	i := strings.LastIndexByte(ref, '/')
	if i < 0 {
		return noType
	}
	ref = ref[:i]
	return model().resourceType(ref[strings.LastIndexByte(ref, '/')+1:])
}

func memberOf(c *call, ev *evaluation, sc *scope, in, dst []Value) ([]Value, error) {
	set, ok, err := c.str(ev, sc, 0)
	if err != nil || !ok || len(in) == 0 {
		return dst, err
	}
	if len(in) > 1 {
		return nil, failAt(c.pos, "memberOf needs a single item, not %d", len(in))
	}
	if ev.env.MemberOf == nil {
		return nil, failAt(c.pos, "memberOf needs a terminology service")
	}
	if err := ev.step(costOfTerminology); err != nil {
		return nil, err
	}
	found, err := ev.env.MemberOf(ev.ctx, in[0], set)
	return append(dst, boolean(found)), err
}

func subsumes(c *call, ev *evaluation, sc *scope, in, dst []Value) ([]Value, error) {
	other, err := c.args[0].eval(ev, sc, ev.get())
	if err != nil {
		return nil, err
	}
	defer ev.put(other)
	if len(in) != 1 || len(other) != 1 {
		if len(in) > 1 || len(other) > 1 {
			return nil, failAt(c.pos, "%s needs single items", c.name)
		}
		return dst, nil
	}
	if ev.env.Subsumes == nil {
		return nil, failAt(c.pos, "%s needs a terminology service", c.name)
	}
	a, b := in[0], other[0]
	if c.name == "subsumedBy" {
		a, b = b, a
	}
	if err := ev.step(costOfTerminology); err != nil {
		return nil, err
	}
	holds, err := ev.env.Subsumes(ev.ctx, a, b)
	return append(dst, boolean(holds)), err
}

// baseDefinitions is the part of the URLs of R4's own StructureDefinitions before the
// name of the type.
const baseDefinitions = "http://hl7.org/fhir/StructureDefinition/"

func conformsTo(c *call, ev *evaluation, sc *scope, in, dst []Value) ([]Value, error) {
	profile, ok, err := c.str(ev, sc, 0)
	if err != nil || !ok || len(in) == 0 {
		return dst, err
	}
	if len(in) > 1 {
		return nil, failAt(c.pos, "conformsTo needs a single item, not %d", len(in))
	}
	if ev.env.ConformsTo != nil {
		if err := ev.step(costOfCall); err != nil {
			return nil, err
		}
		holds, err := ev.env.ConformsTo(ev.ctx, in[0], profile)
		return append(dst, boolean(holds)), err
	}
	name, isBase := strings.CutPrefix(profile, baseDefinitions)
	id := model().byName[name]
	if !isBase || id == noType {
		return nil, failAt(c.pos, "conformsTo needs a validator for this profile")
	}
	return append(dst, boolean(model().is(in[0].typ, id))), nil
}

func htmlChecks(c *call, ev *evaluation, _ *scope, in, dst []Value) ([]Value, error) {
	v, ok, err := c.one(in)
	if err != nil || !ok {
		return dst, err
	}
	if ev.env.HTMLChecks == nil {
		return nil, failAt(c.pos, "htmlChecks needs a check of narrative")
	}
	if err := ev.step(costOfCall + len(v.text)/16); err != nil {
		return nil, err
	}
	return append(dst, boolean(v.kind == KindString && ev.env.HTMLChecks(v.text))), nil
}

// now implements now(), today() and timeOfDay().
func now(c *call, ev *evaluation, _ *scope, _, dst []Value) ([]Value, error) {
	at := ev.env.Now
	if at.IsZero() {
		return nil, failAt(c.pos, "%s needs the time", c.name)
	}
	_, offset := at.Zone()
	t := temporal{
		seconds: at.Unix() + int64(offset),
		nanos:   int32(at.Nanosecond() / int(time.Millisecond) * int(time.Millisecond)),
		digits:  digitsSeconds + 3, zoned: true, offset: int32(offset / 60),
	}
	switch c.name {
	case "today":
		return append(dst, t.onlyDate().value(KindDate)), nil
	case "timeOfDay":
		t.seconds -= floor(t.seconds, 86400)
		t.zoned, t.offset = false, 0
		return append(dst, t.value(KindTime)), nil
	}
	return append(dst, t.value(KindDateTime)), nil
}
