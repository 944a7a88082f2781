package series

import "encoding/binary"

// Counts encodes how often each number of a column occurs in a block. Every
// statistic can be computed from it, and it takes few bytes if few numbers
// repeat, as heart rates do. A nil Counts has no information.
//
//	byte     scale
//	varint   the least mantissa
//	uvarint  its count; then for each further mantissa, ascending, uvarint
//	         difference to the previous mantissa and uvarint count
type Counts []byte

const (
	countedFrom = 64   // samples per block; smaller blocks are as fast to decode
	maxDistinct = 256  // distinct numbers
	maxCounted  = 4096 // range from the least mantissa to the greatest
)

// countInts returns the Counts of a column with mantissas from lo to hi at scale
// top. It returns nil if they would be too long.
func countInts(col []Decimal, top uint8, lo, hi int64) Counts {
	if len(col) < countedFrom || hi-lo >= maxCounted {
		return nil
	}
	var often [maxCounted]uint16
	distinct := 0
	for _, d := range col {
		m := d.Mant
		if d.Scale != top {
			m *= pow10int[top-d.Scale]
		}
		if often[m-lo]++; often[m-lo] == 1 {
			distinct++
		}
	}
	if distinct > min(maxDistinct, len(col)/4) {
		return nil
	}
	c := binary.AppendVarint(append(make(Counts, 0, 12+3*distinct), top), lo)
	last := 0
	for i, n := range often[:hi-lo+1] {
		if n == 0 {
			continue
		}
		if i > 0 {
			c = binary.AppendUvarint(c, uint64(i-last))
		}
		c = binary.AppendUvarint(c, uint64(n))
		last = i
	}
	return c
}

// each calls fn for every number in ascending order with its count. It reports
// whether c is well-formed and counts n samples. For a nil c it reports true.
func (c Counts) each(n int, fn func(v float64, n int)) bool {
	if c == nil {
		return true
	}
	r, sum := c.read(), uint64(0)
	for r.next() {
		fn(Decimal{r.mant, r.scale}.Float(), int(r.often))
		sum += r.often
	}
	return !r.bad && sum == uint64(n)
}

// Sum returns the sum of n numbers, which c counts, and the least and the greatest of them.
// ok is false if c is malformed. c must not be nil.
func (c Counts) Sum(n int) (sum, least, greatest Decimal, ok bool) {
	r, counted := c.read(), uint64(0)
	sum.Scale = r.scale
	for first := true; r.next(); first = false {
		if first {
			least = Decimal{r.mant, r.scale}
		}
		greatest = Decimal{r.mant, r.scale}
		// A writer counts numbers of at most 49 bits, and a block has 14 bits of them.
		sum.Mant += r.mant * int64(r.often)
		counted += r.often
	}
	return sum, least, greatest, !r.bad && counted == uint64(n)
}

// SumWithout is Sum for the numbers that remain of n without those of col. ok is also false if
// c does not count all of col. col must be shorter than n.
func (c Counts) SumWithout(n int, col []Decimal) (sum, least, greatest Decimal, ok bool) {
	var often [maxCounted]uint16
	r, counted := c.read(), uint64(0)
	sum.Scale = r.scale
	base := r.mant
	for r.next() {
		often[r.span] = uint16(r.often)
		counted += r.often
	}
	if r.bad || counted != uint64(n) || len(col) >= n {
		return sum, least, greatest, false
	}
	for _, d := range col {
		m := d.Mant
		if d.Scale != sum.Scale {
			if d.Scale > sum.Scale {
				return sum, least, greatest, false
			}
			m *= pow10int[sum.Scale-d.Scale]
		}
		at := uint64(m - base)
		if at >= maxCounted || often[at] == 0 {
			return sum, least, greatest, false
		}
		often[at]--
	}
	first := true
	for i, k := range often[:r.span+1] {
		if k == 0 {
			continue
		}
		greatest = Decimal{base + int64(i), sum.Scale}
		if first {
			least, first = greatest, false
		}
		sum.Mant += greatest.Mant * int64(k)
	}
	return sum, least, greatest, true
}

// countsReader reads Counts number by number.
type countsReader struct {
	reader
	scale uint8
	mant  int64
	often uint64
	span  uint64 // mant minus the first mantissa
	begun bool
}

func (c Counts) read() countsReader {
	r := countsReader{reader: reader{rest: c}}
	r.scale, r.mant = r.byte(), r.varint()
	r.bad = r.bad || r.scale > maxScale
	return r
}

// next advances to the next number. It reports false at the end and after an
// error.
func (r *countsReader) next() bool {
	if r.bad || r.begun && len(r.rest) == 0 {
		return false
	}
	if r.begun {
		step := r.uvarint(maxCounted)
		if r.span += step; step == 0 || r.span >= maxCounted {
			r.bad = true
		}
		r.mant += int64(step)
	}
	r.begun = true
	if r.often = r.uvarint(maxBlock); r.often == 0 {
		r.bad = true
	}
	return !r.bad
}

// Tally adds up the Counts of many blocks. The zero Tally is empty.
type Tally struct {
	scale  uint8
	base   int64 // mantissa of often[0]
	often  []uint64
	lo, hi int // often is zero outside [lo, hi)
}

const tallied = 2 * maxCounted

// Add adds the Counts of a block of n samples. If the numbers have another scale
// or are too far from those in t, it changes nothing and reports false; the
// caller drains t and tries again. If c is malformed, Add returns an error and t
// must not be used any more.
func (t *Tally) Add(c Counts, n int) (bool, error) {
	r, sum := c.read(), uint64(0)
	if t.lo == t.hi {
		if t.often == nil {
			t.often = make([]uint64, tallied)
		}
		t.scale, t.base, t.lo, t.hi = r.scale, r.mant-tallied/4, tallied, 0
	}
	first := r.mant - t.base
	if r.scale != t.scale || first < 0 || first > tallied-maxCounted {
		return false, nil
	}
	at := first
	for r.next() {
		at = r.mant - t.base
		t.often[at] += r.often
		sum += r.often
	}
	t.hi = max(t.hi, int(at)+1)
	t.lo = min(t.lo, int(first))
	if r.bad || sum != uint64(n) {
		return false, corrupt("series.Tally.Add")
	}
	return true, nil
}

// Drain calls fn for every number in ascending order with its count, and empties
// t.
func (t *Tally) Drain(fn func(v float64, n uint64)) {
	for i := t.lo; i < t.hi; i++ {
		if n := t.often[i]; n > 0 {
			fn(Decimal{t.base + int64(i), t.scale}.Float(), n)
			t.often[i] = 0
		}
	}
	t.lo, t.hi = 0, 0
}
