package validate

import (
	"bytes"
	"encoding/json"
	"strconv"
	"strings"

	"pulsegate/fhir/definitions"
)

// A profile is compiled to a tree of rules that follows the elements of its
// type. The rules of the profiles that it is derived from are merged into it.

// rule is what a profile demands of an element, or of a slice of it.
type rule struct {
	name string // of the element, without type
	// kind is the type of the values that the rule applies to, if it is a slice by
	// type: Quantity for valueQuantity.
	kind      string
	sliceName string
	// min and max are the cardinality; max is -1 if it is not constrained.
	min, max   int
	types      []definitions.ConstraintType
	codes      *definitions.ValueSet
	fixed      any
	pattern    any
	slicing    *definitions.Slicing
	slices     []*rule
	children   []*rule
	invariants []func(Node) bool
	texts      []string // of the invariants
}

// profile is a compiled profile.
type profile struct {
	*definitions.Profile
	root *rule
	// suffix ends the texts of the issues.
	suffix string
	// extensions holds the compiled profiles of extensions by URL.
	extensions map[string]*profile
}

// compiled returns the compiled form of a profile.
func (v *Validator) profile(p *definitions.Profile) *profile {
	if c, ok := v.profiles.Load(p); ok {
		return c.(*profile)
	}
	c := v.compileProfile(p)
	v.profiles.Store(p, c)
	return c
}

func (v *Validator) compileProfile(p *definitions.Profile) *profile {
	c := &profile{Profile: p, root: &rule{max: -1}, extensions: map[string]*profile{}}
	c.suffix = " (profile " + p.URL[strings.LastIndexByte(p.URL, '/')+1:] + " " + p.Version + ")"
	b := &profileBuilder{v: v, st: v.set.Structure(p.Type)}
	for _, from := range p.Lineage() {
		for i := range from.Constraints {
			b.add(c.root, &from.Constraints[i])
		}
	}
	c.linkExtensions(v, p, c.root)
	return c
}

// linkExtensions compiles the profiles of extensions that the rules name.
func (c *profile) linkExtensions(v *Validator, p *definitions.Profile, r *rule) {
	for _, t := range r.types {
		for _, url := range t.Profiles {
			if x := p.Related(url); x != nil && x.Type == "Extension" && t.Name == "Extension" && x != p {
				c.extensions[url] = v.profile(x)
			}
		}
	}
	for _, list := range [][]*rule{r.children, r.slices} {
		for _, k := range list {
			c.linkExtensions(v, p, k)
		}
	}
}

type profileBuilder struct {
	v  *Validator
	st *definitions.Structure // of the constrained type
}

// add merges a constraint into the tree.
func (b *profileBuilder) add(root *rule, c *definitions.Constraint) {
	r, st := root, b.st
	if c.ID != "" {
		for part := range strings.SplitSeq(c.ID, ".") {
			r, st = b.step(r, st, part)
		}
	}
	if c.Min >= 0 {
		r.min = max(r.min, c.Min)
	}
	if c.Max >= 0 && c.Max != definitions.Unbounded {
		r.max = c.Max
	}
	if len(c.Types) > 0 {
		r.types = c.Types
	}
	if c.Binds {
		r.codes = c.Codes
	}
	if c.Fixed != "" {
		r.fixed = parsed(c.Fixed)
	}
	if c.Pattern != "" {
		r.pattern = parsed(c.Pattern)
	}
	if c.Slicing != nil {
		r.slicing = c.Slicing
	}
	for _, inv := range c.Invariants {
		if fn := b.v.predicate(inv); fn != nil {
			r.invariants = append(r.invariants, fn)
			r.texts = append(r.texts, strings.TrimSuffix(inv.Human, ".")+" ("+inv.Key+")")
		}
	}
}

func parsed(text string) (v any) {
	dec := json.NewDecoder(strings.NewReader(text))
	dec.UseNumber()
	if dec.Decode(&v) != nil {
		panic("definitions: a fixed value or pattern is not JSON") // the tables are generated
	}
	return v
}

