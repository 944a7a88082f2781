package terminology

import (
	"encoding/json"
	"slices"
	"strings"

	"pulsegate/fhir"
	"pulsegate/fhir/element"
)

// Concept is a code of a CodeSystem.
type Concept struct {
	Code        string
	Display     string
	Definition  string
	Designation []Designation
	Property    []Property
	parents     []int32 // indexes
	children    []int32
}

// Designation is a further text for a code.
type Designation struct {
	Language string          `json:"language,omitempty"`
	Use      *element.Coding `json:"use,omitempty"`
	Value    string          `json:"value"`
}

// Property is a property of a code. Type is the name of its value in JSON, such as
// valueCode, and Value the value as text.
type Property struct {
	Code, Type, Value string
	Raw               json.RawMessage
}

// CodeSystem is a code system that is held.
type CodeSystem struct {
	Ref           fhir.Ref // zero if it is of R4
	URL, Version  string
	Name, Title   string
	Content       string // complete, fragment, example, not-present or supplement
	CaseSensitive bool
	// Hierarchy is the meaning of the hierarchy; subsumption needs is-a.
	Hierarchy  string
	ValueSet   string // URL of the value set with all codes, or ""
	Concepts   []Concept
	properties []string // that are declared
	byCode     map[string]int32
}

type rawConcept struct {
	Code        string                       `json:"code"`
	Display     string                       `json:"display"`
	Definition  string                       `json:"definition"`
	Designation []Designation                `json:"designation"`
	Property    []map[string]json.RawMessage `json:"property"`
	Concept     []rawConcept                 `json:"concept"`
}

// ParseCodeSystem reads a valid CodeSystem resource.
func ParseCodeSystem(body []byte) (*CodeSystem, error) {
	var raw struct {
		URL              string                  `json:"url"`
		Version          string                  `json:"version"`
		Name             string                  `json:"name"`
		Title            string                  `json:"title"`
		Content          string                  `json:"content"`
		CaseSensitive    bool                    `json:"caseSensitive"`
		HierarchyMeaning string                  `json:"hierarchyMeaning"`
		ValueSet         string                  `json:"valueSet"`
		Property         []struct{ Code string } `json:"property"`
		Concept          []rawConcept            `json:"concept"`
	}
	if err := json.Unmarshal(body, &raw); err != nil {
		return nil, errContent("CodeSystem")
	}
	s := &CodeSystem{URL: raw.URL, Version: raw.Version, Name: raw.Name, Title: raw.Title, Content: raw.Content,
		CaseSensitive: raw.CaseSensitive, Hierarchy: raw.HierarchyMeaning, ValueSet: raw.ValueSet,
		byCode: map[string]int32{}}
	for _, p := range raw.Property {
		s.properties = append(s.properties, p.Code)
	}
	for i := range raw.Concept {
		s.add(&raw.Concept[i], -1)
	}
	s.link()
	return s, nil
}

// errContent is the error of a resource that is not one of its type.
func errContent(typ string) error {
	return fhir.Errorf(fhir.Invalid, "terminology.Parse", "the content is not a %s", typ)
}

func (s *CodeSystem) add(raw *rawConcept, parent int32) {
	i, known := s.find(raw.Code)
	if !known {
		i = int32(len(s.Concepts))
		s.byCode[s.key(raw.Code)] = i
		s.Concepts = append(s.Concepts, Concept{Code: raw.Code, Display: raw.Display, Definition: raw.Definition,
			Designation: raw.Designation, Property: properties(raw.Property)})
	}
	if c := &s.Concepts[i]; parent >= 0 && parent != i && !slices.Contains(c.parents, parent) {
		c.parents = append(c.parents, parent)
	}
	for k := range raw.Concept {
		s.add(&raw.Concept[k], i)
	}
}

func properties(list []map[string]json.RawMessage) (out []Property) {
	for _, m := range list {
		var p Property
		if json.Unmarshal(m["code"], &p.Code) != nil {
			continue
		}
		for name, raw := range m {
			if !strings.HasPrefix(name, "value") {
				continue
			}
			p.Type, p.Raw = name, raw
			var c element.Coding
			switch {
			case json.Unmarshal(raw, &p.Value) == nil:
			case name == "valueCoding" && json.Unmarshal(raw, &c) == nil:
				p.Value = c.Code
			default:
				p.Value = string(raw) // a number or boolean
			}
		}
		out = append(out, p)
	}
	return out
}

