package find

import (
	"bytes"
	"encoding/binary"
	"slices"

	"github.com/cockroachdb/pebble/v2"

	"pulsegate/fhir/series"
	"pulsegate/fhir/store/pebblestore/internal/fault"
	"pulsegate/fhir/store/pebblestore/internal/keys"
	"pulsegate/fhir/store/pebblestore/internal/tier"
)

// table walks D or P rows in order of their keys, including those for which samples
// stand.
type table struct {
	docs     *pebble.Iterator
	samples  *sampleRows // nil if the type has no samples
	onSample bool        // the current row is a sample
}

// openTable opens the rows [lower, upper) of a table.
func (f *finder) openTable(tab byte, lower, upper []byte) (*table, error) {
	it, err := f.snap.Reader.NewIter(&pebble.IterOptions{LowerBound: lower, UpperBound: upper})
	if err != nil {
		return nil, err
	}
	t := &table{docs: it}
	if f.query.Type != "Observation" || f.documentsOnly {
		return t, nil
	}
	t.samples, err = f.openSamples(tab, lower, upper)
	if err != nil {
		fault.Close(it, &err)
		return nil, err
	}
	return t, nil
}

func (t *table) Close() (err error) {
	if t.samples != nil {
		err = t.samples.close()
	}
	fault.Close(t.docs, &err)
	return err
}

func (t *table) Error() error {
	if t.samples != nil && t.samples.err != nil {
		return t.samples.err
	}
	return t.docs.Error()
}

func (t *table) First() bool {
	t.docs.First()
	if t.samples != nil {
		t.samples.first()
	}
	return t.settle()
}

func (t *table) SeekGE(k []byte) bool {
	t.docs.SeekGE(k)
	if t.samples != nil {
		t.samples.seekGE(k)
	}
	return t.settle()
}

func (t *table) Next() bool {
	if t.onSample {
		t.samples.next()
	} else {
		t.docs.Next()
	}
	return t.settle()
}

// settle chooses the lesser of the two rows. An error of either ends the walk.
func (t *table) settle() bool {
	docs := t.docs.Valid()
	if t.samples == nil {
		return docs
	}
	if t.samples.err != nil {
		return false
	}
	sample := t.samples.valid()
	t.onSample = sample && (!docs || bytes.Compare(t.samples.key, t.docs.Key()) < 0)
	return docs || sample
}

func (t *table) Key() []byte {
	if t.onSample {
		return t.samples.key
	}
	return t.docs.Key()
}

// Value returns the value of a document, or nil for a sample.
func (t *table) Value() []byte {
	if t.onSample {
		return nil
	}
	return t.docs.Value()
}

// sampled returns the current series and sample, or nil for a document.
func (t *table) sampled() (*tier.Series, series.Sample) {
	if !t.onSample {
		return nil, series.Sample{}
	}
	return t.samples.best.Series, t.samples.best.Sample()
}

// sampleRows walks the rows for which samples stand, by the Q or R rows of their
// series. The series of one patient, code and bucket form a group, in which it
// merges the samples.
type sampleRows struct {
	finder      *finder
	table       byte // table of the rows, D or P
	seriesTable byte // table of the series, Q or R
	it          *pebble.Iterator
	more        bool // it is at a row
	// lower is the lower bound of the rows.
	lower []byte
	// pre is the prefix of the group's keys, up to the bucket.
	prefix []byte
	walks  []*tier.Walk
	best   *tier.Walk
	key    []byte
	spare  []byte // memory of an earlier key
	err    error
}

func (f *finder) openSamples(tab byte, lower, upper []byte) (*sampleRows, error) {
	s := &sampleRows{finder: f, table: tab, seriesTable: keys.TableSeries, lower: slices.Clone(lower)}
	if tab == keys.TableCode {
		s.seriesTable = keys.TableOtherSeries
	}
	lo := slices.Clone(lower)
	if pre, _, ok := keys.SplitRow(lower); ok {
		lo = slices.Clone(pre)
	}
	lo[0] = s.seriesTable
	up := slices.Clone(upper)
	up[0] = up[0] - tab + s.seriesTable
	it, err := f.snap.Reader.NewIter(&pebble.IterOptions{LowerBound: lo, UpperBound: up})
	if err != nil {
		return nil, err
	}
	s.it = it
	return s, nil
}

func (s *sampleRows) close() (err error) {
	for _, w := range s.walks {
		fault.Close(fault.CloseFunc(w.Close), &err)
	}
	fault.Close(s.it, &err)
	return err
}

