package series

import (
	"cmp"
	"encoding/json"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"pulsegate/fhir"
	"pulsegate/fhir/search"
)

// TestID checks that ids sort like their keys and parse to the same key.
func TestID(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var id Identity
		copy(id[:], rapid.SliceOfN(rapid.Byte(), 9, 9).Draw(t, "identity"))
		start := rapid.OneOf(rapid.Int64Range(MinStart, MaxStart),
			rapid.SampledFrom([]int64{MinStart, -1, 0, monday, MaxStart}))
		check := rapid.OneOf(rapid.Uint32(), rapid.SampledFrom([]uint32{0, 1, 1<<32 - 1}))
		a := Key{id, start.Draw(t, "a"), check.Draw(t, "ca")}
		b := Key{id, start.Draw(t, "b"), check.Draw(t, "cb")}
		if got, want := strings.Compare(a.ID(), b.ID()), a.Compare(&b); got != want {
			t.Fatalf("ids %d, keys %d", got, want)
		}
		if back, ok := ParseID(a.ID()); !ok || back != a || len(a.ID()) != 32 {
			t.Fatalf("%s: got %+v, %v, want %+v", a.ID(), back, ok, a)
		}
	})
	k := Key{Identity{1, 2, 3}, monday, 0}
	for _, id := range []string{"", "x", k.ID()[1:], k.ID() + "0", strings.ToUpper(k.ID()), k.ID()[:31] + "w",
		k.ID()[:30] + "\r\n", "\n" + k.ID()[1:]} {
		if id != k.ID() {
			if _, ok := ParseID(id); ok {
				t.Errorf("%q parsed", id)
			}
		}
	}
}

// TestDecimal compares Decimal with big.Rat and strconv.
func TestDecimal(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := Decimal{anyInt().Draw(t, "mant"), uint8(rapid.IntRange(0, maxScale).Draw(t, "scale"))}
		s := string(d.Append(nil))
		den := new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(d.Scale)), nil)
		want := new(big.Rat).SetFrac(big.NewInt(d.Mant), den)
		if w := want.FloatString(int(d.Scale)); s != w {
			t.Fatalf("%+v: %s, want %s", d, s, w)
		}
		f, err := strconv.ParseFloat(s, 64)
		if err != nil || d.Float() != f {
			t.Fatalf("%s: float %v, want %v", s, d.Float(), f)
		}
		short := d.trimmed()
		if r, _ := new(big.Rat).SetString(string(short.Append(nil))); r.Cmp(want) != 0 || short.Scale > 0 &&
			short.Mant%10 == 0 {
			t.Fatalf("%s trimmed is %s", s, short.Append(nil))
		}
	})
}

var (
	first = time.Date(1900, 1, 1, 0, 0, 0, 0, time.UTC).UnixMicro()
	last  = time.Date(2200, 1, 1, 0, 0, 0, 0, time.UTC).UnixMicro()
)

// anyTime draws an instant from 1900 to 2200 in whole days, seconds, milliseconds
// or microseconds.
func anyTime(t *rapid.T, label string) int64 {
	unit := rapid.SampledFrom([]int64{1, 1000, 1e6, 86400e6}).Draw(t, label+" unit")
	return rapid.Int64Range(first, last).Draw(t, label) / unit * unit
}

func anyOffset() *rapid.Generator[int16] {
	return rapid.OneOf(rapid.Int16Range(-14*60, 14*60), rapid.SampledFrom([]int16{0, 60, 330, -210}))
}

// formatted formats a time with the time package.
func formatted(us int64, off int16) string {
	layout := "2006-01-02T15:04:05.000000Z07:00"
	if us%1e6 == 0 {
		layout = "2006-01-02T15:04:05Z07:00"
	} else if us%1000 == 0 {
		layout = "2006-01-02T15:04:05.000Z07:00"
	}
	return time.UnixMicro(us).In(time.FixedZone("", int(off)*60)).Format(layout)
}

// TestTime compares times with those of the time package, and Interval with the
// interval that fhir/search computes from the text.
func TestTime(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		us, off := anyTime(t, "us"), anyOffset().Draw(t, "off")
		got := string(appendTime(nil, us, off))
		if want := formatted(us, off); got != want {
			t.Fatalf("%d %d: %s, want %s", us, off, got, want)
		}
		ms := time.UnixMicro(us).UnixMilli()
		if got, want := string(appendInstant(nil, ms)),
			time.UnixMilli(ms).UTC().Format(fhir.InstantLayout); got != want {
			t.Fatalf("%d ms: %s, want %s", ms, got, want)
		}
		s := Sample{Start: us, End: NoEnd, Off: off}
		lo, hi := s.Interval()
		if l, h, ok := search.DateInterval(got); !ok || l != lo || h != hi {
			t.Fatalf("%s: search reads [%d,%d) %v, Interval is [%d,%d)", got, l, h, ok, lo, hi)
		}
		s.End = max(us, anyTime(t, "end"))
		lo, hi = s.Interval()
		_, h, _ := search.DateInterval(string(appendTime(nil, s.End, off)))
		if l, _, _ := search.DateInterval(got); l != lo || h != hi {
			t.Fatalf("search reads [%d,%d), Interval is [%d,%d)", l, h, lo, hi)
		}
	})
}

