package ingest

import (
	"time"

	"pulsegate/mapping/sample"
)

// over reports whether a time, of which at is the last moment and which is an instant
// if instant is set, lies wholly before since.
func over(at time.Time, instant bool, since time.Time) bool {
	return at.Before(since) || !instant && at.Equal(since)
}

// farthestAhead is the greatest offset from UTC.
const farthestAhead = 14 * time.Hour

// dayOver reports whether a calendar day may lie wholly before since. Without a zone,
// it may be the day of the zone in which it ends first.
func dayOver(year int, month time.Month, day int, zone *time.Location, since time.Time) bool {
	if zone == nil {
		zone = time.FixedZone("", int(farthestAhead/time.Second))
	}
	return over(time.Date(year, month, day+1, 0, 0, 0, 0, zone), false, since)
}

// tooOld reports whether Request.Since excludes s.
func (d *delivery) tooOld(s *sample.Sample) bool {
	since := d.request.Since
	if since.IsZero() || s.IsDeletion() {
		return false
	}
	if !s.Day.IsZero() {
		return dayOver(s.Day.Year, s.Day.Month, s.Day.Day, d.zone, since)
	}
	at, instant := s.Start, s.End.IsZero()
	if !instant {
		at = s.End
	}
	if s.Zone == sample.ZoneFloating {
		local := wall(at)
		zone := d.zone
		if zone == nil {
			zone = time.FixedZone("", int(farthestAhead/time.Second))
		}
		at = time.Date(local.Year(), local.Month(), local.Day(), local.Hour(), local.Minute(), local.Second(),
			local.Nanosecond(), zone)
	}
	return over(at, instant, since)
}

// keepsOld reports whether Request.Since protects a stored Observation from being
// retracted because the payload does not state it: samples of its time are dropped.
func (d *delivery) keepsOld(s *storedElements) bool {
	since := d.request.Since
	if since.IsZero() {
		return false
	}
	if s.isDay() {
		day, err := time.Parse(time.DateOnly, s.EffectiveDateTime)
		return err != nil || dayOver(day.Year(), day.Month(), day.Day(), d.zone, since)
	}
	from, to, ok := s.effective()
	return !ok || over(to, from.Equal(to), since)
}
