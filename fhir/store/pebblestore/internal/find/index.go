package find

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"

	"github.com/cockroachdb/pebble/v2"

	"pulsegate/fhir"
	"pulsegate/fhir/search"
	"pulsegate/fhir/series"
	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore/internal/fault"
	"pulsegate/fhir/store/pebblestore/internal/keys"
	"pulsegate/fhir/store/pebblestore/internal/rows"
	"pulsegate/fhir/store/pebblestore/internal/snapshot"
	"pulsegate/fhir/store/pebblestore/internal/tier"
)

// taggedSamples walks the samples that have an index value, ordered by id, like the
// X rows for which they stand.
type taggedSamples struct {
	finder *finder
	left   []*tier.Series // not opened yet, ordered by identity
	one    *tier.Located  // the sample whose id is the value
	walks  []*tier.Walk
	best   *tier.Walk
	onOne  bool
	id     string
	sample series.Sample
}

// openTagged finds the series by their Y rows. It returns nil if there are no
// samples.
func (f *finder) openTagged(param, value string, after string) (*taggedSamples, error) {
	if f.query.Type != "Observation" || f.documentsOnly {
		return nil, nil
	}
	t := &taggedSamples{finder: f}
	if param == "identifier" {
		if _, ok := series.ParseID(value); ok {
			l, err := f.snap.Tier.Sample(f.snap.Reader, fhir.Ref{Type: "Observation", ID: value})
			if err != nil {
				return nil, err
			}
			if l != nil && store.Seq(l.Sample.Commit.Seq) <= f.at && value > after {
				t.one = l
			}
		}
	}
	if err := t.list(param, value); err != nil {
		return nil, err
	}
	if t.one == nil && len(t.left) == 0 {
		return nil, nil
	}
	err := t.next()
	for err == nil && t.valid() && t.id <= after {
		err = t.next()
	}
	if err != nil {
		fault.Close(fault.CloseFunc(t.close), &err)
		return nil, err
	}
	return t, nil
}

func (t *taggedSamples) list(param, value string) (err error) {
	pre := keys.TagPrefix(param, value)
	it, err := t.finder.snap.Reader.NewIter(&pebble.IterOptions{LowerBound: pre, UpperBound: keys.PrefixEnd(pre)})
	if err != nil {
		return err
	}
	defer fault.Close(it, &err)
	for ok := it.First(); ok; ok = it.Next() {
		ser, err := t.finder.snap.Tier.Member(t.finder.snap.Reader,
			append([]byte{keys.TableIdentity}, it.Key()[len(pre):]...), it.Value())
		if err != nil {
			return err
		}
		if ser == nil {
			return fault.ErrRow
		}
		if !t.finder.excludes(ser) {
			t.left = append(t.left, ser)
		}
	}
	return it.Error()
}

func (t *taggedSamples) close() (err error) {
	for _, w := range t.walks {
		fault.Close(fault.CloseFunc(w.Close), &err)
	}
	t.walks = nil
	return err
}

func (t *taggedSamples) valid() bool { return t.id != "" }

// next moves to the next sample. The first call moves to the first.
func (t *taggedSamples) next() error {
	switch {
	case t.onOne:
		t.one, t.onOne = nil, false
	case t.best != nil:
		if err := t.best.Next(); err != nil {
			return err
		}
	}
	if err := t.choose(); err != nil {
		return err
	}
	t.id = ""
	if t.best != nil {
		t.sample = t.best.Sample()
		k := t.best.Series.Template.Key(&t.sample)
		t.id = k.ID()
	}
	if t.one != nil {
		k := t.one.Series.Template.Key(&t.one.Sample)
		if id := k.ID(); t.id == "" || id <= t.id {
			if id == t.id { // the series has it, too
				t.one = nil
				return nil
			}
			t.id, t.sample, t.onOne = id, t.one.Sample, true
		}
	}
	return nil
}

// choose moves to the least sample of the identity's series, and opens the next
// identity after the last sample.
func (t *taggedSamples) choose() error {
	for {
		t.best = nil
		for _, w := range t.walks {
			if w.Valid() && (t.best == nil || lessSample(w, t.best)) {
				t.best = w
			}
		}
		if t.best != nil || len(t.left) == 0 {
			return nil
		}
		if err := t.close(); err != nil {
			return err
		}
		id := t.left[0].Template.Identity
		for len(t.left) > 0 && t.left[0].Template.Identity == id {
			w := t.finder.walk(t.left[0], false)
			t.walks, t.left = append(t.walks, w), t.left[1:]
			if err := w.SeekRange(tier.Micros(t.finder.dates(w.Series.Bucket))); err != nil {
				return err
			}
		}
	}
}

func lessSample(a, b *tier.Walk) bool {
	x, y := a.Sample(), b.Sample()
	k, l := a.Series.Template.Key(&x), b.Series.Template.Key(&y)
	return k.Compare(&l) < 0
}

// match returns the match of the current sample.
func (t *taggedSamples) match() *snapshot.Match {
	in := t.one
	if t.onOne {
		return snapshot.NewSample(in.Series, &t.sample)
	}
	return snapshot.NewSample(t.best.Series, &t.sample)
}

