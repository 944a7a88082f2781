package jsonitem

import (
	"math/big"
	"strconv"
	"strings"
	"time"

	"pulsegate/mapping/sample"
)

// State is the result of reading a number.
type State uint8

// States of a number.
const (
	Absent State = iota // absent or null
	Given
	NotFinite // "NaN", "Infinity"
	Bad       // not a number, or longer than 32 characters
)

// Decimal reads a number, or a string with a number as proto3 JSON writes
// int64. It returns the number as written.
func (n *Node) Decimal() (string, State) {
	if n == nil || n.Kind == 'n' {
		return "", Absent
	}
	if n.Kind != '0' && n.Kind != '"' {
		n.misread = true
		return "", Bad
	}
	switch n.Text {
	case "NaN", "Infinity", "-Infinity":
		return "", NotFinite
	}
	if !isDecimal(n.Text) {
		n.misread = n.Text != ""
		return "", Bad
	}
	return n.Text, Given
}

// isDecimal accepts JSON's grammar of numbers in at most 32 characters and
// within the range of a float64, which covers all numbers that vendors send.
func isDecimal(s string) bool {
	d := strings.TrimPrefix(s, "-")
	if len(s) > 32 || d == "" || d[0] < '0' || d[0] > '9' || d[len(d)-1] < '0' || d[len(d)-1] > '9' {
		return false
	}
	if len(d) > 1 && d[0] == '0' && d[1] >= '0' && d[1] <= '9' {
		return false
	}
	if strings.ContainsAny(d, "xXpP_") {
		return false
	}
	if i := strings.IndexByte(d, '.'); i >= 0 && (d[i+1] < '0' || d[i+1] > '9') {
		return false
	}
	_, err := strconv.ParseFloat(s, 64)
	return err == nil
}

// Float returns the approximate value of a decimal, for comparisons with
// limits.
func Float(decimal string) float64 {
	f, err := strconv.ParseFloat(decimal, 64)
	if err != nil {
		return 0
	}
	return f
}

// Subtract returns a - b exactly, with the greater number of decimal places of
// the two.
func Subtract(a, b string) (string, bool) {
	minuend, ok1 := new(big.Rat).SetString(a)
	subtrahend, ok2 := new(big.Rat).SetString(b)
	if !ok1 || !ok2 {
		return "", false
	}
	return minuend.Sub(minuend, subtrahend).FloatString(max(scale(a), scale(b))), true
}

// scale returns the number of decimal places, from 0 to 20.
func scale(s string) int {
	exp := 0
	if i := strings.IndexAny(s, "eE"); i >= 0 {
		e, err := strconv.Atoi(s[i+1:])
		if err != nil {
			return 20
		}
		exp, s = e, s[:i]
	}
	places := 0
	if i := strings.IndexByte(s, '.'); i >= 0 {
		places = len(s) - i - 1
	}
	return min(max(places-exp, 0), 20)
}

// Time reads an RFC 3339 instant. With "Z" it is an instant without the
// wearer's offset, without an offset it is a floating time. Years outside 1971
// to 2200 are refused because no wearable can have measured then.
func (n *Node) Time() (time.Time, sample.Zone, bool) {
	s := n.String()
	if len(s) < len("2006-01-02T15:04:05") || len(s) > 40 {
		return time.Time{}, 0, false
	}
	zone := sample.ZoneStated
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		if t, err = time.Parse("2006-01-02T15:04:05.999999999", s); err != nil {
			return time.Time{}, 0, false
		}
		zone = sample.ZoneFloating
	} else if strings.HasSuffix(s, "Z") {
		zone = sample.ZoneInstant
	}
	if t.Year() < 1971 || t.Year() > 2200 {
		return time.Time{}, 0, false
	}
	_, offset := t.Zone()
	return In(t, offset), zone, true
}

// In returns t in a fixed zone with an offset in seconds, never in the local
// zone.
func In(t time.Time, offset int) time.Time {
	if offset == 0 {
		return t.UTC()
	}
	return t.In(time.FixedZone("", offset))
}

// Day reads a date as YYYY-MM-DD.
func (n *Node) Day() (sample.Date, bool) {
	t, err := time.Parse(time.DateOnly, n.String())
	if err != nil || t.Year() < 1971 || t.Year() > 2200 {
		return sample.Date{}, false
	}
	return DateOf(t), true
}

// DateOf returns the calendar day of t in its zone.
func DateOf(t time.Time) sample.Date {
	y, m, d := t.Date()
	return sample.Date{Year: y, Month: m, Day: d}
}
