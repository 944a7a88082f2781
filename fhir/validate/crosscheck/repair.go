package crosscheck

import (
	"slices"
	"strings"

	"github.com/valyala/fastjson"
)

// repaired returns a copy of v to be validated by google/fhir. It removes what
// R4 allows but google/fhir refuses: arrays of primitives and of their
// extensions that contain nulls or differ in length, leap seconds, and white
// space in base64.
func repaired(v []byte) ([]byte, error) {
	var p fastjson.Parser
	root, err := p.ParseBytes(v)
	if err != nil {
		return nil, err
	}
	r := &repairer{}
	r.object(root)
	return root.MarshalTo(nil), nil
}

type repairer struct{ arena fastjson.Arena }

func (r *repairer) object(v *fastjson.Value) {
	var names []string
	o := v.GetObject()
	o.Visit(func(key []byte, _ *fastjson.Value) { names = append(names, string(key)) })
	for _, name := range names {
		m := o.Get(name)
		if m == nil {
			continue // split has removed it
		}
		switch m.Type() {
		case fastjson.TypeObject:
			r.object(m)
		case fastjson.TypeString:
			if s, ok := r.str(name, m); ok {
				o.Set(name, s)
			}
		case fastjson.TypeArray:
			for i, e := range m.GetArray() {
				switch e.Type() {
				case fastjson.TypeObject:
					r.object(e)
				case fastjson.TypeString:
					if s, ok := r.str(name, e); ok {
						m.SetArrayItem(i, s)
					}
				}
			}
			if bare := strings.TrimPrefix(name, "_"); misaligned(v, bare) {
				r.split(v, bare)
			}
		}
	}
}

// misaligned reports whether the arrays of values and extensions of a repeated
// primitive contain nulls or differ in length.
func misaligned(v *fastjson.Value, name string) bool {
	values, extensions := v.Get(name), v.Get("_"+name)
	if extensions == nil || values != nil && values.Type() != fastjson.TypeArray ||
		extensions.Type() != fastjson.TypeArray {
		return false
	}
	if len(values.GetArray()) != len(extensions.GetArray()) {
		return true
	}
	null := func(e *fastjson.Value) bool { return e.Type() == fastjson.TypeNull }
	return slices.ContainsFunc(values.GetArray(), null) || slices.ContainsFunc(extensions.GetArray(), null)
}

// split keeps the values of a repeated primitive and moves their extensions to
// the parent object, where google/fhir checks them as well.
func (r *repairer) split(v *fastjson.Value, name string) {
	values := r.arena.NewArray()
	n := 0
	for _, e := range v.GetArray(name) {
		if e.Type() != fastjson.TypeNull {
			values.SetArrayItem(n, e)
			n++
		}
	}
	all := v.Get("extension")
	if all == nil {
		all = r.arena.NewArray()
	}
	for _, e := range v.GetArray("_" + name) {
		for _, x := range e.GetArray("extension") {
			all.SetArrayItem(len(all.GetArray()), x)
		}
	}
	v.Del(name)
	v.Del("_" + name)
	if n > 0 {
		v.Set(name, values)
	}
	if len(all.GetArray()) > 0 {
		v.Set("extension", all)
	}
}

func (r *repairer) str(name string, v *fastjson.Value) (*fastjson.Value, bool) {
	s := string(v.GetStringBytes())
	switch {
	case leapSecond(s):
		return r.arena.NewString(s[:16] + ":59" + s[19:]), true
	case binaryMember(name) && strings.ContainsAny(s, " \t\r\n"):
		return r.arena.NewString(strings.Join(strings.Fields(s), "")), true
	}
	return nil, false
}

// leapSecond reports whether v is a dateTime or instant with second 60.
func leapSecond(v string) bool {
	return len(v) >= 19 && len(v) <= 40 && v[10] == 'T' && v[4] == '-' && v[7] == '-' && v[13] == ':' &&
		v[16:19] == ":60"
}

// binaryMember reports whether elements of this name are base64.
func binaryMember(name string) bool {
	switch name {
	case "data", "hash", "valueBase64Binary", "carrierAIDC":
		return true
	}
	return false
}
