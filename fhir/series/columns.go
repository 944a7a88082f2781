package series

import (
	"slices"
	"strconv"
)

// MaxValues bounds the value columns of a series.
const MaxValues = 4

// Decimal is the number Mant * 10^-Scale with its written precision: 62.0 and 62
// are different Decimals.
type Decimal struct {
	Mant  int64
	Scale uint8 // 0 to 18
}

// Append appends d in decimal notation without an exponent.
func (d Decimal) Append(b []byte) []byte {
	if d.Scale == 0 {
		return strconv.AppendInt(b, d.Mant, 10)
	}
	if d.Mant < 0 {
		b = append(b, '-')
	}
	var buf [20]byte
	digits := strconv.AppendUint(buf[:0], abs(d.Mant), 10)
	if pad := int(d.Scale) + 1 - len(digits); pad > 0 {
		b = append(b, "0.000000000000000000"[:1+pad]...)
		return append(b, digits...)
	}
	p := len(digits) - int(d.Scale)
	b = append(b, digits[:p]...)
	b = append(b, '.')
	return append(b, digits[p:]...)
}

// Float returns the nearest float64, for comparisons and statistics.
func (d Decimal) Float() float64 {
	if d.Scale == 0 {
		return float64(d.Mant)
	}
	if m := d.Mant; d.Scale <= 15 && m < 1<<53 && m > -1<<53 {
		return float64(m) / pow10[d.Scale] // both exact: correctly rounded
	}
	var buf [32]byte
	f, _ := strconv.ParseFloat(string(d.Append(buf[:0])), 64) // Append writes valid numbers only
	return f
}

// maxScale is the largest scale of a Decimal.
const maxScale = 18

var pow10int = [...]int64{1, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16,
	1e17, 1e18}

var pow10 = [...]float64{1, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15}

// trimmed returns d without trailing zeros in its fraction: 62.0 becomes 62.
func (d Decimal) trimmed() Decimal {
	for d.Scale > 0 && d.Mant%10 == 0 {
		d.Mant /= 10
		d.Scale--
	}
	return d
}

// Commit identifies the commit that wrote a sample.
type Commit struct {
	Seq     uint64
	Updated int64 // lastUpdated, Unix milliseconds
}

// Columns holds samples of one series column by column. All slices are as long
// as Start, except that End and EndOff are empty if every sample is an instant,
// and Commits is empty before a commit.
type Columns struct {
	Start []int64 // Unix microseconds
	End   []int64 // Unix microseconds; NoEnd for an instant
	// Off and EndOff are the written offsets in minutes east of UTC.
	Off, EndOff []int16
	Values      [][]Decimal // Values[i] fills SlotValue + i
	Commits     []Commit
}

// Sample is one row of Columns.
type Sample struct {
	Start, End  int64
	Off, EndOff int16
	Values      [MaxValues]Decimal
	Commit      Commit
}

// Len returns the number of samples.
func (c *Columns) Len() int { return len(c.Start) }

// At returns sample i.
func (c *Columns) At(i int) (s Sample) {
	s.Start, s.End, s.Off = c.Start[i], NoEnd, c.Off[i]
	if len(c.End) > 0 {
		s.End, s.EndOff = c.End[i], c.EndOff[i]
	}
	for v := range c.Values {
		s.Values[v] = c.Values[v][i]
	}
	if len(c.Commits) > 0 {
		s.Commit = c.Commits[i]
	}
	return s
}

// Append adds a sample with n values.
func (c *Columns) Append(s *Sample, n int) {
	if s.End != NoEnd && len(c.End) == 0 {
		for range c.Start {
			c.End = append(c.End, NoEnd)
			c.EndOff = append(c.EndOff, 0)
		}
	}
	if s.End != NoEnd || len(c.End) > 0 {
		c.End = append(c.End, s.End)
		c.EndOff = append(c.EndOff, s.EndOff)
	}
	c.Start, c.Off = append(c.Start, s.Start), append(c.Off, s.Off)
	for len(c.Values) < n {
		c.Values = append(c.Values, nil)
	}
	for v := range n {
		c.Values[v] = append(c.Values[v], s.Values[v])
	}
	if s.Commit.Seq != 0 {
		c.Commits = append(c.Commits, s.Commit)
	}
}

