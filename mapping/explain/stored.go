package explain

import (
	"encoding/json"
	"slices"
	"strings"

	"pulsegate/fhir/element"
	"pulsegate/mapping"
	"pulsegate/mapping/sample"
)

// observation holds the elements of a stored Observation that an explanation shows.
type observation struct {
	ID                string              `json:"id"`
	Status            string              `json:"status"`
	EffectiveDateTime string              `json:"effectiveDateTime"`
	EffectivePeriod   element.Period      `json:"effectivePeriod"`
	Device            element.Reference   `json:"device"`
	Performer         []element.Reference `json:"performer"`
	DerivedFrom       []element.Reference `json:"derivedFrom"`
	Method            struct{ Text string }
	Note              []struct{ Text string }
	part
	Component []part `json:"component"`
}

// part is an Observation or a component with its value.
type part struct {
	Code             element.CodeableConcept       `json:"code"`
	Quantity         *quantity                     `json:"valueQuantity"`
	Range            *struct{ Low, High quantity } `json:"valueRange"`
	Concept          *element.CodeableConcept      `json:"valueCodeableConcept"`
	String           *string                       `json:"valueString"`
	Boolean          *bool                         `json:"valueBoolean"`
	Sampled          *sampled                      `json:"valueSampledData"`
	DataAbsentReason *element.CodeableConcept      `json:"dataAbsentReason"`
}

type quantity struct {
	Value json.Number `json:"value"`
	Unit  string      `json:"unit"`
}

func (q quantity) String() string { return strings.TrimSpace(q.Value.String() + " " + q.Unit) }

type sampled struct {
	Origin quantity    `json:"origin"`
	Period json.Number `json:"period"`
	Factor json.Number `json:"factor"`
	Data   string      `json:"data"`
}

// parse reads a stored Observation. What cannot be read is absent.
func parse(body []byte) *observation {
	var o observation
	_ = json.Unmarshal(body, &o) // a client may have written anything that is a resource
	return &o
}

// value returns the written form of a value.
func (o *observation) value(v *mapping.ValueFact, metric string) string {
	name := v.Component
	if name == "" && v.Sent.Kind == sample.Series {
		name = metric
	}
	if name == "" {
		return o.part.text()
	}
	for i := range o.Component {
		c := &o.Component[i]
		if slices.ContainsFunc(c.Code.Coding, func(coding element.Coding) bool { return coding.Code == name }) {
			return c.text()
		}
	}
	return ""
}

func (p *part) text() string {
	switch {
	case p.Quantity != nil:
		return p.Quantity.String()
	case p.Range != nil:
		return p.Range.Low.String() + " to " + p.Range.High.String()
	case p.Concept != nil:
		return concept(p.Concept)
	case p.String != nil:
		return *p.String
	case p.Boolean != nil:
		return map[bool]string{true: "true", false: "false"}[*p.Boolean]
	case p.Sampled != nil:
		ms, _ := p.Sampled.Period.Float64()
		text := series(p.Sampled.Data, ms/1000, p.Sampled.Origin.Unit)
		if f := p.Sampled.Factor.String(); f != "" {
			text += ", factor " + f
		}
		return text
	case p.DataAbsentReason != nil:
		return "absent: " + concept(p.DataAbsentReason)
	}
	return ""
}

func concept(c *element.CodeableConcept) string {
	if len(c.Coding) == 0 {
		return c.Text
	}
	first := c.Coding[0]
	if c.Text == "" || c.Text == first.Code {
		return strings.TrimSpace(first.Code + " " + first.Display)
	}
	return c.Text + " (" + first.Code + ")"
}

func (o *observation) when() string {
	if o.EffectivePeriod.Start != "" {
		return o.EffectivePeriod.Start + " to " + o.EffectivePeriod.End
	}
	return o.EffectiveDateTime
}

func (o *observation) performer() string {
	if len(o.Performer) == 0 {
		return ""
	}
	return o.Performer[0].Reference
}

func (o *observation) note() string {
	if len(o.Note) == 0 {
		return ""
	}
	return o.Note[0].Text
}
