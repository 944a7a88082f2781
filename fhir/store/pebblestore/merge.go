package pebblestore

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"math"
	"slices"
	"strings"

	"github.com/cockroachdb/pebble/v2"

	"pulsegate/fhir/search"
	"pulsegate/fhir/series"
	"pulsegate/fhir/store"
)

// source is one run of rows in time order: a code, a bucket, a table.
type source struct {
	table byte
	it    *pebble.Iterator
	skip  int // length of table, patient and type in its keys
	row   row // current
	ok    bool
	rest  []row    // of a source in memory, where it and smp are nil
	smp   *samples // of a series
}

// where is a place in the merged order.
type where struct {
	start int64
	id    string
	t     store.Seq
}

func (w where) compare(o where) int {
	if c := cmp.Compare(w.start, o.start); c != 0 {
		return c
	}
	if c := strings.Compare(w.id, o.id); c != 0 {
		return c
	}
	return cmp.Compare(w.t, o.t)
}

func (s *source) at() where { return where{s.row.start, s.row.id, s.row.t} }

// advance reads the row the iterator stands on.
func (s *source) settle(ok bool) error {
	s.ok = ok
	if !ok {
		return s.it.Error()
	}
	if !s.row.tail(s.it.Key()[s.skip:]) {
		return errRow
	}
	return nil
}

// stand reads the sample that the walk stands on.
func (s *source) stand() {
	if s.ok = s.smp.valid(); !s.ok {
		return
	}
	smp := s.smp.sample()
	k := s.smp.in.t.Key(&smp)
	s.row = row{place: s.smp.in.place, typ: "Observation", id: k.ID(), t: store.Seq(smp.Commit.Seq)}
	s.row.start = s.smp.startMS()
}

func (s *source) close() (err error) {
	if s.smp != nil {
		return s.smp.close()
	}
	if s.it != nil {
		return s.it.Close()
	}
	return nil
}

func (s *source) move(desc bool) error {
	if s.smp != nil {
		if err := s.smp.next(); err != nil {
			return err
		}
		s.stand()
		return nil
	}
	if s.it == nil {
		if s.ok = len(s.rest) > 0; s.ok {
			s.row, s.rest = s.rest[0], s.rest[1:]
		}
		return nil
	}
	if desc {
		return s.settle(s.it.Prev())
	}
	return s.settle(s.it.Next())
}

// merge walks a patient's code clusters (nil: all of them) in order of date;
// the undated come last, in order of id.
func (x *finder) merge(codes [][8]byte, desc bool, after []byte) error {
	phase, from, err := takeMergePos(x.op, after)
	if err != nil {
		return err
	}
	runs, err := x.runs(codes)
	if err != nil {
		return err
	}
	for ; phase < 2; phase++ {
		more, err := x.mergePhase(runs, byte(phase), desc && phase == 0, from)
		if err != nil || !more {
			return err
		}
		from = nil
	}
	return nil
}

func takeMergePos(op string, after []byte) (phase int, from *where, err error) {
	if len(after) == 0 {
		return 0, nil, nil
	}
	if len(after) < 18 || after[0] != posMerge || after[1] > 1 {
		return 0, nil, errPos(op)
	}
	from = &where{
		start: unsortable(binary.BigEndian.Uint64(after[2:])),
		t:     store.Seq(binary.BigEndian.Uint64(after[10:])),
		id:    string(after[18:]),
	}
	return int(after[1]), from, nil
}

func mergePos(phase byte, w where) []byte {
	b := appendU64([]byte{posMerge, phase}, sortable(w.start))
	return append(appendU64(b, uint64(w.t)), w.id...)
}

// run is one code and bucket of one table: its rows lie in order of time.
type run struct {
	table  byte
	code   [8]byte
	bucket byte
}

// runs are the runs of the wanted codes, under their own cluster and as other
// codings; of all codes (nil) those that the patient has, where each document
// lies once.
func (x *finder) runs(codes [][8]byte) (out []run, err error) {
	for _, c := range codes {
		for b := byte(bucketInstant); b <= bucketUndated; b++ {
			out = append(out, run{tabDoc, c, b}, run{tabCode, c, b})
		}
	}
	if codes != nil {
		return out, nil
	}
	if out, err = x.documentRuns(); err != nil {
		return nil, err
	}
	return x.seriesRuns(out)
}

