package pebblestore

import (
	"math"

	"github.com/cockroachdb/pebble/v2"

	"pulsegate/fhir/series"
	"pulsegate/fhir/store"
)

// Levels of a series: tails are what commits wrote, as it came, and may
// overlap; the blocks of the base do not.
const (
	levelTail = iota
	levelBase
	levels
)

// samples walks the samples of one series that a snapshot has, in the order of
// their ids or against it.
type samples struct {
	d    *DB
	r    pebble.Reader
	in   *seriesInfo
	at   store.Seq
	desc bool
	// lo and hi bound the start, [lo, hi) in Unix microseconds.
	lo, hi int64
	// only, when not 0, is the one commit whose samples the walk gives out.
	only store.Seq
	// pass, when not nil, tells that a block has nothing of interest.
	pass func(*series.Header) bool

	curs []*cursor
	best *cursor
}

// cursor stands on a sample of one level.
type cursor struct {
	it   *pebble.Iterator // over the headers of a level; nil for what is in memory
	cols *series.Columns
	i    int
}

const (
	firstStart = math.MinInt64
	endStart   = math.MaxInt64
)

// microsOf is the range of microseconds of a range of milliseconds [lo, hi).
func microsOf(lo, hi int64) (int64, int64) {
	a, b := int64(firstStart), int64(endStart)
	if lo > math.MinInt64/1000 {
		a = lo * 1000
	}
	if hi < math.MaxInt64/1000 {
		b = hi * 1000
	}
	return a, b
}

// seek opens the walk anew within [lo, hi).
func (s *samples) seek(lo, hi int64) error {
	s.lo, s.hi, s.best = lo, hi, nil
	for _, c := range s.curs { // keep iterators, drop what they stood on
		c.cols.Reset()
	}
	if s.curs == nil {
		s.curs = make([]*cursor, levels)
		for l := range s.curs {
			s.curs[l] = &cursor{cols: s.d.columns(s.in.t.Values)}
		}
	}
	if lo >= hi {
		return nil
	}
	if err := s.tails(); err != nil {
		return err
	}
	if err := s.position(s.curs[levelBase], levelBase); err != nil {
		return err
	}
	return s.choose()
}

func (s *samples) close() (err error) {
	for _, c := range s.curs {
		if c.it != nil {
			closing(c.it, &err)
		}
		s.d.spare.Put(c.cols)
	}
	s.curs, s.best = nil, nil
	return err
}

// skip reports whether a block holds nothing that this walk can give out.
func (s *samples) skip(h *series.Header) bool {
	return h.MaxStart < s.lo || h.MinStart >= s.hi || store.Seq(h.MinSeq) > s.at || s.pass != nil && s.pass(h)
}

// columns are empty columns whose memory has been used before. Whoever is
// done with them puts them into spare.
func (d *DB) columns(values int) *series.Columns {
	c, ok := d.spare.Get().(*series.Columns)
	if !ok {
		return &series.Columns{}
	}
	c.Reset()
	c.Values = c.Values[:min(values, len(c.Values))]
	return c
}

// tails reads the tails in range into memory: compaction keeps them few.
func (s *samples) tails() (err error) {
	c := s.curs[0]
	pre := levelPrefix(tabHead, s.in.id, levelTail)
	it, err := s.r.NewIter(&pebble.IterOptions{LowerBound: pre, UpperBound: next(pre)})
	if err != nil {
		return err
	}
	defer closing(it, &err)
	n := 0
	var one *series.Columns
	for ok := it.First(); ok; ok = it.Next() {
		h, err := series.DecodeHeader(it.Value())
		if err != nil {
			return err
		}
		if s.skip(&h) {
			continue
		}
		if one == nil {
			one = s.d.columns(s.in.t.Values)
			defer s.d.spare.Put(one)
		}
		if err := s.d.block(s.r, it.Key(), &h, one); err != nil {
			return err
		}
		n++
		for i := range one.Len() {
			x := one.At(i)
			c.cols.Append(&x, s.in.t.Values)
		}
	}
	if err := it.Error(); err != nil {
		return err
	}
	if n > 1 {
		c.cols.Sort(s.in.t)
	}
	c.start(s)
	return nil
}

// block reads the columns of a header row.
func (d *DB) block(r pebble.Reader, headKey []byte, h *series.Header, into *series.Columns) error {
	k := append([]byte{tabBlock}, headKey[1:]...)
	v, c, err := r.Get(k)
	if err != nil {
		return err
	}
	err = d.decode(v, h, into)
	closing(c, &err)
	return err
}

