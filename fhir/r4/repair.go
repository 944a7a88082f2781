package r4

import (
	"strings"

	"github.com/valyala/fastjson"
)

// repaired returns a copy of v for google/fhir alone, without what R4 allows
// and google/fhir refuses: nulls that keep the place of an element which has
// extensions only, leap seconds, white space in base64. The alignment of such
// arrays has been checked before (rules.shape).
func repaired(v []byte) ([]byte, error) {
	var p fastjson.Parser
	root, err := p.ParseBytes(v)
	if err != nil {
		return nil, err
	}
	r := &repairer{}
	r.object(root.GetObject())
	return root.MarshalTo(nil), nil
}

type repairer struct{ arena fastjson.Arena }

func (r *repairer) object(o *fastjson.Object) {
	var drop []string
	var keep []string
	set := map[string]*fastjson.Value{}
	o.Visit(func(key []byte, v *fastjson.Value) {
		name := string(key)
		switch v.Type() {
		case fastjson.TypeObject:
			r.object(v.GetObject())
		case fastjson.TypeString:
			if s, ok := r.str(name, v); ok {
				set[name] = s
			}
		case fastjson.TypeArray:
			r.array(name, v, set, &drop)
		}
		keep = append(keep, name)
	})
	for _, n := range keep {
		if v := set[n]; v != nil {
			o.Set(n, v)
		}
	}
	for _, n := range drop {
		o.Del(n)
		o.Del("_" + n)
	}
}

// array repairs the elements; an array with nulls is dropped together with
// its twin, after its values were checked for their JSON type by the caller.
func (r *repairer) array(name string, v *fastjson.Value, set map[string]*fastjson.Value, drop *[]string) {
	for i, e := range v.GetArray() {
		switch e.Type() {
		case fastjson.TypeNull:
			*drop = append(*drop, strings.TrimPrefix(name, "_"))
		case fastjson.TypeObject:
			r.object(e.GetObject())
		case fastjson.TypeString:
			if s, ok := r.str(name, e); ok {
				v.SetArrayItem(i, s)
			}
		}
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
