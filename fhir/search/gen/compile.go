package main

import (
	"regexp"
	"slices"
	"sort"
	"strings"
)

type element struct {
	Path             string
	Max              string
	ContentReference string
	Type             []struct {
		Code          string
		TargetProfile []string
	}
}

// path is a compiled alternative of an expression.
type path struct {
	steps              []string
	typ                string
	want               string
	whereMem, whereVal string
	targets            []string // from the element's targetProfile
	many               bool     // an element on the path may repeat
}

type compiler struct{ elements map[string]element }

// narrow returns the targets that the elements allow. HL7 defines some parameters
// for several types (clinical-patient), so their lists of targets are too wide. An
// empty result means any type.
func narrow(targets []string, paths []path) []string {
	allowed := map[string]bool{}
	for _, p := range paths {
		if p.want != "" {
			allowed[p.want] = true
			continue
		}
		for _, t := range p.targets {
			allowed[t] = true
		}
	}
	if len(allowed) == 0 || allowed["Resource"] {
		if len(targets) > 20 {
			return nil
		}
		return targets
	}
	var out []string
	for t := range allowed {
		if slices.Contains(targets, t) {
			out = append(out, t)
		}
	}
	sort.Strings(out)
	return out
}

var (
	asCall    = regexp.MustCompile(`^([A-Za-z.]+)\.as\(([A-Za-z]+)\)$`)
	asForm    = regexp.MustCompile(`^\(([A-Za-z.]+) as ([A-Za-z]+)\)(?:\.([A-Za-z]+))?$`)
	whereForm = regexp.MustCompile(`^([A-Za-z.]+)\.where\(([A-Za-z]+)='([^']*)'\)$`)
	wantForm  = regexp.MustCompile(`^([A-Za-z.]+)\.where\(resolve\(\) is ([A-Za-z]+)\)$`)
	extForm   = regexp.MustCompile(`^[A-Za-z]+\.extension\('([^']*)'\)$`)
	pathForm  = regexp.MustCompile(`^[A-Za-z.]+$`)
)

// beginning returns the alternatives of an expression that begin with t.
func beginning(t, expression string) []string {
	var out []string
	for _, alt := range strings.Split(expression, "|") {
		alt = strings.TrimSpace(alt)
		if alt == "id" {
			alt = "Resource.id"
		}
		if root := strings.TrimLeft(alt, "("); root == t || strings.HasPrefix(root, t+".") {
			out = append(out, alt)
		}
	}
	return out
}

// compile compiles the alternatives of p's expression that begin with t. It returns
// those that are not paths in rest.
func (c *compiler) compile(t string, p *searchParameter) (out []path, rest []string) {
	if t == "Patient" && p.Code == "deceased" {
		return []path{{steps: []string{"deceasedBoolean"}, typ: "exists"},
			{steps: []string{"deceasedDateTime"}, typ: "exists"}}, nil
	}
	for _, alt := range beginning(t, p.Expression) {
		a, as, tail := path{}, "", ""
		steps := alt
		switch {
		case pathForm.MatchString(alt):
		case asCall.MatchString(alt):
			m := asCall.FindStringSubmatch(alt)
			steps, as = m[1], m[2]
		case asForm.MatchString(alt):
			m := asForm.FindStringSubmatch(alt)
			steps, as, tail = m[1], m[2], m[3]
		case whereForm.MatchString(alt):
			m := whereForm.FindStringSubmatch(alt)
			steps, a.whereMem, a.whereVal = m[1], m[2], m[3]
		case wantForm.MatchString(alt):
			m := wantForm.FindStringSubmatch(alt)
			steps, a.want = m[1], m[2]
		case extForm.MatchString(alt): // the value of the extension is what is meant
			out = append(out, path{steps: []string{"extension"}, typ: "Extension", whereMem: "url",
				whereVal: extForm.FindStringSubmatch(alt)[1]})
			continue
		default:
			rest = append(rest, alt)
			continue
		}
		found := c.walk(t, strings.Split(strings.TrimPrefix(steps, t+"."), "."), as, a)
		if tail != "" {
			for i := range found {
				found[i] = c.extend(found[i], tail)
			}
		}
		out = append(out, found...)
	}
	return out, rest
}

// walk resolves steps below root and expands choice elements to member names.
func (c *compiler) walk(root string, steps []string, as string, a path) []path {
	if len(steps) == 0 {
		return []path{a}
	}
	name := root + "." + steps[0]
	e, choice := c.elements[name+"[x]"]
	if !choice {
		var ok bool
		if e, ok = c.elements[name]; !ok {
			return nil
		}
	}
	if ref := strings.TrimPrefix(e.ContentReference, "#"); ref != "" {
		b := a
		b.many = a.many || e.Max != "1"
		b.steps = append(slices.Clone(a.steps), steps[0])
		return c.walk(ref, steps[1:], as, b)
	}
	var out []path
	for _, ty := range e.Type {
		code := ty.Code
		if strings.HasPrefix(code, "http://hl7.org/fhirpath/System.") {
			code = "id"
		}
		last := len(steps) == 1
		if last && as != "" && code != as {
			continue
		}
		b := a
		member := steps[0]
		if choice {
			member += strings.ToUpper(code[:1]) + code[1:]
		}
		b.steps = append(slices.Clone(a.steps), member)
		b.typ, b.many = code, a.many || e.Max != "1"
		b.targets = nil
		for _, tp := range ty.TargetProfile {
			b.targets = append(b.targets, tp[strings.LastIndexByte(tp, '/')+1:])
		}
		next := code
		if code == "BackboneElement" || code == "Element" {
			next = name
		}
		out = append(out, c.walk(next, steps[1:], as, b)...)
	}
	return out
}

// extend appends a member to a compiled path.
func (c *compiler) extend(a path, member string) path {
	b := c.walk(a.typ, []string{member}, "", a)
	if len(b) != 1 {
		return path{}
	}
	return b[0]
}
