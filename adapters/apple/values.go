package apple

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"math"
	"strconv"
	"strings"
	"time"
	_ "time/tzdata" // HKTimeZone names zones, and a container may have none

	"pulsegate/mapping/sample"
)

// interner keeps one string for equal bytes, so that the few thousand texts
// that millions of records repeat are allocated once. It forgets everything
// when it is full.
type interner struct {
	m     map[string]string
	limit int
}

func newInterner(limit int) *interner { return &interner{m: map[string]string{}, limit: limit} }

func (in *interner) get(b []byte) string {
	if s, ok := in.m[string(b)]; ok {
		return s
	}
	if len(b) > 256 {
		return string(b)
	}
	if len(in.m) >= in.limit {
		clear(in.m)
	}
	s := string(b)
	in.m[s] = s
	return s
}

// numerals keeps texts that seldom repeat, many in one allocation.
type numerals struct{ b strings.Builder }

const numeralsSize = 8 << 10

func (n *numerals) get(text []byte) string {
	if len(text) > numeralsSize/8 {
		return string(text)
	}
	if n.b.Cap()-n.b.Len() < len(text) {
		n.b = strings.Builder{}
		n.b.Grow(numeralsSize)
	}
	from := n.b.Len()
	n.b.Write(text)
	return n.b.String()[from:]
}

// clock reads dates and keeps the zones it met.
type clock struct {
	fixed map[int]*time.Location
	named map[string]*time.Location
	max   time.Time // zero: no upper bound
	limit int64     // max in Unix seconds

	// The day and offset read last: dates follow one another.
	day      [11]byte
	offset   [6]byte
	midnight int64
	loc      *time.Location
}

func newClock(received time.Time) *clock {
	c := &clock{fixed: map[int]*time.Location{}, named: map[string]*time.Location{}, limit: math.MaxInt64}
	if !received.IsZero() {
		c.max = received.Add(48 * time.Hour)
		c.limit = c.max.Unix()
	}
	return c
}

// minPlausible is 1900-01-01 in the zone that comes to it last.
const minPlausible = -2208988800 + 16*3600

// plausible refuses what no wearable can have measured.
func (c *clock) plausible(t time.Time) bool {
	sec := t.Unix()
	return (sec >= minPlausible || t.Year() >= 1900) && (sec < c.limit || !t.After(c.max))
}

func (c *clock) zone(seconds int) *time.Location {
	l := c.fixed[seconds]
	if l == nil {
		l = time.FixedZone("", seconds)
		c.fixed[seconds] = l
	}
	return l
}

// iana loads a named zone; nil if there is no such zone.
func (c *clock) iana(name string) *time.Location {
	if l, ok := c.named[name]; ok {
		return l
	}
	if len(c.named) > 512 {
		clear(c.named)
	}
	l, err := time.LoadLocation(name)
	if err != nil || name == "" || name == "Local" {
		l = nil
	}
	c.named[name] = l
	return l
}

// parse reads "2006-01-02 15:04:05 -0700" without allocating.
func (c *clock) parse(b []byte) (time.Time, bool) {
	if len(b) != 25 || b[13] != ':' || b[16] != ':' {
		return time.Time{}, false
	}
	hour, ok1 := twoDigits(b[11], b[12])
	minute, ok2 := twoDigits(b[14], b[15])
	second, ok3 := twoDigits(b[17], b[18])
	if !ok1 || !ok2 || !ok3 || hour > 23 || minute > 59 || second > 59 {
		return time.Time{}, false
	}
	if c.loc == nil || [11]byte(b) != c.day || [6]byte(b[19:]) != c.offset {
		if !c.setDay(b) {
			return time.Time{}, false
		}
	}
	return time.Unix(c.midnight+int64(hour*3600+minute*60+second), 0).In(c.loc), true
}

func twoDigits(a, b byte) (int, bool) {
	a, b = a-'0', b-'0'
	return int(a)*10 + int(b), a <= 9 && b <= 9
}

