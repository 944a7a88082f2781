package tier

import (
	"math"

	"github.com/cockroachdb/pebble/v2"

	"pulsegate/fhir/series"
	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore/internal/fault"
	"pulsegate/fhir/store/pebblestore/internal/keys"
)

// Levels of a series. Tails are blocks as commits wrote them, and may overlap. The
// blocks of the base do not overlap.
const (
	LevelTail = iota
	LevelBase
	Levels
)

// Walk iterates over the samples of one series at a snapshot, ordered by id or in
// reverse.
type Walk struct {
	tier    *Tier
	reader  pebble.Reader
	Series  *Series
	at      store.Seq
	reverse bool
	// lo and hi bound the start, [lo, hi) in Unix microseconds.
	lo, hi int64
	// Only, if not 0, restricts the walk to the samples of one commit.
	Only store.Seq
	// Skip, if not nil, reports whether a block can be skipped.
	Skip func(*series.Header) bool

	cursors []*cursor
	best    *cursor
}

// cursor is the position in one level.
type cursor struct {
	it    *pebble.Iterator // over the headers of the level; nil for columns in memory
	cols  *series.Columns
	index int
}

const (
	FirstStart = math.MinInt64
	endStart   = math.MaxInt64
)

// Micros converts a range of milliseconds [lo, hi) to microseconds.
func Micros(lo, hi int64) (int64, int64) {
	a, b := int64(FirstStart), int64(endStart)
	if lo > math.MinInt64/1000 {
		a = lo * 1000
	}
	if hi < math.MaxInt64/1000 {
		b = hi * 1000
	}
	return a, b
}

// SeekRange restarts the walk within [lo, hi).
func (s *Walk) SeekRange(lo, hi int64) error {
	s.lo, s.hi, s.best = lo, hi, nil
	for _, c := range s.cursors { // keep the iterators, drop their blocks
		c.cols.Reset()
	}
	if s.cursors == nil {
		s.cursors = make([]*cursor, Levels)
		for l := range s.cursors {
			s.cursors[l] = &cursor{cols: s.tier.Columns(s.Series.Template.Values)}
		}
	}
	if lo >= hi {
		return nil
	}
	if err := s.tails(); err != nil {
		return err
	}
	if err := s.position(s.cursors[LevelBase], LevelBase); err != nil {
		return err
	}
	return s.choose()
}

func (s *Walk) Close() (err error) {
	for _, c := range s.cursors {
		if c.it != nil {
			fault.Close(c.it, &err)
		}
		s.tier.Release(c.cols)
	}
	s.cursors, s.best = nil, nil
	return err
}

// skip reports whether the walk needs no sample of a block.
func (s *Walk) skip(h *series.Header) bool {
	return h.MaxStart < s.lo || h.MinStart >= s.hi || store.Seq(h.MinSeq) > s.at || s.Skip != nil && s.Skip(h)
}

// tails reads the tails in range into memory. Compaction keeps them few.
func (s *Walk) tails() (err error) {
	c := s.cursors[0]
	pre := keys.LevelPrefix(keys.TableHeader, s.Series.ID, LevelTail)
	it, err := s.reader.NewIter(&pebble.IterOptions{LowerBound: pre, UpperBound: keys.PrefixEnd(pre)})
	if err != nil {
		return err
	}
	defer fault.Close(it, &err)
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
			one = s.tier.Columns(s.Series.Template.Values)
			defer s.tier.Release(one)
		}
		if err := s.tier.ReadBlock(s.reader, it.Key(), &h, one); err != nil {
			return err
		}
		n++
		for i := range one.Len() {
			x := one.At(i)
			c.cols.Append(&x, s.Series.Template.Values)
		}
	}
	if err := it.Error(); err != nil {
		return err
	}
	if n > 1 {
		c.cols.Sort(s.Series.Template)
	}
	c.start(s)
	return nil
}

// start moves a cursor over loaded columns to its first sample in range.
func (c *cursor) start(s *Walk) {
	if s.reverse {
		c.index = c.cols.Search(s.hi) - 1
	} else {
		c.index = c.cols.Search(s.lo)
	}
}

