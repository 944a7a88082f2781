package mapping

import (
	"pulsegate/fhir"
	"pulsegate/fhir/element"
	"pulsegate/fhir/series"
	"pulsegate/mapping/sample"
	"pulsegate/mapping/table"
)

// ZoneUnknown is the code of the tag of an Observation whose local time may be wrong, in
// CodeSystem/measures.
const ZoneUnknown = "zone-unknown"

// appendObservation appends the Observation of s with the given id. If slots is
// not nil, it records where the Observation differs from those of other samples
// of the stream.
func (r *Resolved) appendObservation(b []byte, s *sample.Sample, e *Effective, id, stream string,
	slots *slots) ([]byte, error) {
	rule := r.rule
	b = append(b, `{"resourceType":"Observation","id":"`...)
	b = append(b, id...)
	b = append(b, `","meta":{`...)
	b = append(b, rule.meta...)
	if e.Unsure {
		if len(rule.meta) > 0 {
			b = append(b, ',')
		}
		b = append(b, `"tag":[{"system":"`+fhir.Canonical+`/CodeSystem/measures","code":"`+ZoneUnknown+`"}]`...)
	}
	b = append(b, `},"identifier":[{"system":"`+fhir.Canonical+`/identifier/`...)
	b = append(b, r.vendor...)
	b = append(b, `","value":"`...)
	at := len(b)
	b = append(b, id...)
	slots.add(series.SlotID, at, len(b))
	b = append(b, `"}`...)
	if stream != "" {
		b = append(b, `,{"system":"`+StreamSystem+`","value":"`...)
		b = append(b, stream...)
		b = append(b, `"}`...)
	}
	if s.VendorID != "" {
		b = append(b, `,{"system":"`+fhir.Canonical+`/identifier/`...)
		b = append(b, r.vendor...)
		b = append(b, `/source","value":`...)
		b = appendString(b, s.VendorID)
		b = append(b, '}')
	}
	b = append(b, `],"status":"`...)
	b = append(b, status(s.Status)...)
	b = append(b, '"')
	b = append(b, rule.category...)
	b = append(b, `,"code":`...)
	b = append(b, rule.code...)
	b = append(b, `,"subject":{"reference":"Patient/`...)
	b = append(b, r.patient...)
	b = append(b, `"},`...)
	at = len(b)
	b = e.append(b)
	slots.add(series.SlotEffective, at, len(b))
	if s.UserEntered {
		b = append(b, `,"performer":[{"reference":"Patient/`...)
		b = append(b, r.patient...)
		b = append(b, `"}]`...)
	}
	var err error
	if b, err = rule.appendMainValue(b, s, slots); err != nil {
		return nil, err
	}
	if s.Note != "" {
		b = append(b, `,"note":[{"text":`...)
		b = appendString(b, s.Note)
		b = append(b, `}]`...)
	}
	if method := s.Method; method != "" || rule.row.Method != "" {
		if method == "" {
			method = rule.row.Method
		}
		b = append(b, `,"method":{"text":`...)
		b = appendString(b, method)
		b = append(b, '}')
	}
	if r.Device.ID != "" {
		b = append(b, `,"device":{"reference":"Device/`...)
		b = append(b, r.Device.ID...)
		b = append(b, `"}`...)
	}
	if b, err = rule.appendComponents(b, s, slots); err != nil {
		return nil, err
	}
	return append(b, '}'), nil
}

func status(s sample.Status) string {
	switch s {
	case sample.Preliminary:
		return "preliminary"
	case sample.Retracted:
		return "entered-in-error"
	}
	return "final"
}

// absent is the dataAbsentReason of a value that was not measured.
var absent = []byte(`,"dataAbsentReason":{"coding":[{"system":"` + element.DataAbsentReason +
	`","code":"unknown","display":"Unknown"}]}`)

// appendMainValue appends the main value in the shape of the row.
func (r *rule) appendMainValue(b []byte, s *sample.Sample, slots *slots) ([]byte, error) {
	v := &s.Value
	ok := true
	switch r.row.Shape {
	case table.ShapeQuantity:
		if v.Kind == sample.None {
			if len(s.Components) == 0 && s.Status != sample.Retracted {
				return nil, reject(sample.ReasonMissing, "the row requires a value")
			}
			return append(b, absent...), nil
		}
		ok = v.Kind == sample.Number || v.Kind == sample.Interval && r.row.Profile == ""
	case table.ShapeCodeable:
		if v.Kind == sample.None {
			if len(s.Components) == 0 && s.Status != sample.Retracted {
				return nil, reject(sample.ReasonMissing, "the row requires a code")
			}
			return append(b, absent...), nil
		}
		ok = v.Kind == sample.Code || v.Kind == sample.Text
	case table.ShapeSampled:
		if ok = v.Kind == sample.Series || v.Kind == sample.None && s.Status == sample.Retracted; ok {
			return b, nil // written as a component
		}
	case table.ShapeComponents:
		if ok = v.Kind == sample.None; ok {
			if len(s.Components) == 0 && s.Status != sample.Retracted {
				return nil, reject(sample.ReasonMissing, "the row requires components")
			}
			return b, nil
		}
	case table.ShapeEvent:
		ok = v.Kind != sample.Series
	}
	if !ok {
		return nil, reject(sample.ReasonBadValue, "the shape of the row does not allow this type of value")
	}
	slots.part(nil, r, v)
	return r.appendValue(b, v, s.Channel, slots)
}

// has reports whether components contains a value for name.
func has(components []sample.Component, name string) bool {
	for i := range components {
		if c := &components[i]; c.Name == name && c.Value.Kind != sample.None {
			return true
		}
	}
	return false
}

func (r *rule) appendComponents(b []byte, s *sample.Sample, slots *slots) ([]byte, error) {
	n := 0
	open := func() {
		if n++; n == 1 {
			b = append(b, `,"component":[{"code":`...)
		} else {
			b = append(b, `,{"code":`...)
		}
	}
	var err error
	if r.row.Shape == table.ShapeSampled && s.Value.Kind == sample.Series {
		open()
		b = append(b, r.sampledCode...)
		slots.part(nil, r, &s.Value)
		if b, err = r.appendValue(b, &s.Value, s.Channel, slots); err != nil {
			return nil, err // a *partError if only points are implausible
		}
		b = append(b, '}')
	}
	for i := range s.Components {
		c := &s.Components[i]
		if c.Value.Kind == sample.None {
			continue
		}
		open()
		component := r.component(c.Name)
		if component.code == nil {
			b = append(b, `{"coding":[`...)
			b = appendCoding(b, r.system, c.Name, "")
			b = append(b, `]}`...)
		} else {
			b = append(b, component.code...)
		}
		slots.part(c, component, &c.Value)
		if b, err = component.appendValue(b, &c.Value, s.Channel, slots); err != nil {
			return nil, inComponent(c.Name, err)
		}
		b = append(b, '}')
	}
	for _, name := range r.required {
		if !has(s.Components, name) {
			open()
			b = append(b, r.components[name].code...)
			b = append(b, absent...)
			b = append(b, '}')
		}
	}
	if n > 0 {
		b = append(b, ']')
	}
	return b, nil
}
