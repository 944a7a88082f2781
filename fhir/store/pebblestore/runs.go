package pebblestore

import (
	"context"
	"math"
	"slices"

	"github.com/cockroachdb/pebble/v2"

	"pulsegate/fhir"
	"pulsegate/fhir/search"
	"pulsegate/fhir/series"
	"pulsegate/fhir/store"
)

var _ store.Columnar = (*DB)(nil)

// columnar begins an answer out of columns: first docs, then smp for each series
// of the query's patient.
func (d *DB) columnar(ctx context.Context, op string, f store.Find, docs func(x *finder) (bool, error),
	smp func(x *finder, in *seriesInfo) (bool, error)) error {
	if f.Query.Type != "Observation" || f.Query.Patient == "" {
		return fhir.Errorf(fhir.Internal, op, "only Observations of one patient lie in columns")
	}
	v, err := d.enter(op)
	if err != nil {
		return err
	}
	defer d.leave(v)
	at, err := v.at(op, f.At)
	if err != nil {
		return err
	}
	sel, err := search.Select(f.Query)
	if err != nil {
		return err
	}
	x := &finder{ctx: ctx, op: op, d: d, v: v, at: at, q: f.Query, sel: sel, filter: f.Filter, documentsOnly: true}
	if more, err := docs(x); err != nil || !more {
		return faulted(op, err)
	}
	ins, err := x.seriesOf(f.Query.Patient)
	if err != nil {
		return faulted(op, err)
	}
	for _, in := range ins {
		if more, err := smp(x, in); err != nil || !more {
			return faulted(op, err)
		}
	}
	return nil
}

// allDocuments gives out every document that matches.
func (x *finder) allDocuments(give func(*match) bool) (more bool, err error) {
	more, x.passing = true, true
	x.emit = func(m *match, _ []byte) bool {
		more = give(m)
		return more
	}
	err = x.run(nil, nil)
	return more, err
}

// seriesOf are the series of a patient that the query does not rule out.
func (x *finder) seriesOf(patient string) (out []*seriesInfo, err error) {
	pre := clusterKey(tabSeries, patient, "Observation")
	it, err := x.v.snap.NewIter(&pebble.IterOptions{LowerBound: pre, UpperBound: next(pre)})
	if err != nil {
		return nil, err
	}
	defer closing(it, &err)
	for ok := it.First(); ok; ok = it.Next() {
		if err := x.step(); err != nil {
			return nil, err
		}
		var id series.SeriesID
		k := it.Key()
		if len(k) != len(pre)+bucketTail+len(id) {
			return nil, errRow
		}
		copy(id[:], k[len(k)-len(id):])
		in, err := x.d.infoOf(id, it.Value())
		if err != nil {
			return nil, err
		}
		if !x.rules(in) {
			out = append(out, in)
		}
	}
	return out, it.Error()
}

// FindNewest is of store.Columnar.
func (d *DB) FindNewest(ctx context.Context, f store.Find, n int, fn func(*store.Found) bool) error {
	give := func(m *match) bool { return fn(&store.Found{Resource: m.resource(), Facts: &m.facts}) }
	docs := func(x *finder) (more bool, err error) {
		if idsOf(f.Query) != nil {
			return x.allDocuments(give)
		}
		return x.newestDocuments(n, give)
	}
	return d.columnar(ctx, "pebblestore.FindNewest", f, docs, func(x *finder, in *seriesInfo) (more bool, err error) {
		w := x.walk(in, true)
		defer closing(closer(w.close), &err)
		if err := w.seek(microsOf(x.dates(in.bucket))); err != nil {
			return false, err
		}
		last := int64(math.MinInt64)
		for got := 0; w.valid(); {
			if err := x.step(); err != nil {
				return false, err
			}
			s := w.sample()
			lo, _ := s.Interval()
			if sec := lo / 1000; got >= n && sec < last {
				break
			} else if x.fits(in, &s) {
				m := newSample(in, &s)
				if x.filter.Allow(&m.facts) {
					if !give(m) {
						return false, nil
					}
					if got++; got == n {
						last = sec
					}
				}
			}
			if err := w.next(); err != nil {
				return false, err
			}
		}
		return true, nil
	})
}

// FindRuns is of store.Columnar.
func (d *DB) FindRuns(ctx context.Context, f store.Find, doc func(*store.Found) bool, run func(*store.Run) bool) error {
	give := func(m *match) bool { return doc(&store.Found{Resource: m.resource(), Facts: &m.facts}) }
	docs := func(x *finder) (bool, error) { return x.allDocuments(give) }
	return d.columnar(ctx, "pebblestore.FindRuns", f, docs, func(x *finder, in *seriesInfo) (bool, error) {
		for level := byte(0); level < levels; level++ {
			if more, err := x.runsIn(in, level, run); err != nil || !more {
				return false, err
			}
		}
		return true, nil
	})
}