// decode reads the bytes of a block.
func (d *DB) decode(body []byte, h *series.Header, into *series.Columns) error {
	err := d.codec.Decode(body, into)
	if err == nil && into.Len() != h.Count {
		err = errRow
	}
	// What a commit wrote does not name it: the header does.
	for i := range into.Commits {
		if into.Commits[i].Seq == 0 {
			into.Commits[i] = series.Commit{Seq: h.MinSeq, Updated: h.MinUpdated}
		}
	}
	return err
}

// start puts a cursor over loaded columns to its first sample in range.
func (c *cursor) start(s *samples) {
	if s.desc {
		c.i = c.cols.Search(s.hi) - 1
	} else {
		c.i = c.cols.Search(s.lo)
	}
}

func (c *cursor) ok(s *samples) bool {
	return c.i >= 0 && c.i < c.cols.Len() && c.cols.Start[c.i] >= s.lo && c.cols.Start[c.i] < s.hi
}

// position opens a level at the beginning of the range.
func (s *samples) position(c *cursor, level byte) error {
	pre := levelPrefix(tabHead, s.in.id, level)
	if c.it == nil {
		it, err := s.r.NewIter(&pebble.IterOptions{LowerBound: pre, UpperBound: next(pre)})
		if err != nil {
			return err
		}
		c.it = it
	}
	var ok bool
	if s.desc {
		if s.hi == endStart {
			ok = c.it.Last()
		} else {
			ok = c.it.SeekLT(blockKey(tabHead, s.in.id, level, sortable(s.hi), 0))
		}
	} else if s.lo == firstStart {
		ok = c.it.First()
	} else if ok = c.it.SeekLT(blockKey(tabHead, s.in.id, level, sortable(s.lo), 0)); !ok {
		if err := c.it.Error(); err != nil {
			return err
		}
		ok = c.it.First()
	}
	return s.load(c, ok)
}

// load reads the first block from where the iterator stands that has
// something in range.
func (s *samples) load(c *cursor, ok bool) error {
	for ; ok; ok = s.step(c.it) {
		h, err := series.DecodeHeader(c.it.Value())
		if err != nil {
			return err
		}
		if !s.desc && h.MinStart >= s.hi || s.desc && h.MaxStart < s.lo {
			break
		}
		if s.skip(&h) {
			continue
		}
		if err := s.d.block(s.r, c.it.Key(), &h, c.cols); err != nil {
			return err
		}
		if c.start(s); c.ok(s) {
			return nil
		}
	}
	c.cols.Reset()
	return c.it.Error()
}

func (s *samples) step(it *pebble.Iterator) bool {
	if s.desc {
		return it.Prev()
	}
	return it.Next()
}

// choose stands on the next sample that the snapshot has.
func (s *samples) choose() error {
	for {
		s.best = nil
		for _, c := range s.curs {
			if c.ok(s) && (s.best == nil || s.before(c, s.best)) {
				s.best = c
			}
		}
		if s.best == nil {
			return nil
		}
		if t := store.Seq(s.best.cols.Commits[s.best.i].Seq); t <= s.at && (s.only == 0 || s.only == t) {
			return nil
		}
		if err := s.move(s.best); err != nil {
			return err
		}
	}
}

func (s *samples) before(a, b *cursor) bool {
	x, y := a.cols.Start[a.i], b.cols.Start[b.i]
	if x == y {
		sa, sb := a.cols.At(a.i), b.cols.At(b.i)
		return s.in.t.Check(&sa) < s.in.t.Check(&sb) != s.desc
	}
	return x < y != s.desc
}

func (s *samples) move(c *cursor) error {
	if s.desc {
		c.i--
	} else {
		c.i++
	}
	if c.ok(s) || c.it == nil {
		return nil
	}
	if c.i >= 0 && c.i < c.cols.Len() { // the range ends in this block
		c.cols.Reset()
		return nil
	}
	return s.load(c, s.step(c.it))
}

func (s *samples) valid() bool { return s.best != nil }

func (s *samples) next() error {
	if err := s.move(s.best); err != nil {
		return err
	}
	return s.choose()
}

// sample is the one the walk stands on.
func (s *samples) sample() series.Sample { return s.best.cols.At(s.best.i) }

func (s *samples) startMS() int64 { return floorMS(s.best.cols.Start[s.best.i]) }

func floorMS(us int64) int64 {
	ms := us / 1000
	if us%1000 < 0 {
		ms--
	}
	return ms
}

// walkSeries begins a walk of a series at a snapshot.
func (v *view) walkSeries(d *DB, in *seriesInfo, at store.Seq, desc bool) *samples {
	return &samples{d: d, r: v.snap, in: in, at: at, desc: desc}
}
