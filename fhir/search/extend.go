package search

import "maps"

// Extend returns a Registry with the parameters of r and these. A parameter with the type
// and code of another takes its place. It must have Paths or an Expression.
func (r *Registry) Extend(ps ...Param) *Registry {
	if r == nil {
		r = builtin()
	}
	out := &Registry{types: maps.Clone(r.types)}
	for i := range ps {
		p := &ps[i]
		old := r.types[p.ResourceType]
		t := out.types[p.ResourceType]
		if t == nil {
			continue // the server does not support the type
		}
		if t == old { // copy it once
			t = &typeIndex{params: append([]*Param(nil), old.params...), byCode: maps.Clone(old.byCode),
				root: old.root.prune(func(leaf) bool { return true })}
			out.types[p.ResourceType] = t
		}
		slot := len(t.params)
		if before := t.byCode[p.Code]; before != nil { // its paths are not read any more
			t.root = t.root.prune(func(l leaf) bool { return t.params[l.slot] != before })
		}
		p.in = t
		t.params, t.byCode[p.Code] = append(t.params, p), p
		for j := range p.Paths {
			t.root.add(p.Paths[j].Steps, leaf{slot: slot, typ: p.Type, path: &p.Paths[j]})
		}
	}
	return out
}