// runsIn gives out the matches among the blocks of one level.
func (x *finder) runsIn(in *seriesInfo, level byte, run func(*store.Run) bool) (more bool, err error) {
	pre := levelPrefix(tabHead, in.id, level)
	lo, hi := microsOf(x.dates(in.bucket))
	from := pre
	if level == levelBase && lo > firstStart {
		from = blockKey(tabHead, in.id, level, sortable(lo), 0)
	}
	it, err := x.v.snap.NewIter(&pebble.IterOptions{LowerBound: pre, UpperBound: next(pre)})
	if err != nil {
		return false, err
	}
	defer closing(it, &err)
	cols := x.d.columns(in.t.Values)
	defer x.d.spare.Put(cols)
	ok := it.SeekLT(from)
	if !ok {
		ok = it.First()
	}
	b := runBlock{in: in, head: &series.Header{}, cols: cols, each: x.perSample(in)}
	h := b.head
	b.load = func() error { return x.d.block(x.v.snap, it.Key(), h, cols) }
	r := store.Run{Template: in.t, Load: b.columns}
	for ; ok; ok = it.Next() {
		if err := x.step(); err != nil {
			return false, err
		}
		if err := h.Decode(it.Value()); err != nil {
			return false, err
		}
		if level == levelBase && h.MinStart >= hi {
			break
		}
		if h.MaxStart < lo || h.MinStart >= hi || store.Seq(h.MinSeq) > x.at {
			continue
		}
		b.loaded = false
		r.From, r.To, r.Whole = 0, 0, nil
		if more, err := x.runsOf(&b, &r, run); err != nil || !more {
			return false, err
		}
	}
	return true, it.Error()
}

// runBlock is a block that is loaded when its samples have to be seen.
type runBlock struct {
	in     *seriesInfo
	head   *series.Header
	cols   *series.Columns
	load   func() error
	loaded bool
	// each: the filter may decide differently on two samples of the series.
	// Else it is asked every askAgain blocks, for a consent may be withdrawn
	// while a long series is read.
	each    bool
	asked   int
	allowed bool
}

const askAgain = 32 // blocks

func (b *runBlock) columns() (*series.Columns, error) {
	if !b.loaded {
		if err := b.load(); err != nil {
			return nil, err
		}
		b.loaded = true
	}
	return b.cols, nil
}

// allows asks the filter about a sample, or knows the answer.
func (x *finder) allows(b *runBlock, s *series.Sample) bool {
	if b.each || b.asked%askAgain == 0 {
		m := newSample(b.in, s)
		b.allowed = x.filter.Allow(&m.facts)
	}
	b.asked++
	return b.allowed
}

// runsOf cuts a block into runs of matches.
func (x *finder) runsOf(b *runBlock, r *store.Run, run func(*store.Run) bool) (more bool, err error) {
	in, h := b.in, b.head
	if !b.each && store.Seq(h.MaxSeq) <= x.at && x.surely(in, h) {
		if !x.allows(b, &series.Sample{Start: h.MinStart, End: series.NoEnd,
			Commit: series.Commit{Seq: h.MinSeq, Updated: h.MinUpdated}}) {
			return true, nil
		}
		r.Whole, r.To = h, h.Count
		return run(r), nil
	}
	cols, err := b.columns()
	if err != nil {
		return false, err
	}
	end := func(to int) bool {
		r.To = to
		if r.From == r.To {
			return true
		}
		if !b.each {
			if s := cols.At(r.From); !x.allows(b, &s) {
				return true
			}
		}
		return run(r)
	}
	for i := range cols.Len() {
		s := cols.At(i)
		ok := store.Seq(s.Commit.Seq) <= x.at && x.fits(in, &s)
		if ok && b.each {
			ok = x.allows(b, &s)
		}
		if !ok {
			if !end(i) {
				return false, nil
			}
			r.From = i + 1
		}
	}
	return end(cols.Len()), nil
}

// perSample reports whether the filter may decide differently on two samples
// of a series.
func (x *finder) perSample(in *seriesInfo) bool {
	return slices.ContainsFunc(x.filter.Params("Observation"), func(p string) bool { return in.dynamic[p] })
}

// surely reports whether every sample of a block matches, as far as its header
// tells.
func (x *finder) surely(in *seriesInfo, h *series.Header) bool {
	first, _ := (&series.Sample{Start: h.MinStart, End: series.NoEnd}).Interval()
	for _, c := range x.judged(in).rest {
		if c.Param.Code != "date" || c.Modifier != search.NoModifier {
			return false
		}
		if !slices.ContainsFunc(c.Values, func(v search.Value) bool {
			if v.LoNs != 0 || v.HiNs != 0 {
				return false // its milliseconds rule out, they do not decide
			}
			switch v.Prefix {
			case search.GE, search.GT, search.SA:
				return first >= v.Hi
			case search.LE, search.LT, search.EB:
				return h.MaxEnd <= v.Lo
			case search.EQ:
				return v.Lo <= first && h.MaxEnd <= v.Hi
			}
			return false
		}) {
			return false
		}
	}
	return true
}
