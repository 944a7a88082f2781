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

// Each calls fn with every number, rising, and how often it is there.
func (c Counts) Each(fn func(v float64, n int)) {
	c.each(func(d Decimal, n uint64) { fn(d.Float(), int(n)) })
}

// each reports whether c is well-formed.
func (c Counts) each(fn func(d Decimal, n uint64)) bool {
	r := reader{b: c}
	d := Decimal{Scale: r.byte()}
	d.Mant = r.varint()
	for first := true; first || len(r.b) > 0; first = false {
		if !first {
			step := int64(r.uvarint(maxCounted))
			if step == 0 {
				return false
			}
			d.Mant += step
		}
		n := r.uvarint(MaxBlock)
		if r.bad || n == 0 {
			return false
		}
		fn(d, n)
	}
	return d.Scale <= maxScale
}

// holds reports whether c is nil or counts n numbers.
func (c Counts) holds(n int) bool {
	if c == nil {
		return true
	}
	var sum uint64
	return c.each(func(_ Decimal, n uint64) { sum += n }) && sum == uint64(n)
}