// Reset empties c and keeps its memory.
func (c *Columns) Reset() {
	c.Start, c.End, c.Off, c.EndOff, c.Commits = c.Start[:0], c.End[:0], c.Off[:0], c.EndOff[:0], c.Commits[:0]
	for v := range c.Values {
		c.Values[v] = c.Values[v][:0]
	}
}

// Fill makes c a copy of src with capacity for n samples and reuses the memory
// of c. c and src must not share memory.
func (c *Columns) Fill(src *Columns, n int) {
	c.Reset()
	m := merger{dst: c, ends: len(src.End) > 0, commits: len(src.Commits) > 0}
	c.grow(n, len(src.Values), m.ends, m.commits)
	m.take(src, 0, src.Len())
}

// Slice returns the samples [from, to). The result shares memory with c.
func (c *Columns) Slice(from, to int) Columns {
	out := Columns{Start: c.Start[from:to], Off: c.Off[from:to]}
	if len(c.End) > 0 {
		out.End, out.EndOff = c.End[from:to], c.EndOff[from:to]
	}
	for _, v := range c.Values {
		out.Values = append(out.Values, v[from:to])
	}
	if len(c.Commits) > 0 {
		out.Commits = c.Commits[from:to]
	}
	return out
}

// Interval returns the range [lo, hi) in Unix milliseconds that the sample covers
// at its written precision, by the rules of fhir/search.
func (s *Sample) Interval() (lo, hi int64) {
	lo, hi = written(s.Start)
	if s.End != NoEnd {
		_, hi = written(s.End)
	}
	return lo, hi
}

// written returns the interval of one time at its written precision: a second if
// it has no fraction, otherwise a millisecond (see appendTime).
func written(us int64) (lo, hi int64) {
	if us%1e6 == 0 {
		return us / 1000, us/1000 + 1000
	}
	ms := us / 1000
	if us%1000 < 0 {
		ms--
	}
	return ms, ms + 1
}

// Class groups samples by duration, so that a search for a date range can bound
// the starts on both sides: a sample that ends after an instant starts at most
// the class's bound before it.
type Class uint8

const (
	Instant Class = iota // up to 1 minute
	Hour                 // up to 1 hour
	short                // up to 48 hours
	Long                 // unbounded
)

// bounds holds the maximum duration of a sample by class, in milliseconds. Long
// has none.
var bounds = [...]int64{Instant: 60_000, Hour: 3600_000, short: 48 * 3600_000}

// classOf returns the class of an interval in milliseconds.
func classOf(lo, hi int64) Class {
	c := Instant
	for c < Long && hi-lo > bounds[c] {
		c++
	}
	return c
}

// Class returns the class of s.
func (s *Sample) Class() Class { return classOf(s.Interval()) }

// Sort orders the samples by their ids under t and returns the number of samples
// left. Of several samples with one id, the last one wins.
func (c *Columns) Sort(t *Template) int {
	n := c.Len()
	sorted := true
	for i := 1; i < n && sorted; i++ {
		sorted = c.Start[i-1] < c.Start[i]
	}
	if sorted {
		return n
	}
	type ref struct {
		Key
		at int32
	}
	refs := make([]ref, n)
	for i := range refs {
		s := c.At(i)
		refs[i] = ref{Key{Start: s.Start, Check: t.Check(&s)}, int32(i)}
	}
	slices.SortFunc(refs, func(a, b ref) int {
		if d := a.Compare(&b.Key); d != 0 {
			return d
		}
		return int(a.at) - int(b.at)
	})
	var out Columns
	for i := range refs {
		if i+1 < n && refs[i].Key == refs[i+1].Key {
			continue
		}
		s := c.At(int(refs[i].at))
		out.Append(&s, len(c.Values))
	}
	*c = out
	return c.Len()
}
