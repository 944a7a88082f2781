package ingest

import (
	"slices"

	"pulsegate/fhir/series"
)

// settle sorts the columns and leaves of what the payload states twice the
// last word, in whichever series or as a document it was.
func (b *batch) deduplicate() {
	same := map[series.Identity][]*seriesGroup{}
	for _, group := range b.groups {
		n := group.columns.Len()
		if twice := n - group.columns.Sort(group.template); twice > 0 {
			b.count(group.metric, Counts{Dropped: twice})
		}
		same[group.template.Identity] = append(same[group.template.Identity], group)
	}
	gone := map[*seriesGroup]map[int]bool{}
	drop := func(group *seriesGroup, i int) {
		if gone[group] == nil {
			gone[group] = map[int]bool{}
		}
		gone[group][i] = true
	}
	for _, groups := range same {
		for i := range groups {
			for j := range i {
				dropRepeated(groups[j], groups[i], drop)
			}
		}
	}
	b.observations = slices.DeleteFunc(b.observations, func(obs observation) bool {
		k, ok := series.ParseID(obs.ID)
		if obs.Stream == "" || !ok {
			return false
		}
		for _, group := range same[k.Identity] {
			i := group.find(&k)
			switch {
			case i < 0:
			case group.columns.Commits[i].T > obs.seq:
				b.count(obs.Metric, Counts{Dropped: 1})
				return true
			default:
				drop(group, i)
			}
		}
		return false
	})
	for _, group := range b.groups {
		if n := len(gone[group]); n > 0 {
			b.count(group.metric, Counts{Dropped: n})
			group.columns = group.pick(func(i int) bool { return !gone[group][i] })
		}
		group.columns.Commits = group.columns.Commits[:0]
	}
}

// twins finds the samples that two series of one stream both have.
func dropRepeated(left0, right0 *seriesGroup, drop func(*seriesGroup, int)) {
	left, right := left0.columns, right0.columns
	for i, j := 0, 0; i < left.Len() && j < right.Len(); {
		switch {
		case left.Start[i] < right.Start[j]:
			i++
		case left.Start[i] > right.Start[j]:
			j++
		default:
			for k := j; k < right.Len() && right.Start[k] == left.Start[i]; k++ {
				first, second := left.At(i), right.At(k)
				switch {
				case left0.template.Check(&first) != right0.template.Check(&second):
				case first.Commit.T < second.Commit.T:
					drop(left0, i)
				default:
					drop(right0, k)
				}
			}
			i++
		}
	}
}
