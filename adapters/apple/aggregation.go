package apple

import (
	"strings"
	"time"

	"github.com/valyala/fastjson"

	"pulsegate/mapping/sample"
)

// Headers of Health Auto Export's REST automation. Only the aggregation is
// needed to read a body; the others are accepted so that a sender may pass all
// of them on.
const (
	headerName        = "automation-name"
	headerAggregation = "automation-aggregation"
	headerPeriod      = "automation-period"
	headerSession     = "session-id"
)

// grain is the length of time that a row of Health Auto Export stands for.
type grain uint8

const (
	grainUnknown grain = iota
	grainNone          // rows are single samples
	grainSecond
	grainMinute
	grainHour
	grainDay
	grainWeek
	grainMonth
	grainYear
)

// grainOf reads the header automation-aggregation. The app writes words such
// as "Hours" and "Days", and "None" or "Off" without aggregation; "Daily" and
// "1 hour" are read, too.
func grainOf(aggregation string) grain {
	s := strings.ToLower(strings.TrimSpace(aggregation))
	for _, g := range []struct {
		word  string
		grain grain
	}{
		{"none", grainNone}, {"off", grainNone}, {"disabled", grainNone}, {"false", grainNone},
		{"sec", grainSecond}, {"min", grainMinute},
		{"hour", grainHour}, {"day", grainDay}, {"dai", grainDay}, {"week", grainWeek}, {"month", grainMonth},
		{"year", grainYear},
	} {
		if strings.Contains(s, g.word) {
			return g.grain
		}
	}
	return grainUnknown
}

// end returns the end of the interval that begins at t, the zero time if a row
// of this grain has none.
func (g grain) end(t time.Time) time.Time {
	switch g {
	case grainMinute:
		return t.Add(time.Minute)
	case grainHour:
		return t.Add(time.Hour)
	case grainWeek:
		return t.AddDate(0, 0, 7)
	case grainMonth:
		return t.AddDate(0, 1, 0)
	case grainYear:
		return t.AddDate(1, 0, 0)
	}
	return time.Time{}
}

// aggregated reports whether a row of this grain is a statistic.
func (g grain) aggregated() bool { return g >= grainMinute }

// rows are the data of one metric. While all of them lie at midnight they are
// held, until other rows or the end of the payload say whether they are days.
type rows struct {
	h           *haeDecoder
	name, units string
	held        []*sample.Sample
	mixed, days bool
}

func midnight(t time.Time) bool {
	hour, minute, second := t.Clock()
	return hour+minute+second == 0
}

// put hands s out as what it stands for. The aggregation header says what rows
// are. Without it, a metric that has rows at several midnights and none at
// another time is aggregated by day.
func (r *rows) put(s *sample.Sample) error {
	h := r.h
	switch g := h.grain; {
	case g == grainDay && midnight(s.Start) && s.End.IsZero():
		return h.day(s)
	case g != grainUnknown:
		if s.End.IsZero() {
			s.End = g.end(s.Start)
		}
		return h.growing(s)
	case r.mixed:
		return h.sink.Sample(s)
	case !midnight(s.Start) || !s.End.IsZero():
		r.mixed, h.sawHours = true, true
		held := append(r.held, s)
		r.held = nil
		return h.all(held, h.sink.Sample)
	case r.days:
		return h.day(s)
	}
	r.days = len(r.held) > 0 && !s.Start.Equal(r.held[0].Start)
	r.held = append(r.held, s)
	if len(r.held) < maxHeld {
		return nil
	}
	r.days = true
	held := r.held
	r.held = nil
	return h.all(held, h.day)
}

// end hands out what is held. Rows of one midnight only may be a day or its
// first hour: the other metrics of the payload decide.
func (r *rows) end() error {
	h := r.h
	if r.days {
		h.sawDays = true
		held := r.held
		r.held = nil
		return h.all(held, h.day)
	}
	h.lone = append(h.lone, r.held...)
	r.held = nil
	if len(h.lone) < maxHeld {
		return nil
	}
	return h.loners()
}

// loners hands out the lone midnights: as days where other rows of the payload
// are days and none are not, else as the instants that they are printed as.
func (h *haeDecoder) loners() error {
	held := h.lone
	h.lone = nil
	if h.sawDays && !h.sawHours {
		return h.all(held, h.day)
	}
	return h.all(held, h.sink.Sample)
}

func (h *haeDecoder) all(held []*sample.Sample, out func(*sample.Sample) error) error {
	for _, s := range held {
		if err := out(s); err != nil {
			return err
		}
	}
	return nil
}

// day makes a daily value of s, preliminary until the day is over.
func (h *haeDecoder) day(s *sample.Sample) error {
	y, m, d := s.Start.Date()
	s.Day = sample.Date{Year: y, Month: m, Day: d}
	if now := h.clock.received(); !now.IsZero() && now.Before(s.Start.AddDate(0, 0, 1)) {
		s.Status = sample.Preliminary
	}
	s.Start = time.Time{}
	return h.sink.Sample(s)
}

// growing hands out an interval, preliminary until it is over.
func (h *haeDecoder) growing(s *sample.Sample) error {
	if now := h.clock.received(); !now.IsZero() && now.Before(s.End) {
		s.Status = sample.Preliminary
	}
	return h.sink.Sample(s)
}

// averages are the metrics of Health Auto Export whose aggregated value is a
// mean that must not be read as a spot value; they have a name of their own.
var averages = map[string]string{"heart_rate": "heart_rate.average"}

// means are further metrics whose aggregated value is a mean. Their method
// says so, and their period is not an instant.
var means = map[string]bool{
	"respiratory_rate": true, "blood_oxygen_saturation": true, "heart_rate_variability": true,
	"blood_glucose": true, "blood_pressure": true, "body_temperature": true,
}

// average renames a mean. It is one where the header says that rows are
// aggregated, and where the extremes of the row differ.
func (r *rows) average(s *sample.Sample) {
	if means[s.Metric] && r.h.grain.aggregated() {
		s.Method = "average"
	}
	name, ok := averages[s.Metric]
	if !ok || s.Value.Kind == sample.None {
		return
	}
	spread := false
	for i := range s.Components {
		c := &s.Components[i]
		spread = spread || c.Name == "min" || c.Name == "max"
	}
	if r.h.grain.aggregated() || spread && r.h.grain != grainNone {
		s.Metric, s.Method = name, "average"
	}
}

// leave reports a component that is left out, while the rest is taken.
func (h *haeDecoder) leave(metric, component, reason, rule string) error {
	return h.sink.Reject(&sample.Reject{Reason: reason, Metric: metric, Component: component, Where: h.where(),
		Detail: rule})
}

// part reads a member that becomes a component: what is no number is left out.
func (h *haeDecoder) part(v *fastjson.Value, metric, key, component string) (string, error) {
	n, err := num(v, key)
	if err == nil {
		return n, nil
	}
	return "", h.leave(metric, component, sample.ReasonBadValue, err.Error())
}
