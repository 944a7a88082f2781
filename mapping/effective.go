package mapping

import (
	"time"

	"pulsegate/mapping/sample"
)

// when is the resolved clinical time.
type when struct {
	start, end time.Time // end zero: an instant
	day        bool
	unsure     bool // the offset is not known to be the wearer's
}

// resolve applies the zone policy and refuses absurd times.
func resolve(s *sample.Sample, zone *time.Location) (when, error) {
	var w when
	if !s.Day.IsZero() {
		w.day = true
		w.start = time.Date(s.Day.Year, s.Day.Month, s.Day.Day, 0, 0, 0, 0, time.UTC)
		if y, m, d := w.start.Date(); y != s.Day.Year || m != s.Day.Month || d != s.Day.Day {
			return w, reject(sample.ReasonBadTime, "no such day")
		}
		return w, sane(w.start)
	}
	if s.Start.IsZero() {
		return w, reject(sample.ReasonMissing, "no time")
	}
	var err error
	if w.start, err = w.place(s.Start, s.Zone, zone); err != nil {
		return w, err
	}
	if !s.End.IsZero() {
		if w.end, err = w.place(s.End, s.Zone, zone); err != nil {
			return w, err
		}
		if w.end.Before(w.start) {
			return w, reject(sample.ReasonBadTime, "the end lies before the start")
		}
		if w.end.Equal(w.start) {
			w.end = time.Time{}
		}
	}
	return w, sane(w.start)
}

func sane(t time.Time) error {
	if y := t.Year(); y < 1900 || y > 2200 {
		return reject(sample.ReasonBadTime, "the year is not between 1900 and 2200")
	}
	return nil
}

func (w *when) place(t time.Time, z sample.Zone, zone *time.Location) (time.Time, error) {
	switch z {
	case sample.ZoneInstant:
		if zone == nil {
			w.unsure = true
			return t, nil
		}
		return t.In(zone), nil
	case sample.ZoneFloating:
		if zone == nil {
			return t, reject(sample.ReasonUnknownZone, "a wall clock without offset, and the patient has no zone")
		}
		p := time.Date(t.Year(), t.Month(), t.Day(), t.Hour(), t.Minute(), t.Second(), t.Nanosecond(), zone)
		if p.Hour() != t.Hour() || p.Minute() != t.Minute() {
			return t, reject(sample.ReasonUnknownZone, "a wall clock that the patient's zone skips")
		}
		for _, d := range []time.Duration{-time.Hour, time.Hour} {
			if q := p.Add(d); q.Hour() == p.Hour() && q.Minute() == p.Minute() {
				w.unsure = true // this clock time occurs twice
			}
		}
		return p, nil
	}
	return t, nil
}

// append writes effective[x], without a comma.
func (w *when) append(b []byte) []byte {
	if w.day {
		b = append(b, `"effectiveDateTime":"`...)
		b = w.start.AppendFormat(b, "2006-01-02")
		return append(b, '"')
	}
	if w.end.IsZero() {
		b = append(b, `"effectiveDateTime":"`...)
		b = appendTime(b, w.start)
		return append(b, '"')
	}
	b = append(b, `"effectivePeriod":{"start":"`...)
	b = appendTime(b, w.start)
	b = append(b, `","end":"`...)
	b = appendTime(b, w.end)
	return append(b, `"}`...)
}

// appendTime writes seconds, or milliseconds or microseconds where they are
// given. An offset that FHIR cannot write becomes UTC.
func appendTime(b []byte, t time.Time) []byte {
	if _, off := t.Zone(); off%60 != 0 || off > 14*3600 || off < -14*3600 {
		t = t.UTC()
	}
	switch ns := t.Nanosecond(); {
	case ns < 1000:
		return t.AppendFormat(b, time.RFC3339)
	case ns%1e6 == 0:
		return t.AppendFormat(b, "2006-01-02T15:04:05.000Z07:00")
	}
	return t.AppendFormat(b, "2006-01-02T15:04:05.000000Z07:00")
}
