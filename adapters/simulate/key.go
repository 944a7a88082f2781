package simulate

import (
	"encoding/hex"
	"hash/fnv"
	"math/rand/v2"
	"time"
)

// Key is the seed of one drawn value. Equal keys draw equal values; keys that differ in
// any part draw independently.
type Key uint64

// With returns the key extended by numbers: a day, the number of a request.
func (k Key) With(parts ...int) Key {
	for _, p := range parts {
		k = mix(k ^ mix(Key(p)+0x9e3779b97f4a7c15))
	}
	return k
}

// Named returns the key extended by a name, such as "sleep".
func (k Key) Named(name string) Key {
	h := fnv.New64a()
	_, _ = h.Write([]byte(name)) // never fails
	return mix(k ^ mix(Key(h.Sum64())))
}

// mix is the output function of SplitMix64, which spreads every bit over all others.
func mix(k Key) Key {
	k += 0x9e3779b97f4a7c15
	k = (k ^ k>>30) * 0xbf58476d1ce4e5b9
	k = (k ^ k>>27) * 0x94d049bb133111eb
	return k ^ k>>31
}

// Rand returns a generator for several values.
func (k Key) Rand() *rand.Rand { return rand.New(rand.NewPCG(uint64(k), uint64(mix(k)))) }

// Float returns a number from 0 up to but not including 1.
func (k Key) Float() float64 { return float64(mix(k)>>11) / (1 << 53) }

// Chance reports true with the probability p.
func (k Key) Chance(p float64) bool { return k.Float() < p }

// Between returns a whole number from low to high.
func (k Key) Between(low, high int) int { return low + int(k.Float()*float64(high-low+1)) }

// Hex returns n hexadecimal digits, such as an id. n is at most 64.
func (k Key) Hex(n int) string {
	var b [32]byte
	for i := range b {
		if i%8 == 0 {
			k = mix(k)
		}
		b[i] = byte(k >> (8 * (i % 8)))
	}
	return hex.EncodeToString(b[:])[:n]
}

// UUID returns an id in the form of a random UUID (RFC 9562, version 4).
func (k Key) UUID() string {
	h := []byte(k.Hex(32))
	h[12], h[16] = '4', "89ab"[h[16]&3]
	s := string(h)
	return s[:8] + "-" + s[8:12] + "-" + s[12:16] + "-" + s[16:20] + "-" + s[20:]
}

// Day is a calendar day, as the number of days since 1970-01-01.
type Day int

// DayOf returns the calendar day of t in the location of t.
func DayOf(t time.Time) Day {
	y, m, d := t.Date()
	return Day(time.Date(y, m, d, 0, 0, 0, 0, time.UTC).Unix() / 86400)
}

// ParseDay reads a day in the form 2006-01-02.
func ParseDay(s string) (Day, error) {
	t, err := time.Parse(time.DateOnly, s)
	return DayOf(t), err
}

// At returns the time of day h:m in loc. Hours may be negative or over 23 to reach the
// days before and after.
func (d Day) At(loc *time.Location, hour, minute int) time.Time {
	y, m, day := time.Unix(int64(d)*86400, 0).UTC().Date()
	return time.Date(y, m, day, hour, minute, 0, 0, loc)
}

// String returns the day in the form 2006-01-02.
func (d Day) String() string { return d.At(time.UTC, 0, 0).Format(time.DateOnly) }
