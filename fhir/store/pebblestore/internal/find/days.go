package find

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"math"
	"slices"

	"github.com/cockroachdb/pebble/v2"

	"pulsegate/fhir/series"
	"pulsegate/fhir/store/pebblestore/internal/fault"
	"pulsegate/fhir/store/pebblestore/internal/keys"
	"pulsegate/fhir/store/pebblestore/internal/rows"
	"pulsegate/fhir/store/pebblestore/internal/snapshot"
	"pulsegate/fhir/store/pebblestore/internal/tier"
)

// dayRun is a run that has rows on a day.
type dayRun struct {
	run
	patient string
	bits    rows.DayBits
}

// days emits the matches of all patients in order of date, the undated last, in
// order of id.
func (f *finder) days(desc bool, after []byte) (err error) {
	phase, from, err := takeMergePos(f.op, after)
	if err != nil {
		return err
	}
	if few, err := f.fewUpdates(); err != nil || few {
		return cmp.Or(err, f.fewDated(desc, phase, from))
	}
	free := &idle{reader: f.snap.Reader}
	defer func() { fault.Close(fault.CloseFunc(free.close), &err) }()
	if phase == 0 {
		more, err := f.datedDays(free, desc, from)
		if err != nil || !more {
			return err
		}
		from = nil
	}
	return f.undated(free, from)
}

// fewDated emits the matches in order of date if a bound on lastUpdated leaves few.
func (f *finder) fewDated(desc bool, phase int, from *sortPoint) error {
	var ms []*snapshot.Match
	y := *f
	y.passing = false
	y.emit = func(m *snapshot.Match, _ []byte) bool { ms = append(ms, m); return true }
	err := y.walkUpdates(false, nil)
	if f.steps = y.steps; err != nil {
		return err
	}
	of := func(m *snapshot.Match) (int, sortPoint) {
		if m.Row.Bucket == keys.BucketUndated {
			return 1, sortPoint{m.Row.Start, m.Row.ID, m.Row.Seq}
		}
		return 0, sortPoint{m.Row.Start, m.Row.ID, m.Row.Seq}
	}
	order := func(p int, a, b sortPoint) int {
		if desc && p == 0 {
			a, b = b, a
		}
		return a.compare(b)
	}
	slices.SortFunc(ms, func(a, b *snapshot.Match) int {
		p, v := of(a)
		q, w := of(b)
		return cmp.Or(cmp.Compare(p, q), order(p, v, w))
	})
	for _, m := range ms {
		p, w := of(m)
		if p < phase || p == phase && from != nil && order(p, w, *from) <= 0 {
			continue
		}
		if !f.emit(m, mergePos(byte(p), w)) {
			return nil
		}
	}
	return nil
}

func (f *finder) datedDays(free *idle, desc bool, from *sortPoint) (more bool, err error) {
	var walks []*dayWalk
	defer func() {
		for _, w := range walks {
			fault.Close(w.it, &err)
		}
	}()
	for b := byte(keys.BucketInstant); b < keys.BucketUndated; b++ {
		w, err := f.openDays(b, desc, from)
		if err != nil {
			return false, err
		}
		if w != nil {
			walks = append(walks, w)
		}
	}
	for {
		var best *dayWalk
		for _, w := range walks {
			if w.ok && (best == nil || desc && w.day > best.day || !desc && w.day < best.day) {
				best = w
			}
		}
		if best == nil {
			return true, nil
		}
		day, runs := best.day, []dayRun(nil)
		for _, w := range walks {
			if !w.ok || w.day != day {
				continue
			}
			if runs, err = f.dayRuns(w.it, keys.DayKey(w.prefix, day), w.bucket, runs); err != nil {
				return false, err
			}
			if err := w.move(f); err != nil {
				return false, err
			}
		}
		if more, err := f.oneDay(free, day, runs, desc, from); err != nil || !more {
			return false, err
		}
	}
}

// dayWalk walks the days of a bucket.
type dayWalk struct {
	bucket      byte
	desc        bool
	prefix      []byte
	first, last int64 // the days in range
	it          *pebble.Iterator
	day         int64 // the current day
	ok          bool
}

