package ingest

import (
	"slices"

	"pulsegate/fhir/series"
)

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
