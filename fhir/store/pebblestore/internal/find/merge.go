package find

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"math"
	"slices"
	"strings"

	"github.com/cockroachdb/pebble/v2"

	"pulsegate/fhir/series"
	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore/internal/fault"
	"pulsegate/fhir/store/pebblestore/internal/keys"
	"pulsegate/fhir/store/pebblestore/internal/rows"
	"pulsegate/fhir/store/pebblestore/internal/snapshot"
	"pulsegate/fhir/store/pebblestore/internal/tier"
)

// source is a run of rows in order of time: one code, bucket and table, or one
// series.
type source struct {
	table   byte
	it      *pebble.Iterator
	skip    int      // length of table, patient and type in its keys
	row     keys.Row // the current row
	ok      bool
	rest    []keys.Row // the next rows of a source in memory, where it and samples are nil
	samples *tier.Walk // of a series
}

// sortPoint is a position in the merged order.
type sortPoint struct {
	start int64
	id    string
	seq   store.Seq
}

func (w sortPoint) compare(o sortPoint) int {
	if c := cmp.Compare(w.start, o.start); c != 0 {
		return c
	}
	if c := strings.Compare(w.id, o.id); c != 0 {
		return c
	}
	return cmp.Compare(w.seq, o.seq)
}

func (s *source) at() sortPoint { return sortPoint{s.row.Start, s.row.ID, s.row.Seq} }

// settle parses the iterator's current row.
func (s *source) settle(ok bool) error {
	s.ok = ok
	if !ok {
		return s.it.Error()
	}
	if !s.row.ParseTail(s.it.Key()[s.skip:]) {
		return fault.ErrRow
	}
	return nil
}

// stand makes the walk's current sample the current row.
func (s *source) stand() {
	if s.ok = s.samples.Valid(); !s.ok {
		return
	}
	sample := s.samples.Sample()
	k := s.samples.Series.Template.Key(&sample)
	s.row = keys.Row{Location: s.samples.Series.Location, Type: "Observation", ID: k.ID(),
		Seq: store.Seq(sample.Commit.Seq)}
	s.row.Start = s.samples.StartMS()
}

func (s *source) close() (err error) {
	if s.samples != nil {
		return s.samples.Close()
	}
	if s.it != nil {
		return s.it.Close()
	}
	return nil
}