// setDay reads the day and the offset of a date.
func (c *clock) setDay(b []byte) bool {
	if b[4] != '-' || b[7] != '-' || b[10] != ' ' || b[19] != ' ' || b[20] != '-' && b[20] != '+' {
		return false
	}
	var f [6]int
	for i, at := range [6]int{0, 2, 5, 8, 21, 23} {
		var ok bool
		if f[i], ok = twoDigits(b[at], b[at+1]); !ok {
			return false
		}
	}
	year, offset := f[0]*100+f[1], f[4]*3600+f[5]*60
	if f[4] > 15 || f[5] > 59 || !isDay(year, f[2], f[3]) {
		return false
	}
	if b[20] == '-' {
		offset = -offset
	}
	c.day, c.offset, c.loc = [11]byte(b), [6]byte(b[19:]), c.zone(offset)
	c.midnight = time.Date(year, time.Month(f[2]), f[3], 0, 0, 0, 0, c.loc).Unix()
	return true
}

func isDay(year, month, day int) bool {
	if month < 1 || month > 12 || day < 1 {
		return false
	}
	return day <= time.Date(year, time.Month(month)+1, 0, 0, 0, 0, 0, time.UTC).Day()
}

// parseDay reads "2006-01-02".
func parseDay(s string) (sample.Date, bool) {
	t, err := time.Parse(time.DateOnly, s)
	if err != nil || t.Year() < 1900 {
		return sample.Date{}, false
	}
	return sample.Date{Year: t.Year(), Month: t.Month(), Day: t.Day()}, true
}

// decimal makes of a number as Apple writes it a decimal as FHIR wants it:
// digits stay, only "+", leading zeros, "5." and ".5" are put right. ok is
// false for what is no finite number of reasonable size.
func decimal(b []byte) (out []byte, ok bool) {
	if n := len(b); n == 0 || n > 40 {
		return nil, false
	}
	if plainDecimal(b) {
		return b, true
	}
	b = bytes.TrimPrefix(b, []byte("+"))
	neg := bytes.HasPrefix(b, []byte("-"))
	b = bytes.TrimPrefix(b, []byte("-"))
	mant, exp := b, []byte(nil)
	if i := bytes.IndexAny(b, "eE"); i >= 0 {
		mant, exp = b[:i], b[i+1:]
		if n, err := strconv.Atoi(string(exp)); err != nil || n < -18 || n > 18 {
			return nil, false
		}
	}
	whole, frac, _ := bytes.Cut(mant, []byte("."))
	if !digits(whole) || !digits(frac) || len(whole)+len(frac) == 0 {
		return nil, false
	}
	whole = bytes.TrimLeft(whole, "0")
	if neg {
		out = append(out, '-')
	}
	if len(whole) == 0 {
		whole = []byte("0")
	}
	out = append(out, whole...)
	if len(frac) > 0 {
		out = append(append(out, '.'), frac...)
	}
	if exp != nil {
		out = append(append(out, 'e'), exp...)
	}
	return out, true
}

func digits(b []byte) bool {
	for _, c := range b {
		if c < '0' || c > '9' {
			return false
		}
	}
	return true
}

// plainDecimal is the common case: digits, perhaps with a point among them.
func plainDecimal(b []byte) bool {
	if b[0] == '-' {
		b = b[1:]
	}
	if len(b) == 0 || b[0] == '0' && len(b) > 1 && b[1] != '.' || b[0] == '.' || b[len(b)-1] == '.' {
		return false
	}
	points := 0
	for _, c := range b {
		if c == '.' {
			points++
		} else if c < '0' || c > '9' {
			return false
		}
	}
	return points <= 1
}

// quantity splits "83.0485 dBASPL".
func quantity(b []byte) (num, unit []byte, ok bool) {
	num, unit, _ = bytes.Cut(bytes.TrimSpace(b), []byte(" "))
	num, ok = decimal(num)
	return num, unit, ok
}

