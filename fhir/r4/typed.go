package r4

import (
	"slices"
	"strings"

	"github.com/valyala/fastjson"

	"pulsegate/fhir"
)

// typed walks a resource along its shape and checks what google/fhir leaves
// out: closed codes to the letter, the texts of some primitive types, the
// invariants of data types, and the types of references. It runs only where
// plain was not sure; plain asks the same functions.
func (r *rules) typed(sh *shape, v *fastjson.Value) {
	if sh.check != nil {
		sh.check(v, r)
	}
	v.GetObject().Visit(func(key []byte, e *fastjson.Value) {
		name := string(key)
		m, known := sh.members[name]
		switch {
		case known:
			r.each(name, e, func(e *fastjson.Value) { r.typedMember(&m, name, e) })
		case strings.HasPrefix(name, "_"):
			// The extensions of a primitive, or of each primitive of an array.
			r.each(name, e, func(e *fastjson.Value) { r.extensions(sh, e) })
		}
	})
}

// each calls fn for a member or for each element of its array, at its place.
func (r *rules) each(name string, v *fastjson.Value, fn func(*fastjson.Value)) {
	r.path = append(r.path, step{name, -1})
	if v.Type() == fastjson.TypeArray {
		for i, e := range v.GetArray() {
			r.path = append(r.path, step{"", i})
			fn(e)
			r.path = r.path[:len(r.path)-1]
		}
	} else {
		fn(v)
	}
	r.path = r.path[:len(r.path)-1]
}

// extensions walks the extensions of a primitive of an object of shape sh.
func (r *rules) extensions(sh *shape, v *fastjson.Value) {
	list := v.Get("extension")
	m, known := sh.members["extension"]
	if list == nil || !known {
		return
	}
	r.each("extension", list, func(e *fastjson.Value) { r.typed(m.shape, e) })
}

func (r *rules) typedMember(m *member, name string, v *fastjson.Value) {
	switch m.shape.form {
	case object:
		r.typed(m.shape, v)
	case reference:
		r.target(m.targets, v)
		r.typed(m.shape, v)
	case coded:
		if v.Type() == fastjson.TypeString && !m.shape.codes[string(v.GetStringBytes())] {
			r.structure("code-invalid", "does not have a code of its required value set")
		}
	case unsure:
		if name == "contained" && len(r.path) == 2 {
			if sh := r.all.of(string(v.GetStringBytes("resourceType"))); sh != nil {
				r.typed(sh, v)
			}
		}
	case uri, code, oid, uuid, languageTag, mediaType, currencyCode:
		if v.Type() != fastjson.TypeString {
			return
		}
		s := v.GetStringBytes()
		if rule := leafRule(m.shape.form, s); rule != "" {
			r.structure("value", rule)
		}
		// a canonical or URI may refer to a contained resource (dom-3)
		if m.shape.form == uri && len(s) > 1 && s[0] == '#' {
			r.use(string(s[1:]))
		}
	}
}

// target checks the types of a reference against those that may stand there:
// of the contained resource that it points to, and the one that it names.
func (r *rules) target(targets []string, v *fastjson.Value) {
	if len(targets) == 0 {
		return
	}
	if typ := referenceType(v); fhir.IsR4Type(typ) && !slices.Contains(targets, typ) {
		r.broken("type", "is a type that this element does not refer to")
	}
	id, local := strings.CutPrefix(string(v.GetStringBytes("reference")), "#")
	if !local {
		return
	}
	typ := r.contained[id]
	if id == "" {
		typ = r.typ
	}
	if typ != "" && !slices.Contains(targets, typ) {
		r.broken("", "refers to a contained resource of a type that is not allowed here")
	}
}

// referenceType returns Reference.type without the base of R4's types.
func referenceType(v *fastjson.Value) string {
	return strings.TrimPrefix(string(v.GetStringBytes("type")), "http://hl7.org/fhir/StructureDefinition/")
}
