package mapping

import (
	"time"

	"pulsegate/mapping/decimal"
	"pulsegate/mapping/sample"
	"pulsegate/mapping/table"
)

// Values of CodeFact.Why.
const (
	CodeSure     = "sure"     // sources support it
	CodeDoubtful = "doubtful" // sources support it doubtfully; Options.Doubtful emits it
	CodeVendor   = "vendor"   // the vendor's own
)

// CodeFact is a coding of a row or component, and why it is emitted.
type CodeFact struct {
	System  string `json:"system"`
	Code    string `json:"code"`
	Display string `json:"display"`
	Why     string `json:"why"`
}

// Values of Trace.Identity: what the id of an Observation is derived from.
const (
	ByVendorID   = "vendor-id"   // the vendor's id
	ByNaturalKey = "natural-key" // metric, time, source and device
	ByStream     = "stream"      // the stream, the start, and a check of the rest
)

// Trace tells how a sample was mapped. The code that maps reports to it.
type Trace struct {
	Row *table.Row
	// When is the condition of the variant of the row that was chosen, or nil.
	When  *table.When
	Codes []CodeFact
	// Values holds the values in the order in which they are written: the main value,
	// then the components.
	Values    []ValueFact
	Effective Effective
	Identity  string
	Result    Result
}

// ValueFact tells how one value was mapped.
type ValueFact struct {
	Component string     // name of the component, or "" for the main value
	Display   string     // of the component
	Codes     []CodeFact // of the component; none if the row does not list it
	Sent      sample.Value
	// Numbers holds the conversions: one of a number, two of an interval, that of the
	// factor of a series.
	Numbers []NumberFact
}

// NumberFact is the conversion of one number: Sent times Times plus Plus is Written.
type NumberFact struct {
	Sent, SentUnit string
	Times, Plus    string // "" is 1 and 0; see decimal.NewConversion
	Written        string
	Unit, UCUM     string // of the written number
	Rounded        bool   // Written was rounded
}

// Explain maps like Map and tells how.
func (m *Mapper) Explain(vendor string, s *sample.Sample, patient string, zone *time.Location) (Trace, error) {
	var t Trace
	r := m.Resolve(vendor, patient, s)
	res, err := m.observation(nil, &r, s, zone, &t)
	t.Result = res
	return t, err
}

func idRule(s *sample.Sample) string {
	if s.VendorID != "" {
		return ByVendorID
	}
	return ByNaturalKey
}

func (t *Trace) identify(by string) {
	if t != nil {
		t.Identity = by
	}
}

// begin prepares t for an Observation by the rule r. It returns nil if t is nil.
func (t *Trace) begin(r *rule, e *Effective) *slots {
	if t == nil {
		return nil
	}
	t.Row, t.When, t.Codes, t.Effective, t.Values = r.row, r.when, r.codes, *e, nil
	return &slots{trace: t}
}

// part reports that a value of the rule r follows. c is nil for the main value.
func (s *slots) part(c *sample.Component, r *rule, v *sample.Value) {
	if s == nil || s.trace == nil || v.Kind == sample.None {
		return
	}
	fact := ValueFact{Sent: *v}
	if c != nil {
		fact.Component, fact.Codes = c.Name, r.codes
	} else if v.Kind == sample.Series {
		fact.Codes = r.sampledCodes
	}
	if n := len(fact.Codes); n > 0 {
		fact.Display = fact.Codes[n-1].Display
	}
	s.trace.Values = append(s.trace.Values, fact)
}

// converted reports the conversion c of a number in the value that part has reported.
func (s *slots) converted(sent decimal.Decimal, unit string, c decimal.Conversion, written decimal.Decimal, r *rule) {
	if s == nil || s.trace == nil || len(s.trace.Values) == 0 {
		return
	}
	n := NumberFact{Sent: sent.String(), SentUnit: unit, Written: string(written.Append(nil)), UCUM: r.ucum,
		Unit: r.unitText, Rounded: c.Rounds(sent)}
	n.Times, n.Plus = c.Text()
	last := &s.trace.Values[len(s.trace.Values)-1]
	last.Numbers = append(last.Numbers, n)
}
