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

// updatedPos returns the position of a match in order of lastUpdated.
func updatedPos(m *snapshot.Match) []byte {
	return append(keys.AppendUint64([]byte{posUpdated}, keys.Sortable(m.Document.Updated)), m.Row.ID...)
}

// updatePoint is a decoded position in order of lastUpdated.
type updatePoint struct {
	updated int64
	id      string
}

func takeUpdatedPos(op string, after []byte) (*updatePoint, error) {
	if len(after) == 0 {
		return nil, nil
	}
	if after[0] != posUpdated || len(after) < 9 {
		return nil, errPos(op)
	}
	return &updatePoint{keys.Unsortable(binary.BigEndian.Uint64(after[1:])), string(after[9:])}, nil
}

// passed reports whether a match lies at or before the position.
func (p *updatePoint) passed(updated int64, id string, desc bool) bool {
	if p == nil {
		return false
	}
	if updated != p.updated {
		return updated < p.updated != desc
	}
	return id <= p.id
}

func (f *finder) giveUpdates(ms []*snapshot.Match, desc bool, from *updatePoint) error {
	slices.SortFunc(ms, func(a, b *snapshot.Match) int {
		c := cmp.Compare(a.Document.Updated, b.Document.Updated)
		if desc {
			c = -c
		}
		return cmp.Or(c, strings.Compare(a.Row.ID, b.Row.ID))
	})
	for _, m := range ms {
		if !from.passed(m.Document.Updated, m.Row.ID, desc) && !f.emit(m, updatedPos(m)) {
			return nil
		}
	}
	return nil
}

// updateRange bounds lastUpdated, [lo, hi) in Unix milliseconds, by the query's
// clauses.
func (f *finder) updateRange() (lo, hi int64) { return f.bounds("_lastUpdated", 1) }

// updateRows opens the U rows of the type, or the V rows of the patient.
func (f *finder) updateRows() (it *pebble.Iterator, prefix []byte, err error) {
	prefix = keys.TypeUpdates(f.query.Type)
	if f.query.Patient != "" {
		prefix = keys.PatientUpdates(f.query.Patient, f.query.Type)
	}
	it, err = f.snap.Reader.NewIter(&pebble.IterOptions{LowerBound: prefix, UpperBound: keys.PrefixEnd(prefix)})
	return it, prefix, err
}

// rowOf decodes the iterator's current row.
func rowOf(it *pebble.Iterator, prefix []byte) (seq store.Seq, u rows.Updates, err error) {
	k := it.Key()
	if len(k) != len(prefix)+12 {
		return 0, u, fault.ErrRow
	}
	u, err = rows.DecodeUpdates(it.Value())
	return store.Seq(binary.BigEndian.Uint64(k[len(prefix):])), u, err
}

// firstUpdated returns the first Seq at which lastUpdated can be ms or later: rows
// are in order of Seq, and lastUpdated never decreases with Seq.
func (f *finder) firstUpdated(it *pebble.Iterator, prefix []byte, ms int64) (store.Seq, error) {
	lo, hi := store.Seq(0), f.at+1
	for lo < hi {
		mid := lo + (hi-lo)/2
		if !it.SeekGE(keys.UpdateKey(prefix, mid, 0)) {
			if err := it.Error(); err != nil {
				return 0, err
			}
			hi = mid
			continue
		}
		seq, u, err := rowOf(it, prefix)
		if err != nil {
			return 0, err
		}
		if seq < hi && u.Updated < ms {
			lo = seq + 1
		} else {
			hi = mid
		}
	}
	return lo, nil
}

// fewUpdates reports whether the query's bounds on lastUpdated leave so few
// resources that walking them in that order is best.
func (f *finder) fewUpdates() (few bool, err error) {
	lo, hi := f.updateRange()
	if lo == math.MinInt64 {
		return false, nil
	}
	it, prefix, err := f.updateRows()
	if err != nil {
		return false, err
	}
	defer fault.Close(it, &err)
	first, err := f.firstUpdated(it, prefix, lo)
	if err != nil {
		return false, err
	}
	var n uint64
	for ok := it.SeekGE(keys.UpdateKey(prefix, first, 0)); ok; ok = it.Next() {
		seq, u, err := rowOf(it, prefix)
		if err != nil {
			return false, err
		}
		if seq > f.at || u.Updated >= hi {
			break
		}
		if n += u.Count; n > f.searcher.bounds.Few {
			return false, nil
		}
	}
	return true, it.Error()
}

