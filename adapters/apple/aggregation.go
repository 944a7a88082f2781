package apple

import (
	"strings"
	"time"

	"github.com/valyala/fastjson"

	"pulsegate/mapping/sample"
)

// Headers of Health Auto Export's REST automation. The decoder needs only the
// aggregation; it lists the others so that a sender may pass all of them.
const (
	headerName        = "automation-name"
	headerAggregation = "automation-aggregation"
	headerPeriod      = "automation-period"
	headerSession     = "session-id"
)

// aggregation is the length of time that one row of Health Auto Export covers.
type aggregation uint8

const (
	aggregationUnknown aggregation = iota
	aggregationNone                // rows are single samples
	aggregationSecond
	aggregationMinute
	aggregationHour
	aggregationDay
	aggregationWeek
	aggregationMonth
	aggregationYear
)

// parseAggregation reads the header automation-aggregation. The app writes words
// such as "Hours" and "Days", and "None" or "Off" without aggregation. Spellings
// such as "Daily" and "1 hour" are accepted too.
func parseAggregation(header string) aggregation {
	s := strings.ToLower(strings.TrimSpace(header))
	for _, a := range []struct {
		word        string
		aggregation aggregation
	}{
		{"none", aggregationNone}, {"off", aggregationNone}, {"disabled", aggregationNone},
		{"false", aggregationNone}, {"sec", aggregationSecond}, {"min", aggregationMinute},
		{"hour", aggregationHour}, {"day", aggregationDay}, {"dai", aggregationDay}, {"week", aggregationWeek},
		{"month", aggregationMonth}, {"year", aggregationYear},
	} {
		if strings.Contains(s, a.word) {
			return a.aggregation
		}
	}
	return aggregationUnknown
}

// end returns the end of the interval that begins at t, or the zero time if rows
// of this aggregation have no interval.
func (a aggregation) end(t time.Time) time.Time {
	switch a {
	case aggregationMinute:
		return t.Add(time.Minute)
	case aggregationHour:
		return t.Add(time.Hour)
	case aggregationWeek:
		return t.AddDate(0, 0, 7)
	case aggregationMonth:
		return t.AddDate(0, 1, 0)
	case aggregationYear:
		return t.AddDate(1, 0, 0)
	}
	return time.Time{}
}

// isStatistic reports whether rows of this aggregation summarize several samples.
func (a aggregation) isStatistic() bool { return a >= aggregationMinute }

// rows collects the rows of one metric. Rows at midnight are pending until a row
// at another time, or the end of the payload, decides whether they are daily
// values.
type rows struct {
	decoder     *haeDecoder
	name, units string
	pending     []*sample.Sample
	mixed       bool // the metric has rows at other times than midnight
	daily       bool // the metric has rows at several midnights
}

func isMidnight(t time.Time) bool {
	hour, minute, second := t.Clock()
	return hour+minute+second == 0
}

// put emits s as an instant, an interval or a daily value, or keeps it pending.
// The aggregation header decides. Without it, a metric with rows at several
// midnights and at no other time is aggregated by day.
func (r *rows) put(s *sample.Sample) error {
	h := r.decoder
	switch a := h.aggregation; {
	case a == aggregationDay && isMidnight(s.Start) && s.End.IsZero():
		return h.emitDay(s)
	case a != aggregationUnknown:
		if s.End.IsZero() {
			s.End = a.end(s.Start)
		}
		return h.emitInterval(s)
	case r.mixed:
		return h.sink.Sample(s)
	case !isMidnight(s.Start) || !s.End.IsZero():
		r.mixed, h.sawOtherRows = true, true
		pending := append(r.pending, s)
		r.pending = nil
		return emitAll(pending, h.sink.Sample)
	case r.daily:
		return h.emitDay(s)
	}
	r.daily = len(r.pending) > 0 && !s.Start.Equal(r.pending[0].Start)
	r.pending = append(r.pending, s)
	if len(r.pending) < maxPending {
		return nil
	}
	r.daily = true
	pending := r.pending
	r.pending = nil
	return emitAll(pending, h.emitDay)
}

