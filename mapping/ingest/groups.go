package ingest

import (
	"slices"
	"sort"
	"time"

	"pulsegate/fhir/series"
	"pulsegate/fhir/store"
	"pulsegate/mapping"
	"pulsegate/mapping/stream"
)

// group is what a batch has of one series.
type seriesGroup struct {
	template *series.Template
	metric   string
	device   mapping.DeviceKey
	vague    bool
	segments string // of what its samples are segments, "" mostly
	source   string
	coarse   bool
	// columns are as the samples came, their places in the payload in
	// Commits, until settle.
	columns *series.Columns
}

// use is what a batch has of one mapping.Stream.
type streamUse struct {
	stream *stream.Stream
	group  *seriesGroup
	latest int64 // start of the last of its samples, Unix microseconds
}

// settle sorts the columns and leaves of what the payload states twice the
// last word, in whichever series or as a document it was.
func (b *batch) deduplicate() {
	same := map[series.Identity][]*seriesGroup{}
	for _, g := range b.groups {
		n := g.columns.Len()
		if twice := n - g.columns.Sort(g.template); twice > 0 {
			b.count(g.metric, Counts{Dropped: twice})
		}
		same[g.template.Identity] = append(same[g.template.Identity], g)
	}
	gone := map[*seriesGroup]map[int]bool{}
	drop := func(g *seriesGroup, i int) {
		if gone[g] == nil {
			gone[g] = map[int]bool{}
		}
		gone[g][i] = true
	}
	for _, gs := range same {
		for i := range gs {
			for j := range i {
				dropRepeated(gs[j], gs[i], drop)
			}
		}
	}
	b.obs = slices.DeleteFunc(b.obs, func(o observation) bool {
		k, ok := series.ParseID(o.ID)
		if o.Stream == "" || !ok {
			return false
		}
		for _, g := range same[k.Identity] {
			i := g.find(&k)
			switch {
			case i < 0:
			case g.columns.Commits[i].T > o.seq:
				b.count(o.Metric, Counts{Dropped: 1})
				return true
			default:
				drop(g, i)
			}
		}
		return false
	})
	for _, g := range b.groups {
		if n := len(gone[g]); n > 0 {
			b.count(g.metric, Counts{Dropped: n})
			g.columns = g.pick(func(i int) bool { return !gone[g][i] })
		}
		g.columns.Commits = g.columns.Commits[:0]
	}
}

// twins finds the samples that two series of one stream both have.
func dropRepeated(a, b *seriesGroup, drop func(*seriesGroup, int)) {
	x, y := a.columns, b.columns
	for i, j := 0, 0; i < x.Len() && j < y.Len(); {
		switch {
		case x.Start[i] < y.Start[j]:
			i++
		case x.Start[i] > y.Start[j]:
			j++
		default:
			for k := j; k < y.Len() && y.Start[k] == x.Start[i]; k++ {
				s, t := x.At(i), y.At(k)
				switch {
				case a.template.Check(&s) != b.template.Check(&t):
				case s.Commit.T < t.Commit.T:
					drop(a, i)
				default:
					drop(b, k)
				}
			}
			i++
		}
	}
}

// find is the place of a sample in sorted columns, -1 if it is not there.
func (g *seriesGroup) find(k *series.Key) int {
	c := g.columns
	for i := sort.Search(c.Len(), func(i int) bool { return c.Start[i] >= k.Start }); i < c.Len() &&
		c.Start[i] == k.Start; i++ {
		if s := c.At(i); g.template.Check(&s) == k.Check {
			return i
		}
	}
	return -1
}

// pick copies the samples that keep says.
func (g *seriesGroup) pick(keep func(i int) bool) *series.Columns {
	out := &series.Columns{}
	for i := range g.columns.Len() {
		if keep(i) {
			s := g.columns.At(i)
			out.Append(&s, g.template.Values)
		}
	}
	return out
}

// document is sample i as Map would give it.
func (g *seriesGroup) document(i int) observation {
	s := g.columns.At(i)
	k := g.template.Key(&s)
	body := g.template.Append(nil, &s)
	return observation{Result: mapping.Result{ID: k.ID(), JSON: body, Hash: store.ContentHash(body),
		Categories: g.template.Categories,
		Metric:     g.metric, Start: time.UnixMicro(s.Start), Device: g.device, Vague: g.vague,
		Stream: mapping.StreamID(g.template.Identity), SegmentsOf: g.segments},
		source: g.source, coarse: g.coarse}
}