// openDays returns a walk at the first day of a bucket that can have a match after
// from, or nil if nothing in the bucket can match.
func (f *finder) openDays(bucket byte, desc bool, from *sortPoint) (*dayWalk, error) {
	lo, hi := f.dates(bucket)
	if from != nil && desc {
		hi = min(hi, above(from.start))
	} else if from != nil {
		lo = max(lo, from.start)
	}
	if lo >= hi {
		return nil, nil
	}
	w := &dayWalk{bucket: bucket, desc: desc, prefix: keys.DayPrefix(f.query.Type, bucket)}
	w.first, _ = keys.DayOf(lo)
	w.last, _ = keys.DayOf(hi - 1)
	it, err := f.snap.Reader.NewIter(&pebble.IterOptions{LowerBound: w.prefix, UpperBound: keys.PrefixEnd(w.prefix)})
	if err != nil {
		return nil, err
	}
	w.it = it
	if desc {
		w.day = w.last + 1
	} else {
		w.day = w.first - 1
	}
	if err := w.move(f); err != nil {
		fault.Close(it, &err)
		return nil, err
	}
	return w, nil
}

// move moves to the next day that has rows.
func (w *dayWalk) move(f *finder) error {
	if err := f.step(); err != nil {
		return err
	}
	if w.desc {
		w.ok = w.it.SeekLT(keys.DayKey(w.prefix, w.day))
	} else {
		w.ok = w.it.SeekGE(keys.DayKey(w.prefix, w.day+1))
	}
	if !w.ok {
		return w.it.Error()
	}
	k := w.it.Key()
	if len(k) < len(w.prefix)+8 {
		return fault.ErrRow
	}
	w.day = keys.Unsortable(binary.BigEndian.Uint64(k[len(w.prefix):]))
	w.ok = w.day >= w.first && w.day <= w.last
	return nil
}