func (s *source) move(desc bool) error {
	if s.samples != nil {
		if err := s.samples.Next(); err != nil {
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

// merger merges the rows of one patient's code clusters in order of date.
type merger struct {
	*finder
	patient string
	// others are the rows, of a type whose resources may name several patients,
	// that lie in the clusters of other patients.
	others []keys.Row
	// series are series of other patients that a union has found.
	series []*tier.Series
}

// merge walks a patient's clusters of some codes, or all of them if codes is nil,
// in order of date. The undated come last, in order of id.
func (mr *merger) merge(codes [][8]byte, desc bool, after []byte) error {
	phase, from, err := takeMergePos(mr.op, after)
	if err != nil {
		return err
	}
	runs, err := mr.runs(codes)
	if err != nil {
		return err
	}
	for ; phase < 2; phase++ {
		more, err := mr.mergePhase(runs, byte(phase), desc && phase == 0, from)
		if err != nil || !more {
			return err
		}
		from = nil
	}
	return nil
}

func takeMergePos(op string, after []byte) (phase int, from *sortPoint, err error) {
	if len(after) == 0 {
		return 0, nil, nil
	}
	if len(after) < 18 || after[0] != posMerge || after[1] > 1 {
		return 0, nil, errPos(op)
	}
	from = &sortPoint{
		start: keys.Unsortable(binary.BigEndian.Uint64(after[2:])),
		seq:   store.Seq(binary.BigEndian.Uint64(after[10:])),
		id:    string(after[18:]),
	}
	return int(after[1]), from, nil
}

func mergePos(phase byte, w sortPoint) []byte {
	b := keys.AppendUint64([]byte{posMerge, phase}, keys.Sortable(w.start))
	return append(keys.AppendUint64(b, uint64(w.seq)), w.id...)
}

// run is one code and bucket of one table. Its rows are in order of time.
type run struct {
	table  byte
	code   [8]byte
	bucket byte
}

// runs returns the runs of the wanted codes, both as primary and as other codings.
// If codes is nil, it returns the runs of the patient's primary codes, in which
// each document lies once.
func (mr *merger) runs(codes [][8]byte) (out []run, err error) {
	if mr.patient == "" { // only what was listed
		return nil, nil
	}
	for _, c := range codes {
		for b := byte(keys.BucketInstant); b <= keys.BucketUndated; b++ {
			out = append(out, run{keys.TableDocument, c, b}, run{keys.TableCode, c, b})
		}
	}
	if codes != nil {
		return out, nil
	}
	if out, err = mr.documentRuns(); err != nil {
		return nil, err
	}
	return mr.seriesRuns(out)
}

// documentRuns returns the runs of all documents of the patient.
func (mr *merger) documentRuns() (out []run, err error) {
	pre := keys.Cluster(keys.TableDocument, mr.patient, mr.query.Type)
	it, err := mr.snap.Reader.NewIter(&pebble.IterOptions{LowerBound: pre, UpperBound: keys.PrefixEnd(pre)})
	if err != nil {
		return nil, err
	}
	defer fault.Close(it, &err)
	for ok := it.First(); ok; {
		k := it.Key()
		if len(k) < len(pre)+9 {
			return nil, fault.ErrRow
		}
		r := run{table: keys.TableDocument, bucket: k[len(pre)+8]}
		copy(r.code[:], k[len(pre):])
		out = append(out, r)
		up := keys.PrefixEnd(slices.Clone(k[:len(pre)+9]))
		if up == nil {
			break
		}
		ok = it.SeekGE(up)
	}
	return out, it.Error()
}

// seriesRuns adds the runs in which the patient has samples but no documents.
func (mr *merger) seriesRuns(out []run) (_ []run, err error) {
	if mr.query.Type != "Observation" {
		return out, nil
	}
	pre := keys.Cluster(keys.TableSeries, mr.patient, mr.query.Type)
	it, err := mr.snap.Reader.NewIter(&pebble.IterOptions{LowerBound: pre, UpperBound: keys.PrefixEnd(pre)})
	if err != nil {
		return nil, err
	}
	defer fault.Close(it, &err)
	for ok := it.First(); ok; ok = it.Next() {
		k := it.Key()
		if len(k) < len(pre)+keys.CodeBucketLen {
			return nil, fault.ErrRow
		}
		r := run{table: keys.TableDocument, bucket: k[len(pre)+8]}
		copy(r.code[:], k[len(pre):])
		if !slices.Contains(out, r) {
			out = append(out, r)
		}
	}
	return out, it.Error()
}

// idle keeps an iterator that found nothing, to be used again. Most runs are empty,
// and to create an iterator costs more than to move it.
type idle struct {
	reader pebble.Reader
	it     *pebble.Iterator
}

func (i *idle) take(lower, upper []byte) (*pebble.Iterator, error) {
	it := i.it
	if i.it = nil; it != nil {
		it.SetBounds(lower, upper)
		return it, nil
	}
	return i.reader.NewIter(&pebble.IterOptions{LowerBound: lower, UpperBound: upper})
}

// give takes back an iterator that has no error.
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
func (mr *merger) openSeries(free *idle, sources []*source, r run, desc bool,
	from *sortPoint) (_ []*source, err error) {
	return mr.openSeriesWithin(free, sources, r, desc, from, math.MinInt64, math.MaxInt64)
}

// openSeriesWithin adds the series of a run, limited to samples that begin within
// [lo, hi).
func (mr *merger) openSeriesWithin(free *idle, sources []*source, r run, desc bool, from *sortPoint, lo,
	hi int64) (_ []*source, err error) {
	if mr.query.Type != "Observation" || r.bucket == keys.BucketUndated || mr.documentsOnly {
		return sources, nil
	}
	reg := byte(keys.TableSeries)
	if r.table == keys.TableCode {
		reg = keys.TableOtherSeries
	}
	pre := append(append(keys.Cluster(reg, mr.patient, mr.query.Type), r.code[:]...), r.bucket)
	it, err := free.take(pre, keys.PrefixEnd(pre))
	if err != nil {
		return sources, err
	}
	defer func() {
		fault.Close(fault.CloseFunc(func() error {
			if ierr := it.Error(); ierr != nil {
				return errors.Join(ierr, it.Close())
			}
			return free.give(it)
		}), &err)
	}()
	for ok := it.First(); ok; ok = it.Next() {
		var id series.SeriesID
		if len(it.Key()) != len(pre)+copy(id[:], it.Key()[len(pre):]) {
			return sources, fault.ErrRow
		}
		ser, err := mr.snap.Tier.SeriesAt(mr.snap.Reader, reg, it.Value(), id)
		if err != nil {
			return sources, err
		}
		if mr.excludes(ser) {
			continue
		}
		s := &source{samples: mr.walk(ser, desc)}
		sources = append(sources, s) // closed with the other sources
		if err := mr.seekSource(s, r.bucket, desc, from, lo, hi); err != nil {
			return sources, err
		}
	}
	return sources, it.Error()
}

// seekSource moves to the first sample after from.
func (f *finder) seekSource(s *source, bucket byte, desc bool, from *sortPoint, within, end int64) error {
	lo, hi := f.dates(bucket)
	lo, hi = max(lo, within), min(hi, end)
	if from != nil {
		if desc {
			hi = min(hi, above(from.start))
		} else {
			lo = max(lo, from.start)
		}
	}
	if err := s.samples.SeekRange(tier.Micros(lo, hi)); err != nil {
		return err
	}
	for s.stand(); s.ok && from != nil; s.stand() {
		if c := s.at().compare(*from); c > 0 && !desc || c < 0 && desc {
			break
		}
		if err := s.samples.Next(); err != nil {
			return err
		}
	}
	return nil
}

// mergePhase merges the dated runs (phase 0) or the undated ones (phase 1).
func (mr *merger) mergePhase(runs []run, phase byte, desc bool, from *sortPoint) (more bool, err error) {
	var sources []*source
	free := &idle{reader: mr.snap.Reader}
	defer func() {
		for _, s := range sources {
			fault.Close(fault.CloseFunc(s.close), &err)
		}
		fault.Close(fault.CloseFunc(free.close), &err)
	}()
	if s := mr.listed(phase, desc, from); s != nil {
		sources = append(sources, s)
	}
	for _, ser := range mr.series {
		if phase == 1 {
			break
		}
		s := &source{samples: mr.walk(ser, desc)}
		sources = append(sources, s)
		if err := mr.seekSource(s, ser.Bucket, desc, from, math.MinInt64, math.MaxInt64); err != nil {
			return false, err
		}
	}
	for _, r := range runs {
		if (r.bucket == keys.BucketUndated) != (phase == 1) {
			continue
		}
		s, err := mr.open(free, r, desc, from)
		if err != nil {
			return false, err
		}
		if s != nil {
			sources = append(sources, s)
		}
		if sources, err = mr.openSeries(free, sources, r, desc, from); err != nil {
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
		if more, err := mr.offer(best, phase, w); err != nil || !more {
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

func (mr *merger) offer(s *source, phase byte, w sortPoint) (more bool, err error) {
	if err := mr.step(); err != nil {
		return false, err
	}
	if s.samples != nil {
		sample := s.samples.Sample()
		if !mr.matchesSample(s.samples.Series, &sample) {
			return true, nil
		}
		m := snapshot.NewSample(s.samples.Series, &sample)
		return !mr.filter.Allow(&m.Facts) || mr.emit(m, mergePos(phase, w)), nil
	}
	if s.it == nil {
		m, err := mr.snap.FetchRow(s.row)
		if err != nil {
			return false, err
		}
		return !mr.accept(m) || mr.emit(m, mergePos(phase, w)), nil
	}
	val := s.it.Value()
	if !rows.Visible(val, s.row.Seq, mr.at) {
		return true, nil
	}
	var m *snapshot.Match
	if s.table == keys.TableDocument {
		d, err := mr.snap.Templates.Document(mr.snap.Reader, &mr.recent, s.row.Type, s.row.ID, val)
		if err != nil {
			return false, err
		}
		m = snapshot.NewMatch(s.row, d).Within(mr.snap)
	} else {
		r := s.row
		if copy(r.Code[:], val[8:]) != 8 {
			return false, fault.ErrRow
		}
		if m, err = mr.snap.FetchRow(r); err != nil {
			return false, err
		}
	}
	return !mr.accept(m) || mr.emit(m, mergePos(phase, w)), nil
}

// open opens a source. It returns nil if the source is empty.
func (mr *merger) open(free *idle, r run, desc bool, from *sortPoint) (*source, error) {
	return mr.openWithin(free, r, desc, from, math.MinInt64, math.MaxInt64)
}

// openWithin opens a source of the rows that begin within [first, end). It returns
// nil if the source is empty.
func (mr *merger) openWithin(free *idle, r run, desc bool, from *sortPoint, first, end int64) (*source, error) {
	base := keys.Cluster(r.table, mr.patient, mr.query.Type)
	s := &source{table: r.table, skip: len(base),
		row: keys.Row{Location: keys.Location{Patient: mr.patient}, Type: mr.query.Type}}
	pre := append(append(slices.Clone(base), r.code[:]...), r.bucket)
	lower, upper := pre, keys.PrefixEnd(pre)
	lo, hi := mr.dates(r.bucket)
	lo, hi = max(lo, first), min(hi, end)
	if lo > math.MinInt64 {
		lower = keys.AppendUint64(slices.Clone(pre), keys.Sortable(lo))
	}
	if hi < math.MaxInt64 {
		upper = keys.AppendUint64(slices.Clone(pre), keys.Sortable(hi))
	}
	if from != nil {
		k := keys.AppendUint64(keys.AppendString(keys.AppendUint64(slices.Clone(pre), keys.Sortable(from.start)),
			from.id), uint64(from.seq))
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
		fault.Close(it, &err)
		return nil, err
	}
	if !ok {
		return nil, free.give(it)
	}
	return s, nil
}
