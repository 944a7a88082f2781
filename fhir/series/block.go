package series

import (
	"encoding/binary"
	"math"
	"math/bits"
)

// Header summarizes the samples of a block. With it a search can skip the block,
// or compute sums, without decoding the block.
type Header struct {
	Count              int
	MinStart, MaxStart int64 // Unix microseconds
	MaxEnd             int64 // Unix milliseconds, exclusive, like the end of Sample.Interval
	MinSeq, MaxSeq     uint64
	MinUpdated         int64 // lastUpdated, Unix milliseconds
	MaxUpdated         int64
	Values             []Stats // by value column
}

// Stats summarizes one value column of a block.
type Stats struct {
	Min, Max   float64
	Sum, SumSq float64
	Counts     Counts
}

// Summarize returns the header of samples that are sorted and have Commits. If
// the values, at the largest scale among them, have at most 14 digits, the sums
// are exact except for one final rounding.
func Summarize(c *Columns) Header {
	h := Header{Count: c.Len()}
	if h.Count == 0 {
		h.Values = make([]Stats, len(c.Values))
		return h
	}
	h.MinStart, h.MaxStart = c.Start[0], c.Start[h.Count-1]
	h.MaxEnd = math.MinInt64
	for i, end := range c.Start {
		if len(c.End) > 0 && c.End[i] != NoEnd {
			end = c.End[i]
		}
		_, hi := written(end)
		h.MaxEnd = max(h.MaxEnd, hi)
	}
	for i, k := range c.Commits {
		if i == 0 {
			h.MinSeq, h.MinUpdated, h.MaxUpdated = k.Seq, k.Updated, k.Updated
		}
		h.MinSeq, h.MaxSeq = min(h.MinSeq, k.Seq), max(h.MaxSeq, k.Seq)
		h.MinUpdated, h.MaxUpdated = min(h.MinUpdated, k.Updated), max(h.MaxUpdated, k.Updated)
	}
	for _, col := range c.Values {
		st, ok := sumInts(col)
		if !ok {
			st = sumFloats(col)
		}
		h.Values = append(h.Values, st)
	}
	return h
}

// sumInts adds the mantissas at the largest scale. It reports false if one of
// them has more than 49 bits there: up to that size, the sum of MaxBlock
// mantissas fits 64 bits and the sum of their squares 128 bits.
func sumInts(col []Decimal) (Stats, bool) {
	if len(col) > maxBlock {
		return Stats{}, false
	}
	var top uint8
	for i := range col {
		top = max(top, col[i].Scale)
	}
	var sum int64
	var sqHi, sqLo uint64
	lo, hi := int64(math.MaxInt64), int64(math.MinInt64)
	for _, d := range col {
		m := d.Mant
		if d.Scale != top {
			f := pow10int[top-d.Scale]
			if bits.Len64(abs(m))+bits.Len64(uint64(f)) > 49 {
				return Stats{}, false
			}
			m *= f
		}
		u := abs(m)
		if u >= 1<<49 {
			return Stats{}, false
		}
		lo, hi = min(lo, m), max(hi, m)
		sum += m
		h, l := bits.Mul64(u, u)
		var carry uint64
		sqLo, carry = bits.Add64(sqLo, l, 0)
		sqHi += h + carry
	}
	return Stats{
		Min: Decimal{lo, top}.Float(), Max: Decimal{hi, top}.Float(), Sum: Decimal{sum, top}.Float(),
		SumSq:  (float64(sqHi)*(1<<64) + float64(sqLo)) / math.Pow10(2*int(top)),
		Counts: countInts(col, top, lo, hi),
	}, true
}

func abs(m int64) uint64 {
	if m < 0 {
		return -uint64(m)
	}
	return uint64(m)
}

func sumFloats(col []Decimal) Stats {
	st := Stats{Min: math.Inf(1), Max: math.Inf(-1)}
	for _, d := range col {
		f := d.Float()
		st.Min, st.Max = min(st.Min, f), max(st.Max, f)
		st.Sum += f
		st.SumSq += f * f
	}
	return st
}

// AppendHeader appends the encoding of h. DecodeHeader accepts a Count of at most
// MaxBlock and at most MaxValues value columns.
func AppendHeader(b []byte, h *Header) []byte {
	at := len(b)
	b = append(b, version, byte(len(h.Values)))
	b = binary.AppendUvarint(b, uint64(h.Count))
	b = binary.AppendVarint(b, h.MinStart)
	b = binary.AppendVarint(b, h.MaxStart-h.MinStart)
	b = binary.AppendVarint(b, h.MaxEnd)
	b = binary.AppendUvarint(b, h.MinSeq)
	b = binary.AppendUvarint(b, h.MaxSeq-h.MinSeq)
	b = binary.AppendVarint(b, h.MinUpdated)
	b = binary.AppendVarint(b, h.MaxUpdated-h.MinUpdated)
	for _, s := range h.Values {
		for _, f := range [...]float64{s.Min, s.Max, s.Sum, s.SumSq} {
			b = binary.LittleEndian.AppendUint64(b, math.Float64bits(f))
		}
		b = append(binary.AppendUvarint(b, uint64(len(s.Counts))), s.Counts...)
	}
	return seal(b, at)
}

// DecodeHeader decodes a header. Its Counts alias b and are checked only when they
// are read. DecodeHeader returns an error for bytes that AppendHeader did not
// write.
func DecodeHeader(b []byte) (h Header, err error) {
	err = h.Decode(b)
	return h, err
}

// Decode decodes like DecodeHeader and reuses the memory of h.
func (h *Header) Decode(b []byte) error {
	body, ok := unseal(b)
	if !ok {
		return corrupt("series.DecodeHeader")
	}
	stats := h.Values[:0]
	r := reader{rest: body[1:]}
	values := int(r.byte())
	*h = Header{Count: int(r.uvarint(maxBlock)), MinStart: r.varint()}
	h.MaxStart = h.MinStart + r.varint()
	h.MaxEnd = r.varint()
	h.MinSeq = r.uvarint(math.MaxUint64)
	h.MaxSeq = h.MinSeq + r.uvarint(math.MaxUint64)
	h.MinUpdated = r.varint()
	h.MaxUpdated = h.MinUpdated + r.varint()
	if r.bad || values > MaxValues || len(r.rest) < values*33 {
		return corrupt("series.DecodeHeader")
	}
	if values > cap(stats) {
		stats = make([]Stats, values)
	}
	if values > 0 {
		h.Values = stats[:values]
	}
	for i := range h.Values {
		for _, f := range [...]*float64{&h.Values[i].Min, &h.Values[i].Max, &h.Values[i].Sum, &h.Values[i].SumSq} {
			if b := r.take(8); len(b) == 8 {
				*f = math.Float64frombits(binary.LittleEndian.Uint64(b))
			}
		}
		h.Values[i].Counts = nil
		if n := r.uvarint(maxCounted); n > 0 {
			h.Values[i].Counts = Counts(r.take(int(n)))
		}
	}
	if r.bad || len(r.rest) > 0 {
		return corrupt("series.DecodeHeader")
	}
	return nil
}
