package series

import "encoding/binary"

// Counts say how often each number of a column stands in a block: enough for
// every statistic, in a few bytes where few numbers repeat, as heart rates do.
// nil says nothing.
//
//	byte     scale
//	varint   the least mantissa
//	uvarint  how often it stands there; then for each other, rising, uvarint
//	         what it is above the one before, and uvarint how often
type Counts []byte

const (
	countedFrom = 64   // samples: below, decoding is as good
	maxDistinct = 256  // numbers
	maxCounted  = 4096 // from the least mantissa to the greatest
)

// countInts makes the Counts of a column whose mantissas, at scale top, reach
// from lo to hi; nil when they would be long.
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

// Each calls fn with every number, rising, and how often it is there, and
// reports whether c is well-formed and of n samples; nil is of any.
func (c Counts) Each(n int, fn func(v float64, n int)) bool {
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

// counted reads Counts number by number.
type counted struct {
	reader
	scale uint8
	mant  int64
	often uint64
	span  uint64 // from the first
	begun bool
}

func (c Counts) read() counted {
	x := counted{reader: reader{b: c}}
	x.scale, x.mant = x.byte(), x.varint()
	x.bad = x.bad || x.scale > maxScale
	return x
}

// next stands on the next number; false at the end, and when there is no
// further to be read.
func (r *counted) next() bool {
	if r.bad || r.begun && len(r.b) == 0 {
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
	if r.often = r.uvarint(MaxBlock); r.often == 0 {
		r.bad = true
	}
	return !r.bad
}

// Tally adds up the Counts of many blocks. The zero Tally is empty.
type Tally struct {
	scale  uint8
	base   int64 // mantissa of often[0]
	often  []uint64
	lo, hi int // of often: what is not zero lies in [lo, hi)
}

const tallied = 2 * maxCounted

// Add adds what c, of n samples, counts. It does nothing and reports false
// when the numbers lie too far from what is there, or are written otherwise:
// Drain makes room. Counts that are not well-formed are an error; then what t
// holds is of no use.
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

// Drain calls fn with every number, rising, and how often it was there, and
// leaves t empty.
func (t *Tally) Drain(fn func(v float64, n uint64)) {
	for i := t.lo; i < t.hi; i++ {
		if n := t.often[i]; n > 0 {
			fn(Decimal{t.base + int64(i), t.scale}.Float(), n)
			t.often[i] = 0
		}
	}
	t.lo, t.hi = 0, 0
}
