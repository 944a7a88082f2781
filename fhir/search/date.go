package search

import (
	"cmp"
	"math"
	"strings"
	"time"
)

// interval is [lo, hi) in Unix milliseconds.
type interval struct{ lo, hi int64 }

// always is the interval without ends.
var always = interval{math.MinInt64, math.MaxInt64}

// instant is a date with all its digits.
type instant struct {
	interval
	loNs, hiNs int32 // see Value
}

func (d instant) value() Value {
	return Value{Lo: d.lo, Hi: d.hi, LoNs: d.loNs, HiNs: d.hiNs}
}

// moment is a time in nanoseconds: ns are those after the millisecond ms, and
// fewer than a million.
type moment struct {
	ms int64
	ns int32
}

func (m moment) compare(o moment) int {
	return cmp.Or(cmp.Compare(m.ms, o.ms), cmp.Compare(m.ns, o.ns))
}

// moments returns the interval of a value in nanoseconds.
func (v *Value) moments() (lo, hi moment) {
	return exactly(v.Lo, v.LoNs), exactly(v.Hi, v.HiNs)
}

const nsPerMs = 1_000_000

func exactly(ms int64, ns int32) moment {
	switch {
	case ns < 0:
		return moment{ms - 1, ns + nsPerMs}
	case ns >= nsPerMs:
		return moment{ms + 1, ns - nsPerMs}
	}
	return moment{ms, ns}
}

// fine reports whether a date has digits beyond the millisecond.
func (v *Value) fine() bool { return v.LoNs != 0 || v.HiNs != 0 }

// parseInstant is parseDate with the digits beyond the millisecond, of which
// it reads six.
func parseInstant(s string) (instant, bool) {
	iv, ok := parseDate(s)
	d := instant{interval: iv}
	dot := strings.IndexByte(s, '.')
	if !ok || dot < 0 {
		return d, ok
	}
	ns, width, digits := int32(0), int32(nsPerMs), 0
	for _, c := range []byte(s[dot+1:]) {
		if c < '0' || c > '9' {
			break
		}
		if digits++; digits > 3 && width > 1 {
			width /= 10
			ns += int32(c-'0') * width
		}
	}
	if digits > 3 {
		d.loNs, d.hiNs = ns, ns+width-nsPerMs
	}
	return d, true
}

// Plus restores a plus sign that was not percent-encoded and arrived as a
// blank: the one before the offset of a dateTime.
func Plus(s string) string {
	if i := strings.LastIndexByte(s, ' '); i > 10 {
		return s[:i] + "+" + s[i+1:]
	}
	return s
}

// parseDate reads a FHIR date, dateTime or instant of any precision as the
// interval that its written precision covers. Without an offset it is UTC;
// minutes without seconds and a missing offset occur in searches only. A leap
// second counts as the first moment of the next minute; digits of a fraction
// beyond the millisecond are cut (see parseInstant).
func parseDate(s string) (interval, bool) {
	n := len(s)
	if n < 4 {
		return interval{}, false
	}
	year, ok := digits(s[:4])
	if !ok || year == 0 {
		return interval{}, false
	}
	if n == 4 {
		return interval{ms(year, 1, 1), ms(year+1, 1, 1)}, true
	}
	if n < 7 || s[4] != '-' {
		return interval{}, false
	}
	month, ok := digits(s[5:7])
	if !ok || month < 1 || month > 12 {
		return interval{}, false
	}
	if n == 7 {
		return interval{ms(year, month, 1), ms(year, month+1, 1)}, true
	}
	if n < 10 || s[7] != '-' {
		return interval{}, false
	}
	day, ok := digits(s[8:10])
	if !ok || day < 1 || day > daysIn(year, month) {
		return interval{}, false
	}
	lo := ms(year, month, day)
	if n == 10 {
		return interval{lo, lo + 86400000}, true
	}
	if s[10] != 'T' {
		return interval{}, false
	}
	at, width, ok := parseClock(s[11:])
	if !ok {
		return interval{}, false
	}
	return interval{lo + at, lo + at + width}, true
}

// parseClock reads hh:mm[:ss[.f]][Z|(+|-)hh:mm]: milliseconds since midnight
// UTC, and the width of the written precision.
func parseClock(s string) (at, width int64, ok bool) {
	if len(s) < 5 || s[2] != ':' {
		return 0, 0, false
	}
	h, ok1 := digits(s[:2])
	m, ok2 := digits(s[3:5])
	if !ok1 || !ok2 || h > 23 || m > 59 {
		return 0, 0, false
	}
	at, width = int64(h*60+m)*60000, 60000
	s = s[5:]
	if len(s) >= 3 && s[0] == ':' {
		sec, ok := digits(s[1:3])
		if !ok || sec > 60 {
			return 0, 0, false
		}
		at, width = at+int64(sec)*1000, 1000
		s = s[3:]
		if len(s) > 0 && s[0] == '.' {
			s = s[1:]
			scale, k := int64(1000), 0
			for k < len(s) && s[k] >= '0' && s[k] <= '9' {
				if scale > 1 {
					scale /= 10
					at += int64(s[k]-'0') * scale
				}
				k++
			}
			if k == 0 {
				return 0, 0, false
			}
			width, s = scale, s[k:]
		}
	}
	off, ok := parseOffset(s)
	return at - off, width, ok
}

// parseOffset reads what follows the time of day, in milliseconds.
func parseOffset(s string) (int64, bool) {
	if s == "" || s == "Z" {
		return 0, true
	}
	if len(s) != 6 || s[0] != '+' && s[0] != '-' || s[3] != ':' {
		return 0, false
	}
	h, ok1 := digits(s[1:3])
	m, ok2 := digits(s[4:6])
	if !ok1 || !ok2 || h > 14 || m > 59 {
		return 0, false
	}
	off := int64(h*60+m) * 60000
	if s[0] == '-' {
		off = -off
	}
	return off, true
}

func ms(year, month, day int) int64 {
	return time.Date(year, time.Month(month), day, 0, 0, 0, 0, time.UTC).UnixMilli()
}

func daysIn(year, month int) int {
	return time.Date(year, time.Month(month)+1, 0, 0, 0, 0, 0, time.UTC).Day()
}

func digits(s string) (int, bool) {
	n := 0
	for i := 0; i < len(s); i++ {
		if s[i] < '0' || s[i] > '9' {
			return 0, false
		}
		n = n*10 + int(s[i]-'0')
	}
	return n, true
}

// approximate widens iv by a tenth of its distance from now, as R4 recommends
// for prefix ap.
func approximate(iv interval, now time.Time) interval {
	n := now.UnixMilli()
	gap := max(n-iv.hi, iv.lo-n, 0) / 10
	return interval{iv.lo - gap, iv.hi + gap}
}

// DateInterval is the interval [lo, hi) in Unix milliseconds that a FHIR
// date, dateTime or instant covers by its written precision, UTC where it has
// no offset.
func DateInterval(s string) (lo, hi int64, ok bool) {
	iv, ok := parseDate(s)
	return iv.lo, iv.hi, ok
}

// Instants are the first instant that a FHIR date, dateTime or instant covers
// and the one behind its last, in Unix milliseconds.
func Instants(s string) (lo, hi int64, ok bool) {
	iv, ok := parseDate(s)
	return iv.lo, iv.hi, ok
}
