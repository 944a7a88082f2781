package terminology

import (
	"context"
	"encoding/json"
	"slices"
	"strings"

	"pulsegate/fhir"
	"pulsegate/fhir/element"
	"pulsegate/fhir/fhirpath"
)

// Relation relates two codes, by the values of $subsumes.
type Relation string

const (
	Equivalent  Relation = "equivalent"
	Subsumes    Relation = "subsumes"
	SubsumedBy  Relation = "subsumed-by"
	NotSubsumed Relation = "not-subsumed"
)

// Relation returns how a is related to b.
func (s *CodeSystem) Relation(a, b string) (Relation, error) {
	i, okA := s.find(a)
	j, okB := s.find(b)
	switch {
	case !okA || !okB:
		return "", fhir.Errorf(fhir.NotFound, op, "the code system does not have the code %s",
			map[bool]string{true: "B",
				false: "A"}[okA])
	case i == j:
		return Equivalent, nil
	}
	if err := s.subsumptive(); err != nil {
		return "", err
	}
	switch {
	case s.reach(i, down)[j]:
		return Subsumes, nil
	case s.reach(i, up)[j]:
		return SubsumedBy, nil
	}
	return NotSubsumed, nil
}

// Expand implements search.ValueSets.
func (s *Service) Expand(url string) ([]element.Coding, bool) {
	ctx := context.Background()
	v, err := s.ValueSet(ctx, url, "")
	if err != nil || v == nil {
		return nil, false
	}
	codes, err := s.Codes(ctx, v)
	if err != nil {
		return nil, false
	}
	out := make([]element.Coding, len(codes))
	for i := range codes {
		out[i] = codes[i].Coding
	}
	return out, true
}

// Below implements search.ValueSets.
func (s *Service) Below(system, code string) ([]string, bool) { return s.around(system, code, down) }

// Above implements search.ValueSets.
func (s *Service) Above(system, code string) ([]string, bool) { return s.around(system, code, up) }

func (s *Service) around(system, code string, step func(*Concept) []int32) (out []string, ok bool) {
	c, err := s.CodeSystem(context.Background(), system, "")
	if err != nil || c == nil || c.subsumptive() != nil {
		return nil, false
	}
	i, ok := c.find(code)
	if !ok {
		return nil, false
	}
	for j := range c.reach(i, step) {
		out = append(out, c.Concepts[j].Code)
	}
	slices.Sort(out)
	return out, true
}

// codings returns the codings of a code, Coding or CodeableConcept. plain is set for a code.
func codings(v fhirpath.Value) (out []element.Coding, plain, ok bool) {
	if text, isText := v.Text(); isText {
		return []element.Coding{{Code: text}}, true, true
	}
	var concept element.CodeableConcept
	var coding element.Coding
	switch strings.TrimPrefix(v.Type(), "FHIR.") {
	case "CodeableConcept":
		ok = json.Unmarshal([]byte(v.JSON()), &concept) == nil
		return concept.Coding, false, ok
	case "Coding":
		ok = json.Unmarshal([]byte(v.JSON()), &coding) == nil
		return []element.Coding{coding}, false, ok
	}
	return nil, false, false
}

// MemberOf is fhirpath.Env.MemberOf.
func (s *Service) MemberOf(ctx context.Context, v fhirpath.Value, url string) (bool, error) {
	set, err := s.ValueSet(ctx, url, "")
	if err != nil {
		return false, err
	}
	if set == nil {
		return false, unsupported("memberOf names a value set that the server does not hold")
	}
	list, plain, ok := codings(v)
	if !ok {
		return false, unsupported("memberOf needs a code, a Coding or a CodeableConcept")
	}
	for _, c := range list {
		if c.System == "" && !plain {
			continue // without a system, a Coding says nothing
		}
		_, in, err := s.Has(ctx, set, c.System, c.Code)
		if err != nil || in {
			return in, err
		}
	}
	return false, nil
}

// Subsumes is fhirpath.Env.Subsumes.
func (s *Service) Subsumes(ctx context.Context, a, b fhirpath.Value) (bool, error) {
	left, plainA, okA := codings(a)
	right, plainB, okB := codings(b)
	if !okA || !okB || plainA || plainB {
		return false, unsupported("subsumes needs Codings or CodeableConcepts")
	}
	for _, x := range left {
		for _, y := range right {
			if x.System != y.System {
				continue
			}
			if x.Code == y.Code {
				return true, nil
			}
			sys, err := s.CodeSystem(ctx, x.System, "")
			if err != nil {
				return false, err
			}
			if sys == nil {
				return false, unsupported("the code system of the codes is not held")
			}
			r, err := sys.Relation(x.Code, y.Code)
			if err != nil || r == Subsumes || r == Equivalent {
				return err == nil, err
			}
		}
	}
	return false, nil
}

// Match is one result of a translation.
type Match struct {
	Equivalence string
	Coding      element.Coding
	Source      string // URL of the concept map
}

// Translation selects what Translate returns.
type Translation struct {
	Source, Target string // URLs of value sets; empty for any
	TargetSystem   string
	Reverse        bool
}

// Translate returns what a concept map says about a code. ok is false if it says nothing.
func (m *ConceptMap) Translate(from element.Coding, t Translation) (out []Match, err error) {
	if t.Source != "" && m.source != "" && !sameCanonical(m.source, t.Source) ||
		t.Target != "" && m.target != "" && !sameCanonical(m.target, t.Target) {
		return nil, nil
	}
	for i := range m.Group {
		g := &m.Group[i]
		source, target := g.Source, g.Target
		if t.Reverse {
			source, target = target, source
		}
		if source != from.System || t.TargetSystem != "" && t.TargetSystem != target {
			continue
		}
		found := false
		for j := range g.Element {
			e := &g.Element[j]
			for _, to := range e.Target {
				switch {
				case !t.Reverse && e.Code == from.Code:
					found = true
					out = append(out, Match{to.Equivalence,
						element.Coding{System: target, Code: to.Code, Display: to.Display}, m.URL})
				case t.Reverse && to.Code == from.Code && to.Code != "":
					found = true
					out = append(out, Match{reversed(to.Equivalence),
						element.Coding{System: target, Code: e.Code, Display: e.Display}, m.URL})
				}
			}
		}
		if !found && !t.Reverse && g.Unmapped != nil {
			switch g.Unmapped.Mode {
			case "provided":
				out = append(out, Match{"equal",
					element.Coding{System: target, Code: from.Code, Display: from.Display}, m.URL})
			case "fixed":
				out = append(out, Match{"inexact",
					element.Coding{System: target, Code: g.Unmapped.Code, Display: g.Unmapped.Display}, m.URL})
			default:
				return nil, unsupported("the concept map refers to another one for this code")
			}
		}
	}
	return out, nil
}

// reversed returns the equivalence in the other direction.
func reversed(equivalence string) string {
	switch equivalence {
	case "wider":
		return "narrower"
	case "narrower":
		return "wider"
	case "subsumes":
		return "specializes"
	case "specializes":
		return "subsumes"
	}
	return equivalence
}

// Means reports whether an equivalence says that there is a target.
func (m *Match) Means() bool {
	return m.Equivalence != "unmatched" && m.Equivalence != "disjoint" && m.Coding.Code != ""
}

func sameCanonical(a, b string) bool {
	x, _, _ := strings.Cut(a, "|")
	y, _, _ := strings.Cut(b, "|")
	return x == y
}
