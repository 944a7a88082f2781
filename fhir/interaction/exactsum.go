package interaction

import (
	"math"
	"math/big"
	"math/bits"
	"strconv"
	"strings"

	"pulsegate/fhir/series"
)

// exactSum adds up decimals without rounding, so that the result does not depend on their
// order, nor on whether they come one by one, as columns, or as the counts of blocks. A
// number counts as the shortest decimal of its float64.
type exactSum struct {
	count       uint64
	least, most float64
	parts       []scaledSum // one per scale; usually one
	rest        *big.Rat    // of numbers that are too large or too small for a part
}

// scaledSum is a sum of mantissas, an integer of 128 bits.
type scaledSum struct {
	scale uint8
	hi    int64
	lo    uint64
}

const (
	maxExact      = 1e15    // mantissas below have an exact float64, and it gives them back
	maxColumnMant = 1 << 48 // 2^14 of them add up to less than 2^63
)

func (s *exactSum) part(scale uint8) *scaledSum {
	for i := range s.parts {
		if s.parts[i].scale == scale {
			return &s.parts[i]
		}
	}
	s.parts = append(s.parts, scaledSum{scale: scale})
	return &s.parts[len(s.parts)-1]
}

func (p *scaledSum) add(m int64) {
	lo, carry := bits.Add64(p.lo, uint64(m), 0)
	p.lo, p.hi = lo, p.hi+(m>>63)+int64(carry)
}

// seen counts n numbers between least and most.
func (s *exactSum) seen(n uint64, least, most float64) {
	if s.count == 0 {
		s.least, s.most = least, most
	}
	s.count += n
	s.least, s.most = min(s.least, least), max(s.most, most)
}

// add adds a finite number.
func (s *exactSum) add(v float64) {
	s.seen(1, v, v)
	var buf [32]byte
	text := string(strconv.AppendFloat(buf[:0], v, 'e', -1, 64))
	digits, exponent, _ := strings.Cut(text, "e")
	whole, fraction, _ := strings.Cut(digits, ".")
	m, err := strconv.ParseInt(whole+fraction, 10, 64) // at most 17 digits
	e, errExponent := strconv.Atoi(exponent)
	scale := len(fraction) - e
	for ; scale < 0 && m < math.MaxInt64/10 && m > math.MinInt64/10; scale++ {
		m *= 10
	}
	if err == nil && errExponent == nil && scale >= 0 && scale <= 18 {
		s.part(uint8(scale)).add(m)
		return
	}
	r, ok := new(big.Rat).SetString(text)
	if !ok {
		return // it cannot happen, since v is finite
	}
	if s.rest == nil {
		s.rest = new(big.Rat)
	}
	s.rest.Add(s.rest, r)
}

// addColumn adds a column of at most a block.
func (s *exactSum) addColumn(col []series.Decimal) {
	for len(col) > 0 {
		scale, n := col[0].Scale, 0
		sum, least, most := int64(0), int64(math.MaxInt64), int64(math.MinInt64)
		for ; n < len(col) && n < 1<<14 && col[n].Scale == scale; n++ {
			m := col[n].Mant
			if m >= maxColumnMant || m <= -maxColumnMant {
				break
			}
			sum += m
			least, most = min(least, m), max(most, m)
		}
		if n == 0 {
			s.addDecimal(col[0])
			col = col[1:]
			continue
		}
		s.part(scale).add(sum)
		s.seen(uint64(n), series.Decimal{Mant: least, Scale: scale}.Float(),
			series.Decimal{Mant: most, Scale: scale}.Float())
		col = col[n:]
	}
}

func (s *exactSum) addDecimal(d series.Decimal) {
	v := d.Float()
	if d.Mant >= maxExact || d.Mant <= -maxExact {
		s.add(v) // like a document with this number
		return
	}
	s.part(d.Scale).add(d.Mant)
	s.seen(1, v, v)
}

// addCounts adds the n numbers of a block. It reports false if the counts are malformed.
func (s *exactSum) addCounts(c series.Counts, n int) bool {
	sum, least, most, ok := c.Sum(n)
	if ok {
		s.part(sum.Scale).add(sum.Mant)
		s.seen(uint64(n), least.Float(), most.Float())
	}
	return ok
}

// addCountsWithout is addCounts without the numbers of col.
func (s *exactSum) addCountsWithout(c series.Counts, n int, col []series.Decimal) bool {
	sum, least, most, ok := c.SumWithout(n, col)
	if ok {
		s.part(sum.Scale).add(sum.Mant)
		s.seen(uint64(n-len(col)), least.Float(), most.Float())
	}
	return ok
}

// merge adds all numbers of other.
func (s *exactSum) merge(other *exactSum) {
	if other.count == 0 {
		return
	}
	s.seen(other.count, other.least, other.most)
	for _, o := range other.parts {
		p := s.part(o.scale)
		lo, carry := bits.Add64(p.lo, o.lo, 0)
		p.lo, p.hi = lo, p.hi+o.hi+int64(carry)
	}
	if other.rest != nil {
		if s.rest == nil {
			s.rest = new(big.Rat)
		}
		s.rest.Add(s.rest, other.rest)
	}
}

// over returns the sum divided by n, rounded once.
func (s *exactSum) over(n uint64) float64 {
	if len(s.parts) == 1 && s.rest == nil {
		p := &s.parts[0]
		scale := math.Pow10(int(p.scale)) * float64(n)
		if small := int64(p.lo); p.hi == small>>63 && small < 1<<53 && small > -1<<53 && p.scale <= 15 &&
			scale < 1<<53 {
			return float64(small) / scale // both are exact
		}
	}
	total := new(big.Rat)
	if s.rest != nil {
		total.Set(s.rest)
	}
	for _, p := range s.parts {
		m := new(big.Int).Lsh(big.NewInt(p.hi), 64)
		m.Add(m, new(big.Int).SetUint64(p.lo))
		scale := new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(p.scale)), nil)
		total.Add(total, new(big.Rat).SetFrac(m, scale))
	}
	v, _ := total.Quo(total, new(big.Rat).SetInt(new(big.Int).SetUint64(n))).Float64()
	return v
}