// walkUpdates walks the U or V rows, one instant at a time, and emits the matches
// of an instant by id.
func (f *finder) walkUpdates(desc bool, from *updatePoint) (err error) {
	lo, hi := f.updateRange()
	if from != nil {
		if desc {
			hi = min(hi, above(from.updated))
		} else {
			lo = max(lo, from.updated)
		}
	}
	it, prefix, err := f.updateRows()
	if err != nil {
		return err
	}
	defer fault.Close(it, &err)
	var ok bool
	if desc {
		end := f.at + 1
		if hi != math.MaxInt64 {
			if end, err = f.firstUpdated(it, prefix, hi); err != nil {
				return err
			}
		}
		ok = it.SeekLT(keys.UpdateKey(prefix, end, 0))
	} else {
		first := store.Seq(0)
		if lo != math.MinInt64 {
			if first, err = f.firstUpdated(it, prefix, lo); err != nil {
				return err
			}
		}
		ok = it.SeekGE(keys.UpdateKey(prefix, first, 0))
	}
	u := &unit{finder: f}
	defer func() { fault.Close(fault.CloseFunc(u.close), &err) }()
	for ok {
		seq, row, err := rowOf(it, prefix)
		if err != nil {
			return err
		}
		if seq > f.at || row.Updated < lo || row.Updated >= hi {
			break
		}
		if u.open && u.updated != row.Updated {
			if more, err := u.give(from); err != nil || !more {
				return err
			}
		}
		if err := u.add(seq, &row); err != nil {
			return err
		}
		if desc {
			ok = it.Prev()
		} else {
			ok = it.Next()
		}
	}
	if err := it.Error(); err != nil || !u.open {
		return err
	}
	_, err = u.give(from)
	return err
}

// unit collects the documents and series written at one instant.
type unit struct {
	finder  *finder
	open    bool
	updated int64
	docs    []keys.Row
	runs    []writtenRun
	changes *pebble.Iterator // over table L; opened when first needed
}

// writtenRun is an L row of samples.
type writtenRun struct {
	seq    store.Seq
	change rows.SeriesChange
}

func (un *unit) close() error {
	if un.changes == nil {
		return nil
	}
	return un.changes.Close()
}

// add adds the entries of a row.
func (un *unit) add(seq store.Seq, r *rows.Updates) error {
	un.open, un.updated = true, r.Updated
	if un.finder.query.Type == "AuditEvent" {
		rows, err := r.Events(seq)
		un.docs = append(un.docs, rows...)
		return err
	}
	ns, err := r.Changes()
	if err != nil {
		return err
	}
	if un.changes == nil {
		if un.changes, err = un.finder.snap.Reader.NewIter(&pebble.IterOptions{LowerBound: []byte{keys.TableChange},
			UpperBound: []byte{keys.TableChange + 1}}); err != nil {
			return err
		}
	}
	for _, n := range ns {
		if err := un.finder.step(); err != nil {
			return err
		}
		k := keys.ChangeKey(seq, n)
		if !un.changes.SeekGE(k) || !bytes.Equal(un.changes.Key(), k) {
			if err := un.changes.Error(); err != nil {
				return err
			}
			return fault.ErrRow
		}
		if err := un.entry(seq, un.changes.Value()); err != nil {
			return err
		}
	}
	return nil
}

func (un *unit) entry(seq store.Seq, v []byte) error {
	if rows.IsSeriesChange(v) {
		e, err := rows.DecodeSeriesChange(v)
		if err == nil {
			un.runs = append(un.runs, writtenRun{seq, e})
		}
		return err
	}
	e, err := rows.DecodeChange(v)
	if err != nil || e.Type != un.finder.query.Type {
		return errors.Join(err, wrongType(e.Type != un.finder.query.Type))
	}
	if !e.Deleted {
		un.docs = append(un.docs, keys.Row{Location: e.Location, Type: e.Type, ID: e.ID, Seq: seq})
	}
	return nil
}

