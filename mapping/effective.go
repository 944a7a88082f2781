package mapping

import (
	"time"

	"pulsegate/mapping/sample"
)

// Effective is the resolved clinical time of a sample, written as effective[x].
type Effective struct {
	// Start and End carry the offset that they are written with. End is zero
	// for an instant.
	Start, End time.Time
	// Day is set for a daily value. Start is then midnight in UTC.
	Day bool
	// Unsure is set if the offset may not be the wearer's.
	Unsure bool
}

// ResolveEffective applies the zone policy to the times of s. It rejects times
// outside the years 1900 to 2200. Zone is nil if the patient has no configured
// zone.
func ResolveEffective(s *sample.Sample, zone *time.Location) (Effective, error) {
	var e Effective
	if !s.Day.IsZero() {
		e.Day = true
		e.Start = time.Date(s.Day.Year, s.Day.Month, s.Day.Day, 0, 0, 0, 0, time.UTC)
		if y, m, d := e.Start.Date(); y != s.Day.Year || m != s.Day.Month || d != s.Day.Day {
			return e, reject(sample.ReasonBadTime, "no such day")
		}
		return e, checkYear(e.Start)
	}
	if s.Start.IsZero() {
		return e, reject(sample.ReasonMissing, "no time")
	}
	var err error
	if e.Start, err = e.inZone(s.Start, s.Zone, zone); err != nil {
		return e, err
	}
	if !s.End.IsZero() {
		if e.End, err = e.inZone(s.End, s.Zone, zone); err != nil {
			return e, err
		}
		if e.End.Before(e.Start) {
			return e, reject(sample.ReasonBadTime, "the end is before the start")
		}
		if e.End.Equal(e.Start) {
			e.End = time.Time{}
		}
	}
	return e, checkYear(e.Start)
}

func checkYear(t time.Time) error {
	if y := t.Year(); y < 1900 || y > 2200 {
		return reject(sample.ReasonBadTime, "the year is not between 1900 and 2200")
	}
	return nil
}

// inZone returns t with the offset that it is written with, and sets Unsure if
// that offset may not be the wearer's.
func (e *Effective) inZone(t time.Time, z sample.Zone, zone *time.Location) (time.Time, error) {
	switch z {
	case sample.ZoneInstant:
		if zone == nil {
			e.Unsure = true
			return t, nil
		}
		return t.In(zone), nil
	case sample.ZoneFloating:
		if zone == nil {
			return t, reject(sample.ReasonUnknownZone, "the time has no offset and the patient has no zone")
		}
		local := time.Date(t.Year(), t.Month(), t.Day(), t.Hour(), t.Minute(), t.Second(), t.Nanosecond(), zone)
		if local.Hour() != t.Hour() || local.Minute() != t.Minute() {
			return t, reject(sample.ReasonUnknownZone, "the patient's zone skips this clock time")
		}
		for _, d := range []time.Duration{-time.Hour, time.Hour} {
			if other := local.Add(d); other.Hour() == local.Hour() && other.Minute() == local.Minute() {
				e.Unsure = true // this clock time occurs twice
			}
		}
		return local, nil
	}
	return t, nil
}

// truncate reduces the times to the microseconds of a series sample.
func (e *Effective) truncate() {
	e.Start = e.Start.Truncate(time.Microsecond)
	if !e.End.IsZero() {
		if e.End = e.End.Truncate(time.Microsecond); e.End.Equal(e.Start) {
			e.End = time.Time{}
		}
	}
}

// append appends effective[x] without a leading comma.
func (e *Effective) append(b []byte) []byte {
	if e.Day {
		b = append(b, `"effectiveDateTime":"`...)
		b = e.Start.AppendFormat(b, time.DateOnly)
		return append(b, '"')
	}
	if e.End.IsZero() {
		b = append(b, `"effectiveDateTime":"`...)
		b = appendTime(b, e.Start)
		return append(b, '"')
	}
	b = append(b, `"effectivePeriod":{"start":"`...)
	b = appendTime(b, e.Start)
	b = append(b, `","end":"`...)
	b = appendTime(b, e.End)
	return append(b, `"}`...)
}

// Offset returns the offset in minutes that t is written with. FHIR can write
// offsets of whole minutes up to 14 hours; a time with any other offset is
// written in UTC.
func Offset(t time.Time) int16 {
	_, off := t.Zone()
	if off%60 != 0 || off > 14*3600 || off < -14*3600 {
		return 0
	}
	return int16(off / 60)
}

// appendTime appends t with seconds, or with milliseconds or microseconds if t
// has them.
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
