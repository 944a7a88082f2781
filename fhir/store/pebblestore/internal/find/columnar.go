package find

import (
	"context"
	"math"
	"slices"

	"github.com/cockroachdb/pebble/v2"

	"pulsegate/fhir"
	"pulsegate/fhir/search"
	"pulsegate/fhir/series"
	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore/internal/fault"
	"pulsegate/fhir/store/pebblestore/internal/keys"
	"pulsegate/fhir/store/pebblestore/internal/snapshot"
	"pulsegate/fhir/store/pebblestore/internal/tier"
)

// columnar answers from columns: it calls docs for the documents, and then samples
// for each series of the query's patient.
func (s *Searcher) columnar(ctx context.Context, op string, snap *snapshot.Snapshot, req store.Find,
	docs func(f *finder) (bool, error),
	sample func(f *finder, ser *tier.Series) (bool, error)) error {
	if req.Query.Type != "Observation" || req.Query.Patient == "" {
		return fhir.Errorf(fhir.Internal, op, "only Observations of one patient are stored in columns")
	}
	at, err := snap.At(op, req.At)
	if err != nil {
		return err
	}
	sel, err := search.Select(req.Query)
	if err != nil {
		return err
	}
	f := &finder{searcher: s, indexes: &indexes{reader: snap.Reader}, evaluator: evaluator{query: req.Query, sel: sel},
		request: request{ctx: ctx, op: op, snap: snap, at: at, filter: req.Filter, documentsOnly: true}}
	if more, err := docs(f); err != nil || !more {
		return fault.Wrap(op, err)
	}
	ins, err := f.seriesOf(req.Query.Patient)
	if err != nil {
		return fault.Wrap(op, err)
	}
	for _, ser := range ins {
		if more, err := sample(f, ser); err != nil || !more {
			return fault.Wrap(op, err)
		}
	}
	return nil
}

// allDocuments emits every document that matches.
func (f *finder) allDocuments(give func(*snapshot.Match) bool) (more bool, err error) {
	more, f.passing = true, true
	f.emit = func(m *snapshot.Match, _ []byte) bool {
		more = give(m)
		return more
	}
	err = f.run(nil, nil)
	return more, err
}

// seriesOf returns the series of a patient that the query does not exclude.
func (f *finder) seriesOf(patient string) (out []*tier.Series, err error) {
	pre := keys.Cluster(keys.TableSeries, patient, "Observation")
	it, err := f.snap.Reader.NewIter(&pebble.IterOptions{LowerBound: pre, UpperBound: keys.PrefixEnd(pre)})
	if err != nil {
		return nil, err
	}
	defer fault.Close(it, &err)
	for ok := it.First(); ok; ok = it.Next() {
		if err := f.step(); err != nil {
			return nil, err
		}
		var id series.SeriesID
		k := it.Key()
		if len(k) != len(pre)+keys.CodeBucketLen+len(id) {
			return nil, fault.ErrRow
		}
		copy(id[:], k[len(k)-len(id):])
		ser, err := f.snap.Tier.SeriesOf(id, it.Value())
		if err != nil {
			return nil, err
		}
		if !f.excludes(ser) {
			out = append(out, ser)
		}
	}
	return out, it.Error()
}

// FindNewest implements store.Columnar at a snapshot.
func (s *Searcher) FindNewest(ctx context.Context, op string, snap *snapshot.Snapshot, req store.Find, n int,
	fn func(*store.Found) bool) error {
	give := func(m *snapshot.Match) bool { return fn(&store.Found{Resource: m.Resource(), Facts: &m.Facts}) }
	docs := func(f *finder) (more bool, err error) {
		if idsOf(req.Query) != nil {
			return f.allDocuments(give)
		}
		nf := &newestFinder{merger: f.merger()}
		return nf.find(n, give)
	}
	return s.columnar(ctx, op, snap, req, docs, func(f *finder, ser *tier.Series) (more bool, err error) {
		w := f.walk(ser, true)
		defer fault.Close(fault.CloseFunc(w.Close), &err)
		if err := w.SeekRange(tier.Micros(f.dates(ser.Bucket))); err != nil {
			return false, err
		}
		last := int64(math.MinInt64)
		for got := 0; w.Valid(); {
			if err := f.step(); err != nil {
				return false, err
			}
			s := w.Sample()
			lo, _ := s.Interval()
			if sec := lo / 1000; got >= n && sec < last {
				break
			} else if f.matchesSample(ser, &s) {
				m := snapshot.NewSample(ser, &s)
				if f.filter.Allow(&m.Facts) {
					if !give(m) {
						return false, nil
					}
					if got++; got == n {
						last = sec
					}
				}
			}
			if err := w.Next(); err != nil {
				return false, err
			}
		}
		return true, nil
	})
}

// FindRuns implements store.Columnar at a snapshot.
func (s *Searcher) FindRuns(ctx context.Context, op string, snap *snapshot.Snapshot, req store.Find,
	doc func(*store.Found) bool, run func(*store.Run) bool) error {
	give := func(m *snapshot.Match) bool { return doc(&store.Found{Resource: m.Resource(), Facts: &m.Facts}) }
	docs := func(f *finder) (bool, error) { return f.allDocuments(give) }
	return s.columnar(ctx, op, snap, req, docs, func(f *finder, ser *tier.Series) (bool, error) {
		for level := byte(0); level < tier.Levels; level++ {
			if more, err := f.runsIn(ser, level, run); err != nil || !more {
				return false, err
			}
		}
		return true, nil
	})
}

