package search

import (
	"context"

	"pulsegate/fhir"
	"pulsegate/fhir/fhirpath"
)

// The composite parameters of other types than Observation have two or three parts, each
// of the type of another parameter. Their Type is typeParts. The values of one element
// share Value.Group, and Value.Part is the number of the part; in a clause, the values of
// one alternative share Group.

// maxGroups bounds the elements of a composite parameter in a resource.
const maxGroups = 10_000

// composeParts resolves the parts of the composite parameters of a type.
func (t *typeIndex) composeParts() {
	byURL := map[string]*Param{}
	for _, p := range t.params {
		byURL[p.URL] = p
	}
	for _, p := range t.params {
		if p.Type != TypeComposite || p.Expression == nil || len(p.Components) < 2 {
			continue
		}
		var parts []*Param
		for _, c := range p.Components {
			if part := byURL[c.URL]; part != nil && part.Supported() && part.Type < TypeComposite {
				parts = append(parts, part)
			}
		}
		if len(parts) == len(p.Components) {
			p.parts, p.Type = parts, typeParts
		}
		if p.Code == "relationship" && p.ResourceType == "DocumentReference" {
			// R4 has exchanged the expressions of the two parts.
			p.Components[0].Expression, p.Components[1].Expression = p.Components[1].Expression,
				p.Components[0].Expression
		}
	}
}

// elements adds the values of the parts of each element.
func (w *extraction) elements(slot int, p *Param, root fhirpath.Value, items fhirpath.Collection) {
	env := &fhirpath.Env{Resource: root}
	for group, item := range items {
		if group == maxGroups {
			return
		}
		for k := range p.Components {
			values, err := p.Components[k].Expression.Evaluate(context.Background(), item, env, nil)
			if err != nil {
				continue
			}
			from := len(w.vals)
			for _, v := range values {
				w.item(slot, p.parts[k].Type, v)
			}
			for i := from; i < len(w.vals); i++ {
				w.vals[i].Group, w.vals[i].Part = uint16(group), uint8(k)
			}
		}
	}
}

// split parses "part$part".
func (ps *parser) split(p *Param, s string) ([]Value, error) {
	texts := split(s, '$')
	if len(texts) != len(p.parts) {
		return nil, fhir.Errorf(fhir.Invalid, op, "a value of %s must have %d parts with $ between them", p.Code,
			len(p.parts))
	}
	var out []Value
	for k, text := range texts {
		if text == "" {
			return nil, badValue(p.Code, "without empty parts")
		}
		vs, err := ps.values(p.parts[k], NoModifier, "", text)
		if err != nil {
			return nil, err
		}
		for _, v := range vs {
			v.Part = uint8(k)
			out = append(out, v)
		}
	}
	return out, nil
}

// matchParts reports whether all parts of an alternative match parts of one element.
func matchParts(c *Clause, have []Value) bool {
	for from := 0; from < len(c.Values); {
		to := from
		for to < len(c.Values) && c.Values[to].Group == c.Values[from].Group {
			to++
		}
		if matchElement(c.Param, c.Values[from:to], have) {
			return true
		}
		from = to
	}
	return false
}

// matchElement reports whether an element of have matches one alternative.
func matchElement(p *Param, want, have []Value) bool {
	for from := 0; from < len(have); {
		matched := uint(0)
		to := from
		for ; to < len(have) && have[to].Group == have[from].Group; to++ {
			for i := range want {
				if want[i].Part == have[to].Part && !have[to].Unvalued &&
					matchValue(p.parts[want[i].Part], NoModifier, &want[i], &have[to]) {
					matched |= 1 << want[i].Part
				}
			}
		}
		if matched == 1<<len(p.parts)-1 {
			return true
		}
		from = to
	}
	return false
}
