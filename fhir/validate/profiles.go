package validate

import (
	"bytes"
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"strings"

	"pulsegate/fhir/definitions"
)

// A profile is compiled to a tree of rules that follows the elements of its
// type. The rules of the profiles that it is derived from are merged into it.

// rule holds the constraints of a profile on an element or on a slice of it.
type rule struct {
	name string // of the element, without type
	// in is the structure that has the element, and index the number of the element
	// there. in is nil if the structure is not known.
	in    *definitions.Structure
	index uint8
	// kind is the type of the values that the rule applies to, if it is a slice by
	// type: Quantity for valueQuantity.
	kind      string
	sliceName string
	// shortcuts are the types that the profile names as in valueQuantity. R4
	// derives a closed slicing by type from such names (profiling.html#slicing).
	shortcuts []string
	// min and max are the cardinality; max is -1 if it is not constrained.
	min, max   int
	types      []definitions.ConstraintType
	codes      *definitions.ValueSet // of a required binding
	extensible *definitions.ValueSet
	fixed      any
	pattern    any
	by         []discriminator // of the slices
	slices     []*rule
	children   []*rule
	invariants []invariant
	// self has the part of a slice that decides which values belong to it, if the
	// discriminator is the value itself. It is nil if nothing does.
	self *rule
	// expects describes the fixed values and patterns, for the texts of issues.
	expects string
}

type invariant struct {
	holds func(Node) bool
	text  string
}