// runsIn emits the matches in the blocks of one level.
func (f *finder) runsIn(ser *tier.Series, level byte, run func(*store.Run) bool) (more bool, err error) {
	pre := keys.LevelPrefix(keys.TableHeader, ser.ID, level)
	lo, hi := tier.Micros(f.dates(ser.Bucket))
	from := pre
	if level == tier.LevelBase && lo > tier.FirstStart {
		from = keys.BlockKey(keys.TableHeader, ser.ID, level, keys.Sortable(lo), 0)
	}
	it, err := f.snap.Reader.NewIter(&pebble.IterOptions{LowerBound: pre, UpperBound: keys.PrefixEnd(pre)})
	if err != nil {
		return false, err
	}
	defer fault.Close(it, &err)
	cols := f.snap.Tier.Columns(ser.Template.Values)
	defer f.snap.Tier.Release(cols)
	ok := it.SeekLT(from)
	if !ok {
		ok = it.First()
	}
	b := runBlock{in: ser, head: &series.Header{}, cols: cols, perSample: f.perSample(ser)}
	h := b.head
	b.load = func() error { return f.snap.Tier.ReadBlock(f.snap.Reader, it.Key(), h, cols) }
	b.loadFirst = func(n int) error { return f.snap.Tier.ReadFirst(f.snap.Reader, it.Key(), n, cols) }
	r := store.Run{Template: ser.Template, Load: b.columns, First: b.first}
	for ; ok; ok = it.Next() {
		if err := f.step(); err != nil {
			return false, err
		}
		if err := h.Decode(it.Value()); err != nil {
			return false, err
		}
		if level == tier.LevelBase && h.MinStart >= hi {
			break
		}
		if h.MaxStart < lo || h.MinStart >= hi || store.Seq(h.MinSeq) > f.at {
			continue
		}
		b.loaded = false
		r.From, r.To, r.Header = 0, 0, nil
		if more, err := f.runsOf(&b, &r, run); err != nil || !more {
			return false, err
		}
	}
	return true, it.Error()
}

// runBlock is a block that is loaded when its samples are needed.
type runBlock struct {
	in     *tier.Series
	head   *series.Header
	cols   *series.Columns
	load   func() error
	loaded bool
	// loadFirst loads the first samples of the block, without their commits.
	loadFirst func(n int) error
	// each is set if the filter may decide differently on two samples of the
	// series. Otherwise the filter is evaluated every askAgain blocks, because a
	// consent may be withdrawn while a long series is read.
	perSample bool
	asked     int
	allowed   bool
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

// first implements store.Run.First.
func (b *runBlock) first(n int) (*series.Columns, error) {
	if !b.loaded && n < b.head.Count {
		return b.cols, b.loadFirst(n)
	}
	return b.columns()
}

// allows returns the filter's decision on a sample, or the last one on the series.
func (f *finder) allows(b *runBlock, s *series.Sample) bool {
	if b.perSample || b.asked%askAgain == 0 {
		m := snapshot.NewSample(b.in, s)
		b.allowed = f.filter.Allow(&m.Facts)
	}
	b.asked++
	return b.allowed
}

// runsOf divides a block into runs of matches.
func (f *finder) runsOf(b *runBlock, r *store.Run, run func(*store.Run) bool) (more bool, err error) {
	ser, h := b.in, b.head
	if !b.perSample && store.Seq(h.MaxSeq) <= f.at && f.surely(ser, h) {
		if !f.allows(b, &series.Sample{Start: h.MinStart, End: series.NoEnd,
			Commit: series.Commit{Seq: h.MinSeq, Updated: h.MinUpdated}}) {
			return true, nil
		}
		r.Header, r.To = h, h.Count
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
		if !b.perSample {
			if s := cols.At(r.From); !f.allows(b, &s) {
				return true
			}
		}
		return run(r)
	}
	for i := range cols.Len() {
		s := cols.At(i)
		ok := store.Seq(s.Commit.Seq) <= f.at && f.matchesSample(ser, &s)
		if ok && b.perSample {
			ok = f.allows(b, &s)
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

// perSample reports whether the filter may decide differently on two samples of a
// series.
func (f *finder) perSample(ser *tier.Series) bool {
	return slices.ContainsFunc(f.filter.Params("Observation"), func(p string) bool { return ser.Varies[p] })
}

// surely reports whether the header of a block shows that every sample matches.
func (f *finder) surely(ser *tier.Series, h *series.Header) bool {
	first, _ := (&series.Sample{Start: h.MinStart, End: series.NoEnd}).Interval()
	for _, c := range f.evaluate(ser).rest {
		if !plain(c) || c.Param.Code != "date" || c.Modifier != search.NoModifier {
			return false
		}
		if !slices.ContainsFunc(c.Values, func(v search.Value) bool {
			if v.LoNs != 0 || v.HiNs != 0 {
				return false // the header has no nanoseconds
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
