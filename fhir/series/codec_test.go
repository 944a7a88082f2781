package series

import (
	"math"
	"reflect"
	"testing"

	"pgregory.net/rapid"
)

var edges = []int64{0, 1, -1, 9, 10, -10, 255, 256, math.MaxInt64, math.MinInt64, math.MinInt64 + 1, MinStart, MaxStart, 1e18, -1e18, 999999999999999999}

// anyInt draws small, large and extreme numbers.
func anyInt() *rapid.Generator[int64] {
	return rapid.OneOf(rapid.SampledFrom(edges), rapid.Int64(), rapid.Int64Range(-100, 100))
}

// wild draws columns of any content that the contract allows.
func wild(t *rapid.T, limit int) *Columns {
	n := rapid.IntRange(0, limit).Draw(t, "n")
	c := &Columns{}
	unit := rapid.SampledFrom([]int64{1, 1000, 1e6, 5e6, 60e6}).Draw(t, "unit")
	at := rapid.Int64Range(MinStart, MaxStart).Draw(t, "first")
	start := rapid.SampledFrom([]string{"any", "steps", "same"}).Draw(t, "start")
	ends := rapid.SampledFrom([]string{"none", "all", "mixed", "absent", "abut"}).Draw(t, "ends")
	values := rapid.IntRange(0, MaxValues).Draw(t, "values")
	scale := make([]int, values)
	for v := range scale {
		scale[v] = rapid.IntRange(0, 20).Draw(t, "scale")
		c.Values = append(c.Values, make([]Decimal, 0, n))
	}
	commits := rapid.IntRange(0, 5).Draw(t, "commits")
	var pool []Commit
	for range commits {
		pool = append(pool, Commit{uint64(anyInt().Draw(t, "T")) | 1, anyInt().Draw(t, "updated")})
	}
	for range n {
		switch start {
		case "any":
			at = rapid.Int64Range(MinStart, MaxStart).Draw(t, "at")
		case "steps":
			at = min(at+unit*rapid.Int64Range(0, 9).Draw(t, "step"), MaxStart)
		}
		c.Start = append(c.Start, at)
		c.Off = append(c.Off, rapid.OneOf(rapid.Int16(), rapid.SampledFrom([]int16{0, 60, 120})).Draw(t, "off"))
		if ends != "none" {
			end := rapid.OneOf(anyInt(), rapid.Just(at+unit)).Draw(t, "end")
			if ends == "absent" || ends == "mixed" && rapid.Bool().Draw(t, "instant") {
				end = NoEnd
			}
			if ends == "abut" {
				end = at + unit*rapid.Int64Range(0, 90).Draw(t, "long")
				at = end
				if at > MaxStart {
					at = MaxStart
				}
			}
			c.End = append(c.End, end)
			c.EndOff = append(c.EndOff, rapid.Int16().Draw(t, "endoff"))
		}
		for v := range values {
			d := Decimal{anyInt().Draw(t, "mant"), uint8(scale[v])}
			switch scale[v] {
			case 19:
				d.Scale = uint8(rapid.IntRange(0, maxScale).Draw(t, "s"))
			case 20:
				d = Decimal{rapid.Int64Range(-1e6, 1e6).Draw(t, "mant"), uint8(rapid.IntRange(0, 6).Draw(t, "s"))}.trimmed()
			}
			c.Values[v] = append(c.Values[v], d)
		}
		if commits > 0 {
			c.Commits = append(c.Commits, rapid.SampledFrom(pool).Draw(t, "commit"))
		}
	}
	return c
}

// equal compares samples; an empty slice is a nil one.
func equal(a, b *Columns) bool {
	same := func(x, y any) bool {
		return reflect.ValueOf(x).Len() == 0 && reflect.ValueOf(y).Len() == 0 || reflect.DeepEqual(x, y)
	}
	if !same(a.Start, b.Start) || !same(a.End, b.End) || !same(a.Off, b.Off) || !same(a.EndOff, b.EndOff) || !same(a.Commits, b.Commits) || len(a.Values) != len(b.Values) {
		return false
	}
	for v := range a.Values {
		if !same(a.Values[v], b.Values[v]) {
			return false
		}
	}
	return true
}

func newCodec(t testing.TB) *Codec {
	c, err := NewCodec()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestRoundTrip: whatever columns hold comes back, into memory that held
// something else, and after other bytes.
func TestRoundTrip(t *testing.T) {
	codec := newCodec(t)
	var back Columns
	rapid.Check(t, func(t *rapid.T) {
		c := wild(t, rapid.SampledFrom([]int{3, 40, 700}).Draw(t, "limit"))
		prefix := rapid.SliceOfN(rapid.Byte(), 0, 3).Draw(t, "prefix")
		b, err := codec.Encode(prefix, c)
		if err != nil {
			t.Fatal(err)
		}
		if err := codec.Decode(b[len(prefix):], &back); err != nil {
			t.Fatal(err)
		}
		if !equal(c, &back) {
			t.Fatalf("got %+v\nwant %+v", back, *c)
		}
	})
}