// step returns the rule for a part of an element id below r, such as component,
// component:systolic, value[x] or valueQuantity, and the structure of its values.
func (b *profileBuilder) step(r *rule, st *definitions.Structure, part string) (*rule, *definitions.Structure) {
	name, slice, _ := strings.Cut(part, ":")
	name = strings.TrimSuffix(name, "[x]")
	kind := ""
	if st != nil {
		if m := st.LookupString(slice); m != nil && m.Choice {
			kind, slice = m.TypeName(), "" // value[x]:valueQuantity
			st = m.Structure
		} else if m := st.LookupString(name); m != nil {
			if m.Choice {
				kind, name = m.TypeName(), st.Elements[m.Element].Name
			}
			st = m.Structure
		} else {
			st = nil
		}
	}
	next := find(&r.children, name, "", "")
	if kind != "" {
		next = find(&next.slices, name, kind, "")
	}
	if slice != "" {
		next = find(&next.slices, name, "", slice)
	}
	return next, st
}

// find returns the rule in a list, which it adds if there is none.
func find(list *[]*rule, name, kind, slice string) *rule {
	for _, r := range *list {
		if r.name == name && r.kind == kind && r.sliceName == slice {
			return r
		}
	}
	r := &rule{name: name, kind: kind, sliceName: slice, max: -1}
	*list = append(*list, r)
	return r
}

// checkProfiles checks a resource against the profiles that it claims and those
// that the request demands. Claims of unknown profiles are ignored: meta.profile is
// a claim that anybody may check (R4 profiling.html#resources).
func (d *Document) checkProfiles(demanded []string) {
	root := d.Root()
	for _, p := range root.get("meta").list("profile") {
		d.checkProfile(root, string(p.Text()), int(p.i))
	}
	for _, url := range demanded {
		d.checkProfile(root, url, 0)
	}
}

// checkProfile checks a resource against a profile. Without a version, one of the
// versions must accept it; the issues are those of the newest.
func (d *Document) checkProfile(root Node, canonical string, claim int) {
	versions := definitions.KnownProfiles().Lookup(canonical)
	if len(versions) == 0 {
		return
	}
	if versions[0].Type != root.Structure().Name {
		d.broken(claim, "", "is a profile of another resource type")
		return
	}
	for _, p := range versions {
		c := profileCheck{d: d, p: d.v.profile(p), quiet: true}
		if c.value(root, c.p.root); !c.failed {
			return
		}
	}
	c := profileCheck{d: d, p: d.v.profile(versions[0])}
	c.value(root, c.p.root)
}

// profileCheck checks nodes against the rules of a profile.
type profileCheck struct {
	d      *Document
	p      *profile
	quiet  bool // do not report issues
	failed bool
	values []Node // stack of the values of the current elements
}

func (c *profileCheck) fail(n Node, member, text string) {
	c.failed = true
	if !c.quiet {
		c.d.issueAt(int(n.i), member, 0, "invariant", text+c.p.suffix)
	}
}

// value checks one value of an element.
func (c *profileCheck) value(n Node, r *rule) {
	if r.fixed != nil && !n.equals(r.fixed) {
		c.fail(n, "", "must have the value that the profile fixes")
	}
	if r.pattern != nil && !n.matches(r.pattern) {
		c.fail(n, "", "must match the pattern of the profile")
	}
	if len(r.types) > 0 {
		c.types(n, r)
	}
	if r.codes != nil && !n.bound(r.codes) {
		c.fail(n, "", ruleBinding)
	}
	for i, holds := range r.invariants {
		if !holds(n) {
			c.fail(n, "", r.texts[i])
		}
	}
	if len(r.children) == 0 || n.Kind() != Object {
		return
	}
	for _, child := range r.children {
		if c.failed && c.quiet {
			return
		}
		c.element(n, child)
	}
}

