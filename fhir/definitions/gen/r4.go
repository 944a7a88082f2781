package main

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

const (
	structureBase = "http://hl7.org/fhir/StructureDefinition/"
	fhirType      = structureBase + "structuredefinition-fhir-type"
	maxValueSet   = structureBase + "elementdefinition-maxValueSet"
)

// structural lists the invariants that the validator checks for every element
// or resource as part of the structure.
var structural = []string{"ele-1", "ext-1", "dom-2", "dom-3", "dom-4", "dom-5", "dom-6", "ref-1", "txt-1", "txt-2"}

type r4Writer struct {
	invariants bytes.Buffer
	structures bytes.Buffer
	numbers    map[string]int // of invariants
}

func r4Tables(core, codes string) ([]byte, error) {
	w := &r4Writer{numbers: map[string]int{}}
	for _, f := range []string{"datatypes.ndjson.gz", "resources.ndjson.gz"} {
		if err := each(filepath.Join(core, f), w.definition); err != nil {
			return nil, err
		}
	}
	text, err := os.ReadFile(codes)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	for l := range strings.Lines(string(text)) {
		if !strings.HasPrefix(l, "#") {
			out.WriteString("V\t" + l)
		}
	}
	out.Write(w.invariants.Bytes())
	out.Write(w.structures.Bytes())
	return out.Bytes(), nil
}

// number returns the number of an invariant and writes it on first use.
func (w *r4Writer) number(c constraint) string {
	key := c.Key + "\t" + c.Expression
	n, ok := w.numbers[key]
	if !ok {
		n = len(w.numbers)
		w.numbers[key] = n
		line(&w.invariants, "I", c.Key, c.Severity, clean(c.Expression), clean(c.Human))
	}
	return strconv.Itoa(n)
}

func (w *r4Writer) constraints(list []constraint) string {
	var out []string
	for _, c := range list {
		if !slices.Contains(structural, c.Key) {
			out = append(out, w.number(c))
		}
	}
	return strings.Join(out, " ")
}

func (w *r4Writer) definition(d *definition) {
	if d.ResourceType != "StructureDefinition" || d.Derivation == "constraint" || d.Kind == "primitive-type" ||
		d.Kind == "resource" && d.Abstract || d.Name == "BackboneElement" {
		return
	}
	kind := "d"
	if d.Kind == "resource" {
		kind = "r"
	}
	w.structure(d, kind, d.Name, d.Name, "")
	if d.Name == "Quantity" {
		// R4 uses these profiles of Quantity as types of elements.
		w.structure(d, kind, d.Name, "SimpleQuantity", "comparator")
		w.structure(d, kind, d.Name, "MoneyQuantity", "")
	}
}

// structure writes the structure at a path of d and then those below it.
func (w *r4Writer) structure(d *definition, kind, path, name, without string) {
	all := d.Snapshot.Element
	var below []string
	at := slices.IndexFunc(all, func(e element) bool { return e.Path == path })
	typ := name
	switch {
	case kind == "e":
		typ = all[at].Type[0].Code
	case path != name:
		typ = path
	}
	line(&w.structures, "T", name, kind, typ, w.constraints(all[at].Constraint))
	for i := range all {
		e := &all[i]
		last, ok := strings.CutPrefix(e.Path, path+".")
		if !ok || strings.Contains(last, ".") || last == without {
			continue
		}
		parent := i+1 < len(all) && strings.HasPrefix(all[i+1].Path, e.Path+".")
		types := typesOf(e, kind == "r")
		constraints := w.constraints(e.Constraint)
		if parent {
			types = e.Path
			constraints = "" // written with the structure
			below = append(below, e.Path)
		}
		flags := ""
		if e.IsModifier {
			flags += "m"
		}
		if e.IsSummary {
			flags += "s"
		}
		line(&w.structures, "E", last, strconv.Itoa(*e.Min), e.Max, flags, binding(e), constraints, types)
	}
	for _, p := range below {
		w.structure(d, "e", p, p, "")
	}
}

func binding(e *element) string {
	for _, x := range e.Binding.Extension {
		if x.URL == maxValueSet && strings.HasSuffix(x.ValueCanonical, "/all-languages") {
			return x.ValueCanonical
		}
	}
	if e.Binding.Strength != "required" {
		return ""
	}
	url, _, _ := strings.Cut(e.Binding.ValueSet, "|")
	return url
}

func typesOf(e *element, resource bool) string {
	if e.ContentReference != "" {
		return strings.TrimPrefix(e.ContentReference, "#")
	}
	var out []string
	for _, t := range e.Type {
		code := t.Code
		for _, x := range t.Extension {
			if x.URL == fhirType {
				code = x.ValueURL
			}
		}
		bare := strings.HasPrefix(t.Code, "http://hl7.org/fhirpath/") || code == "xhtml"
		if resource && strings.HasSuffix(e.Path, ".id") && strings.Count(e.Path, ".") == 1 {
			code = "id" // R4 resource.html#id; the StructureDefinition says string
		}
		for _, p := range t.Profile {
			if n := strings.TrimPrefix(p, structureBase); n == "SimpleQuantity" || n == "MoneyQuantity" {
				code = n
			}
		}
		if code == "Reference" || code == "canonical" {
			for _, p := range t.TargetProfile {
				code += "|" + strings.TrimPrefix(p, structureBase)
			}
		}
		if bare {
			code += "!"
		}
		out = append(out, code)
	}
	return strings.Join(out, " ")
}
