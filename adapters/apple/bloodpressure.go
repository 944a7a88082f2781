package apple

import (
	"cmp"
	"slices"
	"strings"

	"pulsegate/mapping/sample"
)

const (
	typeBloodPressure = "HKCorrelationTypeIdentifierBloodPressure"
	maxOpenHalves     = 1 << 16
)

// bpKey identifies a measurement by the start and the source that its two halves
// share.
type bpKey struct {
	start  int64
	source string
}

// bpPair holds the values of a complete measurement as written.
type bpPair struct {
	systolic, diastolic string
}

// bloodPressure pairs the systolic and the diastolic half of a measurement,
// whether they occur at the top level, within a Correlation, or in both places.
// It holds at most maxOpenHalves halves and as many complete measurements.
type bloodPressure struct {
	open  map[bpKey]*sample.Sample // halves without their counterpart
	order []bpKey                  // keys of open, oldest first, and of some measurements that are complete
	done  map[bpKey]bpPair
}

func newBloodPressure() *bloodPressure {
	return &bloodPressure{open: map[bpKey]*sample.Sample{}, done: map[bpKey]bpPair{}}
}

// half adds one half. It returns a sample to emit, if there is one, and whether
// the half is a duplicate.
func (b *bloodPressure) half(r *record) (out *sample.Sample, duplicate bool) {
	s := r.sample
	s.Components = slices.Clone(r.sample.Components)
	s.Value.Num = strings.Clone(s.Value.Num) // do not keep the block of d.values
	key := bpKey{s.Start.Unix(), s.Source.Name}
	if p, ok := b.done[key]; ok {
		if s.Metric == typeSystolic && p.systolic == s.Value.Num || s.Metric == typeDiastolic &&
			p.diastolic == s.Value.Num {
			return nil, true
		}
	}
	other := b.open[key]
	switch {
	case other == nil:
		b.open[key] = &s
		b.order = append(b.order, key)
		return b.evict(), false
	case other.Metric == s.Metric && other.Value.Num == s.Value.Num:
		return nil, true
	case other.Metric == s.Metric:
		b.open[key] = &s
		return other, false
	}
	delete(b.open, key)
	sys, dia := other, &s
	if s.Metric == typeSystolic {
		sys, dia = dia, sys
	}
	if len(b.done) >= maxOpenHalves {
		clear(b.done)
	}
	b.done[key] = bpPair{sys.Value.Num, dia.Value.Num}
	return join(sys, dia), false
}

// evict removes and returns the oldest half if there are more than maxOpenHalves.
func (b *bloodPressure) evict() *sample.Sample {
	if len(b.order) > 2*maxOpenHalves {
		b.order = slices.DeleteFunc(b.order, func(k bpKey) bool { return b.open[k] == nil })
	}
	if len(b.open) <= maxOpenHalves {
		return nil
	}
	for i, k := range b.order {
		if s := b.open[k]; s != nil {
			delete(b.open, k)
			b.order = b.order[i+1:]
			return s
		}
	}
	return nil
}

// join makes one sample of the two halves.
func join(sys, dia *sample.Sample) *sample.Sample {
	out := *sys
	out.Metric = typeBloodPressure
	out.Value = sample.Value{}
	out.Components = []sample.Component{{Name: "systolic", Value: sys.Value}, {Name: "diastolic", Value: dia.Value}}
	out.UserEntered = sys.UserEntered || dia.UserEntered
	return &out
}

// flush emits the halves that have no counterpart, ordered by time.
func (b *bloodPressure) flush(out func(*sample.Sample) error) error {
	var all []*sample.Sample
	for _, s := range b.open {
		all = append(all, s)
	}
	slices.SortFunc(all, func(x, y *sample.Sample) int {
		return cmp.Or(x.Start.Compare(y.Start), cmp.Compare(x.Source.Name, y.Source.Name),
			cmp.Compare(x.Metric, y.Metric))
	})
	for _, s := range all {
		if err := out(s); err != nil {
			return err
		}
	}
	return nil
}
