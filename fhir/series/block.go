package series

import (
	"encoding/binary"
	"math"
)

// Header is what a block says of its samples without being decoded: enough to
// pass it over, and to answer sums.
type Header struct {
	Count              int
	MinStart, MaxStart int64 // Unix microseconds
	MaxEnd             int64 // Unix milliseconds, exclusive, as Sample.Interval has it
	MinT, MaxT         uint64
	MinUpdated         int64 // lastUpdated, Unix milliseconds
	MaxUpdated         int64
	Values             []Stats // by value column
}

// Stats of one value column of a block.
type Stats struct {
	Min, Max   float64
	Sum, SumSq float64
}

// Summarise makes the header of samples that are in order and have Commits.
func Summarise(c *Columns) Header {
	h := Header{Count: c.Len()}
	for i := range c.Start {
		s := c.At(i)
		_, hi := s.Interval()
		if i == 0 {
			h.MinStart, h.MaxStart, h.MaxEnd = s.Start, s.Start, hi
			h.MinT, h.MaxT = s.Commit.T, s.Commit.T
			h.MinUpdated, h.MaxUpdated = s.Commit.Updated, s.Commit.Updated
		}
		h.MinStart, h.MaxStart, h.MaxEnd = min(h.MinStart, s.Start), max(h.MaxStart, s.Start), max(h.MaxEnd, hi)
		h.MinT, h.MaxT = min(h.MinT, s.Commit.T), max(h.MaxT, s.Commit.T)
		h.MinUpdated, h.MaxUpdated = min(h.MinUpdated, s.Commit.Updated), max(h.MaxUpdated, s.Commit.Updated)
	}
	for _, col := range c.Values {
		var st Stats
		for i, d := range col {
			f := d.Float()
			if i == 0 {
				st.Min, st.Max = f, f
			}
			st.Min, st.Max = min(st.Min, f), max(st.Max, f)
			st.Sum += f
			st.SumSq += f * f
		}
		h.Values = append(h.Values, st)
	}
	return h
}

// AppendHeader appends h to b.
func AppendHeader(b []byte, h *Header) []byte {
	at := len(b)
	b = append(b, version, byte(len(h.Values)))
	b = binary.AppendUvarint(b, uint64(h.Count))
	b = binary.AppendVarint(b, h.MinStart)
	b = binary.AppendVarint(b, h.MaxStart-h.MinStart)
	b = binary.AppendVarint(b, h.MaxEnd)
	b = binary.AppendUvarint(b, h.MinT)
	b = binary.AppendUvarint(b, h.MaxT-h.MinT)
	b = binary.AppendVarint(b, h.MinUpdated)
	b = binary.AppendVarint(b, h.MaxUpdated-h.MinUpdated)
	for _, s := range h.Values {
		for _, f := range [...]float64{s.Min, s.Max, s.Sum, s.SumSq} {
			b = binary.LittleEndian.AppendUint64(b, math.Float64bits(f))
		}
	}
	return seal(b, at)
}

// DecodeHeader reads a header. Bytes that AppendHeader did not write are an
// error.
func DecodeHeader(b []byte) (Header, error) {
	body, ok := unseal(b)
	if !ok {
		return Header{}, corrupt("series.DecodeHeader")
	}
	r := reader{b: body[1:]}
	values := int(r.byte())
	h := Header{Count: int(r.uvarint(MaxBlock)), MinStart: r.varint()}
	h.MaxStart = h.MinStart + r.varint()
	h.MaxEnd = r.varint()
	h.MinT = r.uvarint(math.MaxUint64)
	h.MaxT = h.MinT + r.uvarint(math.MaxUint64)
	h.MinUpdated = r.varint()
	h.MaxUpdated = h.MinUpdated + r.varint()
	if r.bad || values > MaxValues || len(r.b) != values*32 {
		return Header{}, corrupt("series.DecodeHeader")
	}
	if values > 0 {
		h.Values = make([]Stats, values)
	}
	for i := range h.Values {
		for _, f := range [...]*float64{&h.Values[i].Min, &h.Values[i].Max, &h.Values[i].Sum, &h.Values[i].SumSq} {
			*f = math.Float64frombits(binary.LittleEndian.Uint64(r.take(8)))
		}
	}
	return h, nil
}
