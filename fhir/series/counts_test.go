package series

import (
	"maps"
	"math"
	"testing"

	"pgregory.net/rapid"
)

// TestCounts checks that Counts hold the count of each number at any mix of
// scales, and that a column with few distinct numbers has Counts.
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
			c.Start, c.Off, c.Commits = append(c.Start, monday+int64(i)*1e6), append(c.Off, 0),
				append(c.Commits, Commit{Seq: 1})
			c.Values[0] = append(c.Values[0], d)
		}
		h := Summarize(c)
		got := h.Values[0].Counts
		if got == nil {
			if n := c.Len(); same && n >= countedFrom && kinds <= min(maxDistinct, n/4) {
				t.Fatalf("no Counts for %d numbers with %d distinct values", n, kinds)
			}
			return
		}
		last := math.Inf(-1)
		if !got.each(c.Len(), func(v float64, n int) {
			if v <= last || want[v] != n {
				t.Fatalf("%v is counted %d times, after %v; want %d", v, n, last, want[v])
			}
			last = v
			delete(want, v)
		}) {
			t.Fatal("Counts are not well-formed")
		}
		if len(want) > 0 {
			t.Fatalf("not counted: %v", want)
		}
		less := append(Counts{}, got[:len(got)-1]...)
		if less.each(c.Len(), func(float64, int) {}) {
			t.Fatal("Each accepts Counts with a wrong total")
		}
		if _, err := new(Tally).Add(less, c.Len()); err == nil {
			t.Fatal("Add accepts Counts with a wrong total")
		}
	})
}

// first returns the first number, or d if there is none yet.
func (c *Columns) first(d Decimal) Decimal {
	if len(c.Values[0]) > 0 {
		return c.Values[0][0]
	}
	return d
}

// TestTally checks the sums of the Counts of several blocks with different scales
// and ranges.
func TestTally(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var tally Tally
		want, got := map[float64]uint64{}, map[float64]uint64{}
		drain := func() {
			last := math.Inf(-1)
			tally.Drain(func(v float64, n uint64) {
				if v <= last || n == 0 {
					t.Fatalf("%v, %d times, after %v", v, n, last)
				}
				last = v
				got[v] += n
			})
		}
		for range rapid.IntRange(1, 8).Draw(t, "blocks") {
			base := rapid.SampledFrom([]int64{0, 50, 1000, 5000, -5000, 1 << 40}).Draw(t, "base")
			scale := rapid.Uint8Range(0, 1).Draw(t, "scale")
			kinds := rapid.SampledFrom([]int64{1, 16, maxCounted - 1}).Draw(t, "kinds")
			col := make([]Decimal, rapid.IntRange(countedFrom, 300).Draw(t, "n"))
			for i := range col {
				col[i] = Decimal{base + int64(i)%3*(kinds-1)/2, scale}
			}
			st, ok := sumInts(col)
			if !ok || st.Counts == nil {
				t.Fatal("not counted")
			}
			for _, d := range col {
				want[d.Float()]++
			}
			for {
				added, err := tally.Add(st.Counts, len(col))
				if err != nil {
					t.Fatal(err)
				}
				if added {
					break
				}
				drain()
			}
		}
		drain()
		if !maps.Equal(got, want) {
			t.Fatalf("%v, want %v", got, want)
		}
	})
}

// TestSumWithout checks that the numbers of a column are those that are left out and those
// that remain. The controls are columns with other numbers than the counted ones.
func TestSumWithout(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		base := rapid.Int64Range(-5000, 5000).Draw(t, "base")
		scale := rapid.Uint8Range(1, 3).Draw(t, "scale")
		kinds := rapid.Int64Range(1, 12).Draw(t, "kinds")
		col := make([]Decimal, rapid.IntRange(countedFrom, 300).Draw(t, "n"))
		for i := range col {
			col[i] = Decimal{base + int64(i)*7%kinds, scale}
		}
		st, ok := sumInts(col)
		if !ok || st.Counts == nil {
			t.Fatal("not counted")
		}
		k := rapid.IntRange(0, len(col)-1).Draw(t, "left out")
		want, least, greatest := int64(0), int64(math.MaxInt64), int64(math.MinInt64)
		for _, d := range col[k:] {
			want, least, greatest = want+d.Mant, min(least, d.Mant), max(greatest, d.Mant)
		}
		sum, lo, hi, ok := st.Counts.SumWithout(len(col), col[:k])
		if !ok || sum != (Decimal{want, scale}) || lo != (Decimal{least, scale}) || hi != (Decimal{greatest, scale}) {
			t.Fatalf("%v, %v to %v, %v; want %d, %d to %d", sum, lo, hi, ok, want, least, greatest)
		}
		for _, other := range []Decimal{{base - 1, scale}, {base + kinds, scale}, {base, scale + 1},
			{1 << 62, scale - 1}} {
			if _, _, _, ok := st.Counts.SumWithout(len(col), []Decimal{other}); ok {
				t.Fatalf("%v is not counted", other)
			}
		}
		if _, _, _, ok := st.Counts.SumWithout(len(col), col); ok {
			t.Fatal("nothing is left")
		}
	})
}

// FuzzTally checks that Add accepts arbitrary bytes if Each does.
func FuzzTally(f *testing.F) {
	f.Add([]byte{0, 100, 3, 1, 2}, 5)
	f.Add([]byte{1, 100, 0x83, 0}, 3)
	f.Fuzz(func(t *testing.T, b []byte, n int) {
		var tally Tally
		_, err := tally.Add(Counts(b), n)
		if each := b != nil && Counts(b).each(n, func(float64, int) {}); each && err != nil {
			t.Fatal("Each accepts the bytes, Add does not:", err)
		}
	})
}