// discriminator is a compiled Discriminator.
type discriminator struct {
	typ  string
	path []string // empty for $this
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

// profile returns the compiled form of a profile.
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
	b := &profileBuilder{v, v.set.Structure(p.Type)}
	for _, from := range p.Lineage() {
		for i := range from.Constraints {
			b.add(c.root, &from.Constraints[i])
		}
	}
	c.linkExtensions(v, p, c.root)
	c.root.finish()
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

// finish derives the fields that depend on the whole tree below r.
func (r *rule) finish() {
	if r.codes != nil || r.fixed != nil || r.pattern != nil || len(r.children) > 0 {
		r.self = &rule{codes: r.codes, fixed: r.fixed, pattern: r.pattern, children: r.children, max: -1}
	}
	for _, k := range r.children {
		k.finish()
	}
	for _, s := range r.slices {
		s.finish()
	}
	var parts []string
	r.describe("", &parts)
	if len(parts) > 0 && len(parts) <= 8 {
		r.expects = strings.Join(parts, ", ")
	}
	if r.self != nil {
		r.self.expects = r.expects
	}
}

// describe appends the values that r demands.
func (r *rule) describe(name string, out *[]string) {
	if r.name != "" {
		name = r.name
	}
	literal(name, r.fixed, out)
	literal(name, r.pattern, out)
	if r.codes != nil && r.fixed == nil {
		var codes []string
		for i := range r.codes.Systems {
			codes = append(codes, r.codes.Systems[i].Codes...)
		}
		if len(codes) <= 8 {
			*out = append(*out, name+" "+strings.Join(codes, " or "))
		}
	}
	for _, k := range r.children {
		k.describe("", out)
		for _, s := range k.slices {
			if s.min > 0 {
				s.describe("", out)
			}
		}
	}
}

// literal appends the strings of a JSON value with the names of their members.
func literal(name string, v any, out *[]string) {
	switch v := v.(type) {
	case string:
		*out = append(*out, name+" "+v)
	case json.Number:
		*out = append(*out, name+" "+v.String())
	case []any:
		for _, x := range v {
			literal(name, x, out)
		}
	case map[string]any:
		for _, k := range slices.Sorted(maps.Keys(v)) {
			literal(k, v[k], out)
		}
	}
}

type profileBuilder struct {
	validator *Validator
	structure *definitions.Structure // of the constrained type
}

// add merges a constraint into the tree.
func (b *profileBuilder) add(root *rule, c *definitions.Constraint) {
	r, st := root, b.structure
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
		r.codes, r.extensible = c.Codes, c.Extensible
	}
	if c.Fixed != "" {
		r.fixed = parsed(c.Fixed)
	}
	if c.Pattern != "" {
		r.pattern = parsed(c.Pattern)
	}
	if c.Slicing != nil {
		r.by = nil
		for _, x := range c.Slicing.Discriminator {
			var path []string
			if x.Path != "$this" {
				path = strings.Split(x.Path, ".")
			}
			r.by = append(r.by, discriminator{x.Type, path})
		}
	}
	for _, inv := range c.Invariants {
		if fn := b.validator.predicate(inv); fn != nil {
			r.invariants = append(r.invariants,
				invariant{fn, strings.TrimSuffix(inv.Human, ".") + " (" + inv.Key + ")"})
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
	kind, shortcut, in := "", false, st
	if st != nil {
		if m := st.LookupString(slice); m != nil && m.Choice {
			kind, slice = m.TypeName(), "" // value[x]:valueQuantity
			st = m.Structure
		} else if m := st.LookupString(name); m != nil {
			if m.Choice {
				kind, name, shortcut = m.TypeName(), st.Elements[m.Element].Name, true
			}
			st = m.Structure
		} else {
			st = nil
		}
	}
	next := find(&r.children, name, "", "")
	next.locate(in)
	if kind != "" {
		if shortcut && !slices.Contains(next.shortcuts, kind) {
			next.shortcuts = append(next.shortcuts, kind)
		}
		next = find(&next.slices, name, kind, "")
	}
	if slice != "" {
		next = find(&next.slices, name, "", slice)
	}
	return next, st
}

// locate sets the index of the element in a structure.
func (r *rule) locate(st *definitions.Structure) {
	if st == nil {
		return
	}
	for i := range st.Elements {
		if st.Elements[i].Name == r.name {
			r.in, r.index = st, uint8(i)
		}
	}
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
	for p := root.get("meta").items("profile"); p.Exists(); p = p.next() {
		d.checkProfile(root, string(p.Text()), int(p.index))
	}
	for _, url := range demanded {
		if len(definitions.KnownProfiles().Lookup(url)) == 0 {
			d.issueAt(0, "", 0, "not-supported", "the server does not know a profile that the request names")
			continue
		}
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
	if slices.Contains(d.checked, versions[0]) {
		return // claims may be repeated
	}
	d.checked = append(d.checked, versions[0])
	if versions[0].Type != root.Structure().Name {
		d.broken(claim, "", "is a profile of another resource type")
		return
	}
	c := profileCheck{doc: d, values: d.values[:0]}
	defer func() { d.values = c.values[:0] }()
	if len(versions) > 1 {
		for _, p := range versions {
			c.profile = d.validator.profile(p)
			if c.try(root, c.profile.root) {
				return
			}
		}
	}
	c.profile = d.validator.profile(versions[0])
	c.value(root, c.profile.root)
}

// profileCheck checks nodes against the rules of a profile.
type profileCheck struct {
	doc     *Document
	profile *profile
	quiet   bool // do not report issues
	failed  bool
	// warn reports what an extensible binding asks for. It is nil if warnings are not
	// wanted.
	warn   func(Node, string)
	values []Node // stack of the values of the current elements
}

func (c *profileCheck) fail(n Node, member, text string) {
	c.failed = true
	if !c.quiet {
		c.doc.issueAt(int(n.index), member, 0, "invariant", text+c.profile.suffix)
	}
}

// try reports whether a value meets a rule, without reporting issues.
func (c *profileCheck) try(n Node, r *rule) bool {
	quiet, failed, warn := c.quiet, c.failed, c.warn
	c.quiet, c.failed, c.warn = true, false, nil
	c.value(n, r)
	ok := !c.failed
	c.quiet, c.failed, c.warn = quiet, failed, warn
	return ok
}

// value checks one value of an element.
func (c *profileCheck) value(n Node, r *rule) {
	if r.fixed != nil && !n.equals(r.fixed) || r.pattern != nil && !n.matches(r.pattern) {
		c.fail(n, "", "must have the value of the profile: "+r.expects)
	}
	if len(r.types) > 0 {
		c.types(n, r)
	}
	if m := n.Member(); len(r.shortcuts) > 0 && m != nil && !slices.Contains(r.shortcuts, m.TypeName()) {
		c.fail(n, "", "must be a "+strings.Join(r.shortcuts, " or "))
	}
	if r.codes != nil && !n.bound(r.codes) {
		c.fail(n, "", strings.TrimSuffix(ruleBinding+": "+r.expects, ": "))
	}
	if r.extensible != nil && c.warn != nil && n.coded() && !n.bound(r.extensible) {
		c.warn(n, "should have a code of its extensible value set "+r.extensible.URL+c.profile.suffix)
	}
	for i := range r.invariants {
		if !r.invariants[i].holds(n) {
			c.fail(n, "", r.invariants[i].text)
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
			if x := c.profile.extensions[url]; x != nil {
				outer := c.profile
				c.profile = x
				c.value(n, x.root)
				c.profile = outer
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
	c.values = n.valuesOf(r, c.values)
	to := len(c.values)
	c.cardinality(n, r, to-from)
	for i := from; i < to; i++ {
		c.value(c.values[i], r)
	}
	for _, s := range r.slices {
		matched, decidable := 0, true
		for i := from; i < to; i++ {
			in, known := c.inSlice(c.values[i], r, s)
			decidable = decidable && known
			if in {
				matched++
				c.value(c.values[i], s)
			}
		}
		if decidable {
			c.cardinality(n, s, matched)
		}
	}
	c.values = c.values[:from]
}

// cardinality checks the number of values of an element or slice of n.
func (c *profileCheck) cardinality(n Node, r *rule, count int) {
	if count >= r.min && (r.max < 0 || count <= r.max) {
		return
	}
	if c.quiet {
		c.failed = true
		return
	}
	what := r.name
	if r.sliceName != "" {
		what += ":" + r.sliceName
	}
	if r.expects != "" {
		what += " with " + r.expects
	}
	switch {
	case count < r.min && r.min == 1:
		c.fail(n, r.name, "is required: "+what)
	case count < r.min:
		c.fail(n, r.name, "needs at least "+strconv.Itoa(r.min)+": "+what)
	case r.max == 0:
		c.fail(n, r.name, "is not allowed: "+what)
	default:
		c.fail(n, r.name, "is allowed only "+strconv.Itoa(r.max)+" times: "+what)
	}
}

// inSlice reports whether a value of the element r belongs to the slice s. It
// returns known as false if that cannot be decided.
func (c *profileCheck) inSlice(n Node, r, s *rule) (in, known bool) {
	if s.kind != "" {
		m := n.Member()
		return m != nil && m.TypeName() == s.kind, true
	}
	if len(r.by) == 0 {
		if n.Structure() == c.doc.validator.extension {
			return s.hasURL(n), true
		}
		return false, false
	}
	for i := range r.by {
		by := &r.by[i]
		switch {
		case n.Structure() == c.doc.validator.extension && len(by.path) == 1 && by.path[0] == "url":
			in, known = s.hasURL(n), true
		case by.typ == "type" && len(by.path) == 0:
			in, known = n.hasType(s.types), len(s.types) > 0
		case by.typ == "value" || by.typ == "pattern":
			in, known = c.discriminate(n, s, by.path)
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
	for i := range r.types {
		for _, p := range r.types[i].Profiles {
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

// discriminate reports whether a value at a path below n meets what the slice s
// demands of that path.
func (c *profileCheck) discriminate(n Node, s *rule, path []string) (in, known bool) {
	if len(path) == 0 {
		if s.self == nil {
			return false, false
		}
		return c.try(n, s.self), true
	}
	for _, k := range s.children {
		if k.name != path[0] {
			continue
		}
		from := len(c.values)
		c.values = n.valuesOf(k, c.values)
		for i, to := from, len(c.values); i < to && !in; i++ {
			var ok bool
			in, ok = c.discriminate(c.values[i], k, path[1:])
			known = known || ok
			// The value may be fixed in a slice of the element.
			for j := 0; j < len(k.slices) && !in; j++ {
				in, ok = c.discriminate(c.values[i], k.slices[j], path[1:])
				known = known || ok
			}
		}
		known = known || len(c.values) == from
		c.values = c.values[:from]
	}
	return in, known
}

// valuesOf appends the values of the element that a rule is about. A primitive
// that has only extensions counts as a value.
func (n Node) valuesOf(r *rule, out []Node) []Node {
	st := n.Structure()
	if st == nil {
		return out
	}
	var values, shadows Node
	for c := n.first(); c.Exists(); c = c.next() {
		m := c.at().member
		switch {
		case m == nil || st == r.in && m.Element != r.index || st != r.in && st.Elements[m.Element].Name != r.name:
		case c.at().shadow:
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
	for e := values.first(); e.Exists(); e = e.next() {
		out = append(out, e)
	}
	return out
}

// equals reports whether n equals a JSON value.
func (n Node) equals(want any) bool {
	if m, ok := want.(map[string]any); ok {
		count := 0
		for c := n.first(); c.Exists(); c = c.next() {
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
			for e := n.first(); e.Exists(); e = e.next() {
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

// coded reports whether n has a code. A CodeableConcept may have only a text.
func (n Node) coded() bool {
	st := n.Structure()
	return st == nil || st.Type != "CodeableConcept" || n.items("coding").Exists()
}

// bound reports whether n has a code of a value set. A value set of units binds only the
// Quantities among the types of a choice.
func (n Node) bound(set *definitions.ValueSet) bool {
	if m := n.Member(); m != nil && m.Choice && set.Units() && m.TypeName() != "Quantity" {
		return true
	}
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
		for c := n.items("coding"); c.Exists(); c = c.next() {
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
	d := n.doc
	if typ := d.validator.typeName(bytes.TrimPrefix(n.text("type"), typeBase)); typ != "" {
		return targets.Has(typ)
	}
	ref := n.text("reference")
	if len(ref) == 0 || ref[0] == '#' || bytes.IndexByte(ref, ':') >= 0 {
		return true
	}
	name, _, _ := bytes.Cut(ref, []byte{'/'})
	typ := d.validator.typeName(name)
	return typ == "" || targets.Has(typ)
}