func TestClass(t *testing.T) {
	for _, c := range []struct {
		long int64
		want Class
	}{{1, Instant}, {60_000, Instant}, {60_001, Hour}, {3600_000, Hour}, {3600_001, short}, {48 * 3600_000, short},
		{48*3600_000 + 1, Long}, {1 << 60, Long}} {
		if got := classOf(5, 5+c.long); got != c.want {
			t.Errorf("%d ms: class %d, want %d", c.long, got, c.want)
		}
	}
}

func pair() *Template {
	return &Template{
		Identity: Identity{9, 8, 7, 6, 5, 4, 3, 2, 1}, KeyValue: true, Seed: 5, Values: 2,
		Parts: [][]byte{[]byte(`"profile":["p"]},"identifier":[{"value":"`), []byte(`"}],`),
			[]byte(`,"component":[`), []byte(`,`), []byte(`]}`)},
		Slots: []Slot{SlotID, SlotEffective, SlotValue, SlotValue + 1},
	}
}

// TestTemplate renders an instant and an interval, with and without a commit.
func TestTemplate(t *testing.T) {
	tm := pair()
	s := Sample{Start: monday, End: NoEnd, Off: 60, Values: [MaxValues]Decimal{{620, 1}, {-5, 3}}}
	k := tm.Key(&s)
	id := k.ID()
	check := func(want string) {
		t.Helper()
		got := string(tm.Append([]byte("x"), &s))
		if want = "x" + strings.ReplaceAll(want, "ID", id); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
		if !json.Valid([]byte(got[1:])) {
			t.Error("not JSON")
		}
	}
	check(`{"resourceType":"Observation","id":"ID","meta":{"profile":["p"]},"identifier":[{"value":"ID"}],"effectiveDateTime":"2026-01-05T09:00:00+01:00","component":[62.0,-0.005]}`)
	s.Commit = Commit{3, 1767700000123}
	check(`{"resourceType":"Observation","id":"ID","meta":{"versionId":"1","lastUpdated":"2026-01-06T11:46:40.123Z","profile":["p"]},"identifier":[{"value":"ID"}],"effectiveDateTime":"2026-01-05T09:00:00+01:00","component":[62.0,-0.005]}`)
	s.End, s.EndOff = monday+90_500_000, 0
	tm.Parts[0] = []byte(`},"identifier":[{"value":"`)
	k = tm.Key(&s)
	id = k.ID()
	check(`{"resourceType":"Observation","id":"ID","meta":{"versionId":"1","lastUpdated":"2026-01-06T11:46:40.123Z"},"identifier":[{"value":"ID"}],"effectivePeriod":{"start":"2026-01-05T09:00:00+01:00","end":"2026-01-05T08:01:30.500Z"},"component":[62.0,-0.005]}`)
}

// TestCheck checks that trailing zeros do not change an id, that values change it
// if KeyValue is set, and that the end always does.
func TestCheck(t *testing.T) {
	tm := pair()
	s := Sample{Start: monday, End: NoEnd, Values: [MaxValues]Decimal{{62, 0}, {1, 0}}}
	base := tm.Check(&s)
	s.Values[0] = Decimal{6200, 2}
	if tm.Check(&s) != base {
		t.Error("62.00 and 62 have different checks")
	}
	s.Values[0] = Decimal{63, 0}
	if tm.Check(&s) == base {
		t.Error("63 and 62 have the same check")
	}
	tm.KeyValue = false
	if tm.Check(&s) != 0 {
		t.Error("an instant without KeyValue has a check")
	}
	s.End = monday + 1
	one := tm.Check(&s)
	s.End++
	if one == 0 || tm.Check(&s) == one {
		t.Error("samples with different ends have the same check")
	}
}

// TestSort compares Sort with sorted id strings and a map of the last sample per
// id.
func TestSort(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		tm := pair()
		tm.KeyValue = rapid.Bool().Draw(t, "keyvalue")
		c := &Columns{}
		latest := map[string]Sample{}
		for i := range rapid.IntRange(0, 30).Draw(t, "n") {
			s := Sample{Start: monday + rapid.Int64Range(0, 6).Draw(t, "start"), End: NoEnd, Off: int16(i)}
			if rapid.Bool().Draw(t, "interval") {
				s.End, s.EndOff = s.Start+rapid.Int64Range(0, 2).Draw(t, "end"), 1
			}
			s.Values[0], s.Values[1] = Decimal{rapid.Int64Range(0, 3).Draw(t, "v"), 0},
				Decimal{10, uint8(rapid.IntRange(0, 1).Draw(t, "w"))}
			c.Append(&s, 2)
			k := tm.Key(&s)
			latest[k.ID()] = s
		}
		if n := c.Sort(tm); n != len(latest) || n != c.Len() {
			t.Fatalf("%d left, want %d", n, len(latest))
		}
		var ids []string
		for i := range c.Len() {
			s := c.At(i)
			k := tm.Key(&s)
			ids = append(ids, k.ID())
			if s != latest[k.ID()] {
				t.Fatalf("got %+v, want %+v", s, latest[k.ID()])
			}
		}
		if !slices.IsSortedFunc(ids, cmp.Compare[string]) {
			t.Fatal("not in order")
		}
	})
}