// documentRuns are the runs of all documents that a patient has.
func (x *finder) documentRuns() (out []run, err error) {
	pre := clusterKey(tabDoc, x.patient, x.q.Type)
	it, err := x.v.snap.NewIter(&pebble.IterOptions{LowerBound: pre, UpperBound: next(pre)})
	if err != nil {
		return nil, err
	}
	defer closing(it, &err)
	for ok := it.First(); ok; {
		k := it.Key()
		if len(k) < len(pre)+9 {
			return nil, errRow
		}
		r := run{table: tabDoc, bucket: k[len(pre)+8]}
		copy(r.code[:], k[len(pre):])
		out = append(out, r)
		up := next(slices.Clone(k[:len(pre)+9]))
		if up == nil {
			break
		}
		ok = it.SeekGE(up)
	}
	return out, it.Error()
}

// seriesRuns adds the runs in which a patient has nothing but samples.
func (x *finder) seriesRuns(out []run) (_ []run, err error) {
	if x.q.Type != "Observation" {
		return out, nil
	}
	pre := clusterKey(tabSeries, x.patient, x.q.Type)
	it, err := x.v.snap.NewIter(&pebble.IterOptions{LowerBound: pre, UpperBound: next(pre)})
	if err != nil {
		return nil, err
	}
	defer closing(it, &err)
	for ok := it.First(); ok; ok = it.Next() {
		k := it.Key()
		if len(k) < len(pre)+bucketTail {
			return nil, errRow
		}
		r := run{table: tabDoc, bucket: k[len(pre)+8]}
		copy(r.code[:], k[len(pre):])
		if !slices.Contains(out, r) {
			out = append(out, r)
		}
	}
	return out, it.Error()
}

// idle is an iterator that has found nothing: to be used again, for most runs
// are empty and to make an iterator costs more than to move it.
type idle struct {
	x  *finder
	it *pebble.Iterator
}

func (i *idle) take(lower, upper []byte) (*pebble.Iterator, error) {
	it := i.it
	if i.it = nil; it != nil {
		it.SetBounds(lower, upper)
		return it, nil
	}
	return i.x.v.snap.NewIter(&pebble.IterOptions{LowerBound: lower, UpperBound: upper})
}

// give takes an iterator back, which has no error.
func (i *idle) give(it *pebble.Iterator) error {
	if i.it == nil {
		i.it = it
		return nil
	}
	return it.Close()
}

func (i *idle) close() error {
	if i.it == nil {
		return nil
	}
	return i.it.Close()
}

// openSeries adds the series of a run.
func (x *finder) openSeries(free *idle, sources []*source, r run, desc bool, from *where) (_ []*source, err error) {
	return x.openSeriesWithin(free, sources, r, desc, from, math.MinInt64, math.MaxInt64)
}

// openSeriesWithin adds the series of a run, from their samples that begin
// within [lo, hi).
func (x *finder) openSeriesWithin(free *idle, sources []*source, r run, desc bool, from *where, lo,
	hi int64) (_ []*source, err error) {
	if x.q.Type != "Observation" || r.bucket == bucketUndated || x.documentsOnly {
		return sources, nil
	}
	reg := byte(tabSeries)
	if r.table == tabCode {
		reg = tabOther
	}
	pre := append(append(clusterKey(reg, x.patient, x.q.Type), r.code[:]...), r.bucket)
	it, err := free.take(pre, next(pre))
	if err != nil {
		return sources, err
	}
	defer func() {
		closing(closer(func() error {
			if ierr := it.Error(); ierr != nil {
				return errors.Join(ierr, it.Close())
			}
			return free.give(it)
		}), &err)
	}()
	for ok := it.First(); ok; ok = it.Next() {
		var id series.SeriesID
		if len(it.Key()) != len(pre)+copy(id[:], it.Key()[len(pre):]) {
			return sources, errRow
		}
		in, err := x.seriesAt(reg, it.Key(), it.Value(), id)
		if err != nil {
			return sources, err
		}
		if x.rules(in) {
			continue
		}
		s := &source{smp: x.walk(in, desc)}
		sources = append(sources, s) // closed with the others
		if err := x.seekSource(s, r.bucket, desc, from, lo, hi); err != nil {
			return sources, err
		}
	}
	return sources, it.Error()
}

