package terminology

import (
	"cmp"
	"context"
	"regexp"
	"slices"
	"strings"

	"pulsegate/fhir"
	"pulsegate/fhir/element"
)

const op = "terminology.Expand"

// unsupported returns the error of a question that cannot be decided.
func unsupported(format string, args ...any) error {
	e := fhir.Errorf(fhir.Unprocessable, op, format, args...)
	e.Issues[0].Code = "not-supported"
	return e
}

// key identifies a code in a set.
type key struct{ system, code string }

// expansion is the work of one expansion.
type expansion struct {
	service *Service
	ctx     context.Context
	depth   int
	steps   int
}

// maxSteps bounds the codes that one question looks at.
const maxSteps = 5_000_000

func (x *expansion) step(n int) error {
	if x.steps += n; x.steps > maxSteps {
		e := fhir.Errorf(fhir.TooCostly, op, "the value set refers to too much")
		return e
	}
	return x.ctx.Err()
}

// Codes returns the codes of a value set in the order of its definition. The error has the
// code too-costly if there are more than MaxCodes.
func (s *Service) Codes(ctx context.Context, v *ValueSet) ([]Code, error) {
	x := &expansion{service: s, ctx: ctx}
	return x.all(v)
}

func (x *expansion) all(v *ValueSet) ([]Code, error) {
	if x.depth++; x.depth > maxDepth {
		return nil, unsupported("value sets import each other to a depth of more than %d, or in a circle", maxDepth)
	}
	defer func() { x.depth-- }()
	if !v.hasCompose {
		if !v.hasExpansion {
			return nil, unsupported("a value set has neither compose nor expansion")
		}
		return v.expansion, nil
	}
	var out []Code
	seen := map[key]bool{}
	for i := range v.Exclude {
		list, err := x.part(&v.Exclude[i])
		if err != nil {
			return nil, err
		}
		for _, c := range list {
			seen[key{c.System, c.Code}] = true
		}
	}
	for i := range v.Include {
		list, err := x.part(&v.Include[i])
		if err != nil {
			return nil, err
		}
		for _, c := range list {
			if k := (key{c.System, c.Code}); !seen[k] && !(c.Inactive && v.Inactive != nil && !*v.Inactive) {
				seen[k] = true
				out = append(out, c)
			}
		}
		if len(out) > MaxCodes {
			return nil, fhir.Errorf(fhir.TooCostly, op, "the value set has more than %d codes", MaxCodes)
		}
	}
	return out, nil
}

// part returns the codes of one include or exclude.
func (x *expansion) part(p *part) ([]Code, error) {
	var out []Code
	var err error
	if p.System != "" {
		if out, err = x.system(p); err != nil {
			return nil, err
		}
	}
	for i, url := range p.ValueSets {
		v, err := x.service.ValueSet(x.ctx, url, "")
		if err != nil {
			return nil, err
		}
		if v == nil {
			return nil, unsupported("the value set imports another one that the server does not hold")
		}
		list, err := x.all(v)
		if err != nil {
			return nil, err
		}
		if i == 0 && p.System == "" {
			out = slices.Clone(list)
			continue
		}
		in := map[key]bool{}
		for _, c := range list {
			in[key{c.System, c.Code}] = true
		}
		out = slices.DeleteFunc(out, func(c Code) bool { return !in[key{c.System, c.Code}] })
	}
	return out, x.step(len(out) + 1)
}

// system returns the codes of a code system that a part selects.
func (x *expansion) system(p *part) ([]Code, error) {
	sys, err := x.service.CodeSystem(x.ctx, p.System, p.Version)
	if err != nil {
		return nil, err
	}
	var out []Code
	if len(p.Concept) > 0 {
		for _, l := range p.Concept {
			c := Code{Coding: element.Coding{System: p.System, Code: l.Code, Display: l.Display}, Version: p.Version,
				Designation: l.Designation}
			if sys != nil {
				if known := sys.Concept(l.Code); known != nil {
					c.Display = cmp.Or(c.Display, known.Display)
					c.Inactive, c.Abstract = known.inactive(), known.IsAbstract()
					c.Designation = append(slices.Clone(c.Designation), known.Designation...)
				}
			}
			out = append(out, c)
		}
		return out, x.step(len(out))
	}
	if sys == nil {
		return nil, unsupported("the value set takes codes from a code system that the server does not hold")
	}
	if !sys.whole() {
		return nil, unsupported("the value set takes codes from a code system of which the server holds no codes")
	}
	match, err := sys.matcher(p.Filter)
	if err != nil {
		return nil, err
	}
	if err := x.step(len(sys.Concepts) * (1 + len(p.Filter))); err != nil {
		return nil, err
	}
	for i := range sys.Concepts {
		if match(int32(i)) {
			out = append(out, sys.code(&sys.Concepts[i]))
		}
	}
	return out, nil
}

