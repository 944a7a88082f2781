package ingest

import (
	"slices"
	"sync"

	"pulsegate/fhir/series"
)

// spares are columns that are not in use, empty, with their memory: what
// columns grow out of and what a commit leaves serves the next ones that grow.
// What they keep is bounded by the samples that they have room for.
type columnPool struct {
	mu       sync.Mutex
	free     []*series.Columns
	capacity int // samples
	max      int
}

// leastRoom is for how many samples columns have room at first.
const minCapacity = 64

// grown has the samples of c, which is free again, and room for as many more.
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

// get is a spare with room for n samples, the tightest there is, or new.
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

func (s *columnPool) put(c *series.Columns) {
	c.Reset()
	s.mu.Lock()
	defer s.mu.Unlock()
	if cap(c.Start) > 0 && s.capacity+cap(c.Start) <= s.max {
		s.free = append(s.free, c)
		s.capacity += cap(c.Start)
	}
}