// types checks the type of a value, the targets of a reference, and the profile
// of an extension.
func (c *profileCheck) types(n Node, r *rule) {
	m := n.Member()
	if m == nil || n.Shadow() {
		return
	}
	have := m.TypeName()
	for i := range r.types {
		t := &r.types[i]
		if t.Name != have {
			continue
		}
		if t.Targets != nil && !n.refersTo(t.Targets) {
			c.fail(n, "", "refers to a type that is not allowed here")
		}
		for _, url := range t.Profiles {
			if x := c.p.extensions[url]; x != nil {
				sub := profileCheck{d: c.d, p: x, quiet: c.quiet}
				sub.value(n, x.root)
				c.failed = c.failed || sub.failed
			}
		}
		return
	}
	if m.Choice || m.Primitive == definitions.NotPrimitive {
		c.fail(n, "", "has a type that is not allowed here")
	}
}

// element checks the values of an element of an object.
func (c *profileCheck) element(n Node, r *rule) {
	from := len(c.values)
	c.values = n.valuesOf(r.name, c.values)
	to := len(c.values)
	count := to - from
	c.cardinality(n, r, count, r.name)
	for i := from; i < to; i++ {
		c.value(c.values[i], r)
	}
	for _, s := range r.slices {
		matched := 0
		decidable := true
		for i := from; i < to; i++ {
			in, known := c.inSlice(c.values[i], r, s)
			decidable = decidable && known
			if in {
				matched++
				c.value(c.values[i], s)
			}
		}
		if decidable {
			name := s.name
			if s.sliceName != "" {
				name += ":" + s.sliceName
			}
			c.cardinality(n, s, matched, name)
		}
	}
	c.values = c.values[:from]
}

func (c *profileCheck) cardinality(n Node, r *rule, count int, name string) {
	switch {
	case count < r.min && r.min == 1:
		c.fail(n, "", "needs the element "+name)
	case count < r.min:
		c.fail(n, "", "needs at least "+strconv.Itoa(r.min)+" of the element "+name)
	case r.max == 0 && count > 0:
		c.fail(n, "", "must not have the element "+name)
	case r.max >= 0 && count > r.max:
		c.fail(n, "", "must not have more than "+strconv.Itoa(r.max)+" of the element "+name)
	}
}

// inSlice reports whether a value of the element r belongs to the slice s. It
// returns known as false if that cannot be decided.
func (c *profileCheck) inSlice(n Node, r, s *rule) (in, known bool) {
	if s.kind != "" {
		m := n.Member()
		return m != nil && m.TypeName() == s.kind, true
	}
	if r.slicing == nil || len(r.slicing.Discriminator) == 0 {
		if r.name == "extension" || r.name == "modifierExtension" {
			return s.hasURL(n), true
		}
		return false, false
	}
	for _, by := range r.slicing.Discriminator {
		switch {
		case by.Path == "url" && n.Structure() == c.d.v.extension:
			in, known = s.hasURL(n), true
		case by.Type == "type" && by.Path == "$this":
			in, known = n.hasType(s.types), len(s.types) > 0
		case by.Type == "value" || by.Type == "pattern":
			in, known = c.discriminate(n, s, by.Path)
		default:
			return false, false
		}
		if !in || !known {
			return false, known
		}
	}
	return true, true
}

// hasURL reports whether an extension has the URL of the slice r.
func (r *rule) hasURL(n Node) bool {
	url := n.text("url")
	for _, t := range r.types {
		for _, p := range t.Profiles {
			if p == string(url) {
				return true
			}
		}
	}
	for _, k := range r.children {
		if k.name == "url" {
			want, _ := k.fixed.(string)
			return want == string(url)
		}
	}
	return false
}

