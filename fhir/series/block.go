package series

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