// code returns a concept as a code of an expansion.
func (s *CodeSystem) code(c *Concept) Code {
	return Code{Coding: element.Coding{System: s.URL, Code: c.Code, Display: c.Display}, Version: s.Version,
		Inactive: c.inactive(), Abstract: c.IsAbstract(), Designation: c.Designation}
}

// matcher returns the function that reports whether a concept meets all filters.
func (s *CodeSystem) matcher(filters []filter) (func(int32) bool, error) {
	var all []func(int32) bool
	for i := range filters {
		m, err := s.filter(&filters[i])
		if err != nil {
			return nil, err
		}
		all = append(all, m)
	}
	return func(i int32) bool {
		for _, m := range all {
			if !m(i) {
				return false
			}
		}
		return true
	}, nil
}

const maxPattern = 500 // bytes of a regular expression

func (s *CodeSystem) filter(f *filter) (func(int32) bool, error) {
	switch f.Op {
	case "is-a", "descendent-of", "is-not-a", "generalizes":
		return s.hierarchy(f)
	}
	if !slices.Contains(s.properties, f.Property) && f.Property != "code" && f.Property != "display" &&
		f.Property != "parent" && f.Property != "child" && f.Property != "inactive" {
		return nil, unsupported("the value set has a filter of a property that its code system does not have")
	}
	values := func(i int32) []string { return s.valuesOf(i, f.Property) }
	switch f.Op {
	case "=":
		return func(i int32) bool { return slices.Contains(values(i), f.Value) }, nil
	case "in", "not-in":
		list := strings.Split(f.Value, ",")
		for i := range list {
			list[i] = strings.TrimSpace(list[i])
		}
		return func(i int32) bool {
			in := slices.ContainsFunc(values(i), func(v string) bool { return slices.Contains(list, v) })
			return in == (f.Op == "in")
		}, nil
	case "exists":
		return func(i int32) bool { return (len(values(i)) > 0) == (f.Value == "true") }, nil
	case "regex":
		if len(f.Value) > maxPattern {
			return nil, unsupported("the value set has a regular expression of more than %d bytes", maxPattern)
		}
		pattern, err := regexp.Compile(`\A(?:` + f.Value + `)\z`)
		if err != nil {
			return nil, unsupported("the value set has a regular expression that the server does not understand")
		}
		return func(i int32) bool { return slices.ContainsFunc(values(i), pattern.MatchString) }, nil
	}
	return nil, unsupported("the value set has a filter with an operator that the server does not know")
}

// valuesOf returns the values of a property of a concept.
func (s *CodeSystem) valuesOf(i int32, property string) (out []string) {
	c := &s.Concepts[i]
	switch property {
	case "code":
		return []string{c.Code}
	case "display":
		return []string{c.Display}
	case "parent":
		return s.Parents(c)
	case "child":
		return s.Children(c)
	}
	for _, p := range c.Property {
		if p.Code == property {
			out = append(out, p.Value)
		}
	}
	return out
}

// hierarchy returns the filter of a concept's place in the hierarchy.
func (s *CodeSystem) hierarchy(f *filter) (func(int32) bool, error) {
	if f.Property != "concept" && f.Property != "code" {
		return nil, unsupported("the value set has a filter of the hierarchy for another property than concept")
	}
	if err := s.subsumptive(); err != nil {
		return nil, err
	}
	at, ok := s.find(f.Value)
	if !ok {
		return nil, unsupported("the value set has a filter with a code that its code system does not have")
	}
	step := down
	if f.Op == "generalizes" {
		step = up
	}
	reach := s.reach(at, step)
	return func(i int32) bool {
		switch f.Op {
		case "is-not-a":
			return !reach[i]
		case "descendent-of":
			return reach[i] && i != at
		}
		return reach[i]
	}, nil
}

