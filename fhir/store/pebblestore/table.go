package pebblestore

import (
	"bytes"
	"encoding/binary"
	"slices"

	"github.com/cockroachdb/pebble/v2"

	"pulsegate/fhir/series"
	"pulsegate/fhir/store"
)

// table walks D or P rows in order of their keys, those that samples stand for
// among them.
type table struct {
	docs *pebble.Iterator
	smp  *sampleRows // nil when the type has none
	here bool        // on a sample
}

// openTable opens the rows [lower, upper) of a table.
func (x *finder) openTable(tab byte, lower, upper []byte) (*table, error) {
	it, err := x.v.snap.NewIter(&pebble.IterOptions{LowerBound: lower, UpperBound: upper})
	if err != nil {
		return nil, err
	}
	t := &table{docs: it}
	if x.q.Type != "Observation" || x.documentsOnly {
		return t, nil
	}
	t.smp, err = x.openSamples(tab, lower, upper)
	if err != nil {
		closing(it, &err)
		return nil, err
	}
	return t, nil
}

func (t *table) Close() (err error) {
	if t.smp != nil {
		err = t.smp.close()
	}
	closing(t.docs, &err)
	return err
}

func (t *table) Error() error {
	if t.smp != nil && t.smp.err != nil {
		return t.smp.err
	}
	return t.docs.Error()
}

func (t *table) First() bool {
	t.docs.First()
	if t.smp != nil {
		t.smp.first()
	}
	return t.settle()
}

func (t *table) SeekGE(k []byte) bool {
	t.docs.SeekGE(k)
	if t.smp != nil {
		t.smp.seekGE(k)
	}
	return t.settle()
}

func (t *table) Next() bool {
	if t.here {
		t.smp.next()
	} else {
		t.docs.Next()
	}
	return t.settle()
}

// settle chooses the lesser of the two. An error of either ends the walk.
func (t *table) settle() bool {
	docs := t.docs.Valid()
	if t.smp == nil {
		return docs
	}
	if t.smp.err != nil {
		return false
	}
	smp := t.smp.valid()
	t.here = smp && (!docs || bytes.Compare(t.smp.key, t.docs.Key()) < 0)
	return docs || smp
}

func (t *table) Key() []byte {
	if t.here {
		return t.smp.key
	}
	return t.docs.Key()
}

// Value is a document's; nil on a sample.
func (t *table) Value() []byte {
	if t.here {
		return nil
	}
	return t.docs.Value()
}

// sampled is the series and sample that the walk stands on, nil on a document.
func (t *table) sampled() (*seriesInfo, series.Sample) {
	if !t.here {
		return nil, series.Sample{}
	}
	return t.smp.best.in, t.smp.best.sample()
}

// sampleRows walks the rows that samples stand for, by the Q or R rows of
// their series: groups of one patient, code and bucket, and in each the
// samples of its series merged.
type sampleRows struct {
	x    *finder
	tab  byte // of the rows: D or P
	reg  byte // of the series: Q or R
	it   *pebble.Iterator
	more bool // it stands on a row
	// lower is where the rows begin.
	lower []byte
	// pre is the rows' key up to the bucket.
	pre   []byte
	walks []*samples
	best  *samples
	key   []byte
	spare []byte // the memory of a key before
	err   error
}

const bucketTail = 8 + 1 // code and bucket behind patient and type

func (x *finder) openSamples(tab byte, lower, upper []byte) (*sampleRows, error) {
	s := &sampleRows{x: x, tab: tab, reg: tabSeries, lower: slices.Clone(lower)}
	if tab == tabCode {
		s.reg = tabOther
	}
	lo := slices.Clone(lower)
	if pre, _, ok := splitRow(lower); ok {
		lo = slices.Clone(pre)
	}
	lo[0] = s.reg
	up := slices.Clone(upper)
	up[0] = up[0] - tab + s.reg
	it, err := x.v.snap.NewIter(&pebble.IterOptions{LowerBound: lo, UpperBound: up})
	if err != nil {
		return nil, err
	}
	s.it = it
	return s, nil
}

// splitRow parts a row's key behind the bucket; ok is false when it is shorter.
func splitRow(k []byte) (pre, tail []byte, ok bool) {
	_, rest, ok := takeStr(k[1:])
	if !ok {
		return nil, nil, false
	}
	if _, rest, ok = takeStr(rest); !ok || len(rest) < bucketTail {
		return nil, nil, false
	}
	n := len(k) - len(rest) + bucketTail
	return k[:n], k[n:], true
}

func (s *sampleRows) close() (err error) {
	for _, w := range s.walks {
		closing(closer(w.close), &err)
	}
	closing(s.it, &err)
	return err
}

type closer func() error

func (c closer) Close() error { return c() }

func (s *sampleRows) valid() bool { return s.best != nil }

func (s *sampleRows) first() { s.seekGE(s.lower) }

// seekGE stands on the first sample whose key is at or behind k.
func (s *sampleRows) seekGE(k []byte) {
	pre, tail, ok := splitRow(k)
	if !ok {
		r := slices.Clone(k)
		r[0] = s.reg
		s.more = s.it.SeekGE(r)
		s.group(nil)
		return
	}
	r := slices.Clone(pre)
	r[0] = s.reg
	if s.more = s.it.SeekGE(r); s.more && bytes.HasPrefix(s.it.Key(), r) && len(tail) >= 8 {
		s.group(k)
		return
	}
	s.group(nil)
}

