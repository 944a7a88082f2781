package search

import (
	"sort"
	"strconv"
	"sync"

	"pulsegate/fhir/access"
)

//go:generate go run ./gen -definitions ../../../shared/fixtures/r4/hl7-core-4.0.1 -out registry.txt -access ../access/compartment_gen.go

// Registry is an immutable set of search parameters, by resource type. The methods
// of a nil Registry are those of Builtin, so that a zero ParseOptions, Extractor or
// Query stands for it. A server that defines parameters at run time makes a new
// Registry and passes it to what starts after that.
//
// The parameters of a type are made when they are first asked for.
type Registry struct {
	types map[string]func() *typeIndex
}

// Builtin returns the parameters that R4 defines, from the generated table.
func Builtin() *Registry { return builtin() }

var builtin = sync.OnceValue(func() *Registry {
	r := &Registry{types: map[string]func() *typeIndex{}}
	for typ, s := range sections() {
		r.types[typ] = sync.OnceValue(func() *typeIndex { return newTypeIndex(s.read(typ)) })
	}
	return r
})

func (r *Registry) of(typ string) *typeIndex {
	if r == nil {
		r = builtin()
	}
	if t := r.types[typ]; t != nil {
		return t()
	}
	return nil
}

// typeIndex is the registry of one resource type.
type typeIndex struct {
	params []*Param // sorted by code
	byCode map[string]*Param
	root   *node
	// expressions holds the slots of the parameters that have an Expression.
	expressions []int
	// compartment is the internal parameter for the patients of the resource, or nil.
	compartment *Param
	// members holds the parameters that put a resource into a compartment, by the type
	// of the compartment.
	members map[string][]string
}

// newTypeIndex returns the index of the parameters, which it takes over.
func newTypeIndex(params []*Param, members map[string][]string) *typeIndex {
	t := &typeIndex{params: params, byCode: map[string]*Param{}, root: &node{}, members: members}
	sort.Slice(params, func(i, j int) bool { return params[i].Code < params[j].Code })
	t.composeParts()
	for slot, p := range params {
		p.in = t
		if t.byCode[p.Code] = p; p.Code == compartmentCode {
			t.compartment = p
		}
		for j := range p.Paths {
			t.root.add(p.Paths[j].Steps, leaf{slot: slot, typ: p.Type, path: &p.Paths[j]})
		}
		if p.Expression != nil && p.Supported() {
			t.expressions = append(t.expressions, slot)
		}
	}
	return t
}

// compartmentCode is the code of an internal parameter: the patients of a resource, for
// the types of which several parameters name one. Clients cannot use it.
const compartmentCode = "_compartment"

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
	if t == nil || code == compartmentCode {
		return nil, false
	}
	p, ok := t.byCode[code]
	return p, ok
}

// Stored is like Lookup, for the codes in Values.ByParam. They include the internal
// parameter of CompartmentParam.
func Stored(typ, code string) (*Param, bool) {
	if code != compartmentCode {
		return Lookup(typ, code)
	}
	return CompartmentParam(typ)
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
		if p.Supported() && p.Code != compartmentCode {
			out = append(out, p)
		}
	}
	return out
}

// Supported reports whether p can be searched. Parameters of type special, composite
// parameters without a type of their own, and phonetic are not.
func (p *Param) Supported() bool {
	return (len(p.Paths) > 0 || p.Expression != nil) && p.Type != TypeComposite && p.Type != TypeSpecial
}

// Defined reports whether p was defined at run time, by a SearchParameter resource.
func (p *Param) Defined() bool {
	b, ok := Lookup(p.ResourceType, p.Code)
	return !ok || b != p && b.URL != p.URL
}

// Defined reports whether a clause of q depends on a parameter that was defined at run
// time, so that the index values of Extract do not suffice for Match.
func (q *Query) Defined() bool {
	found := false
	for i := range q.Clauses {
		q.Clauses[i].params(func(p *Param) { found = found || p.Defined() })
	}
	return found
}

// Definitions returns a text that changes when a parameter defined at run time that q
// searches or sorts by gets another definition. It is empty if there is none.
func Definitions(q *Query) string {
	out := ""
	add := func(p *Param) {
		if p.Defined() && p.Expression != nil {
			out += strconv.Quote(p.URL) + strconv.Quote(p.Code) + strconv.Itoa(int(p.Type)) +
				strconv.Quote(p.Expression.String())
		}
	}
	for i := range q.Clauses {
		q.Clauses[i].params(add)
	}
	for _, s := range q.Sort {
		if p, ok := q.Registry.Lookup(q.Type, s.Param); ok {
			add(p)
		}
	}
	return out
}

// PatientParam returns the code of the parameter that puts a resource of type typ
// into a patient's compartment: "_id" for Patient itself, "" if there is none. If
// single is true, a resource is in at most one compartment, so that a query needs
// to read only the patient's cluster. See access.PatientParam.
func PatientParam(typ string) (code string, single bool) { return access.PatientParam(typ) }

// CompartmentParam returns the parameter that PatientParam names. It is not in Params
// if several parameters put the type into a compartment: clients cannot use it.
func CompartmentParam(typ string) (*Param, bool) {
	t := builtin().of(typ)
	if t == nil {
		return nil, false
	}
	code, _ := PatientParam(typ)
	p, ok := t.byCode[code]
	return p, ok
}

// Compartment returns, for a type of R4 and each type that defines a compartment
// (Patient, Practitioner, RelatedPerson, Device, Encounter), the codes of the parameters
// that put a resource into the compartment. R4's CompartmentDefinitions list them.
func Compartment(typ string) map[string][]string {
	if t := builtin().of(typ); t != nil {
		return t.members
	}
	return nil
}
