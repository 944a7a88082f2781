package ingest

import (
	"slices"
	"sync"

	"pulsegate/fhir/series"
)

// columnPool holds empty columns with their memory. Columns that grow take
// their memory from the pool and return their old memory to it, and so does a
// commit. The pool keeps memory for at most max samples.
type columnPool struct {
	mu       sync.Mutex
	free     []*series.Columns
	capacity int // in samples, of all free columns
	max      int
}

// minCapacity is the initial capacity of columns in samples.
const minCapacity = 64

// grown returns columns with the samples of c and at least twice its capacity.
// c returns to the pool.
func (s *columnPool) grown(c *series.Columns, values int) *series.Columns {
	n := max(2*c.Len(), minCapacity)
	d := s.get(n)
	if c.Len() == 0 {
		c.Values = make([][]series.Decimal, values)
	}
	d.Fill(c, n)
	s.put(c)
	return d
}

// get returns the smallest columns of the pool with a capacity of n samples, or
// new ones.
func (s *columnPool) get(n int) *series.Columns {
	s.mu.Lock()
	defer s.mu.Unlock()
	best := -1
	for i, c := range s.free {
		if cap(c.Start) >= n && (best < 0 || cap(c.Start) < cap(s.free[best].Start)) {
			best = i
		}
	}
	if best < 0 {
		return &series.Columns{}
	}
	c := s.free[best]
	s.free = slices.Delete(s.free, best, best+1)
	s.capacity -= cap(c.Start)
	return c
}

// put returns columns to the pool.
func (s *columnPool) put(c *series.Columns) {
	c.Reset()
	s.mu.Lock()
	defer s.mu.Unlock()
	if cap(c.Start) > 0 && s.capacity+cap(c.Start) <= s.max {
		s.free = append(s.free, c)
		s.capacity += cap(c.Start)
	}
}