// end emits the pending rows. Rows at a single midnight may be a day or its first
// hour; they wait until the other metrics of the payload decide.
func (r *rows) end() error {
	h := r.decoder
	if r.daily {
		h.sawDailyRows = true
		pending := r.pending
		r.pending = nil
		return emitAll(pending, h.emitDay)
	}
	h.loneMidnights = append(h.loneMidnights, r.pending...)
	r.pending = nil
	if len(h.loneMidnights) < maxPending {
		return nil
	}
	return h.flushLoneMidnights()
}

// flushLoneMidnights emits the rows of metrics that have a single midnight. They
// are daily values if other metrics of the payload have daily rows and no metric
// has rows at another time; otherwise they are instants.
func (h *haeDecoder) flushLoneMidnights() error {
	pending := h.loneMidnights
	h.loneMidnights = nil
	if h.sawDailyRows && !h.sawOtherRows {
		return emitAll(pending, h.emitDay)
	}
	return emitAll(pending, h.sink.Sample)
}

func emitAll(samples []*sample.Sample, emit func(*sample.Sample) error) error {
	for _, s := range samples {
		if err := emit(s); err != nil {
			return err
		}
	}
	return nil
}

// emitDay emits s as a daily value. It is preliminary until the day is over.
func (h *haeDecoder) emitDay(s *sample.Sample) error {
	y, m, d := s.Start.Date()
	s.Day = sample.Date{Year: y, Month: m, Day: d}
	if now := h.clock.received(); !now.IsZero() && now.Before(s.Start.AddDate(0, 0, 1)) {
		s.Status = sample.Preliminary
	}
	s.Start = time.Time{}
	return h.sink.Sample(s)
}

// emitInterval emits s as an interval. It is preliminary until the interval is
// over.
func (h *haeDecoder) emitInterval(s *sample.Sample) error {
	if now := h.clock.received(); !now.IsZero() && now.Before(s.End) {
		s.Status = sample.Preliminary
	}
	return h.sink.Sample(s)
}

// averageMetrics maps metrics to the name of their aggregated value, a mean that
// must not be read as a spot value.
var averageMetrics = map[string]string{"heart_rate": "heart_rate.average"}

// meanMetrics are further metrics with a mean as aggregated value. They keep
// their name: the method and the interval tell the mean from a spot value.
var meanMetrics = map[string]bool{
	"respiratory_rate": true, "blood_oxygen_saturation": true, "heart_rate_variability": true,
	"blood_glucose": true, "blood_pressure": true, "body_temperature": true,
}

// markMean gives a mean its method and, for heart rates, its metric. A value is a
// mean if the header says that rows are aggregated or if the extremes of the row
// differ.
func (r *rows) markMean(s *sample.Sample) {
	if meanMetrics[s.Metric] && r.decoder.aggregation.isStatistic() {
		s.Method = "average"
	}
	name, ok := averageMetrics[s.Metric]
	if !ok || s.Value.Kind == sample.None {
		return
	}
	hasExtremes := false
	for i := range s.Components {
		c := &s.Components[i]
		hasExtremes = hasExtremes || c.Name == "min" || c.Name == "max"
	}
	if r.decoder.aggregation.isStatistic() || hasExtremes && r.decoder.aggregation != aggregationNone {
		s.Metric, s.Method = name, "average"
	}
}

// rejectComponent reports a component that is left out of a sample.
func (h *haeDecoder) rejectComponent(metric, component, reason, rule string) error {
	return h.sink.Reject(&sample.Reject{Reason: reason, Metric: metric, Component: component, Where: h.where(),
		Detail: rule})
}

// componentNumber reads a member that becomes a component. A member that is not a
// number is rejected on its own, and the result is empty.
func (h *haeDecoder) componentNumber(v *fastjson.Value, metric, key, component string) (string, error) {
	n, err := num(v, key)
	if err == nil {
		return n, nil
	}
	return "", h.rejectComponent(metric, component, sample.ReasonBadValue, err.Error())
}