// tail returns the part after the value of the X key for which the current sample
// stands.
func (t *taggedSamples) tail() []byte {
	return keys.AppendUint64(keys.AppendString(nil, t.id), t.sample.Commit.Seq)
}

// oneValue walks the X rows of values[i], including those for which samples stand.
func (f *finder) oneValue(c *search.Clause, values []string, i int, from []byte) (more bool, err error) {
	pre := keys.IndexPrefix(f.query.Type, rows.IndexParam(f.query.Type, c.Param.Code, values[i]), values[i])
	lower, after := pre, ""
	if from != nil {
		lower = append(append(bytes.Clone(pre), from...), 0)
		id, _, ok := keys.CutString(from)
		if !ok {
			return false, errPos(f.op)
		}
		after = id
	}
	it, err := f.snap.Reader.NewIter(&pebble.IterOptions{LowerBound: lower, UpperBound: keys.PrefixEnd(pre)})
	if err != nil {
		return false, err
	}
	defer fault.Close(it, &err)
	sample, err := f.openTagged(c.Param.Code, values[i], after)
	if err != nil {
		return false, err
	}
	if sample != nil {
		defer fault.Close(fault.CloseFunc(sample.close), &err)
	}
	ok := it.First()
	for ok || sample != nil && sample.valid() {
		if err := f.step(); err != nil {
			return false, err
		}
		var tail []byte
		var m *snapshot.Match
		if ok {
			tail = it.Key()[len(pre):]
		}
		if sample != nil && sample.valid() && (!ok || bytes.Compare(sample.tail(), tail) < 0) {
			tail, m = sample.tail(), sample.match()
			err = sample.next()
		} else {
			tail = bytes.Clone(tail)
			m, err = f.indexed(tail, it.Value())
			ok = it.Next()
		}
		if err != nil {
			return false, err
		}
		if m == nil || !f.accept(m) || earlier(m, c, values[:i]) {
			continue
		}
		if !f.emit(m, append(indexPos(i), tail...)) {
			return false, nil
		}
	}
	return true, it.Error()
}

// byIndex walks the X rows of each wanted value in turn. It skips a resource that
// has an earlier value.
func (f *finder) byIndex(c *search.Clause, after []byte) error {
	var values []string
	for i := range c.Values {
		values = append(values, rows.IndexValue(c.Param.Type, &c.Values[i]))
	}
	slices.Sort(values)
	values = slices.Compact(values)
	first := 0
	var from []byte
	if len(after) > 0 {
		if after[0] != posIndex || len(after) < 3 {
			return errPos(f.op)
		}
		if first = int(binary.BigEndian.Uint16(after[1:])); first >= len(values) {
			return errPos(f.op)
		}
		from = after[3:]
	}
	for i := first; i < len(values); i++ {
		more, err := f.oneValue(c, values, i, from)
		if err != nil || !more {
			return err
		}
		from = nil
	}
	return nil
}

// byIdentifier emits the matches of a patient by the X rows of an identifier that the
// query names. It does nothing if it names none, or if many resources share it: the rows
// may be those of other patients.
func (f *finder) byIdentifier(after []byte) (done bool, err error) {
	c := indexClause(f.query)
	if c == nil || c.Param.Code != "identifier" {
		return false, nil
	}
	if len(after) > 0 {
		if after[0] != posIndex {
			return false, nil
		}
		return true, f.byIndex(c, after)
	}
	type match struct {
		*snapshot.Match
		pos []byte
	}
	var found []match
	y := *f
	y.passing, y.reused, y.budget, y.steps = false, nil, f.searcher.bounds.Probe, 0
	y.emit = func(m *snapshot.Match, pos []byte) bool {
		found = append(found, match{m, pos})
		return true
	}
	err = y.byIndex(c, nil)
	if f.steps += y.steps; err != nil {
		if errors.Is(err, errProbe) {
			err = nil
		}
		return false, err
	}
	for _, m := range found {
		if !f.emit(m.Match, m.pos) {
			break
		}
	}
	return true, nil
}

// indexed returns the document of an X row, or nil if the snapshot does not show
// it.
func (f *finder) indexed(tail, val []byte) (*snapshot.Match, error) {
	id, rest, good := keys.CutString(tail)
	if !good || len(rest) != 8 {
		return nil, fault.ErrRow
	}
	seq := store.Seq(binary.BigEndian.Uint64(rest))
	if !rows.Visible(val, seq, f.at) {
		return nil, nil
	}
	p, _, good := keys.CutLocation(val[8:])
	if !good {
		return nil, fault.ErrRow
	}
	return f.snap.FetchRow(keys.Row{Location: p, Type: f.query.Type, ID: id, Seq: seq})
}

// indexPos returns the start of a position in the walk of value i.
func indexPos(i int) []byte { return binary.BigEndian.AppendUint16([]byte{posIndex}, uint16(i)) }

// earlier reports whether m has a row under one of values, which are sorted.
func earlier(m *snapshot.Match, c *search.Clause, values []string) bool {
	if len(values) == 0 {
		return false
	}
	have := m.Index().ByParam[c.Param.Code]
	for i := range have {
		if _, ok := slices.BinarySearch(values, rows.IndexValue(c.Param.Type, &have[i])); ok {
			return true
		}
	}
	return false
}