// subsumptive returns an error unless the hierarchy of s means that a code is a kind of the
// one above.
func (s *CodeSystem) subsumptive() error {
	if s.Ref == (fhir.Ref{}) {
		return unsupported("the server knows the codes of this code system, but not their hierarchy")
	}
	if s.Hierarchy != "" && s.Hierarchy != "is-a" {
		return unsupported("the hierarchy of the code system does not mean is-a")
	}
	return nil
}

// Has reports whether a code is in a value set, and returns it as it is there. An empty
// system matches any.
func (s *Service) Has(ctx context.Context, v *ValueSet, system, code string) (Code, bool, error) {
	x := &expansion{service: s, ctx: ctx}
	return x.has(v, system, code)
}

func (x *expansion) has(v *ValueSet, system, code string) (c Code, ok bool, err error) {
	if x.depth++; x.depth > maxDepth {
		return c, false, unsupported("value sets import each other to a depth of more than %d, or in a circle",
			maxDepth)
	}
	defer func() { x.depth-- }()
	if !v.hasCompose {
		if !v.hasExpansion {
			return c, false, unsupported("a value set has neither compose nor expansion")
		}
		i := slices.IndexFunc(v.expansion,
			func(c Code) bool { return c.Code == code && (system == "" || c.System == system) })
		if i < 0 {
			return c, false, nil
		}
		return v.expansion[i], true, nil
	}
	var undecided error
	for i := range v.Include {
		found, in, err := x.partHas(&v.Include[i], system, code)
		if err != nil {
			undecided = cmp.Or(undecided, err) // another include may have it
		}
		if in {
			c, ok, undecided = found, true, nil
			break
		}
	}
	if !ok {
		return c, false, undecided
	}
	if c.Inactive && v.Inactive != nil && !*v.Inactive {
		return c, false, nil
	}
	for i := range v.Exclude {
		_, out, err := x.partHas(&v.Exclude[i], c.System, code)
		if err != nil || out {
			return c, false, err
		}
	}
	return c, true, nil
}

// partHas reports whether one include or exclude has a code.
func (x *expansion) partHas(p *part, system, code string) (c Code, ok bool, err error) {
	if err := x.step(1 + len(p.Concept)); err != nil {
		return c, false, err
	}
	if p.System != "" {
		if system != "" && system != p.System {
			return c, false, nil
		}
		if c, ok, err = x.systemHas(p, code); err != nil || !ok {
			return c, false, err
		}
		system = p.System
	}
	for i, url := range p.ValueSets {
		v, err := x.service.ValueSet(x.ctx, url, "")
		if err != nil {
			return c, false, err
		}
		if v == nil {
			return c, false, unsupported("the value set imports another one that the server does not hold")
		}
		found, in, err := x.has(v, system, code)
		if err != nil || !in {
			return c, false, err
		}
		if i == 0 && p.System == "" {
			c, system = found, found.System
		}
	}
	return c, p.System != "" || len(p.ValueSets) > 0, nil
}

func (x *expansion) systemHas(p *part, code string) (c Code, ok bool, err error) {
	if len(p.Concept) > 0 {
		i := slices.IndexFunc(p.Concept, func(l listed) bool { return l.Code == code })
		if i < 0 {
			return c, false, nil
		}
		one := *p
		one.Concept = p.Concept[i : i+1]
		list, err := x.system(&one)
		if err != nil {
			return c, false, err
		}
		return list[0], true, nil
	}
	sys, err := x.service.CodeSystem(x.ctx, p.System, p.Version)
	if err != nil {
		return c, false, err
	}
	if sys == nil {
		return c, false, unsupported("the value set takes codes from a code system that the server does not hold")
	}
	if !sys.whole() {
		return c, false, unsupported("the value set takes codes from a code system of which the server holds no codes")
	}
	at, known := sys.find(code)
	if !known {
		if sys.Content == "fragment" {
			return c, false, unsupported(
				"the server holds only a part of the code system, and the code is not in that part")
		}
		return c, false, nil
	}
	match, err := sys.matcher(p.Filter)
	if err != nil || !match(at) {
		return c, false, err
	}
	return sys.code(&sys.Concepts[at]), true, nil
}
