package fitbit

import (
	"slices"
	"strings"
	"time"

	"pulsegate/mapping/sample"
)

// basis is the meaning of the clock times of a file or payload.
type basis uint8

const (
	inUTC   basis = iota // the time is UTC
	inLocal              // the time is the wearer's clock, without an offset
)

// clock turns the times of archives and legacy payloads, which have no offset, into
// times of samples. The patient's configured zone comes first; package mapping applies
// it. Then comes the zone of the vendor's profile, then offsets that the archive
// implies.
type clock struct {
	configured bool
	account    *time.Location
	iana       string
	offsets    []dayOffset // sorted by day
}

// dayOffset is the offset from UTC at the start of a local day.
type dayOffset struct {
	day    int64 // days since 1970-01-01
	offset int   // seconds east of UTC
}

const secondsPerDay = 86400

// setAccount sets the zone of the vendor's profile. Names that the system does not
// know are ignored.
func (c *clock) setAccount(name string) {
	if c.configured || name == "" || name == "Local" || len(name) > 64 {
		return
	}
	if l, err := time.LoadLocation(name); err == nil {
		c.account, c.iana = l, name
	}
}

// resolve returns the time of a sample for the clock reading of t, which is in UTC.
// ok is false if the account's zone skips the clock time.
func (c *clock) resolve(t time.Time, b basis) (out time.Time, zone sample.Zone, ok bool) {
	if b == inUTC {
		out, zone = c.utc(t)
		return out, zone, true
	}
	switch {
	case c.configured:
		return t, sample.ZoneFloating, true
	case c.account != nil:
		return c.inAccount(t)
	}
	if off, ok := c.offsetOn(floorDay(t.Unix())); ok {
		return fixed(t.Add(-time.Duration(off)*time.Second), off), sample.ZoneInstant, true
	}
	return t, sample.ZoneFloating, true
}

// utc returns the instant t with the best known offset.
func (c *clock) utc(t time.Time) (time.Time, sample.Zone) {
	switch {
	case c.configured:
		return t, sample.ZoneInstant
	case c.account != nil:
		_, off := t.In(c.account).Zone()
		return fixed(t, off), sample.ZoneStated
	}
	for _, days := range []int64{0, 1, -1} { // the local day differs from that of UTC by one at most
		day := floorDay(t.Unix()) + days
		if off, ok := c.offsetOn(day); ok && floorDay(t.Unix()+int64(off)) == day {
			return fixed(t, off), sample.ZoneInstant
		}
	}
	return t, sample.ZoneInstant
}

// inAccount resolves a clock time in the zone of the account. A time that occurs
// twice is an instant of doubtful offset.
func (c *clock) inAccount(t time.Time) (time.Time, sample.Zone, bool) {
	local := time.Date(t.Year(), t.Month(), t.Day(), t.Hour(), t.Minute(), t.Second(), t.Nanosecond(), c.account)
	if local.Hour() != t.Hour() || local.Minute() != t.Minute() {
		return t, 0, false
	}
	zone := sample.ZoneStated
	for _, d := range []time.Duration{-time.Hour, time.Hour} {
		if other := local.Add(d); other.Hour() == local.Hour() && other.Minute() == local.Minute() {
			zone = sample.ZoneInstant
		}
	}
	_, off := local.Zone()
	return fixed(local, off), zone, true
}

// offsetOn returns the offset that applies throughout a local day: the neighboring
// offsets must agree, or the only neighbor must be within a day.
func (c *clock) offsetOn(day int64) (int, bool) {
	i, exact := slices.BinarySearchFunc(c.offsets, day, func(o dayOffset, d int64) int { return int(o.day - d) })
	var before, after *dayOffset
	if exact {
		before = &c.offsets[i]
		i++
	} else if i > 0 {
		before = &c.offsets[i-1]
	}
	if i < len(c.offsets) {
		after = &c.offsets[i]
	}
	switch {
	case before != nil && after != nil:
		return before.offset, before.offset == after.offset
	case before != nil:
		return before.offset, day-before.day <= 1
	case after != nil:
		return after.offset, after.day-day <= 1
	}
	return 0, false
}

// infer sets the offsets from the first UTC times of files that begin at local
// midnight of the day in their name. starts holds these times by day. A wearer who puts
// the device on later makes the offset of a day too small, so an offset that no
// neighboring day shares within an hour is left out.
func (c *clock) infer(starts map[int64]time.Time) {
	var all []dayOffset
	for day, first := range starts {
		const step, late = 15 * 60, 60 // offsets are multiples of 15 minutes
		exact := day*secondsPerDay - first.Unix()
		off := -floorDiv(-exact, step) * step
		if off-exact > late || off < -12*3600 || off > 14*3600 {
			continue
		}
		all = append(all, dayOffset{day, int(off)})
	}
	slices.SortFunc(all, func(a, b dayOffset) int { return int(a.day - b.day) })
	near := func(a, b dayOffset) bool { return a.offset-b.offset <= 3600 && b.offset-a.offset <= 3600 }
	for i, o := range all {
		if len(all) == 1 || i > 0 && near(o, all[i-1]) || i+1 < len(all) && near(o, all[i+1]) {
			c.offsets = append(c.offsets, o)
		}
	}
}

// fixed returns t with an offset in seconds.
func fixed(t time.Time, offset int) time.Time {
	if offset == 0 {
		return t.UTC()
	}
	return t.In(time.FixedZone("", offset))
}

func floorDay(unix int64) int64 { return floorDiv(unix, secondsPerDay) }

func floorDiv(a, b int64) int64 {
	q := a / b
	if a%b < 0 {
		q--
	}
	return q
}

// layouts are the forms of a time in archives and legacy payloads.
var layouts = []string{
	"01/02/06 15:04:05", "2006-01-02T15:04:05", "2006-01-02 15:04:05", "2006-01-02T15:04", "2006-01-02", "01/02/06",
}

// reading reads a clock time. stated is set if the text has an offset other than
// "Z", and utc if it ends in "Z".
func reading(s string) (t time.Time, stated, utc, ok bool) {
	if len(s) > 40 {
		return t, false, false, false
	}
	if at, err := time.Parse(time.RFC3339Nano, s); err == nil {
		utc = strings.HasSuffix(s, "Z")
		_, off := at.Zone()
		t, stated = fixed(at, off), !utc
	} else {
		err := err
		for _, l := range layouts {
			if t, err = time.Parse(l, s); err == nil {
				break
			}
		}
		if err != nil {
			return t, false, false, false
		}
	}
	return t, stated, utc, t.Year() >= 1971 && t.Year() <= 2200
}
