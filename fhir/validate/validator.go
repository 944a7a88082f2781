package validate

import (
	"strings"
	"sync"

	"pulsegate/fhir"
	"pulsegate/fhir/definitions"
)

// Limits bounds a body. A zero field means the default.
type Limits struct {
	Depth  int // nesting of objects and arrays; 50 by default
	Values int // JSON values; 50,000 by default
}

// Invariant is a compiled constraint.
type Invariant interface {
	// Holds reports whether the constraint holds for an element. It is called when
	// the resource around the element has been read. An error of kind
	// fhir.Unprocessable means that the expression does not apply to the values, such
	// as a comparison of a text with a number; the constraint holds then. Any other
	// error, such as one about a limit, refuses the resource.
	Holds(n Node) (bool, error)
}

// Options configures a Validator.
type Options struct {
	Limits Limits
	// RefuseModifiers refuses modifier extensions and implicitRules, which change the
	// meaning of a resource in a way that the server does not know.
	RefuseModifiers bool
	// AllowIDOnly accepts elements that have an id and nothing else, against ele-1.
	// HealthKitOnFHIR, a library of phone apps, sends identifiers of this form.
	AllowIDOnly bool
	// Compile compiles the FHIRPath of an invariant that this package does not check
	// itself. If it is nil, such invariants are not checked. An invariant that cannot be
	// compiled is not checked either.
	Compile func(expression string) (Invariant, error)
}

// Validator validates R4 JSON. It is safe for concurrent use.
type Validator struct {
	set    *definitions.Set
	limits Limits
	strict bool
	idOnly bool      // Options.AllowIDOnly
	checks [][]check // by Structure.ID
	// Structures that have rules of their own.
	element, extension, reference, narrative, elementDefinition *definitions.Structure
	types                                                       map[string]string // names of the resource types
	documents                                                   sync.Pool
	profiles                                                    sync.Map // *definitions.Profile -> *profile
	compile                                                     func(expression string) (Invariant, error)
	warnings                                                    sync.Map // *definitions.Invariant -> Invariant, or nil
}

// check is an invariant of a structure or of one of its elements.
type check struct {
	run func(n Node)
	// late is set for checks that may look at the whole resource. They run when it
	// has been read.
	late bool
}

// New returns a Validator.
func New(o Options) *Validator { return newValidator(o, byHand, handled) }

// newValidator returns a Validator with invariants in Go, by structure, that have
// the given keys.
func newValidator(o Options, inGo goInvariants, keys map[string]bool) *Validator {
	v := &Validator{set: definitions.R4(), limits: o.Limits, strict: o.RefuseModifiers, idOnly: o.AllowIDOnly,
		types:   map[string]string{},
		compile: o.Compile}
	if v.limits.Depth <= 0 {
		v.limits.Depth = 50
	}
	if v.limits.Values <= 0 {
		v.limits.Values = 50_000
	}
	v.element, v.extension = v.set.Structure("Element"), v.set.Structure("Extension")
	v.narrative = v.set.Structure("Narrative")
	v.reference, v.elementDefinition = v.set.Structure("Reference"), v.set.Structure("ElementDefinition")
	for _, name := range v.set.Resources() {
		v.types[name] = name
	}
	v.checks = make([][]check, v.set.Len())
	for st := range v.set.All {
		v.checks[st.ID] = checksOf(st, &o, inGo, keys)
	}
	v.documents.New = func() any { return &Document{validator: v, limits: v.limits} }
	return v
}

// checksOf returns the checks of a structure.
func checksOf(st *definitions.Structure, o *Options, inGo goInvariants, keys map[string]bool) (out []check) {
	if fn := inGo[st.Name]; fn != nil {
		out = append(out, check{run: func(n Node) { fn(n, reporter{n}) }})
	}
	if o.Compile == nil {
		return out
	}
	for _, inv := range st.Invariants {
		if c := compiled(inv, o, keys); c != nil {
			out = append(out, check{c, true})
		}
	}
	if !st.Constrained {
		return out
	}
	for i := range st.Elements {
		for _, inv := range st.Elements[i].Invariants {
			if c := compiled(inv, o, keys); c != nil {
				out = append(out, check{func(n Node) { eachOf(n, i, c) }, true})
			}
		}
	}
	return out
}

