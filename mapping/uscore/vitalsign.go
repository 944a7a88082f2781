package uscore

import (
	"bytes"
	"encoding/json"
	"slices"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/element"
)

// structureDefinition is the base of the canonical URLs of US Core's profiles.
const structureDefinition = element.HL7 + "us/core/StructureDefinition/"

// profile holds what a US Core vital-signs profile fixes.
type profile struct {
	name  string
	codes []string // LOINC codes that all must occur
	units []string // UCUM units of the value; none if the components have the values
	// required lists the LOINC codes of the components that must occur, and components
	// holds the UCUM unit of each component that has a number.
	required   []string
	components map[string]string
}

// profiles lists the US Core 9.0.0 profiles of the vital signs that wearables measure.
// The units are those of the value sets that R4's profiles require.
var profiles = []profile{ // read only
	{name: "us-core-blood-pressure", codes: []string{"85354-9"}, required: []string{"8480-6", "8462-4"},
		components: map[string]string{"8480-6": "mm[Hg]", "8462-4": "mm[Hg]"}},
	{name: "us-core-heart-rate", codes: []string{"8867-4"}, units: []string{"/min"}},
	{name: "us-core-respiratory-rate", codes: []string{"9279-1"}, units: []string{"/min"}},
	{name: "us-core-pulse-oximetry", codes: []string{"59408-5", "2708-6"}, units: []string{"%"},
		components: map[string]string{"3151-8": "L/min", "3150-0": "%"}},
	{name: "us-core-body-temperature", codes: []string{"8310-5"}, units: []string{"Cel", "[degF]"}},
	{name: "us-core-body-weight", codes: []string{"29463-7"}, units: []string{"g", "kg", "[lb_av]"}},
	{name: "us-core-body-height", codes: []string{"8302-2"}, units: []string{"cm", "[in_i]"}},
	{name: "us-core-bmi", codes: []string{"39156-5"}, units: []string{"kg/m2"}},
}

// profileOf returns the profile of an Observation, or nil.
func profileOf(o *observation) *profile {
	if !o.inCategory("vital-signs") {
		return nil
	}
	for i := range profiles {
		p := &profiles[i]
		if !slices.ContainsFunc(p.codes, func(code string) bool { return !o.Code.Has(element.LOINC, code) }) {
			return p
		}
	}
	return nil
}

// measured reports whether o has a number as p requires it.
func (p *profile) measured(o *observation) bool {
	if len(p.units) > 0 {
		return o.ValueQuantity.in(p.units)
	}
	numbers := 0
	for _, code := range p.required {
		i := slices.IndexFunc(o.Component, func(c component) bool { return c.Code.Has(element.LOINC, code) })
		switch {
		case i < 0:
			return false
		case o.Component[i].ValueQuantity.in([]string{p.components[code]}):
			numbers++
		case o.Component[i].DataAbsentReason == nil:
			return false
		}
	}
	return numbers > 0
}

// number reports whether c is a component of p with a number or the reason for its
// absence.
func (p *profile) number(c *component) bool {
	for code, unit := range p.components {
		if c.Code.Has(element.LOINC, code) {
			return c.ValueQuantity.in([]string{unit}) || c.ValueQuantity == nil && c.DataAbsentReason != nil
		}
	}
	return false
}

// keep returns the components of the profile.
func (p *profile) keep(components []component) []component {
	var out []component
	for _, c := range components {
		if !p.number(&c) {
			continue
		}
		if c.ValueQuantity != nil {
			c.ValueQuantity = c.ValueQuantity.withUnit()
		}
		c.ValueCodeableConcept = nil
		out = append(out, c)
	}
	return out
}

// contexts returns the components with a code as value as notes. R4's vital-signs
// profile binds codes in components to units, so they cannot be components.
func contexts(components []component) []note {
	var out []note
	for i := range components {
		c := &components[i]
		name, v := shown(&c.Code), ""
		if c.ValueCodeableConcept != nil && c.ValueQuantity == nil {
			v = shown(c.ValueCodeableConcept)
		}
		if name != "" && v != "" {
			out = append(out, note{Text: name + ": " + v})
		}
	}
	return out
}

// shown returns the text of a concept for people.
func shown(c *element.CodeableConcept) string {
	if c.Text != "" {
		return c.Text
	}
	for _, coding := range c.Coding {
		if coding.Display != "" {
			return coding.Display
		}
	}
	if len(c.Coding) > 0 {
		return c.Coding[0].Code
	}
	return ""
}

// VitalSign returns the Observation of src in the form in which US Core 9 lets an app
// write vital signs, and the query for a conditional create (If-None-Exist, or
// ifNoneExist in a Bundle). If the Observation does not qualify, ok is false; the
// package comment lists the conditions.
//
// An error reports that a resource of src is not JSON of its type. It contains no
// values.
func VitalSign(src *Source) (body []byte, ifNoneExist string, ok bool, err error) {
	const op = "uscore.VitalSign"
	o, err := src.read(op)
	if err != nil {
		return nil, "", false, err
	}
	p := profileOf(o)
	if p == nil || !p.measured(o) || !o.complete() {
		return nil, "", false, nil
	}
	return src.vitalSign(op, o, p, "")
}