// seekSource stands on the first sample behind from.
func (x *finder) seekSource(s *source, bucket byte, desc bool, from *where, within, end int64) error {
	lo, hi := x.dates(bucket)
	lo, hi = max(lo, within), min(hi, end)
	if from != nil {
		if desc {
			hi = min(hi, above(from.start))
		} else {
			lo = max(lo, from.start)
		}
	}
	if err := s.smp.seek(microsOf(lo, hi)); err != nil {
		return err
	}
	for s.stand(); s.ok && from != nil; s.stand() {
		if c := s.at().compare(*from); c > 0 && !desc || c < 0 && desc {
			break
		}
		if err := s.smp.next(); err != nil {
			return err
		}
	}
	return nil
}

// mergePhase merges the dated runs (phase 0) or the undated ones (phase 1).
func (x *finder) mergePhase(runs []run, phase byte, desc bool, from *where) (more bool, err error) {
	var sources []*source
	free := &idle{x: x}
	defer func() {
		for _, s := range sources {
			closing(closer(s.close), &err)
		}
		closing(closer(free.close), &err)
	}()
	if s := x.listed(phase, desc, from); s != nil {
		sources = append(sources, s)
	}
	for _, r := range runs {
		if (r.bucket == bucketUndated) != (phase == 1) {
			continue
		}
		s, err := x.open(free, r, desc, from)
		if err != nil {
			return false, err
		}
		if s != nil {
			sources = append(sources, s)
		}
		if sources, err = x.openSeries(free, sources, r, desc, from); err != nil {
			return false, err
		}
	}
	for {
		var best *source
		for _, s := range sources {
			if !s.ok {
				continue
			}
			if best == nil {
				best = s
				continue
			}
			if c := s.at().compare(best.at()); c < 0 && !desc || c > 0 && desc {
				best = s
			}
		}
		if best == nil {
			return true, nil
		}
		w := best.at()
		if more, err := x.offer(best, phase, w); err != nil || !more {
			return false, err
		}
		for _, s := range sources {
			if s.ok && s.at().compare(w) == 0 {
				if err := s.move(desc); err != nil {
					return false, err
				}
			}
		}
	}
}

func (x *finder) offer(s *source, phase byte, w where) (more bool, err error) {
	if err := x.step(); err != nil {
		return false, err
	}
	if s.smp != nil {
		smp := s.smp.sample()
		if !x.fits(s.smp.in, &smp) {
			return true, nil
		}
		m := newSample(s.smp.in, &smp)
		return !x.filter.Allow(&m.facts) || x.emit(m, mergePos(phase, w)), nil
	}
	if s.it == nil {
		m, err := x.v.fetchRow(s.row)
		if err != nil {
			return false, err
		}
		return !x.accept(m) || x.emit(m, mergePos(phase, w)), nil
	}
	val := s.it.Value()
	if !visible(val, s.row.t, x.at) {
		return true, nil
	}
	var m *match
	if s.table == tabDoc {
		d, err := x.d.forms.doc(x.v.snap, &x.recent, s.row.typ, s.row.id, val)
		if err != nil {
			return false, err
		}
		m = newMatch(s.row, d)
	} else {
		r := s.row
		if copy(r.code[:], val[8:]) != 8 {
			return false, errRow
		}
		if m, err = x.v.fetchRow(r); err != nil {
			return false, err
		}
	}
	return !x.accept(m) || x.emit(m, mergePos(phase, w)), nil
}

// open starts a source, nil when it is empty.
func (x *finder) open(free *idle, r run, desc bool, from *where) (*source, error) {
	return x.openWithin(free, r, desc, from, math.MinInt64, math.MaxInt64)
}