func (c *cursor) ok(s *Walk) bool {
	return c.index >= 0 && c.index < c.cols.Len() && c.cols.Start[c.index] >= s.lo && c.cols.Start[c.index] < s.hi
}

// position opens a level at the first block of the range.
func (s *Walk) position(c *cursor, level byte) error {
	pre := keys.LevelPrefix(keys.TableHeader, s.Series.ID, level)
	if c.it == nil {
		it, err := s.reader.NewIter(&pebble.IterOptions{LowerBound: pre, UpperBound: keys.PrefixEnd(pre)})
		if err != nil {
			return err
		}
		c.it = it
	}
	var ok bool
	if s.reverse {
		if s.hi == endStart {
			ok = c.it.Last()
		} else {
			ok = c.it.SeekLT(keys.BlockKey(keys.TableHeader, s.Series.ID, level, keys.Sortable(s.hi), 0))
		}
	} else if s.lo == FirstStart {
		ok = c.it.First()
	} else if ok = c.it.SeekLT(keys.BlockKey(keys.TableHeader, s.Series.ID, level, keys.Sortable(s.lo), 0)); !ok {
		if err := c.it.Error(); err != nil {
			return err
		}
		ok = c.it.First()
	}
	return s.load(c, ok)
}

// load loads the first block, from the iterator's position on, that has a sample in
// range.
func (s *Walk) load(c *cursor, ok bool) error {
	for ; ok; ok = s.step(c.it) {
		h, err := series.DecodeHeader(c.it.Value())
		if err != nil {
			return err
		}
		if !s.reverse && h.MinStart >= s.hi || s.reverse && h.MaxStart < s.lo {
			break
		}
		if s.skip(&h) {
			continue
		}
		if err := s.tier.ReadBlock(s.reader, c.it.Key(), &h, c.cols); err != nil {
			return err
		}
		if c.start(s); c.ok(s) {
			return nil
		}
	}
	c.cols.Reset()
	return c.it.Error()
}

func (s *Walk) step(it *pebble.Iterator) bool {
	if s.reverse {
		return it.Prev()
	}
	return it.Next()
}

// choose moves to the next sample that the snapshot has.
func (s *Walk) choose() error {
	for {
		s.best = nil
		for _, c := range s.cursors {
			if c.ok(s) && (s.best == nil || s.before(c, s.best)) {
				s.best = c
			}
		}
		if s.best == nil {
			return nil
		}
		if seq := store.Seq(s.best.cols.Commits[s.best.index].Seq); seq <= s.at && (s.Only == 0 || s.Only == seq) {
			return nil
		}
		if err := s.move(s.best); err != nil {
			return err
		}
	}
}

func (s *Walk) before(a, b *cursor) bool {
	x, y := a.cols.Start[a.index], b.cols.Start[b.index]
	if x == y {
		sa, sb := a.cols.At(a.index), b.cols.At(b.index)
		return s.Series.Template.Check(&sa) < s.Series.Template.Check(&sb) != s.reverse
	}
	return x < y != s.reverse
}

func (s *Walk) move(c *cursor) error {
	if s.reverse {
		c.index--
	} else {
		c.index++
	}
	if c.ok(s) || c.it == nil {
		return nil
	}
	if c.index >= 0 && c.index < c.cols.Len() { // the range ends in this block
		c.cols.Reset()
		return nil
	}
	return s.load(c, s.step(c.it))
}

func (s *Walk) Valid() bool { return s.best != nil }

func (s *Walk) Next() error {
	if err := s.move(s.best); err != nil {
		return err
	}
	return s.choose()
}

// Sample returns the current sample.
func (s *Walk) Sample() series.Sample { return s.best.cols.At(s.best.index) }

func (s *Walk) StartMS() int64 { return keys.FloorMS(s.best.cols.Start[s.best.index]) }

// Walk returns a walk of a series at a snapshot. SeekRange positions it.
func (t *Tier) Walk(r pebble.Reader, ser *Series, at store.Seq, desc bool) *Walk {
	return &Walk{tier: t, reader: r, Series: ser, at: at, reverse: desc}
}