// EnteredInError returns what VitalSign returned for the Observation of src, with the
// status entered-in-error. It is for the only update of a vital sign that US Core allows:
// PUT Observation/[id] with the id at the receiver, or if id is empty a conditional
// update, PUT Observation?[criteria]. A receiver that changed the Observation may refuse
// it; MarkEnteredInError avoids that. The status of src and the presence of a value
// do not matter, because a retracted Observation may have lost its value.
func EnteredInError(src *Source, id string) (body []byte, criteria string, ok bool, err error) {
	const op = "uscore.EnteredInError"
	o, err := src.read(op)
	if err != nil {
		return nil, "", false, err
	}
	p := profileOf(o)
	if p == nil {
		return nil, "", false, nil
	}
	o.Status = "entered-in-error"
	if !p.measured(o) {
		o.value, o.Component = value{DataAbsentReason: unknown()}, nil
		for _, code := range p.required {
			o.Component = append(o.Component, component{Code: element.NewConcept(element.LOINC, code),
				value: value{DataAbsentReason: unknown()}})
		}
		if len(p.required) > 0 {
			o.DataAbsentReason = nil
		}
	}
	return src.vitalSign(op, o, p, id)
}

// unknown is the dataAbsentReason of a value that is not known.
func unknown() *element.CodeableConcept {
	c := element.NewConcept(element.DataAbsentReason, "unknown")
	return &c
}

// vitalSign writes o under the profile p.
func (src *Source) vitalSign(op string, o *observation, p *profile, id string) ([]byte, string, bool, error) {
	if !o.plain() || !o.supplied(src.Vendor) || o.EffectiveDateTime == "" && o.EffectivePeriod == nil {
		return nil, "", false, nil
	}
	identifier, ok := src.identifier(o)
	if !ok {
		return nil, "", false, nil
	}
	version := src.Version
	if version == "" {
		version = Version
	}
	f := src.base(o, identifier, structureDefinition+p.name+"|"+version)
	f.ID = id
	f.Category = []element.CodeableConcept{{Coding: []element.Coding{{System: element.ObservationCategory,
		Code: "vital-signs", Display: "Vital Signs"}}}}
	if len(p.units) > 0 {
		if o.ValueQuantity != nil {
			f.ValueQuantity = o.ValueQuantity.withUnit()
		}
		f.DataAbsentReason = o.DataAbsentReason
		if f.ValueQuantity != nil {
			f.DataAbsentReason = nil // obs-6
		}
	}
	f.BodySite = o.BodySite
	f.Component = p.keep(o.Component)
	f.Note = append(f.Note, contexts(o.Component)...)
	if err := src.contain(op, f, o); err != nil {
		return nil, "", false, err
	}
	body, err := marshal(op, f)
	if err != nil {
		return nil, "", false, err
	}
	return body, criteria(identifier), true, nil
}

// MarkEnteredInError returns an Observation as the receiver has it, with the status
// entered-in-error and all else unchanged, for the update that US Core allows. If it
// has that status already, changed is false.
func MarkEnteredInError(received []byte) (body []byte, changed bool, err error) {
	const op = "uscore.MarkEnteredInError"
	const status = `"entered-in-error"`
	var o struct{ ResourceType string }
	if err := unmarshal(op, "Observation", received, &o); err != nil {
		return nil, false, err
	}
	if o.ResourceType != "Observation" {
		return nil, false, fhir.Errorf(fhir.Invalid, op, "the resource is not an Observation")
	}
	d := json.NewDecoder(bytes.NewReader(received))
	if _, err := d.Token(); err != nil { // the opening brace
		return nil, false, fhir.Errorf(fhir.Invalid, op, "the Observation is not a JSON object")
	}
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return nil, false, fhir.Errorf(fhir.Invalid, op, "the Observation is not a JSON object")
		}
		var raw json.RawMessage
		if err := d.Decode(&raw); err != nil {
			return nil, false, fhir.Errorf(fhir.Invalid, op, "the Observation is not a JSON object")
		}
		if name != "status" {
			continue
		}
		if string(raw) == status {
			return received, false, nil
		}
		end := int(d.InputOffset())
		return slices.Concat(received[:end-len(raw)], []byte(status), received[end:]), true, nil
	}
	return nil, false, fhir.Errorf(fhir.Invalid, op, "the Observation has no status")
}

// Dense returns the stream and the time of an Observation that belongs to a dense stream
// of one source: a heart rate, respiratory rate, oxygen saturation or temperature at an
// instant. US Core lets a server discard Observations that are close in time, so a
// sender should select some. Repeated measurements of blood pressure or weight are not
// dense, because readings that follow each other belong together.
func Dense(observation []byte) (stream string, at time.Time, ok bool) {
	const system = fhir.Canonical + "/identifier/series"
	var o struct {
		Identifier        []element.Identifier
		Code              element.CodeableConcept
		EffectiveDateTime string
	}
	if unmarshal("uscore.Dense", "Observation", observation, &o) != nil {
		return "", at, false
	}
	if !slices.ContainsFunc([]string{"8867-4", "9279-1", "59408-5", "8310-5"}, func(code string) bool {
		return o.Code.Has(element.LOINC, code)
	}) {
		return "", at, false
	}
	for _, id := range o.Identifier {
		if id.System == system && id.Value != "" {
			at, err := time.Parse(time.RFC3339, o.EffectiveDateTime)
			return id.Value, at, err == nil
		}
	}
	return "", at, false
}
