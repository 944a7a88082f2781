package series

import (
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// crowd draws sorted samples that share few starts and have distinct ids.
func crowd(t *rapid.T, tm *Template) *Columns {
	c := &Columns{}
	ends, commits := rapid.Bool().Draw(t, "ends"), rapid.Bool().Draw(t, "commits")
	for i := range rapid.IntRange(0, 60).Draw(t, "n") {
		s := Sample{Start: monday + rapid.Int64Range(0, 30).Draw(t, "start"), End: NoEnd, Off: int16(i)}
		if ends && rapid.Bool().Draw(t, "interval") {
			s.End, s.EndOff = s.Start+rapid.Int64Range(0, 2).Draw(t, "end"), 1
		}
		if commits {
			s.Commit = Commit{uint64(i + 1), int64(i)}
		}
		s.Values[0], s.Values[1] = Decimal{rapid.Int64Range(0, 9).Draw(t, "v"), 0}, Decimal{int64(i), 1}
		c.Append(&s, 2)
	}
	c.Sort(tm)
	return c
}

// split distributes the samples of c over two columns in runs.
func split(t *rapid.T, c *Columns) (a, b Columns) {
	left := rapid.Bool().Draw(t, "left")
	for i := range c.Len() {
		if rapid.IntRange(0, 3).Draw(t, "turn") == 0 {
			left = !left
		}
		s := c.At(i)
		if left {
			a.Append(&s, 2)
		} else {
			b.Append(&s, 2)
		}
	}
	return a, b
}

// TestMerge splits samples and checks that Merge restores them.
func TestMerge(t *testing.T) {
	var dst Columns
	rapid.Check(t, func(t *rapid.T) {
		tm := pair()
		tm.KeyValue = rapid.Bool().Draw(t, "keyvalue")
		c := crowd(t, tm)
		a, b := split(t, c)
		merge(&dst, &a, &b, tm)
		same(t, c, &dst)
	})
}

// same compares the samples one by one, so that absent ends equal NoEnd.
func same(t *rapid.T, want, got *Columns) {
	if got.Len() != want.Len() || check(got) != "" {
		t.Fatalf("%d samples, want %d; %s", got.Len(), want.Len(), check(got))
	}
	for i := range want.Len() {
		if g, w := got.At(i), want.At(i); g != w {
			t.Fatalf("sample %d: got %+v, want %+v", i, g, w)
		}
	}
}

// TestMergeUneven merges columns of which only one has ends and commits.
func TestMergeUneven(t *testing.T) {
	var a, b, dst Columns
	a.Append(&Sample{Start: monday, End: monday + 5, Values: [MaxValues]Decimal{{1, 0}}, Commit: Commit{7, 8}}, 1)
	b.Append(&Sample{Start: monday + 1, End: NoEnd, Values: [MaxValues]Decimal{{2, 0}}}, 1)
	merge(&dst, &a, &b, &Template{Values: 1})
	if !slices.Equal(dst.End, []int64{monday + 5, NoEnd}) || !slices.Equal(dst.Commits, []Commit{{7, 8}, {}}) ||
		check(&dst) != "" {
		t.Errorf("got %+v", dst)
	}
}

func TestSearchAndRemove(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := crowd(t, pair())
		start := monday + rapid.Int64Range(-1, 32).Draw(t, "start")
		want := slices.IndexFunc(c.Start, func(s int64) bool { return s >= start })
		if want < 0 {
			want = c.Len()
		}
		if got := c.Search(start); got != want {
			t.Fatalf("found %d, want %d in %v", got, want, c.Start)
		}
		if c.Len() == 0 {
			return
		}
		at := rapid.IntRange(0, c.Len()-1).Draw(t, "at")
		var left Columns
		for i := range c.Len() {
			if s := c.At(i); i != at {
				left.Append(&s, 2)
			}
		}
		c.Remove(at)
		same(t, &left, c)
	})
}

func BenchmarkMerge(b *testing.B) {
	all := heart(8192)
	tm := &Template{Values: 1}
	for name, run := range map[string]int{"alternating": 1, "runs of 100": 100} {
		var x, y, dst Columns
		for i := range all.Len() {
			s := all.At(i)
			if i/run%2 == 0 {
				x.Append(&s, 1)
			} else {
				y.Append(&s, 1)
			}
		}
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			n := 0
			for b.Loop() {
				merge(&dst, &x, &y, tm)
				n += dst.Len()
			}
			b.ReportMetric(float64(n)/b.Elapsed().Seconds()/1e6, "Msamples/s")
		})
	}
}
