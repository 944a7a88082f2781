package mapping

import (
	"strings"

	"pulsegate/fhir/series"
	"pulsegate/mapping/decimal"
	"pulsegate/mapping/sample"
)

// Resolved holds the facts about a sample that do not depend on its times and
// numbers: its row, its device and its stream. Samples that differ in times and
// numbers only have the same Resolved, so package stream computes it once for
// all of them, and Observation writes documents from the same value. It is
// read-only.
type Resolved struct {
	Device DeviceKey
	Vague  bool // see Result.Vague

	vendor, patient string
	rule            *rule // nil if the metric has no row
	// stream identifies the stream of the sample if streamed is set: the row
	// has a rate, and the natural key identifies the sample.
	stream   series.Identity
	streamed bool
}

// Resolve returns the facts about a sample of the given vendor and patient.
func (m *Mapper) Resolve(vendor, patient string, s *sample.Sample) Resolved {
	r := Resolved{vendor: vendor, patient: patient}
	base := m.rules[vendor][s.Metric]
	if base == nil {
		return r
	}
	r.rule = base.choose(s)
	r.Device, r.Vague = m.deviceKey(vendor, patient, s), isVague(s)
	if r.rule.row.Rate > 0 && s.VendorID == "" && s.Day.IsZero() {
		r.streamed = true
		r.stream = m.streamIdentity(vendor, patient, r.rule.row.Metric, s)
	}
	return r
}

// isVague reports whether s names neither the device that measured it nor the
// source that delivered it, as in a merged stream, or if only the vendor's
// service stands for the device.
func isVague(s *sample.Sample) bool {
	d := &s.Device
	return d.Model == "" && d.Hardware == "" && d.Serial == "" && (s.Source.Name == "" || s.Coarse) && !s.UserEntered
}

// Mapped reports whether the metric table has a row for the sample.
func (r *Resolved) Mapped() bool { return r.rule != nil }

// Metric returns the name of the row.
func (r *Resolved) Metric() string { return r.rule.row.Metric }

// SegmentsOf returns the row that is derived from samples like this one, or "".
func (r *Resolved) SegmentsOf() string { return r.rule.row.SegmentsOf }

// inStream reports whether a sample at e belongs to the stream: the id of a
// stream's sample can hold its start.
func (r *Resolved) inStream(e *Effective) bool {
	if !r.streamed {
		return false
	}
	us := e.Start.UnixMicro()
	return us >= series.MinStart && us <= series.MaxStart
}

// Column describes one number of the samples of a series. Its Converter parses
// and converts the number.
type Column struct {
	decimal.Converter
	Component  int // index in Sample.Components, or -1 for the main value
	ZeroAbsent bool
	Ranged     bool // Low and High are set
	Low, High  float64
}

// Columns returns the columns of the series for samples like s. It reports
// false if such samples cannot be stored in a series.
func (r *Resolved) Columns(s *sample.Sample) (columns []Column, ok bool) {
	if r.rule == nil || !r.rule.dense {
		return nil, false
	}
	add := func(component int, rule *rule, v *sample.Value) bool {
		c := Column{Component: component, ZeroAbsent: rule.zeroAbsent, Ranged: rule.ranged,
			Low: rule.low, High: rule.high}
		var conv decimal.Conversion
		if rule.units != nil {
			var ok bool
			if conv, ok = rule.conversion(v.Unit, s.Channel); !ok {
				return false
			}
		}
		c.Converter = decimal.NewConverter(conv)
		columns = append(columns, c)
		return true
	}
	switch s.Value.Kind {
	case sample.Number:
		if !add(-1, r.rule, &s.Value) {
			return nil, false
		}
	case sample.Code: // part of the template, so only listed codes qualify
		if r.rule.values[s.Value.Text] == nil {
			return nil, false
		}
	case sample.None:
	default:
		return nil, false
	}
	for i := range s.Components {
		c := &s.Components[i]
		switch c.Value.Kind {
		case sample.Number:
			if !add(i, r.rule.component(c.Name), &c.Value) {
				return nil, false
			}
		case sample.None, sample.Code, sample.Boolean:
		default:
			return nil, false
		}
	}
	if len(columns) == 0 && s.Value.Kind != sample.Code || len(columns) > series.MaxValues {
		return nil, false
	}
	return columns, true
}

// Template returns the series template for samples like s with the given class
// of times: the Observation of s, cut where the samples differ. It reports false
// if s has no Observation. The template has one slot for each of the values
// numbers.
func (r *Resolved) Template(s *sample.Sample, class series.Class, unsure bool, values int) (*series.Template, bool) {
	effective := Effective{Start: s.Start, Unsure: unsure}
	var slots slots
	body, err := r.appendObservation(nil, s, &effective, "x", StreamID(r.stream), &slots)
	if err != nil { // Observation returns the error
		return nil, false
	}
	t := &series.Template{Identity: r.stream, Class: class, KeyValue: s.KeyValue,
		Patient: strings.Clone(r.patient), Vendor: r.vendor, Categories: r.rule.categories, Values: values}
	if s.KeyValue {
		t.Seed, _ = r.rule.naturalKey(s)
	}
	t.Parts, t.Slots = slots.cut(body, len(`{"resourceType":"Observation","id":"x","meta":{`))
	return t, true
}

// slots records where the Observations of one stream differ.
type slots struct {
	spans   []span
	numbers int
	trace   *Trace // or nil
}

type span struct {
	slot     series.Slot
	from, to int
}

func (s *slots) add(slot series.Slot, from, to int) {
	if s != nil {
		s.spans = append(s.spans, span{slot, from, to})
	}
}

// addNumber records the span of the next number.
func (s *slots) addNumber(from, to int) {
	if s != nil {
		s.add(series.SlotValue+series.Slot(s.numbers), from, to)
		s.numbers++
	}
}

// cut returns the constant parts of body from offset start on, and the slots
// between them.
func (s *slots) cut(body []byte, start int) (parts [][]byte, between []series.Slot) {
	for _, x := range s.spans {
		parts, between = append(parts, body[start:x.from]), append(between, x.slot)
		start = x.to
	}
	return append(parts, body[start:]), between
}
