package apple

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"math"
	"strconv"
	"strings"
	"time"
	_ "time/tzdata" // HKTimeZone names IANA zones, and a container may lack them

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"pulsegate/mapping/sample"
)

// interner returns the same string for equal bytes, so that the few thousand
// texts that millions of records repeat are allocated once. It forgets all
// strings when it is full. It is a map rather than a golang-lru cache, because
// the lookup by bytes must not allocate a string; the same holds for devices.
type interner struct {
	interned map[string]string
	limit    int
}

func newInterner(limit int) *interner { return &interner{interned: map[string]string{}, limit: limit} }

func (in *interner) get(b []byte) string {
	if s, ok := in.interned[string(b)]; ok {
		return s
	}
	if len(b) > 256 {
		return string(b)
	}
	if len(in.interned) >= in.limit {
		clear(in.interned)
	}
	s := string(b)
	in.interned[s] = s
	return s
}

// numberStrings makes strings of numbers. Integers below 1000 share one
// constant string; other numbers are appended to blocks of 4 KiB. A string
// keeps its whole block alive, so strings that live long are cloned.
type numberStrings struct {
	small string // "000001002..."
	block strings.Builder
}

func newNumberStrings() *numberStrings {
	b := make([]byte, 0, 3000)
	for i := range 1000 {
		b = append(b, byte('0'+i/100), byte('0'+i/10%10), byte('0'+i%10))
	}
	return &numberStrings{small: string(b)}
}

func (s *numberStrings) get(b []byte) string {
	if n := len(b); n > 0 && n <= 3 && digits(b) {
		v := 0
		for _, c := range b {
			v = 10*v + int(c-'0')
		}
		return s.small[3*v+3-n : 3*v+3]
	}
	if s.block.Cap()-s.block.Len() < len(b) {
		s.block.Reset()
		s.block.Grow(max(4096, len(b)))
	}
	from := s.block.Len()
	s.block.Write(b)
	return s.block.String()[from:]
}

// clock parses dates and caches the zones that it has seen.
type clock struct {
	fixed map[int]*time.Location
	named *simplelru.LRU[string, *time.Location]
	max   time.Time // latest plausible time, or zero
	last  int64     // Unix seconds of max

	days [8]day // cached dates, indexed by the last digit of the day modulo 8

	// The last offset.
	offset  int // seconds
	loc     *time.Location
	printed uint64 // the offset as printed
}

// day caches the midnight of a date as Unix seconds in UTC.
type day struct {
	head uint64
	tail uint32
	sec  int64
}

// moment is an instant in the zone of its printed offset.
type moment struct {
	sec  int64 // Unix seconds
	zone *time.Location
}

func (m moment) time() time.Time { return time.Unix(m.sec, 0).In(m.zone) }

// moment reads a plausible date at the start of b. It gives the same result as
// parse and plausible but caches days and the offset, which adjacent records
// share.
func (c *clock) moment(b []byte) (moment, bool) {
	if len(b) < 25 {
		return moment{}, false
	}
	b = b[:25:25]
	d := &c.days[b[9]&7]
	head, tail := binary.LittleEndian.Uint64(b), binary.LittleEndian.Uint32(b[7:])
	if d.head != head || d.tail != tail {
		t, ok := c.parse(b)
		if !ok || t.Year() < 1900 {
			return moment{}, false
		}
		*d = day{head, tail, time.Date(t.Year(), t.Month(), t.Day(), 0, 0, 0, 0, time.UTC).Unix()}
	}
	printed := uint64(binary.LittleEndian.Uint32(b[19:])) | uint64(binary.LittleEndian.Uint16(b[23:]))<<32
	if printed != c.printed {
		t, ok := c.parse(b)
		if !ok {
			return moment{}, false
		}
		_, c.offset = t.Zone()
		c.loc, c.printed = c.zone(c.offset), printed
	}
	sec, ok := timeOfDay(binary.LittleEndian.Uint64(b[11:]))
	if sec += d.sec - int64(c.offset); !ok || sec > c.last {
		return moment{}, false
	}
	return moment{sec, c.loc}, true
}

// timeOfDay parses the eight bytes of "15:04:05" in one word.
func timeOfDay(w uint64) (sec int64, ok bool) {
	x := w ^ 0x30303A30303A3030 // digits become 0 to 9, colons 0
	if (x|(x+0x76767F76767F7676))&0x8080808080808080 != 0 {
		return 0, false
	}
	h := x&0xff*10 + x>>8&0xff
	m := x>>24&0xff*10 + x>>32&0xff
	s := x>>48&0xff*10 + x>>56
	return int64(h*3600 + m*60 + s), h < 24 && m < 60 && s < 60
}

func newClock(received time.Time) *clock {
	c := &clock{fixed: map[int]*time.Location{}, last: math.MaxInt64}
	c.named, _ = simplelru.NewLRU[string, *time.Location](maxZones, nil) // fails only for a size below one
	if !received.IsZero() {
		c.max = received.Add(48 * time.Hour)
		c.last = c.max.Unix()
	}
	return c
}

// received returns the time of receipt, or the zero time if it is unknown.
func (c *clock) received() time.Time {
	if c.max.IsZero() {
		return c.max
	}
	return c.max.Add(-48 * time.Hour)
}

// plausible reports whether a measurement may have been made at t: since 1900
// and at most 48 hours after receipt.
func (c *clock) plausible(t time.Time) bool {
	return t.Year() >= 1900 && (c.max.IsZero() || !t.After(c.max))
}

// zone returns the fixed zone of an offset in seconds.
func (c *clock) zone(seconds int) *time.Location {
	l := c.fixed[seconds]
	if l == nil {
		l = time.FixedZone("", seconds)
		c.fixed[seconds] = l
	}
	return l
}

