package r4

import (
	"slices"
	"strings"

	"github.com/valyala/fastjson"

	"pulsegate/fhir"
	"pulsegate/fhir/element"
)

// checkTypes walks a resource along its structure and checks what google/fhir
// does not: the exact case of closed codes, the texts of some primitive types,
// the invariants of data types, and the types of references. It runs only if the
// precheck was undecided; the precheck calls the same functions.
func (r *rules) checkTypes(st *structure, v *fastjson.Value) {
	if st.check != nil {
		st.check(v, r)
	}
	v.GetObject().Visit(func(key []byte, e *fastjson.Value) {
		name := string(key)
		m, known := st.members[name]
		switch {
		case known:
			r.each(name, e, func(e *fastjson.Value) { r.checkMember(&m, name, e) })
		case strings.HasPrefix(name, "_"):
			// The extensions of a primitive or of an array of primitives.
			r.each(name, e, func(e *fastjson.Value) { r.extensions(st, e) })
		}
	})
}

// each calls fn for a member, or for each element if it is an array, with r.path
// pointing to it.
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

// extensions walks the extensions of a primitive in an object with structure st.
func (r *rules) extensions(st *structure, v *fastjson.Value) {
	list := v.Get("extension")
	m, known := st.members["extension"]
	if list == nil || !known {
		return
	}
	r.each("extension", list, func(e *fastjson.Value) { r.checkTypes(m.structure, e) })
}

func (r *rules) checkMember(m *member, name string, v *fastjson.Value) {
	switch m.structure.typ {
	case object:
		r.checkTypes(m.structure, v)
	case reference:
		r.target(m.targets, v)
		r.checkTypes(m.structure, v)
	case coded:
		if v.Type() == fastjson.TypeString && !m.structure.codes[string(v.GetStringBytes())] {
			r.structure("code-invalid", "does not have a code of its required value set")
		}
	case delegated:
		if name == "contained" && len(r.path) == 2 {
			if st := r.all.of(string(v.GetStringBytes("resourceType"))); st != nil {
				r.checkTypes(st, v)
			}
		}
	case uri, code, oid, uuid, languageTag, mediaType, currencyCode:
		if v.Type() != fastjson.TypeString {
			return
		}
		s := v.GetStringBytes()
		if rule := primitiveRule(m.structure.typ, s); rule != "" {
			r.structure("value", rule)
		}
		// A canonical or URI may refer to a contained resource (dom-3).
		if m.structure.typ == uri && len(s) > 1 && s[0] == '#' {
			r.use(string(s[1:]))
		}
	}
}

// target checks a reference against the allowed target types: both its type
// element and the type of the contained resource that it refers to.
func (r *rules) target(targets []string, v *fastjson.Value) {
	if len(targets) == 0 {
		return
	}
	if typ := referenceType(v); fhir.IsR4Type(typ) && !slices.Contains(targets, typ) {
		r.broken("type", "is a type that this element cannot refer to")
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

// referenceType returns Reference.type without the base URL of R4's types.
func referenceType(v *fastjson.Value) string {
	return strings.TrimPrefix(string(v.GetStringBytes("type")), element.StructureDefinition)
}
