package search

import (
	"sort"
	"sync"
)

//go:generate go run ./gen -definitions ../../../shared/fixtures/r4/hl7-core-4.0.1 -out registry_gen.go

// Registry is an immutable set of search parameters, by resource type. The methods
// of a nil Registry are those of Builtin, so that a zero ParseOptions, Extractor or
// Query stands for it. A server that defines parameters at run time makes a new
// Registry and passes it to what starts after that.
type Registry struct {
	types map[string]*typeIndex
}

// Builtin returns the parameters that R4 defines, made on first use from the
// generated table.
func Builtin() *Registry { return builtin() }

var builtin = sync.OnceValue(func() *Registry {
	m := map[string]*typeIndex{}
	for i := range registry {
		p := &registry[i]
		p.compose()
		t := m[p.ResourceType]
		if t == nil {
			t = &typeIndex{byCode: map[string]*Param{}, root: &node{}}
			m[p.ResourceType] = t
		}
		p.in = t
		t.params = append(t.params, p)
		t.byCode[p.Code] = p
		for j := range p.Paths {
			t.root.add(p.Paths[j].Steps, leaf{slot: len(t.params) - 1, typ: p.Type, path: &p.Paths[j]})
		}
	}
	return &Registry{types: m}
})

func (r *Registry) of(typ string) *typeIndex {
	if r == nil {
		r = builtin()
	}
	return r.types[typ]
}

// typeIndex is the registry of one resource type.
type typeIndex struct {
	params []*Param // sorted by code
	byCode map[string]*Param
	root   *node
}

// node is a JSON member on the path to indexed elements.
type node struct {
	children map[string]*node
	leaves   []leaf
}

// leaf is the end of a path to an indexed element.
type leaf struct {
	slot int // index in typeIndex.params
	typ  ParamType
	path *Path
}

func (n *node) add(steps []string, l leaf) {
	if len(steps) == 0 {
		n.leaves = append(n.leaves, l)
		return
	}
	if n.children == nil {
		n.children = map[string]*node{}
	}
	k := n.children[steps[0]]
	if k == nil {
		k = &node{}
		n.children[steps[0]] = k
	}
	k.add(steps[1:], l)
}

// prune returns a copy of n with only the leaves for which keep is true and the
// paths to them.
func (n *node) prune(keep func(leaf) bool) *node {
	out := &node{}
	for _, l := range n.leaves {
		if keep(l) {
			out.leaves = append(out.leaves, l)
		}
	}
	for name, child := range n.children {
		if k := child.prune(keep); len(k.children) > 0 || len(k.leaves) > 0 {
			if out.children == nil {
				out.children = map[string]*node{}
			}
			out.children[name] = k
		}
	}
	return out
}

// Lookup returns the entry of a parameter that R4 defines, supported or not.
func Lookup(typ, code string) (*Param, bool) { return builtin().Lookup(typ, code) }

// Lookup returns the registry entry of a search parameter, supported or not.
func (r *Registry) Lookup(typ, code string) (*Param, bool) {
	t := r.of(typ)
	if t == nil {
		return nil, false
	}
	p, ok := t.byCode[code]
	return p, ok
}

// Params returns the supported parameters of a type that R4 defines.
func Params(typ string) []*Param { return builtin().Params(typ) }

// Params returns the supported parameters of a type, sorted by code, including
// those of all resources (_id, _lastUpdated). The entries are shared and must not
// be changed.
func (r *Registry) Params(typ string) []*Param {
	t := r.of(typ)
	if t == nil {
		return nil
	}
	out := make([]*Param, 0, len(t.params))
	for _, p := range t.params {
		if p.Supported() {
			out = append(out, p)
		}
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Code < out[j].Code })
	return out
}

// Supported reports whether p can be searched.
func (p *Param) Supported() bool { return len(p.Paths) > 0 }

// PatientParam returns the code of the parameter that puts a resource of type typ
// into a patient's compartment: "_id" for Patient itself, "" if there is none. If
// single is true, a resource is in at most one compartment, so that a query needs
// to read only the patient's cluster.
func PatientParam(typ string) (code string, single bool) {
	switch typ {
	case "Observation", "Device", "Consent":
		return "patient", true
	case "Patient":
		return "_id", true
	case "Provenance", "AuditEvent":
		return "patient", false
	}
	return "", false
}
