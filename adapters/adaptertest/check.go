package adaptertest

import (
	"errors"
	"fmt"
	"strings"

	"pulsegate/mapping/sample"
)

// Check returns the first rule of mapping/sample that s breaks, or nil.
func Check(s *sample.Sample) error {
	if s.Metric == "" {
		return errors.New("no metric")
	}
	if s.Start.IsZero() == s.Day.IsZero() && !s.IsDeletion() {
		return errors.New("exactly one of Start and Day must be set")
	}
	if !s.End.IsZero() && (s.Start.IsZero() || s.End.Before(s.Start)) {
		return errors.New("the End has no Start or is before it")
	}
	if !s.Day.IsZero() && (s.Day.Month < 1 || s.Day.Month > 12 || s.Day.Day < 1 || s.Day.Day > 31) {
		return errors.New("the Day is not a calendar day")
	}
	if s.Value.Kind == sample.None && len(s.Components) == 0 && s.Status != sample.Retracted && !isEvent(s) {
		return errors.New("neither a value nor components are set")
	}
	if err := checkValue(s.Value); err != nil {
		return fmt.Errorf("value: %w", err)
	}
	seen := map[string]bool{}
	for _, c := range s.Components {
		if c.Name == "" || seen[c.Name] {
			return errors.New("a component lacks its name or is repeated")
		}
		seen[c.Name] = true
		if c.Value.Kind == sample.None {
			return fmt.Errorf("component %s has no value", c.Name)
		}
		if err := checkValue(c.Value); err != nil {
			return fmt.Errorf("component %s: %w", c.Name, err)
		}
	}
	return nil
}

// isEvent reports whether s may lack a value: an event that its metric
// describes, or a sample that only describes the device.
func isEvent(s *sample.Sample) bool {
	return !s.Start.IsZero() || s.Device.Battery != "" || len(s.Device.Facts) > 0
}

func checkValue(v sample.Value) error {
	if (v.Kind == sample.Series) != (v.Series != nil) {
		return errors.New("the Series does not agree with the type of the value")
	}
	switch v.Kind {
	case sample.None, sample.Boolean:
		return nil
	case sample.Number:
		return checkDecimal(v.Num)
	case sample.Interval:
		return errors.Join(checkDecimal(v.Num), checkDecimal(v.High))
	case sample.Code, sample.Text:
		if strings.TrimSpace(v.Text) == "" {
			return errors.New("empty text")
		}
		return nil
	case sample.Series:
		return checkSeries(v.Series)
	}
	return errors.New("unknown type of value")
}

func checkSeries(s *sample.SeriesData) error {
	if s.Period <= 0 {
		return errors.New("series without a period")
	}
	for _, d := range []string{s.Origin, s.Factor} {
		if d != "" {
			if err := checkDecimal(d); err != nil {
				return err
			}
		}
	}
	if s.Data == "" {
		return errors.New("series without data")
	}
	for d := range strings.SplitSeq(s.Data, " ") {
		if d == "E" || d == "U" || d == "L" {
			continue
		}
		if err := checkDecimal(d); err != nil {
			return err
		}
	}
	return nil
}

// checkDecimal accepts FHIR's decimal: -?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?
func checkDecimal(s string) error {
	bad := errors.New("not a FHIR decimal")
	s = strings.TrimPrefix(s, "-")
	digits := func() int {
		n := 0
		for n < len(s) && s[n] >= '0' && s[n] <= '9' {
			n++
		}
		return n
	}
	n := digits()
	if n == 0 || n > 1 && s[0] == '0' {
		return bad
	}
	s = s[n:]
	if strings.HasPrefix(s, ".") {
		s = s[1:]
		if n = digits(); n == 0 {
			return bad
		}
		s = s[n:]
	}
	if s != "" && (s[0] == 'e' || s[0] == 'E') {
		s = s[1:]
		if s != "" && (s[0] == '+' || s[0] == '-') {
			s = s[1:]
		}
		if n = digits(); n == 0 {
			return bad
		}
		s = s[n:]
	}
	if s != "" {
		return bad
	}
	return nil
}