// link adds what the properties parent and child say of the hierarchy.
func (s *CodeSystem) link() {
	for i := range s.Concepts {
		for _, p := range s.Concepts[i].Property {
			other, ok := s.find(p.Value)
			if !ok || other == int32(i) {
				continue
			}
			child, parent := int32(i), other
			switch p.Code {
			case "parent":
			case "child":
				child, parent = other, int32(i)
			default:
				continue
			}
			if c := &s.Concepts[child]; !slices.Contains(c.parents, parent) {
				c.parents = append(c.parents, parent)
			}
		}
	}
	for i := range s.Concepts {
		for _, p := range s.Concepts[i].parents {
			s.Concepts[p].children = append(s.Concepts[p].children, int32(i))
		}
	}
}

func (s *CodeSystem) key(code string) string {
	if s.CaseSensitive {
		return code
	}
	return strings.ToLower(code)
}

func (s *CodeSystem) find(code string) (int32, bool) {
	i, ok := s.byCode[s.key(code)]
	return i, ok
}

// Concept returns the concept with a code, or nil.
func (s *CodeSystem) Concept(code string) *Concept {
	if i, ok := s.find(code); ok {
		return &s.Concepts[i]
	}
	return nil
}

// whole reports whether the codes of s stand for the code system.
func (s *CodeSystem) whole() bool { return s.Content == "complete" || s.Content == "fragment" }

// reach returns the concepts that step leads to from a concept, itself included.
func (s *CodeSystem) reach(from int32, step func(*Concept) []int32) map[int32]bool {
	seen := map[int32]bool{from: true}
	for list := []int32{from}; len(list) > 0; {
		i := list[len(list)-1]
		list = list[:len(list)-1]
		for _, next := range step(&s.Concepts[i]) {
			if !seen[next] {
				seen[next] = true
				list = append(list, next)
			}
		}
	}
	return seen
}

func up(c *Concept) []int32   { return c.parents }
func down(c *Concept) []int32 { return c.children }

// Parents and Children return the codes next to c in the hierarchy.
func (s *CodeSystem) Parents(c *Concept) []string { return s.codes(c.parents) }

// Children returns the codes directly below c.
func (s *CodeSystem) Children(c *Concept) []string { return s.codes(c.children) }

func (s *CodeSystem) codes(list []int32) (out []string) {
	for _, i := range list {
		out = append(out, s.Concepts[i].Code)
	}
	return out
}

// inactive reports whether c may not be used any more, by the properties of R4
// (codesystem-concept-properties).
func (c *Concept) inactive() bool {
	return slices.ContainsFunc(c.Property, func(p Property) bool {
		return p.Code == "inactive" && p.Value == "true" || p.Code == "status" &&
			(p.Value == "retired" || p.Value == "inactive")
	})
}

// IsAbstract reports whether c only groups others.
func (c *Concept) IsAbstract() bool {
	return slices.ContainsFunc(c.Property, func(p Property) bool {
		return (p.Code == "notSelectable" || p.Code == "abstract") && p.Value == "true"
	})
}

// ValueSet is a value set that is held.
type ValueSet struct {
	Ref                       fhir.Ref // zero if it is of R4
	URL, Version, Name, Title string
	Include, Exclude          []part
	Inactive                  *bool  // compose.inactive
	expansion                 []Code // if there is no compose
	hasCompose, hasExpansion  bool
}

// part is one include or exclude.
type part struct {
	System    string   `json:"system"`
	Version   string   `json:"version"`
	Concept   []listed `json:"concept"`
	Filter    []filter `json:"filter"`
	ValueSets []string `json:"valueSet"`
}

type listed struct {
	Code        string        `json:"code"`
	Display     string        `json:"display"`
	Designation []Designation `json:"designation"`
}

type filter struct {
	Property string `json:"property"`
	Op       string `json:"op"`
	Value    string `json:"value"`
}

