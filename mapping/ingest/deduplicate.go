package ingest

import (
	"slices"

	"pulsegate/fhir/series"
)

// deduplicate sorts the columns and, of samples that the payload states more
// than once, keeps the last one, whether it is in a series or a document.
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
			case group.columns.Commits[i].Seq > obs.seq:
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

// dropRepeated drops the earlier of two samples with one id in two series of
// one stream.
func dropRepeated(a, b *seriesGroup, drop func(*seriesGroup, int)) {
	left, right := a.columns, b.columns
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
				case a.template.Check(&first) != b.template.Check(&second):
				case first.Commit.Seq < second.Commit.Seq:
					drop(a, i)
				default:
					drop(b, k)
				}
			}
			i++
		}
	}
}
