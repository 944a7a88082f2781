package adaptertest

import (
	"testing"
	"time"

	"pulsegate/mapping/sample"
)

func TestCheck(t *testing.T) {
	at := time.Date(2026, 1, 5, 9, 0, 0, 0, time.UTC)
	valid := func() *sample.Sample {
		return &sample.Sample{Metric: "m", Start: at,
			Value: sample.Value{Kind: sample.Number, Num: "-0.50e3", Unit: "u"}}
	}
	if err := Check(valid()); err != nil {
		t.Fatal(err)
	}
	series := func(data string, period time.Duration) sample.Value {
		return sample.Value{Kind: sample.Series, Series: &sample.SeriesData{Period: period, Data: data}}
	}
	for name, corrupt := range map[string]func(*sample.Sample){
		"no metric":        func(s *sample.Sample) { s.Metric = "" },
		"no time":          func(s *sample.Sample) { s.Start = time.Time{} },
		"start and day":    func(s *sample.Sample) { s.Day = sample.Date{Year: 2026, Month: 1, Day: 5} },
		"end before start": func(s *sample.Sample) { s.End = at.Add(-1) },
		"end without start": func(s *sample.Sample) {
			s.Start, s.End, s.Day = time.Time{}, at, sample.Date{Year: 2026, Month: 1, Day: 5}
		},
		"invalid day": func(s *sample.Sample) {
			s.Start, s.Day = time.Time{},
				sample.Date{Year: 2026, Month: 13, Day: 5}
		},
		"NaN":                     func(s *sample.Sample) { s.Value.Num = "NaN" },
		"plus sign":               func(s *sample.Sample) { s.Value.Num = "+1" },
		"leading zero":            func(s *sample.Sample) { s.Value.Num = "01" },
		"point at the end":        func(s *sample.Sample) { s.Value.Num = "1." },
		"empty exponent":          func(s *sample.Sample) { s.Value.Num = "1e" },
		"empty code":              func(s *sample.Sample) { s.Value = sample.Value{Kind: sample.Code, Text: " "} },
		"interval without high":   func(s *sample.Sample) { s.Value = sample.Value{Kind: sample.Interval, Num: "1"} },
		"series without type":     func(s *sample.Sample) { s.Value.Series = &sample.SeriesData{} },
		"series: two spaces":      func(s *sample.Sample) { s.Value = series("1  2", 1) },
		"series: word":            func(s *sample.Sample) { s.Value = series("1 E x", 1) },
		"series: no period":       func(s *sample.Sample) { s.Value = series("1 2", 0) },
		"unnamed component":       func(s *sample.Sample) { s.Components = []sample.Component{{Value: s.Value}} },
		"component without value": func(s *sample.Sample) { s.Components = []sample.Component{{Name: "x"}} },
		"repeated component": func(s *sample.Sample) {
			s.Components = []sample.Component{{Name: "x", Value: s.Value}, {Name: "x", Value: s.Value}}
		},
	} {
		s := valid()
		corrupt(s)
		if Check(s) == nil {
			t.Errorf("Check accepts: %s", name)
		}
	}
}