// Code is one code of an expansion.
type Code struct {
	element.Coding
	Version     string
	Abstract    bool
	Inactive    bool
	Designation []Designation
}

type contained struct {
	System   string      `json:"system"`
	Version  string      `json:"version"`
	Code     string      `json:"code"`
	Display  string      `json:"display"`
	Abstract bool        `json:"abstract"`
	Inactive bool        `json:"inactive"`
	Contains []contained `json:"contains"`
}

// ParseValueSet reads a valid ValueSet resource.
func ParseValueSet(body []byte) (*ValueSet, error) {
	var raw struct {
		URL     string `json:"url"`
		Version string `json:"version"`
		Name    string `json:"name"`
		Title   string `json:"title"`
		Compose *struct {
			Inactive *bool  `json:"inactive"`
			Include  []part `json:"include"`
			Exclude  []part `json:"exclude"`
		} `json:"compose"`
		Expansion *struct {
			Contains []contained `json:"contains"`
		} `json:"expansion"`
	}
	if err := json.Unmarshal(body, &raw); err != nil {
		return nil, errContent("ValueSet")
	}
	v := &ValueSet{URL: raw.URL, Version: raw.Version, Name: raw.Name, Title: raw.Title}
	if raw.Compose != nil {
		v.hasCompose, v.Include, v.Exclude, v.Inactive = true, raw.Compose.Include, raw.Compose.Exclude,
			raw.Compose.Inactive
	} else if raw.Expansion != nil {
		v.hasExpansion = true
		v.flatten(raw.Expansion.Contains)
	}
	return v, nil
}

func (v *ValueSet) flatten(list []contained) {
	for _, c := range list {
		if c.Code != "" {
			v.expansion = append(v.expansion,
				Code{Coding: element.Coding{System: c.System, Code: c.Code, Display: c.Display},
					Version: c.Version, Abstract: c.Abstract, Inactive: c.Inactive})
		}
		v.flatten(c.Contains)
	}
}

// size returns the number of concepts that v lists.
func (v *ValueSet) size() int {
	n := len(v.expansion)
	for _, list := range [][]part{v.Include, v.Exclude} {
		for i := range list {
			n += len(list[i].Concept)
		}
	}
	return n
}

// ConceptMap is a concept map that is held.
type ConceptMap struct {
	Ref            fhir.Ref
	URL, Version   string
	source, target string // value sets
	Group          []mapGroup
}

type mapGroup struct {
	Source  string       `json:"source"`
	Target  string       `json:"target"`
	Element []mapElement `json:"element"`
	// Unmapped says what holds for codes without an element.
	Unmapped *struct {
		Mode    string `json:"mode"`
		Code    string `json:"code"`
		Display string `json:"display"`
	} `json:"unmapped"`
}

type mapElement struct {
	Code    string      `json:"code"`
	Display string      `json:"display"`
	Target  []mapTarget `json:"target"`
}

type mapTarget struct {
	Code        string            `json:"code"`
	Display     string            `json:"display"`
	Equivalence string            `json:"equivalence"`
	Comment     string            `json:"comment"`
	DependsOn   []json.RawMessage `json:"dependsOn"`
}

// ParseConceptMap reads a valid ConceptMap resource.
func ParseConceptMap(body []byte) (*ConceptMap, error) {
	var raw struct {
		URL             string     `json:"url"`
		Version         string     `json:"version"`
		SourceURI       string     `json:"sourceUri"`
		SourceCanonical string     `json:"sourceCanonical"`
		TargetURI       string     `json:"targetUri"`
		TargetCanonical string     `json:"targetCanonical"`
		Group           []mapGroup `json:"group"`
	}
	if err := json.Unmarshal(body, &raw); err != nil {
		return nil, errContent("ConceptMap")
	}
	return &ConceptMap{URL: raw.URL, Version: raw.Version, source: raw.SourceURI + raw.SourceCanonical,
		target: raw.TargetURI + raw.TargetCanonical, Group: raw.Group}, nil
}

func (m *ConceptMap) size() (n int) {
	for i := range m.Group {
		n += len(m.Group[i].Element)
	}
	return n
}