// openWithin starts a source of rows that begin within [first, end), nil when
// it is empty.
func (x *finder) openWithin(free *idle, r run, desc bool, from *where, first, end int64) (*source, error) {
	base := clusterKey(r.table, x.patient, x.q.Type)
	s := &source{table: r.table, skip: len(base), row: row{place: place{patient: x.patient}, typ: x.q.Type}}
	pre := append(append(slices.Clone(base), r.code[:]...), r.bucket)
	lower, upper := pre, next(pre)
	lo, hi := x.dates(r.bucket)
	lo, hi = max(lo, first), min(hi, end)
	if lo > math.MinInt64 {
		lower = appendU64(slices.Clone(pre), sortable(lo))
	}
	if hi < math.MaxInt64 {
		upper = appendU64(slices.Clone(pre), sortable(hi))
	}
	if from != nil {
		k := appendU64(appendStr(appendU64(slices.Clone(pre), sortable(from.start)), from.id), uint64(from.t))
		if desc {
			if bytes.Compare(k, upper) < 0 {
				upper = k
			}
		} else if k = append(k, 0); bytes.Compare(k, lower) > 0 {
			lower = k
		}
	}
	if bytes.Compare(lower, upper) >= 0 {
		return nil, nil
	}
	it, err := free.take(lower, upper)
	if err != nil {
		return nil, err
	}
	s.it = it
	ok := false
	if desc {
		ok = it.Last()
	} else {
		ok = it.First()
	}
	if err := s.settle(ok); err != nil {
		closing(it, &err)
		return nil, err
	}
	if !ok {
		return nil, free.give(it)
	}
	return s, nil
}

// dates narrows the start [lo, hi) of documents that can satisfy the query's
// date clauses. An end lies at most the bucket's slack behind the start; in
// the long bucket nothing bounds the start from below.
func (x *finder) dates(bucket byte) (lo, hi int64) {
	if bucket == bucketUndated || dateParam(x.q.Type) == "" {
		return math.MinInt64, math.MaxInt64
	}
	slack, bounded := slackOf(bucket)
	if lo, hi = x.bounds(dateParam(x.q.Type), slack); !bounded {
		lo = math.MinInt64
	}
	return lo, hi
}

// bounds narrows the start [lo, hi) of intervals of at most slack that can
// satisfy the query's clauses on a date parameter.
func (x *finder) bounds(param string, slack int64) (lo, hi int64) {
	lo, hi = math.MinInt64, math.MaxInt64
	for i := range x.q.Clauses {
		c := &x.q.Clauses[i]
		if c.Param.Code != param || c.Modifier != search.NoModifier || len(c.Values) == 0 {
			continue
		}
		cl, ch := int64(math.MaxInt64), int64(math.MinInt64)
		for j := range c.Values {
			l, h := startOf(&c.Values[j], slack)
			cl, ch = min(cl, l), max(ch, h)
		}
		lo, hi = max(lo, cl), min(hi, ch)
	}
	return lo, hi
}

// startOf bounds the start of a document that lasts at most slack and satisfies
// one value.
func startOf(v *search.Value, slack int64) (lo, hi int64) {
	lo, hi = math.MinInt64, math.MaxInt64
	switch v.Prefix {
	case search.EQ:
		return v.Lo, above(v.Hi)
	case search.GT:
		return before(v.Hi, slack), hi
	case search.GE:
		return min(v.Lo, before(v.Hi, slack)), hi
	case search.LT:
		return lo, above(v.Lo)
	case search.LE:
		return lo, above(v.Hi)
	case search.SA:
		return v.Hi, hi
	case search.EB:
		return lo, above(v.Lo)
	case search.AP:
		return before(v.Lo, slack), above(v.Hi)
	}
	return lo, hi
}

func before(ms, slack int64) int64 {
	if ms < math.MinInt64+slack {
		return math.MinInt64
	}
	return ms - slack
}

func above(ms int64) int64 {
	if ms == math.MaxInt64 {
		return ms
	}
	return ms + 1
}
