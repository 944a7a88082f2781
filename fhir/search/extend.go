package search

import (
	"maps"
	"slices"
)

// Extend returns a Registry with the parameters of r and these. A parameter with the type
// and code of another takes its place. It must have Paths or an Expression. Parameters of
// types that the server does not support are left out.
func (r *Registry) Extend(ps ...Param) *Registry {
	if r == nil {
		r = builtin()
	}
	byType := map[string][]Param{}
	for _, p := range ps {
		byType[p.ResourceType] = append(byType[p.ResourceType], p)
	}
	out := &Registry{types: maps.Clone(r.types)}
	for typ, more := range byType {
		old := r.of(typ)
		if old == nil {
			continue
		}
		var params []*Param
		for _, p := range old.params {
			if !slices.ContainsFunc(more, func(m Param) bool { return m.Code == p.Code }) {
				own := *p // a Param belongs to one typeIndex
				params = append(params, &own)
			}
		}
		for i := range more {
			params = append(params, &more[i])
		}
		t := newTypeIndex(params, old.members)
		out.types[typ] = func() *typeIndex { return t }
	}
	return out
}