func wrongType(wrong bool) error {
	if wrong {
		return fault.ErrRow
	}
	return nil
}

// give emits the matches of the unit after from, by id, and empties the unit.
func (un *unit) give(from *updatePoint) (more bool, err error) {
	f, after := un.finder, ""
	if from != nil && from.updated == un.updated {
		after = from.id
	}
	docs := un.docs
	var walks []*tier.Walk
	defer func() {
		for _, w := range walks {
			fault.Close(fault.CloseFunc(w.Close), &err)
		}
	}()
	for _, r := range un.runs {
		ser, err := f.snap.Tier.Series(f.snap.Reader, &r.change.Location, r.change.Series)
		if err != nil {
			return false, err
		}
		if f.excludes(ser) {
			continue
		}
		moved, err := f.snap.Moved(ser, r.seq, r.change.First, r.change.Last)
		if err != nil {
			return false, err
		}
		for _, m := range moved {
			docs = append(docs, m.Row)
		}
		if f.documentsOnly {
			continue
		}
		w, err := f.written(ser, &r, after)
		walks = append(walks, w)
		if err != nil {
			return false, err
		}
	}
	un.open, un.docs, un.runs = false, un.docs[:0], un.runs[:0]
	slices.SortFunc(docs, func(a, b keys.Row) int { return strings.Compare(a.ID, b.ID) })
	return f.mergeUnit(docs, walks, after)
}

// written walks the samples that a commit wrote of a series, starting at an id.
func (f *finder) written(ser *tier.Series, r *writtenRun, after string) (*tier.Walk, error) {
	w := f.snap.Walk(ser, r.seq, false)
	w.Only = r.seq
	w.Skip = func(h *series.Header) bool { return store.Seq(h.MaxSeq) < r.seq }
	lo, hi := tier.Micros(f.dates(ser.Bucket))
	lo, hi = max(lo, r.change.First), min(hi, r.change.Last+1)
	if k, ok := series.ParseID(after); ok {
		switch bytes.Compare(ser.Template.Identity[:], k.Identity[:]) {
		case -1:
			hi = lo
		case 0:
			lo = max(lo, k.Start)
		}
	}
	return w, w.SeekRange(lo, hi)
}

// mergeUnit merges rows, sorted by id, and walks of samples.
func (f *finder) mergeUnit(docs []keys.Row, walks []*tier.Walk, after string) (more bool, err error) {
	ids := make([]string, len(walks))
	stand := func(i int) {
		if ids[i] = ""; walks[i].Valid() {
			s := walks[i].Sample()
			k := walks[i].Series.Template.Key(&s)
			ids[i] = k.ID()
		}
	}
	for i := range walks {
		stand(i)
	}
	for {
		if err := f.step(); err != nil {
			return false, err
		}
		best := -1
		for i := range ids {
			if ids[i] != "" && (best < 0 || ids[i] < ids[best]) {
				best = i
			}
		}
		if best < 0 && len(docs) == 0 {
			return true, nil
		}
		var m *snapshot.Match
		if best < 0 || len(docs) > 0 && docs[0].ID < ids[best] {
			r := docs[0]
			docs = docs[1:]
			if r.ID <= after {
				continue
			}
			if m, err = f.visibleRow(r); err != nil {
				return false, err
			}
			if m == nil || !f.accept(m) {
				continue
			}
		} else {
			w, s, id := walks[best], walks[best].Sample(), ids[best]
			if fits := id > after && f.matchesSample(w.Series, &s); fits {
				if m = snapshot.NewSample(w.Series, &s); !f.filter.Allow(&m.Facts) {
					m = nil
				}
			}
			if err := w.Next(); err != nil {
				return false, err
			}
			if stand(best); m == nil {
				continue
			}
		}
		if !f.emit(m, updatedPos(m)) {
			return false, nil
		}
	}
}
