package mapping

import (
	"errors"
	"strings"

	"pulsegate/mapping/decimal"
	"pulsegate/mapping/sample"
	"pulsegate/mapping/table"
)

// RejectError reports why a Sample has no resource. Reason is one of the Reason
// constants of mapping/sample. Rule describes the rule that the Sample breaks and
// contains no values.
type RejectError struct{ Reason, Rule string }

func (e *RejectError) Error() string { return e.Reason + ": " + e.Rule }

func reject(reason, rule string) error { return &RejectError{reason, rule} }

// LeftOut names a component that was left out of the Observation, and the
// reason.
type LeftOut struct {
	// Component is the name of the component, or "" for points of the main
	// series.
	Component string
	// Reason is a Reason constant of mapping/sample, or sample.DropPlaceholder
	// for a zero that means that nothing was measured.
	Reason string
	Rule   string // that the component breaks; contains no values
}

// partError reports that only a part of a Sample breaks a rule.
type partError struct {
	part string // name of the component, or "" for points of the main series
	*RejectError
}

func (e *partError) Unwrap() error { return e.RejectError }

// inComponent attributes err to a component.
func inComponent(name string, err error) error {
	var part *partError
	if errors.As(err, &part) {
		return &partError{name, part.RejectError}
	}
	var re *RejectError
	if errors.As(err, &re) {
		return &partError{name, re}
	}
	return err
}

// omitInvalid returns a copy of s without the components that break a rule, and
// a list of them. Points of a series that are out of range become "E" (error).
func (r *rule) omitInvalid(s *sample.Sample) (*sample.Sample, []LeftOut) {
	kept := *s
	kept.Components = make([]sample.Component, 0, len(s.Components))
	var left []LeftOut
	omit := func(name string, err error) {
		out := LeftOut{Component: name, Reason: sample.ReasonBadValue}
		var re *RejectError
		if errors.As(err, &re) {
			out.Reason, out.Rule = re.Reason, re.Rule
		}
		left = append(left, out)
	}
	if r.row.Shape == table.ShapeSampled && s.Value.Kind == sample.Series {
		if v, err := r.validPart(s.Value, s.Channel); err != nil && v.Kind != sample.None {
			omit("", err)
			kept.Value = v
		}
	}
	for i := range s.Components {
		c := s.Components[i]
		v, err := r.component(c.Name).validPart(c.Value, s.Channel)
		if err != nil {
			omit(c.Name, err)
		}
		if v.Kind != sample.None {
			kept.Components = append(kept.Components, sample.Component{Name: c.Name, Value: v})
		}
	}
	return &kept, left
}

// mainReason returns the reason for rejecting a Sample without any valid
// component: the first that is not a placeholder, or else the first.
func mainReason(left []LeftOut) *RejectError {
	main := left[0]
	for _, out := range left {
		if out.Reason != sample.DropPlaceholder {
			main = out
			break
		}
	}
	if main.Component != "" {
		main.Rule = "component " + main.Component + ": " + main.Rule
	}
	return &RejectError{main.Reason, main.Rule}
}

// validPart returns the part of v that can be written. err is nil if that is all
// of v.
func (r *rule) validPart(v sample.Value, channel string) (sample.Value, error) {
	_, err := r.appendValue(nil, &v, channel, nil)
	if err == nil {
		return v, nil
	}
	var points *partError
	if v.Kind != sample.Series || !errors.As(err, &points) {
		return sample.Value{}, err
	}
	data := *v.Series
	if data.Data = r.plausiblePoints(v.Series, channel); data.Data == "" {
		return sample.Value{}, err
	}
	v.Series = &data
	return v, err
}

// plausiblePoints returns the data of s with "E" for each point that is out of
// range, or "" if there is no other point.
func (r *rule) plausiblePoints(s *sample.SeriesData, channel string) string {
	points := strings.Split(s.Data, " ")
	found := false
	for i, p := range points {
		switch {
		case p == "E":
		case !r.plausiblePoint(p, s, channel):
			points[i] = "E"
		default:
			found = true
		}
	}
	if !found {
		return ""
	}
	return strings.Join(points, " ")
}

// hasImplausiblePoint reports whether a point of s is out of range.
func (r *rule) hasImplausiblePoint(s *sample.SeriesData, channel string) bool {
	if !r.ranged {
		return false
	}
	for p := range strings.SplitSeq(s.Data, " ") {
		if p != "E" && !r.plausiblePoint(p, s, channel) {
			return true
		}
	}
	return false
}

func (r *rule) plausiblePoint(p string, s *sample.SeriesData, channel string) bool {
	if p == "U" || p == "L" {
		return true
	}
	d, ok := decimal.Parse(p)
	if !ok {
		return false
	}
	if s.Origin != "" || s.Factor != "" {
		return true // a raw reading, not a value in the unit of r
	}
	if c, ok := r.conversion(s.Unit, channel); ok {
		d = c.Apply(d)
	}
	return r.plausible(d)
}