// compiled returns the check of an invariant, or nil if there is none. It
// compiles the expression on first use.
func compiled(inv *definitions.Invariant, o *Options, keys map[string]bool) func(Node) {
	if keys[inv.Key] || !inv.Error {
		return nil
	}
	load := sync.OnceValue(func() Invariant {
		c, err := o.Compile(inv.Expression)
		if err != nil {
			return nil
		}
		return c
	})
	rule := strings.TrimSuffix(inv.Human, ".") + " (" + inv.Key + ")"
	return func(n Node) {
		c := load()
		if c == nil {
			return
		}
		switch holds, err := c.Holds(n); {
		case err != nil && fhir.KindOf(err) == fhir.Unprocessable:
		case err != nil:
			n.doc.broken(int(n.index), "", "an invariant cannot be evaluated ("+inv.Key+")")
		case !holds:
			n.doc.broken(int(n.index), "", rule)
		}
	}
}

// predicate returns the function that tells whether an invariant of a profile
// holds, or nil if it is not checked.
func (v *Validator) predicate(inv *definitions.Invariant) func(Node) bool {
	if fn := profileInvariants[inv.Expression]; fn != nil {
		return fn
	}
	if !inv.Error || v.compile == nil {
		return nil
	}
	c, err := v.compile(inv.Expression)
	if err != nil {
		return nil
	}
	return func(n Node) bool {
		holds, err := c.Holds(n)
		return holds && err == nil || err != nil && fhir.KindOf(err) == fhir.Unprocessable
	}
}

// eachOf calls fn for each value of an element of an object.
func eachOf(n Node, element int, fn func(Node)) {
	for c := n.first(); c.Exists(); c = c.next() {
		switch m := c.Member(); {
		case m == nil || int(m.Element) != element || c.Shadow():
		case c.Kind() == Array:
			for e := c.first(); e.Exists(); e = e.next() {
				fn(e)
			}
		default:
			fn(c)
		}
	}
}

// typeName returns the name of a resource type as a constant, or an empty string.
func (v *Validator) typeName(b []byte) string { return v.types[string(b)] }

// Request describes a resource to validate.
type Request struct {
	Op   string // operation of the error
	Type string // resource type
	ID   string // id that the body must have; empty if any will do
	// Profiles are the canonical URLs of profiles that the resource must conform to,
	// in addition to those that it claims in meta.profile. If one of them is not
	// known, the resource is refused.
	Profiles []string
}

// Resource validates body. The Document is nil if the body cannot be read to its
// end, and must be released otherwise. The error is Invalid if the body does not
// have the structure of the type, Unprocessable if it breaks an invariant, and
// TooLarge if it has too many values. A byte order mark is not allowed.
func (v *Validator) Resource(r Request, body []byte) (*Document, error) {
	st := v.set.Structure(r.Type)
	if st == nil || st.Kind != definitions.Resource {
		return nil, fhir.Errorf(fhir.NotFound, r.Op, "R4 has no resource type of this name")
	}
	d := v.documents.Get().(*Document)
	d.reset(body)
	if !d.root(st, r.ID) && d.stopped == stopNone {
		d.stopped = stopSyntax
	}
	if d.stopped == stopNone && !d.malformed {
		d.checkProfiles(r.Profiles)
	}
	err := d.err(r.Op)
	if d.stopped != stopNone {
		d.Release()
		return nil, err
	}
	return d, err
}

func words(s string) map[string]bool {
	m := map[string]bool{}
	for _, w := range strings.Fields(s) {
		m[w] = true
	}
	return m
}