// dayRuns adds the runs of a day under the wanted codes, both as primary and as
// other codings. Without a code clause it adds the runs of primary codes, in which
// each document lies once.
func (f *finder) dayRuns(it *pebble.Iterator, key []byte, bucket byte, out []dayRun) (_ []dayRun, err error) {
	read := func(pre []byte, all bool) error {
		for ok := it.SeekGE(pre); ok && bytes.HasPrefix(it.Key(), pre); ok = it.Next() {
			if err := f.step(); err != nil {
				return err
			}
			var r dayRun
			k := it.Key()[len(key):]
			if len(k) < 8 {
				return fault.ErrRow
			}
			copy(r.code[:], k)
			patient, rest, ok := keys.CutString(k[8:])
			if !ok || len(rest) != 1 {
				return fault.ErrRow
			}
			if r.patient, r.bucket, r.table = patient, bucket, rest[0]; all && r.table != keys.TableDocument {
				continue
			}
			if r.bits, err = rows.DecodeDayBits(it.Value()); err != nil {
				return err
			}
			out = append(out, r)
		}
		return it.Error()
	}
	codes := codesOf(f.query)
	if codes == nil {
		err := read(key, true)
		return out, err
	}
	for _, c := range codes {
		if err := read(append(slices.Clone(key), c[:]...), false); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// oneDay emits the matches that begin on a day, slot by slot.
func (f *finder) oneDay(free *idle, day int64, runs []dayRun, desc bool, from *sortPoint) (more bool, err error) {
	var any rows.Slots
	for i := range runs {
		any.Or(&runs[i].bits.Documents)
		any.Or(&runs[i].bits.Samples)
	}
	for i := range int64(keys.DaySlots) {
		slot := i
		if desc {
			slot = keys.DaySlots - 1 - i
		}
		if !any.Has(slot) {
			continue
		}
		lo, hi := keys.SlotRange(day, slot)
		if from != nil && (desc && lo > from.start || !desc && hi <= from.start) {
			continue
		}
		var here []dayRun
		for _, r := range runs {
			if r.bits.Documents.Has(slot) || r.bits.Samples.Has(slot) {
				here = append(here, r)
			}
		}
		c := &collector{merger: merger{finder: f}, free: free, most: f.searcher.bounds.DayBatch, lo: lo, hi: hi,
			slot: slot, desc: desc, from: from}
		if more, err := c.give(here); err != nil || !more {
			return false, err
		}
	}
	return true, nil
}

// undated emits the matches that have no time, by id.
func (f *finder) undated(free *idle, from *sortPoint) (err error) {
	pre := keys.DayPrefix(f.query.Type, keys.BucketUndated)
	it, err := f.snap.Reader.NewIter(&pebble.IterOptions{LowerBound: pre, UpperBound: keys.PrefixEnd(pre)})
	if err != nil {
		return err
	}
	defer fault.Close(it, &err)
	runs, err := f.dayRuns(it, keys.DayKey(pre, 0), keys.BucketUndated, nil)
	if err != nil {
		return err
	}
	c := &collector{merger: merger{finder: f}, free: free, most: f.searcher.bounds.DayBatch, phase: 1,
		lo: math.MinInt64, hi: math.MaxInt64, from: from}
	_, err = c.give(runs)
	return err
}

// collector emits the rows of some runs within a slot in order. It holds
// Bounds.DayBatch of them at a time. If there are more, it collects again after the
// last one emitted.
type collector struct {
	merger
	free   *idle // for the iterators of the runs
	most   int
	phase  byte
	lo, hi int64 // range of the start
	slot   int64
	desc   bool
	from   *sortPoint
	held   []dated
	full   bool // rows after the last of held were left out
}

// dated is a row in order of time.
type dated struct {
	sortPoint
	row    keys.Row
	series *tier.Series // of a sample; nil for a document
	sample series.Sample
}

func (c *collector) order(a, b sortPoint) int {
	if c.desc {
		a, b = b, a
	}
	return a.compare(b)
}

func (c *collector) give(runs []dayRun) (more bool, err error) {
	for {
		c.held, c.full = c.held[:0], false
		for i := range runs {
			if err := c.collect(&runs[i]); err != nil {
				return false, err
			}
		}
		c.trim()
		for i := range c.held {
			h := &c.held[i]
			m, err := c.reread(h.row, h.series, &h.sample)
			if err != nil {
				return false, err
			}
			if c.accept(m) && !c.emit(m, mergePos(c.phase, h.sortPoint)) {
				return false, nil
			}
		}
		if !c.full {
			return true, nil
		}
		last := c.held[len(c.held)-1].sortPoint
		c.from = &last
	}
}

// add adds a row. It returns false if neither the row nor a later one of its run
// can be among the rows held.
func (c *collector) add(h dated) bool {
	if c.from != nil && c.order(h.sortPoint, *c.from) <= 0 {
		return true
	}
	if c.full && c.order(h.sortPoint, c.held[c.most-1].sortPoint) >= 0 {
		return false
	}
	if c.held = append(c.held, h); len(c.held) >= 2*c.most {
		c.trim()
	}
	return true
}

// trim sorts the held rows, removes duplicates and keeps the first ones.
func (c *collector) trim() {
	slices.SortFunc(c.held, func(a, b dated) int { return c.order(a.sortPoint, b.sortPoint) })
	c.held = slices.CompactFunc(c.held, func(a, b dated) bool { return a.sortPoint == b.sortPoint })
	if len(c.held) > c.most {
		c.held, c.full = c.held[:c.most], true
	}
}

// collect adds the rows of a run.
func (c *collector) collect(r *dayRun) error {
	c.patient = r.patient
	if c.phase == 1 || r.bits.Documents.Has(c.slot) {
		if err := c.documents(r); err != nil {
			return err
		}
	}
	if c.phase == 0 && r.bits.Samples.Has(c.slot) {
		return c.samples(r)
	}
	return nil
}

func (c *collector) documents(r *dayRun) (err error) {
	s, err := c.openWithin(c.free, r.run, c.desc, c.from, c.lo, c.hi)
	if err != nil || s == nil {
		return err
	}
	defer func() {
		if err != nil {
			fault.Close(s.it, &err)
			return
		}
		err = c.free.give(s.it)
	}()
	for s.ok {
		if err := c.step(); err != nil {
			return err
		}
		if val := s.it.Value(); rows.Visible(val, s.row.Seq, c.at) {
			h := dated{sortPoint: s.at(), row: s.row}
			if s.table == keys.TableCode && copy(h.row.Code[:], val[8:]) != 8 {
				return fault.ErrRow
			}
			if !c.add(h) {
				return nil
			}
		}
		if err := s.move(c.desc); err != nil {
			return err
		}
	}
	return nil
}

func (c *collector) samples(r *dayRun) (err error) {
	from := c.from
	if from != nil && (from.start < c.lo || from.start >= c.hi) {
		from = nil
	}
	sources, err := c.openSeriesWithin(c.free, nil, r.run, c.desc, from, c.lo, c.hi)
	defer func() {
		for _, s := range sources {
			err = errors.Join(err, s.close())
		}
	}()
	if err != nil {
		return err
	}
	for _, s := range sources {
		for ; s.ok; s.stand() {
			if err := c.step(); err != nil {
				return err
			}
			sample := s.samples.Sample()
			if c.matchesSample(s.samples.Series, &sample) &&
				!c.add(dated{sortPoint: s.at(), row: s.row, series: s.samples.Series, sample: sample}) {
				break
			}
			if err := s.samples.Next(); err != nil {
				return err
			}
		}
	}
	return nil
}