// group opens the series of the group that the iterator stands on, and of the
// next ones until one has a sample. from, when not nil, is a key in the first
// of them.
func (s *sampleRows) group(from []byte) {
	s.best = nil
	for s.more && s.err == nil {
		if s.err = s.x.step(); s.err != nil {
			return
		}
		for _, w := range s.walks {
			if err := w.close(); err != nil {
				s.err = err
				return
			}
		}
		s.walks = s.walks[:0]
		pre, _, ok := splitRow(s.it.Key())
		if !ok {
			s.err = errRow
			return
		}
		reg := slices.Clone(pre)
		s.pre = append(s.pre[:0], pre...)
		s.pre[0] = s.tab
		for s.more && bytes.HasPrefix(s.it.Key(), reg) {
			w, err := s.open(from)
			if err != nil {
				s.err = err
				return
			}
			if w != nil {
				s.walks = append(s.walks, w)
			}
			s.more = s.it.Next()
		}
		if s.err = s.it.Error(); s.err != nil {
			return
		}
		for s.choose(); s.best != nil && from != nil && bytes.Compare(s.key, from) < 0 && s.err == nil; {
			s.next()
			if !bytes.HasPrefix(from, s.pre) { // next went on to another group
				return
			}
		}
		if s.best != nil || s.err != nil {
			return
		}
		from = nil
	}
}

// open starts the walk of the series whose row the iterator stands on; nil
// when the query rules it out.
func (s *sampleRows) open(from []byte) (*samples, error) {
	k := s.it.Key()
	var id series.SeriesID
	if copy(id[:], k[len(s.pre):]) != len(id) || len(k) != len(s.pre)+len(id) {
		return nil, errRow
	}
	in, err := s.x.seriesAt(s.reg, k, s.it.Value(), id)
	if err != nil {
		return nil, err
	}
	if s.x.rules(in) {
		return nil, nil
	}
	w := s.x.walk(in, false)
	lo, hi := s.x.dates(in.bucket)
	if from != nil {
		lo = max(lo, unsortable(binary.BigEndian.Uint64(from[len(s.pre):])))
	}
	if err := w.seek(microsOf(lo, hi)); err != nil {
		closing(closer(w.close), &err)
		return nil, err
	}
	return w, nil
}

// seriesAt is the series of a Q or R row.
func (x *finder) seriesAt(reg byte, k, v []byte, id series.SeriesID) (*seriesInfo, error) {
	if reg == tabSeries {
		return x.d.infoOf(id, v)
	}
	if in := x.d.infos.get(id); in != nil {
		return in, nil
	}
	p, _, ok := takePlace(v)
	if !ok {
		return nil, errRow
	}
	return x.d.info(x.v.snap, &p, id)
}

// walk begins a walk of a series under the query.
func (x *finder) walk(in *seriesInfo, desc bool) *samples {
	w := x.v.walkSeries(x.d, in, x.at, desc)
	if x.since > 0 {
		w.pass = func(h *series.Header) bool { return h.MaxUpdated <= x.since }
	}
	return w
}

// choose stands on the least sample of the group's series.
func (s *sampleRows) choose() {
	s.best = nil
	for _, w := range s.walks {
		if w.valid() && (s.best == nil || s.less(w, s.best)) {
			s.best = w
		}
	}
	if s.best != nil {
		s.key = s.appendKey(s.key[:0], s.best)
	}
}

// less compares the rows that two walks stand for.
func (s *sampleRows) less(a, b *samples) bool {
	if x, y := a.startMS(), b.startMS(); x != y {
		return x < y
	}
	s.key = s.appendKey(s.key[:0], a)
	s.spare = s.appendKey(s.spare[:0], b)
	return bytes.Compare(s.key, s.spare) < 0
}

// appendKey is the row's key that the sample of a walk stands for.
func (s *sampleRows) appendKey(b []byte, w *samples) []byte {
	smp := w.sample()
	k := w.in.t.Key(&smp)
	b = append(b, s.pre...)
	b = appendU64(b, sortable(w.startMS()))
	b = k.AppendID(b)
	b = append(b, 0, 1)
	return appendU64(b, smp.Commit.Seq)
}

func (s *sampleRows) next() {
	if s.err = s.best.next(); s.err != nil {
		return
	}
	if s.choose(); s.best == nil {
		s.group(nil)
	}
}

// newSample is the match of a sample.
func newSample(in *seriesInfo, s *series.Sample) *match {
	k := in.t.Key(s)
	m := &match{in: in, smp: *s}
	m.row = row{place: in.place, typ: "Observation", id: k.ID(), t: store.Seq(s.Commit.Seq)}
	m.row.start = floorMS(s.Start)
	m.doc = doc{version: 1, updated: s.Commit.Updated, vendor: in.t.Vendor, categories: in.t.Categories}
	m.facts = in.facts()
	m.facts.ID, m.facts.Tokens = m.row.id, m.tokens
	return m
}