// discriminate reports whether a value at a path below n meets the rules of the
// slice s for that path.
func (c *profileCheck) discriminate(n Node, s *rule, path string) (in, known bool) {
	if path == "$this" {
		if s.codes == nil && s.fixed == nil && s.pattern == nil && len(s.children) == 0 {
			return false, false
		}
		sub := profileCheck{d: c.d, p: c.p, quiet: true}
		sub.value(n, &rule{codes: s.codes, fixed: s.fixed, pattern: s.pattern, children: s.children, max: -1})
		return !sub.failed, true
	}
	name, rest, more := strings.Cut(path, ".")
	for _, k := range s.children {
		if k.name != name {
			continue
		}
		known = true
		values := n.valuesOf(name, nil)
		for _, v := range values {
			if more {
				if in, known := c.discriminate(v, k, rest); in || !known {
					return in, known
				}
				continue
			}
			if k.codes == nil && k.fixed == nil && k.pattern == nil && len(k.children) == 0 {
				return false, false
			}
			sub := profileCheck{d: c.d, p: c.p, quiet: true}
			if sub.value(v, k); !sub.failed {
				return true, true
			}
		}
	}
	return false, known
}

// valuesOf appends the values of an element. A primitive that has only extensions
// counts as a value.
func (n Node) valuesOf(name string, out []Node) []Node {
	st := n.Structure()
	if st == nil {
		return out
	}
	var values, shadows Node
	for c := range n.Children {
		m := c.Member()
		switch {
		case m == nil || st.Elements[m.Element].Name != name:
		case c.Shadow():
			shadows = c
		default:
			values = c
		}
	}
	if !values.Exists() {
		values = shadows
	}
	if values.Kind() != Array {
		if values.Exists() {
			out = append(out, values)
		}
		return out
	}
	for e := range values.Children {
		out = append(out, e)
	}
	return out
}

// equals reports whether n equals a JSON value.
func (n Node) equals(want any) bool {
	if m, ok := want.(map[string]any); ok {
		count := 0
		for range n.Children {
			count++
		}
		if count != len(m) {
			return false
		}
		for name, w := range m {
			if !n.get(name).equals(w) {
				return false
			}
		}
		return true
	}
	return n.matches(want)
}

// matches reports whether n matches a pattern: it has all members of the pattern,
// and for each element of an array of the pattern one that matches it (R4
// elementdefinition.html, pattern[x]).
func (n Node) matches(want any) bool {
	switch w := want.(type) {
	case string:
		return n.Kind() == String && string(n.Text()) == w
	case json.Number:
		return n.Kind() == Number && string(n.JSON()) == w.String()
	case bool:
		return w && n.Kind() == True || !w && n.Kind() == False
	case map[string]any:
		if n.Kind() != Object {
			return false
		}
		for name, x := range w {
			if !n.get(name).matches(x) {
				return false
			}
		}
		return true
	case []any:
		for _, x := range w {
			found := false
			for e := range n.Children {
				found = found || e.matches(x)
			}
			if !found {
				return false
			}
		}
		return n.Kind() == Array
	}
	return false
}

// bound reports whether n has a code of a value set.
func (n Node) bound(set *definitions.ValueSet) bool {
	if n.Kind() == String {
		return set.HasCode(n.Text())
	}
	st := n.Structure()
	if st == nil || n.Shadow() {
		return true // only extensions, such as data-absent-reason
	}
	switch st.Type {
	case "Coding":
		return set.Has(n.text("system"), n.text("code"))
	case "Quantity":
		return !n.exists("code") || set.Has(n.text("system"), n.text("code"))
	case "CodeableConcept":
		for _, c := range n.list("coding") {
			if set.Has(c.text("system"), c.text("code")) {
				return true
			}
		}
		return false
	}
	return true
}

func (n Node) hasType(types []definitions.ConstraintType) bool {
	m := n.Member()
	for i := range types {
		if m != nil && m.TypeName() == types[i].Name {
			return true
		}
	}
	return false
}

// refersTo reports whether the target of a Reference is one of the types, or not
// known.
func (n Node) refersTo(targets *definitions.Targets) bool {
	d := n.d
	if typ := d.v.typeName(bytes.TrimPrefix(n.text("type"), typeBase)); typ != "" {
		return targets.Has(typ)
	}
	ref := n.text("reference")
	if len(ref) == 0 || ref[0] == '#' || bytes.IndexByte(ref, ':') >= 0 {
		return true
	}
	name, _, _ := bytes.Cut(ref, []byte{'/'})
	typ := d.v.typeName(name)
	return typ == "" || targets.Has(typ)
}
