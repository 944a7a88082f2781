package mapping

import (
	"errors"
	"strings"

	"pulsegate/mapping/sample"
)

// LeftOut names a component that Map could not write, and why. The rest of
// the Sample became an Observation.
type LeftOut struct {
	// Component is the component's name; "" means points of the main series.
	Component string
	// Reason is a Reason constant of mapping/sample, or
	// sample.DropPlaceholder for a zero that stands for "not measured".
	Reason string
	Rule   string // the rule that was broken; holds no value
}

// partError says which part of a Sample has no resource.
type partError struct {
	part string // "" means points of the main series
	*RejectError
}

func (e *partError) Unwrap() error { return e.RejectError }

// ofPart attributes err to a component.
func ofPart(name string, err error) error {
	var p *partError
	if errors.As(err, &p) {
		return &partError{name, p.RejectError}
	}
	var r *RejectError
	if errors.As(err, &r) {
		return &partError{name, r}
	}
	return err
}

// sift returns a copy of s without the parts that the rule refuses, and these.
// Points of a series that are outside what is possible become "E" (error).
func (r *rule) sift(s *sample.Sample) (*sample.Sample, []LeftOut) {
	kept := *s
	kept.Components = make([]sample.Component, 0, len(s.Components))
	var left []LeftOut
	leave := func(name string, err error) {
		x := LeftOut{Component: name, Reason: sample.ReasonBadValue}
		var re *RejectError
		if errors.As(err, &re) {
			x.Reason, x.Rule = re.Reason, re.Rule
		}
		left = append(left, x)
	}
	if r.row.Shape == ShapeSampled && s.Value.Kind == sample.Series {
		if v, err := r.siftValue(s.Value, s.Channel); err != nil && v.Kind != sample.None {
			leave("", err)
			kept.Value = v
		}
	}
	for i := range s.Components {
		c := s.Components[i]
		v, err := r.part(c.Name).siftValue(c.Value, s.Channel)
		if err != nil {
			leave(c.Name, err)
		}
		if v.Kind != sample.None {
			kept.Components = append(kept.Components, sample.Component{Name: c.Name, Value: v})
		}
	}
	return &kept, left
}

// worst returns the first that is no mere placeholder, else the first.
func worst(left []LeftOut) *RejectError {
	x := left[0]
	for _, y := range left {
		if y.Reason != sample.DropPlaceholder {
			x = y
			break
		}
	}
	if x.Component != "" {
		x.Rule = "component " + x.Component + ": " + x.Rule
	}
	return &RejectError{x.Reason, x.Rule}
}

// siftValue returns what can be written of v; err is why that is not all.
func (r *rule) siftValue(v sample.Value, channel string) (sample.Value, error) {
	_, err := r.appendValue(nil, &v, channel, nil)
	if err == nil {
		return v, nil
	}
	var points *partError
	if v.Kind != sample.Series || !errors.As(err, &points) {
		return sample.Value{}, err
	}
	series := *v.Series
	if series.Data = r.possiblePoints(v.Series, channel); series.Data == "" {
		return sample.Value{}, err
	}
	v.Series = &series
	return v, err
}

// possiblePoints returns the data of s with "E" for each point outside the
// rule's range, "" if there is no other point.
func (r *rule) possiblePoints(s *sample.SeriesData, channel string) string {
	points := strings.Split(s.Data, " ")
	some := false
	for i, p := range points {
		switch {
		case p == "E":
		case !r.possiblePoint(p, s, channel):
			points[i] = "E"
		default:
			some = true
		}
	}
	if !some {
		return ""
	}
	return strings.Join(points, " ")
}

// outside reports whether a point of s is outside the rule's range.
func (r *rule) outside(s *sample.SeriesData, channel string) bool {
	if !r.ranged {
		return false
	}
	for p := range strings.SplitSeq(s.Data, " ") {
		if p != "E" && !r.possiblePoint(p, s, channel) {
			return true
		}
	}
	return false
}

func (r *rule) possiblePoint(p string, s *sample.SeriesData, channel string) bool {
	if p == "U" || p == "L" {
		return true
	}
	d, ok := parseDecimal(p)
	if !ok {
		return false
	}
	if s.Origin != "" || s.Factor != "" {
		return true // a raw reading, not a value in the rule's unit
	}
	if c, ok := r.conversion(s.Unit, channel); ok {
		d = c.apply(d)
	}
	return r.possible(d)
}

// zero reports whether d is 0.
func (d decimal) zero() bool { return strings.Trim(d.digits, "0") == "" }
