package ingest

import (
	"slices"
	"strings"
	"time"

	"pulsegate/fhir"
)

// Window names data of a vendor: Observations of some types in a half-open time.
// In Request.Complete, it says that the payload states all of them.
type Window struct {
	// Types holds the vendor's types as the metric table spells them. A metric
	// belongs to a type if it is the type or begins with the type and a dot:
	// "sleep" covers "sleep.average_hrv". A roll-up such as "steps/day" is another
	// type.
	Types []string
	// From and To bound the start of an Observation: From <= start < To. An
	// Observation with the value of a day is not in the window.
	From, To time.Time
	// Days selects the values of days as well: for them, From and To stand for their
	// calendar dates.
	Days bool
	// ByEnd bounds the end of a period instead of its start.
	ByEnd bool
	// Coarse is set if the payload comes from a coarse channel, see
	// sample.Sample.Coarse. A payload with a coarse sample of Types counts as coarse
	// in any case.
	Coarse bool
}

// check reports why w is not a window.
func (w *Window) check(op string) error {
	if len(w.Types) == 0 || slices.Contains(w.Types, "") {
		return fhir.Errorf(fhir.Invalid, op, "a window must name its types")
	}
	if w.From.IsZero() || w.To.IsZero() || !w.From.Before(w.To) || w.Days && w.day(w.From) >= w.day(w.To) {
		return fhir.Errorf(fhir.Invalid, op, "a window must begin before it ends")
	}
	return nil
}

func (w *Window) day(t time.Time) string { return t.Format(time.DateOnly) }

// bounds returns times between which a search finds all Observations of the
// window. The day of a value may be in any zone.
func (w *Window) bounds() (from, to time.Time) {
	if !w.Days {
		return w.From.UTC().Truncate(time.Second), w.To.UTC().Add(time.Second)
	}
	date := func(t time.Time) time.Time {
		return time.Date(t.Year(), t.Month(), t.Day(), 0, 0, 0, 0, time.UTC)
	}
	return date(w.From).AddDate(0, 0, -1), date(w.To).AddDate(0, 0, 1)
}

// contains reports whether an Observation with the given elements lies in the
// window.
func (w *Window) contains(s *storedElements) bool {
	if s.isDay() {
		return w.Days && s.EffectiveDateTime >= w.day(w.From) && s.EffectiveDateTime < w.day(w.To)
	}
	from, to, ok := s.effective()
	return ok && w.containsTime(from, to)
}

// filingMargin is the time around a period within which the day lies that a vendor
// files the period under: it may be the day of going to bed or of waking, days may
// begin at 4 or at 18 o'clock, and the written offset may not be the wearer's.
const filingMargin = 24 * time.Hour

// containsTime reports whether an Observation with a time lies in the window. An
// instant ends when it starts. A window of days contains it if it contains every day
// that the vendor may file it under.
func (w *Window) containsTime(from, to time.Time) bool {
	if w.Days {
		first, last := wall(from).Add(-filingMargin), wall(to).Add(filingMargin)
		return w.day(first) >= w.day(w.From) && w.day(last) < w.day(w.To)
	}
	at := from
	if w.ByEnd {
		at = to
	}
	return !at.Before(w.From) && at.Before(w.To)
}

// wall returns the local time of t, as written, in UTC.
func wall(t time.Time) time.Time {
	_, offset := t.Zone()
	return t.UTC().Add(time.Duration(offset) * time.Second)
}

// wallClock returns a time of a series with its written offset in minutes.
func wallClock(us int64, offset int16) time.Time {
	return time.UnixMicro(us).In(time.FixedZone("", int(offset)*60))
}

// isDay reports whether the effective time is a day without a time.
func (s *storedElements) isDay() bool {
	return len(s.EffectiveDateTime) == len(time.DateOnly) && !strings.Contains(s.EffectiveDateTime, "T")
}