func (s *sampleRows) valid() bool { return s.best != nil }

func (s *sampleRows) first() { s.seekGE(s.lower) }

// seekGE moves to the first sample whose key is at or after k.
func (s *sampleRows) seekGE(k []byte) {
	pre, tail, ok := keys.SplitRow(k)
	if !ok {
		r := slices.Clone(k)
		r[0] = s.seriesTable
		s.more = s.it.SeekGE(r)
		s.group(nil)
		return
	}
	r := slices.Clone(pre)
	r[0] = s.seriesTable
	if s.more = s.it.SeekGE(r); s.more && bytes.HasPrefix(s.it.Key(), r) && len(tail) >= 8 {
		s.group(k)
		return
	}
	s.group(nil)
}

// group opens the series of the iterator's group, and of the next groups until one
// has a sample. from, if not nil, is a key in the first group.
func (s *sampleRows) group(from []byte) {
	s.best = nil
	for s.more && s.err == nil {
		if s.err = s.finder.step(); s.err != nil {
			return
		}
		for _, w := range s.walks {
			if err := w.Close(); err != nil {
				s.err = err
				return
			}
		}
		s.walks = s.walks[:0]
		pre, _, ok := keys.SplitRow(s.it.Key())
		if !ok {
			s.err = fault.ErrRow
			return
		}
		reg := slices.Clone(pre)
		s.prefix = append(s.prefix[:0], pre...)
		s.prefix[0] = s.table
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
			if !bytes.HasPrefix(from, s.prefix) { // next moved to another group
				return
			}
		}
		if s.best != nil || s.err != nil {
			return
		}
		from = nil
	}
}

// open opens the walk of the iterator's series. It returns nil if the query
// excludes the series.
func (s *sampleRows) open(from []byte) (*tier.Walk, error) {
	k := s.it.Key()
	var id series.SeriesID
	if copy(id[:], k[len(s.prefix):]) != len(id) || len(k) != len(s.prefix)+len(id) {
		return nil, fault.ErrRow
	}
	ser, err := s.finder.snap.Tier.SeriesAt(s.finder.snap.Reader, s.seriesTable, s.it.Value(), id)
	if err != nil {
		return nil, err
	}
	if s.finder.excludes(ser) {
		return nil, nil
	}
	w := s.finder.walk(ser, false)
	lo, hi := s.finder.dates(ser.Bucket)
	if from != nil {
		lo = max(lo, keys.Unsortable(binary.BigEndian.Uint64(from[len(s.prefix):])))
	}
	if err := w.SeekRange(tier.Micros(lo, hi)); err != nil {
		fault.Close(fault.CloseFunc(w.Close), &err)
		return nil, err
	}
	return w, nil
}

// walk returns a walk of a series, limited by since.
func (f *finder) walk(ser *tier.Series, desc bool) *tier.Walk {
	w := f.snap.Walk(ser, f.at, desc)
	if f.since > 0 {
		w.Skip = func(h *series.Header) bool { return h.MaxUpdated <= f.since }
	}
	return w
}

// choose moves to the least sample of the group's series.
func (s *sampleRows) choose() {
	s.best = nil
	for _, w := range s.walks {
		if w.Valid() && (s.best == nil || s.less(w, s.best)) {
			s.best = w
		}
	}
	if s.best != nil {
		s.key = s.appendKey(s.key[:0], s.best)
	}
}

// less compares the rows for which the samples of two walks stand.
func (s *sampleRows) less(a, b *tier.Walk) bool {
	if x, y := a.StartMS(), b.StartMS(); x != y {
		return x < y
	}
	s.key = s.appendKey(s.key[:0], a)
	s.spare = s.appendKey(s.spare[:0], b)
	return bytes.Compare(s.key, s.spare) < 0
}

// appendKey appends the key of the row for which a walk's sample stands.
func (s *sampleRows) appendKey(b []byte, w *tier.Walk) []byte {
	sample := w.Sample()
	k := w.Series.Template.Key(&sample)
	b = append(b, s.prefix...)
	b = keys.AppendUint64(b, keys.Sortable(w.StartMS()))
	b = k.AppendID(b)
	b = append(b, 0, 1)
	return keys.AppendUint64(b, sample.Commit.Seq)
}

func (s *sampleRows) next() {
	if s.err = s.best.Next(); s.err != nil {
		return
	}
	if s.choose(); s.best == nil {
		s.group(nil)
	}
}
