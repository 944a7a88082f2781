package r4

import (
	"context"

	"pulsegate/fhir/fhirpath"
	"pulsegate/fhir/validate"
)

// compileInvariant compiles an invariant that fhir/validate does not have in Go.
func (val *Validator) compileInvariant(expression string) (validate.Invariant, error) {
	e, err := fhirpath.Compile(expression)
	if err != nil {
		return nil, err
	}
	return &invariant{e, val}, nil
}

// invariant evaluates FHIRPath on the nodes of a validate.Document.
type invariant struct {
	expression *fhirpath.Expression
	validator  *Validator
}

// parsed is the state of a validate.Document: the element and the resource of the
// current invariant as Documents of fhirpath. Invariants of one element follow
// each other, so the last element is enough.
type parsed struct {
	element, resource     fhirpath.Document
	elementAt, resourceAt int // offsets in the body; -1 if there is none
	focus                 fhirpath.Value
	env                   fhirpath.Env
}

// Reset implements validate.State.
func (p *parsed) Reset() { p.elementAt, p.resourceAt = -1, -1 }

// Holds implements validate.Invariant.
func (i *invariant) Holds(n validate.Node) (bool, error) {
	d := n.Document()
	p, ok := d.State().(*parsed)
	if !ok {
		p = &parsed{elementAt: -1, resourceAt: -1}
		d.SetState(p)
	}
	if err := p.load(n); err != nil {
		return true, err
	}
	if t := i.validator.terminology.Load(); t != nil {
		p.env.Use(*t)
	}
	return i.expression.Holds(context.Background(), p.focus, &p.env)
}

// load reads the element n and the resource around it.
func (p *parsed) load(n validate.Node) error {
	if owner := n.Owner(); p.resourceAt != owner.Start() {
		p.resourceAt = -1
		if err := p.resource.Reset(owner.JSON()); err != nil {
			return err
		}
		p.resourceAt = owner.Start()
		p.env = fhirpath.Env{Resource: p.resource.Root()}
	}
	if p.elementAt == n.Start() {
		return nil
	}
	p.elementAt = -1
	if err := p.element.Reset(n.JSON()); err != nil {
		return err
	}
	typ := ""
	if st := n.Structure(); st != nil {
		if typ = st.Name; typ == "SimpleQuantity" || typ == "MoneyQuantity" {
			typ = st.Type
		}
	} else {
		typ = n.Member().TypeName()
	}
	v, err := p.element.As(typ)
	if err != nil {
		return err
	}
	p.focus, p.elementAt = v, n.Start()
	return nil
}
