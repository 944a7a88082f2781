package fhirpath

import (
	"fmt"
	"strings"
	"time"
)

// temporal is a date, a date and time, or a time of day, possibly partial.
type temporal struct {
	// seconds since 1970-01-01T00:00:00 in the offset, not in UTC. The
	// parts that a partial value lacks are the first possible ones.
	seconds int64
	nanos   int32
	// digits is the precision as the number of digits written, as precision() has it:
	// 4, 6, 8 for a year, month and day; 10, 12, 14 for an hour, minute and second; and
	// one more for each digit of a fraction. A time has 8 digits less.
	digits int
	zoned  bool
	offset int32 // from UTC in minutes; 0 if zoned is not set
}

const (
	digitsYear, digitsMonth, digitsDay      = 4, 6, 8
	digitsHour, digitsMinute, digitsSeconds = 10, 12, 14
)

const noZone = int32(-1 << 30)

// value packs t into a Value.
func (t temporal) value(k Kind) Value {
	zone := noZone
	if t.zoned {
		zone = t.offset
	}
	return Value{kind: k, num: t.seconds, node: t.nanos, shadow: zone, scale: uint8(t.digits)}
}

// temporal unpacks a Date, a DateTime or a Time.
func (v Value) temporal() temporal {
	t := temporal{seconds: v.num, nanos: v.node, digits: int(v.scale), zoned: v.shadow != noZone}
	if t.zoned {
		t.offset = v.shadow
	}
	return t
}

func digitsOf(s string) (n int, ok bool) {
	for i := range len(s) {
		if !isDigit(s[i]) {
			return 0, false
		}
		n = n*10 + int(s[i]-'0')
	}
	return n, s != ""
}

// parseTemporal parses YYYY, YYYY-MM, YYYY-MM-DD and, with clock, these with T, a time
// and an offset. FHIR's form of a dateTime without T is accepted, too.
func parseTemporal(s string, clock bool) (temporal, bool) {
	date, rest, hasT := strings.Cut(s, "T")
	t, ok := parseDate(date)
	if !ok || hasT && !clock {
		return t, false
	}
	if rest == "" {
		return t, true
	}
	if t.digits != digitsDay {
		return t, false
	}
	return t, t.addClock(rest, true)
}

// parseDate parses YYYY, YYYY-MM or YYYY-MM-DD.
func parseDate(date string) (temporal, bool) {
	t := temporal{}
	month, day := 1, 1
	year, ok := digitsOf(date[:min(4, len(date))])
	switch len(date) {
	case 4:
		t.digits = digitsYear
	case 7, 10:
		var okMonth bool
		month, okMonth = digitsOf(date[5:7])
		ok = ok && okMonth && date[4] == '-'
		t.digits = digitsMonth
		if len(date) == 10 {
			var okDay bool
			day, okDay = digitsOf(date[8:])
			ok = ok && okDay && date[7] == '-'
			t.digits = digitsDay
		}
	default:
		return t, false
	}
	if !ok || month < 1 || month > 12 || day < 1 || day > daysIn(year, month) {
		return t, false
	}
	t.seconds = daysSince1970(year, month, day) * 86400
	return t, true
}

// daysIn returns the number of days of a month.
func daysIn(year, month int) int {
	switch month {
	case 4, 6, 9, 11:
		return 30
	case 2:
		if year%4 == 0 && (year%100 != 0 || year%400 == 0) {
			return 29
		}
		return 28
	}
	return 31
}

// daysSince1970 returns the day of the proleptic Gregorian calendar. The computation
// counts days from March, so that the leap day is the last of a year.
func daysSince1970(year, month, day int) int64 {
	y, m := int64(year), int64(month)
	if m <= 2 {
		y--
		m += 12
	}
	era := y / 400
	if y < 0 {
		era = (y - 399) / 400
	}
	yoe := y - era*400
	doy := (153*(m-3)+2)/5 + int64(day) - 1
	return era*146097 + yoe*365 + yoe/4 - yoe/100 + doy - 719468
}

// addClock parses hh[:mm[:ss[.fff]]] and, if zone is set, an offset.
func (t *temporal) addClock(s string, zone bool) bool {
	if zone {
		if i := strings.IndexAny(s, "Z+-"); i >= 0 {
			if !t.addZone(s[i:]) {
				return false
			}
			s = s[:i]
		}
	}
	limits := [...]int{23, 59, 59}
	units := [...]int64{3600, 60, 1}
	for i := range limits {
		if len(s) < 2 {
			return false
		}
		n, ok := digitsOf(s[:2])
		if !ok || n > limits[i] && !(i == 2 && n == 60) {
			return false
		}
		t.seconds += int64(n) * units[i]
		t.digits = digitsHour + 2*i
		s = s[2:]
		if s == "" {
			return true
		}
		if i < 2 && s[0] == ':' {
			s = s[1:]
		} else if i < 2 {
			return false
		}
	}
	return s[0] == '.' && t.addFraction(s[1:])
}

