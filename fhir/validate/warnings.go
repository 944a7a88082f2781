package validate

import (
	"slices"
	"strings"

	"pulsegate/fhir"
	"pulsegate/fhir/definitions"
)

// Warnings returns what R4 asks for without requiring it, as far as d breaks it: the
// invariants of severity warning, the extensible bindings of the profiles that d claims
// as far as their codes are known, and claims of profiles that are not known and were
// therefore not checked. It is bounded like the errors. d is a Document of v.
func (v *Validator) Warnings(d *Document) []fhir.Issue {
	w := &warner{validator: v, doc: d}
	w.node(d.Root())
	root := d.Root()
	for p := root.get("meta").items("profile"); p.Exists(); p = p.next() {
		versions := definitions.KnownProfiles().Lookup(string(p.Text()))
		if len(versions) == 0 {
			w.add(p, "not-supported", "the server does not know this profile and has not checked it")
			continue
		}
		w.bindings(versions)
	}
	return w.out
}

type warner struct {
	validator *Validator
	doc       *Document
	checked   []*definitions.Profile
	out       []fhir.Issue
}

// bindings checks the extensible bindings of a profile, of the newest version that accepts
// the resource.
func (w *warner) bindings(versions []*definitions.Profile) {
	root := w.doc.Root()
	if versions[0].Type != root.Structure().Name || slices.Contains(w.checked, versions[0]) {
		return // claims may be repeated
	}
	w.checked = append(w.checked, versions[0])
	c := profileCheck{doc: w.doc, quiet: true}
	for _, p := range versions {
		if c.profile = w.validator.profile(p); c.try(root, c.profile.root) {
			c.warn = func(n Node, text string) { w.add(n, "code-invalid", text) }
			c.value(root, c.profile.root)
			return
		}
	}
}

func (w *warner) add(n Node, code, text string) {
	if len(w.out) >= maxIssues {
		return
	}
	is := w.doc.render(&issue{node: int(n.index), code: code, rule: text})
	is.Severity = "warning"
	w.out = append(w.out, is)
}

// node checks the invariants of an object and of all in it.
func (w *warner) node(n Node) {
	if st := n.Structure(); st != nil && n.Kind() == Object {
		for _, inv := range st.Invariants {
			w.check(n, inv)
		}
		for i := range st.Elements {
			for _, inv := range st.Elements[i].Invariants {
				if !inv.Error {
					eachOf(n, i, func(c Node) { w.check(c, inv) })
				}
			}
		}
	}
	if n.Kind() != Object && n.Kind() != Array {
		return
	}
	for c := n.first(); c.Exists() && len(w.out) < maxIssues; c = c.next() {
		w.node(c)
	}
}

func (w *warner) check(n Node, inv *definitions.Invariant) {
	if inv.Error || w.validator.compile == nil {
		return
	}
	c, known := w.validator.warnings.Load(inv)
	if !known {
		compiled, err := w.validator.compile(inv.Expression)
		if err != nil {
			compiled = nil
		}
		c, _ = w.validator.warnings.LoadOrStore(inv, compiled)
	}
	compiled, ok := c.(Invariant)
	if !ok {
		return
	}
	if holds, err := compiled.Holds(n); err == nil && !holds {
		w.add(n, "invariant", strings.TrimSuffix(inv.Human, ".")+" ("+inv.Key+")")
	}
}
