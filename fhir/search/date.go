package search

import (
	"cmp"
	"math"
	"strings"
	"time"
)

// interval is the interval [lo, hi) in Unix milliseconds.
type interval struct{ lo, hi int64 }

// always is the interval with open ends.
var always = interval{math.MinInt64, math.MaxInt64}

// instant is the interval of a date to the nanosecond.
type instant struct {
	interval
	loNs, hiNs int32 // see Value
}

func (d instant) value() Value {
	return Value{Lo: d.lo, Hi: d.hi, LoNs: d.loNs, HiNs: d.hiNs}
}

// preciseTime is a time with nanoseconds. ns counts from the millisecond ms and
// is less than a million. An int64 of nanoseconds would reach only from 1678 to
// 2262.
type preciseTime struct {
	ms int64
	ns int32
}

func (m preciseTime) compare(o preciseTime) int {
	return cmp.Or(cmp.Compare(m.ms, o.ms), cmp.Compare(m.ns, o.ns))
}

// preciseInterval returns the interval of a value with nanoseconds.
func (v *Value) preciseInterval() (lo, hi preciseTime) {
	return preciseAt(v.Lo, v.LoNs), preciseAt(v.Hi, v.HiNs)
}

const nsPerMs = 1_000_000

func preciseAt(ms int64, ns int32) preciseTime {
	switch {
	case ns < 0:
		return preciseTime{ms - 1, ns + nsPerMs}
	case ns >= nsPerMs:
		return preciseTime{ms + 1, ns - nsPerMs}
	}
	return preciseTime{ms, ns}
}

// subMillisecond reports whether a date has digits beyond the millisecond.
func (v *Value) subMillisecond() bool { return v.LoNs != 0 || v.HiNs != 0 }

// parseInstant is like parseDate, but also reads up to six digits beyond the
// millisecond.
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

// Plus restores the plus sign before the offset of a dateTime. In a query, a plus
// sign that is not percent-encoded is decoded to a space.
func Plus(s string) string {
	if i := strings.LastIndexByte(s, ' '); i > 10 {
		return s[:i] + "+" + s[i+1:]
	}
	return s
}

// parseDate parses a FHIR date, dateTime or instant and returns the interval that
// its written precision covers. Without an offset it is UTC. A missing offset and
// minutes without seconds are allowed only in searches. A leap second is the
// first second of the next minute. Digits beyond the millisecond are dropped (see
// parseInstant).
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

// parseClock parses hh:mm[:ss[.f]][Z|(+|-)hh:mm]. It returns the milliseconds
// since midnight UTC and the width of the written precision in milliseconds.
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

// parseOffset parses the offset after the time of day and returns it in
// milliseconds.
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

// approximate widens iv by a tenth of its distance from now, as R4 recommends for
// the prefix ap.
func approximate(iv interval, now time.Time) interval {
	n := now.UnixMilli()
	gap := max(n-iv.hi, iv.lo-n, 0) / 10
	return interval{iv.lo - gap, iv.hi + gap}
}

// DateInterval returns the interval [lo, hi) in Unix milliseconds that the
// written precision of a FHIR date, dateTime or instant covers. Without an offset
// it is UTC.
func DateInterval(s string) (lo, hi int64, ok bool) {
	iv, ok := parseDate(s)
	return iv.lo, iv.hi, ok
}