// addFraction parses the digits of a fraction of a second. Those beyond nanoseconds
// are dropped.
func (t *temporal) addFraction(s string) bool {
	if s == "" || len(s) > 30 {
		return false
	}
	if _, ok := digitsOf(s[:min(9, len(s))]); !ok {
		return false
	}
	s = s[:min(9, len(s))]
	n, _ := digitsOf(s)
	for range 9 - len(s) {
		n *= 10
	}
	t.nanos = int32(n)
	t.digits = digitsSeconds + len(s)
	return true
}

func (t *temporal) addZone(s string) bool {
	t.zoned = true
	if s == "Z" {
		return true
	}
	if len(s) != 6 || s[3] != ':' {
		return false
	}
	h, ok1 := digitsOf(s[1:3])
	m, ok2 := digitsOf(s[4:])
	if !ok1 || !ok2 || h > 14 || m > 59 {
		return false
	}
	if t.offset = int32(h*60 + m); s[0] == '-' {
		t.offset = -t.offset
	}
	return true
}

// parseClock parses a time of day.
func parseClock(s string) (temporal, bool) {
	t := temporal{}
	return t, t.addClock(s, false)
}

// truncate returns the seconds of t at a precision of up to digitsSeconds.
func (t temporal) truncate(digits int) int64 {
	switch {
	case digits >= digitsSeconds:
		return t.seconds
	case digits >= digitsMinute:
		return floor(t.seconds, 60)
	case digits >= digitsHour:
		return floor(t.seconds, 3600)
	case digits >= digitsDay:
		return floor(t.seconds, 86400)
	}
	y, m, _ := t.date()
	if digits < digitsMonth {
		m = 1
	}
	return daysSince1970(y, m, 1) * 86400
}

func floor(n, by int64) int64 {
	r := n % by
	if r < 0 {
		r += by
	}
	return n - r
}

// date returns the date of t on its own clock.
func (t temporal) date() (year, month, day int) {
	y, m, d := time.Unix(t.seconds, 0).UTC().Date()
	return y, int(m), d
}

// compareTemporals compares two values of the same family. It reports false in known
// if the precisions, or a missing offset, leave the order open.
func compareTemporals(x, y temporal) (order int, known bool) {
	xd, yd := min(x.digits, digitsSeconds), min(y.digits, digitsSeconds)
	digits := min(xd, yd)
	if digits >= digitsHour && x.zoned != y.zoned {
		return compareUnzoned(x, y, xd == yd)
	}
	if digits >= digitsHour && x.zoned {
		x.seconds -= int64(x.offset) * 60
		y.seconds -= int64(y.offset) * 60
	}
	xs, ys := x.truncate(digits), y.truncate(digits)
	switch {
	case xs < ys:
		return -1, true
	case xs > ys:
		return 1, true
	case xd != yd:
		return 0, false
	case digits == digitsSeconds && x.nanos != y.nanos:
		if x.nanos < y.nanos {
			return -1, true
		}
		return 1, true
	}
	return 0, true
}

// compareUnzoned compares two times of which one has no offset: the order is known if
// it is the same for all offsets from -12:00 to +14:00.
func compareUnzoned(x, y temporal, _ bool) (order int, known bool) {
	if y.zoned {
		order, known = compareUnzoned(y, x, false)
		return -order, known
	}
	at := x.seconds - int64(x.offset)*60
	switch {
	case at < y.seconds-14*3600:
		return -1, true
	case at > y.seconds+12*3600+60:
		return 1, true
	}
	return 0, false
}

// text writes t as a literal without @ or T before it.
func (t temporal) text(k Kind) string {
	u := time.Unix(t.seconds, 0).UTC()
	var b strings.Builder
	if k != KindTime {
		y, m, d := t.date()
		fmt.Fprintf(&b, "%04d", y)
		if t.digits >= digitsMonth {
			fmt.Fprintf(&b, "-%02d", m)
		}
		if t.digits >= digitsDay {
			fmt.Fprintf(&b, "-%02d", d)
		}
		if t.digits >= digitsHour {
			b.WriteByte('T')
		}
	}
	if t.digits >= digitsHour {
		fmt.Fprintf(&b, "%02d", u.Hour())
	}
	if t.digits >= digitsMinute {
		fmt.Fprintf(&b, ":%02d", u.Minute())
	}
	if t.digits >= digitsSeconds {
		fmt.Fprintf(&b, ":%02d", u.Second())
	}
	if n := t.digits - digitsSeconds; n > 0 {
		b.WriteByte('.')
		b.WriteString(fmt.Sprintf("%09d", t.nanos)[:min(n, 9)])
	}
	if t.zoned && t.digits >= digitsHour {
		switch off := t.offset; {
		case off == 0:
			b.WriteByte('Z')
		case off < 0:
			fmt.Fprintf(&b, "-%02d:%02d", -off/60, -off%60)
		default:
			fmt.Fprintf(&b, "+%02d:%02d", off/60, off%60)
		}
	}
	return b.String()
}
