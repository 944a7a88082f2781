package series

import (
	"math"
	"testing"

	"pgregory.net/rapid"
)

// TestCounts: a column that has Counts has those of its numbers, whatever
// scales they are written at, and a column of few numbers has them.
func TestCounts(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		kinds := rapid.IntRange(1, 400).Draw(t, "kinds")
		base := rapid.Int64Range(-1<<40, 1<<40).Draw(t, "base")
		mant := rapid.Int64Range(base, base+int64(kinds)-1)
		scale := rapid.Uint8Range(0, rapid.Uint8Range(0, 2).Draw(t, "top")).Draw
		c := &Columns{Values: make([][]Decimal, 1)}
		want := map[float64]int{}
		same := true
		for i := range rapid.IntRange(1, 600).Draw(t, "n") {
			d := Decimal{mant.Draw(t, "mant"), scale(t, "scale")}
			same = same && d.Scale == c.first(d).Scale
			want[d.Float()]++
			c.Start, c.Off, c.Commits = append(c.Start, monday+int64(i)*1e6), append(c.Off, 0), append(c.Commits, Commit{T: 1})
			c.Values[0] = append(c.Values[0], d)
		}
		h := Summarise(c)
		got := h.Values[0].Counts
		if got == nil {
			if n := c.Len(); same && n >= countedFrom && kinds <= min(maxDistinct, n/4) {
				t.Fatalf("%d numbers of %d kinds are not counted", n, kinds)
			}
			return
		}
		last := math.Inf(-1)
		got.Each(func(v float64, n int) {
			if v <= last || want[v] != n {
				t.Fatalf("%v is said to be there %d times, after %v; is there %d times", v, n, last, want[v])
			}
			last = v
			delete(want, v)
		})
		if len(want) > 0 {
			t.Fatalf("not counted: %v", want)
		}
		h.Values[0].Counts = append(Counts{}, got[:len(got)-1]...)
		if _, err := DecodeHeader(AppendHeader(nil, &h)); err == nil {
			t.Fatal("Counts that do not come to the count are read")
		}
	})
}

// first is the first number, or d when there is none yet.
func (c *Columns) first(d Decimal) Decimal {
	if len(c.Values[0]) > 0 {
		return c.Values[0][0]
	}
	return d
}
