// Package calendar divides time into buckets: hours, days, weeks, months and years of a
// time zone, and intervals of a fixed length in UTC.
//
// It owns the rules for the days on which clocks change. The buckets of a division have no
// gaps and do not overlap, and every instant lies in one of them. It does not own the choice
// of the zone, or what is counted in a bucket (fhir/interaction).
//
// A day begins at the first instant of its date. So it has 23 or 25 hours when clocks
// change, begins at 01:00 where midnight is skipped, and is empty where the whole date is.
// Where a date occurs twice, because clocks are set back just after midnight, it begins at
// its first midnight. Weeks begin on Monday, as in ISO 8601. An hour begins at a full hour
// of the wall clock, or when the offset changes: an hour that clocks repeat is two buckets.
package calendar

import "time"

// Unit is the length of a calendar bucket.
type Unit uint8

const (
	Hour Unit = iota + 1
	Day
	Week
	Month
	Year
)

// ParseUnit returns the unit with a name: hour, day, week, month or year.
func ParseUnit(name string) (Unit, bool) {
	for u, n := range names {
		if n == name && n != "" {
			return Unit(u), true
		}
	}
	return 0, false
}

var names = [...]string{Hour: "hour", Day: "day", Week: "week", Month: "month", Year: "year"}

// String returns the name of u.
func (u Unit) String() string {
	if int(u) < len(names) {
		return names[u]
	}
	return ""
}

// Division divides time into buckets. It is immutable.
type Division struct {
	unit  Unit // zero for a fixed length
	zone  *time.Location
	fixed int64 // milliseconds
}

// In returns the division into calendar units of a zone.
func In(zone *time.Location, u Unit) Division { return Division{unit: u, zone: zone} }

// Fixed returns the division into intervals of a fixed length, at least a millisecond,
// counted from 1970-01-01T00:00Z.
func Fixed(length time.Duration) Division {
	return Division{zone: time.UTC, fixed: max(1, length.Milliseconds())}
}

// Zone returns the zone in which the bounds of a bucket are written.
func (d Division) Zone() *time.Location { return d.zone }

// Of returns the bucket [from, to) in Unix milliseconds that contains at.
func (d Division) Of(at int64) (from, to int64) {
	if d.fixed > 0 {
		from = at - ((at%d.fixed)+d.fixed)%d.fixed
		return from, from + d.fixed
	}
	t := time.UnixMilli(at).In(d.zone)
	if d.unit == Hour {
		return d.hour(t)
	}
	year, month, day := d.floor(t.Date())
	for {
		from = d.begin(year, month, day).UnixMilli()
		to = d.begin(d.next(year, month, day)).UnixMilli()
		switch {
		case at < from: // a date that occurs twice
			year, month, day = d.floor(time.Date(year, month, day-1, 0, 0, 0, 0, time.UTC).Date())
		case at >= to:
			year, month, day = d.next(year, month, day)
		default:
			return from, to
		}
	}
}

// OfDate returns the bucket [from, to) of a date without a time. unit is the precision of
// the date: Day, Month or Year. ok is false if the buckets are shorter than that.
func (d Division) OfDate(year int, month time.Month, day int, unit Unit) (from, to int64, ok bool) {
	if d.fixed > 0 || d.unit < unit || d.unit == Week && unit != Day {
		return 0, 0, false
	}
	year, month, day = d.floor(year, month, day)
	return d.begin(year, month, day).UnixMilli(), d.begin(d.next(year, month, day)).UnixMilli(), true
}

// Midnight returns the first instant of a date in a zone.
func Midnight(zone *time.Location, year int, month time.Month, day int) time.Time {
	return Division{zone: zone}.begin(year, month, day)
}

// hour returns the hour that contains t.
func (d Division) hour(t time.Time) (from, to int64) {
	_, offset := t.Zone()
	wall := t.Unix() + int64(offset)
	start := wall - ((wall%3600)+3600)%3600 - int64(offset)
	from, to = start*1000, (start+3600)*1000
	begin, end := t.ZoneBounds()
	if !begin.IsZero() {
		from = max(from, begin.UnixMilli())
	}
	if !end.IsZero() {
		to = min(to, end.UnixMilli())
	}
	return from, to
}

// floor returns the first date of the bucket that contains a date.
func (d Division) floor(year int, month time.Month, day int) (int, time.Month, int) {
	switch d.unit {
	case Week:
		t := time.Date(year, month, day, 0, 0, 0, 0, time.UTC)
		return t.AddDate(0, 0, -int(t.Weekday()+6)%7).Date()
	case Month:
		return year, month, 1
	case Year:
		return year, time.January, 1
	}
	return year, month, day
}

// next returns the first date of the next bucket.
func (d Division) next(year int, month time.Month, day int) (int, time.Month, int) {
	switch d.unit {
	case Week:
		day += 7
	case Month:
		month++
	case Year:
		year++
	default:
		day++
	}
	return time.Date(year, month, day, 0, 0, 0, 0, time.UTC).Date()
}

// begin returns the first instant of a date. time.Date is only a hint: where midnight is
// skipped or occurs twice, it returns either of two instants.
func (d Division) begin(year int, month time.Month, day int) time.Time {
	t := time.Date(year, month, day, 0, 0, 0, 0, d.zone)
	wall := time.Date(year, month, day, 0, 0, 0, 0, time.UTC)
	start, end := t.ZoneBounds()
	_, offset := t.Zone()
	switch shown := t.Unix() + int64(offset); {
	case shown < wall.Unix() && !end.IsZero(): // midnight is skipped
		return end
	case shown > wall.Unix() && !start.IsZero():
		return start
	case !start.IsZero():
		_, before := start.Add(-time.Nanosecond).Zone()
		if earlier := time.Unix(wall.Unix()-int64(before), 0).In(d.zone); earlier.Before(start) {
			return earlier // the first of two midnights
		}
	}
	return t
}