// inOffset returns t in a fixed zone with the offset that loc has at t.
func inOffset(c *clock, t time.Time, loc *time.Location) time.Time {
	_, offset := t.In(loc).Zone()
	return t.In(c.zone(offset))
}

// maxZones bounds the named zones that are cached.
const maxZones = 512

// iana returns a zone by its IANA name, or nil if there is no such zone.
func (c *clock) iana(name string) *time.Location {
	if l, ok := c.named.Get(name); ok {
		return l
	}
	l, err := time.LoadLocation(name)
	if err != nil || name == "" || name == "Local" {
		l = nil
	}
	c.named.Add(name, l)
	return l
}

// parse reads "2006-01-02 15:04:05 -0700" without allocating.
func (c *clock) parse(b []byte) (time.Time, bool) {
	if len(b) != 25 || b[4] != '-' || b[7] != '-' || b[10] != ' ' || b[13] != ':' || b[16] != ':' || b[19] != ' ' {
		return time.Time{}, false
	}
	var f [8]int
	for i, span := range [8][2]int{{0, 4}, {5, 7}, {8, 10}, {11, 13}, {14, 16}, {17, 19}, {21, 23}, {23, 25}} {
		for _, d := range b[span[0]:span[1]] {
			if d < '0' || d > '9' {
				return time.Time{}, false
			}
			f[i] = f[i]*10 + int(d-'0')
		}
	}
	offset := f[6]*3600 + f[7]*60
	switch {
	case b[20] == '-':
		offset = -offset
	case b[20] != '+':
		return time.Time{}, false
	}
	if f[6] > 15 || f[7] > 59 || f[3] > 23 || f[4] > 59 || f[5] > 59 || !isDay(f[0], f[1], f[2]) {
		return time.Time{}, false
	}
	return time.Date(f[0], time.Month(f[1]), f[2], f[3], f[4], f[5], 0, c.zone(offset)), true
}

// isDay reports whether the date exists.
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

// decimal turns a number as Apple writes it into a decimal of FHIR. The digits
// stay; a plus sign, leading zeros and notations like "5." and ".5" are
// corrected. ok is false if b is not a finite number of at most 40 bytes.
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

// digits reports whether b has nothing but digits.
func digits(b []byte) bool {
	for _, c := range b {
		if c < '0' || c > '9' {
			return false
		}
	}
	return true
}

// plainDecimal reports whether b is a decimal without an exponent that needs no
// correction, which is the common case. b is not empty.
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

// quantity splits a value with a unit such as "83.0485 dBASPL".
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

// hashName returns a hash of a name, for ids that must not show the name.
func hashName(s string) string {
	h := sha256.Sum256([]byte(s))
	return hex.EncodeToString(h[:8])
}

// devices parses and caches descriptions of HKDevice.
type devices struct {
	byRaw  map[string]*sample.Device // keys are descriptions as written
	byText map[string]*sample.Device // keys are descriptions without the pointer
}

func newDevices() *devices {
	return &devices{byRaw: map[string]*sample.Device{}, byText: map[string]*sample.Device{}}
}

// get returns the device for the raw bytes of an attribute. decode resolves the
// references in them.
func (d *devices) get(raw []byte, decode func() []byte) *sample.Device {
	if dev, ok := d.byRaw[string(raw)]; ok {
		return dev
	}
	if len(d.byRaw) >= 4096 {
		clear(d.byRaw)
	}
	body := string(decode())
	// The pointer is an address in the memory of the phone and identifies nothing.
	if rest, ok := strings.CutPrefix(body, "<<HKDevice: "); ok {
		if _, rest, ok = strings.Cut(rest, ">"); ok {
			body = strings.TrimSuffix(strings.TrimPrefix(rest, ", "), ">")
		}
	}
	dev := d.byText[body]
	if dev == nil {
		if len(d.byText) >= 4096 {
			clear(d.byText)
		}
		parsed := parseDevice(body)
		dev = &parsed
		d.byText[body] = dev
	}
	d.byRaw[string(raw)] = dev
	return dev
}

var deviceKeys = []string{"name", "manufacturer", "model", "hardware", "firmware", "software", "localIdentifier",
	"UDIDeviceIdentifier", "creation date"}

// parseDevice reads "name:Apple Watch, hardware:Watch6,7, ...". Values may
// contain commas, so a field extends to the next key of deviceKeys.
func parseDevice(s string) sample.Device {
	var out sample.Device
	field := ""
	values := map[string]string{}
	for part := range strings.SplitSeq(s, ", ") {
		key, v, ok := strings.Cut(part, ":")
		isKey := false
		for _, k := range deviceKeys {
			isKey = isKey || ok && k == key
		}
		switch {
		case isKey:
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
	out.Kind = deviceType(out.Model + " " + out.Name)
	return out
}

// deviceType returns the device type that a model or a name contains, or "".
func deviceType(s string) string {
	for _, k := range [][2]string{{"Watch", "watch"}, {"iPhone", "phone"}, {"Scale", "scale"}, {"Ring", "ring"},
		{"Band", "band"}} {
		if strings.Contains(s, k[0]) {
			return k[1]
		}
	}
	return ""
}

// plainNotation returns a decimal without an exponent, which SampledData does not
// allow.
func plainNotation(num string) (string, bool) {
	if !strings.ContainsAny(num, "eE") {
		return num, num != ""
	}
	f, err := strconv.ParseFloat(num, 64)
	if err != nil || math.Abs(f) >= 1e15 {
		return "", false
	}
	return strconv.FormatFloat(f, 'f', -1, 64), true
}
