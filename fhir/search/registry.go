package search

import (
	"sort"
	"sync"
)

//go:generate go run ./gen -definitions ../../../shared/fixtures/r4/hl7-core-4.0.1 -out registry_gen.go

// index is the registry by type, built on first use from the generated table.
var index = sync.OnceValue(func() map[string]*typeIndex {
	m := map[string]*typeIndex{}
	for i := range registry {
		p := &registry[i]
		p.compose()
		t := m[p.ResourceType]
		if t == nil {
			t = &typeIndex{byCode: map[string]*Param{}, root: &node{}}
			m[p.ResourceType] = t
		}
		t.params = append(t.params, p)
		t.byCode[p.Code] = p
		for j := range p.Paths {
			t.root.add(p.Paths[j].Steps, leaf{slot: len(t.params) - 1, kind: p.Type, path: &p.Paths[j]})
		}
	}
	return m
})

// typeIndex is what the registry knows of one resource type.
type typeIndex struct {
	params []*Param // sorted by code
	byCode map[string]*Param
	root   *node
}

// node is one JSON member on the way to indexed elements.
type node struct {
	kids   map[string]*node
	leaves []leaf
}

// leaf is the end of a path: extract values of path.Type for param slot.
type leaf struct {
	slot int
	kind ParamType
	path *Path
}

func (n *node) add(steps []string, l leaf) {
	if len(steps) == 0 {
		n.leaves = append(n.leaves, l)
		return
	}
	if n.kids == nil {
		n.kids = map[string]*node{}
	}
	k := n.kids[steps[0]]
	if k == nil {
		k = &node{}
		n.kids[steps[0]] = k
	}
	k.add(steps[1:], l)
}

// prune returns a copy of n with the leaves that are kept and the ways to them.
func (n *node) prune(keep func(leaf) bool) *node {
	out := &node{}
	for _, l := range n.leaves {
		if keep(l) {
			out.leaves = append(out.leaves, l)
		}
	}
	for name, kid := range n.kids {
		if k := kid.prune(keep); len(k.kids) > 0 || len(k.leaves) > 0 {
			if out.kids == nil {
				out.kids = map[string]*node{}
			}
			out.kids[name] = k
		}
	}
	return out
}

// Lookup returns the registry entry of a search parameter, supported or not.
func Lookup(typ, code string) (*Param, bool) {
	t := index()[typ]
	if t == nil {
		return nil, false
	}
	p, ok := t.byCode[code]
	return p, ok
}

// Params returns the supported parameters of a type, sorted by code: those of
// every resource (_id, _lastUpdated, ...) and the type's own. The entries are
// shared and must not be changed.
func Params(typ string) []*Param {
	t := index()[typ]
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

// Supported reports whether values of p are extracted and may be searched.
func (p *Param) Supported() bool { return len(p.Paths) > 0 }

// PatientParam is the code of the reference parameter that puts a resource of
// type typ into a patient's compartment ("_id" for Patient itself, "" for
// none). single says that a resource has at most one such patient, so that a
// query for it may walk the patient's cluster alone.
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