func number(num, unit string) sample.Value {
	return sample.Value{Kind: sample.Number, Num: num, Unit: unit}
}

func code(s string) sample.Value { return sample.Value{Kind: sample.Code, Text: s} }

func text(s string) sample.Value { return sample.Value{Kind: sample.Text, Text: s} }

// minutes writes a duration in minutes, to a thousandth, without zeros at the end.
func minutes(sec int64) string {
	s := strconv.FormatFloat(float64(sec)/60, 'f', 3, 64)
	return strings.TrimSuffix(strings.TrimRight(s, "0"), ".")
}

// short is a name that can stand in an id without being readable.
func short(s string) string {
	h := sha256.Sum256([]byte(s))
	return hex.EncodeToString(h[:8])
}

// devices reads HKDevice descriptions, each distinct text once.
type devices struct {
	byRaw  map[string]*sample.Device // as written, without the pointer
	byText map[string]*sample.Device // decoded
}

func newDevices() *devices {
	return &devices{byRaw: map[string]*sample.Device{}, byText: map[string]*sample.Device{}}
}

// get returns the device of one attribute; decode resolves its references.
func (d *devices) get(raw []byte, decode func() []byte) *sample.Device {
	// The pointer changes with every run and tells nothing.
	key := raw
	if rest, ok := bytes.CutPrefix(raw, []byte("&lt;&lt;HKDevice: ")); ok {
		if i := bytes.Index(rest, []byte("&gt;")); i >= 0 {
			key = rest[i:]
		}
	}
	if x, ok := d.byRaw[string(key)]; ok {
		return x
	}
	if len(d.byRaw) >= 4096 {
		clear(d.byRaw)
	}
	body := string(decode())
	if rest, ok := strings.CutPrefix(body, "<<HKDevice: "); ok {
		if _, rest, ok = strings.Cut(rest, ">"); ok {
			body = strings.TrimSuffix(strings.TrimPrefix(rest, ", "), ">")
		}
	}
	x := d.byText[body]
	if x == nil {
		if len(d.byText) >= 4096 {
			clear(d.byText)
		}
		parsed := parseDevice(body)
		x = &parsed
		d.byText[body] = x
	}
	d.byRaw[string(key)] = x
	return x
}

var deviceKeys = []string{"name", "manufacturer", "model", "hardware", "firmware", "software", "localIdentifier", "UDIDeviceIdentifier", "creation date"}

// parseDevice reads "name:Apple Watch, hardware:Watch6,7, ..."; values may
// hold commas, so a field goes on until the next known key.
func parseDevice(s string) sample.Device {
	var out sample.Device
	field := ""
	values := map[string]string{}
	for part := range strings.SplitSeq(s, ", ") {
		key, v, ok := strings.Cut(part, ":")
		known := false
		for _, k := range deviceKeys {
			known = known || ok && k == key
		}
		switch {
		case known:
			field = key
			values[key] = v
		case field != "":
			values[field] += ", " + part
		default:
			return sample.Device{Name: s}
		}
	}
	out.Name = values["name"]
	out.Manufacturer = values["manufacturer"]
	out.Model = values["model"]
	out.Hardware = values["hardware"]
	out.Software = values["software"]
	out.Firmware = values["firmware"]
	if udi := values["UDIDeviceIdentifier"]; udi != "" {
		out.Facts = []sample.Fact{{Name: "udi", Value: udi}}
	}
	out.Kind = deviceKind(out.Model + " " + out.Name)
	return out
}

func deviceKind(s string) string {
	for _, k := range [][2]string{{"Watch", "watch"}, {"iPhone", "phone"}, {"Scale", "scale"}, {"Ring", "ring"}, {"Band", "band"}} {
		if strings.Contains(s, k[0]) {
			return k[1]
		}
	}
	return ""
}
