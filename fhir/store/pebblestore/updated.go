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

// typeUpdates is the prefix of the U rows of a type.
func typeUpdates(typ string) []byte {
	return appendStr(append(make([]byte, 0, 40), tabUpdated), typ)
}

// patientUpdates is the prefix of the V rows of a patient and type.
func patientUpdates(patient, typ string) []byte { return clusterKey(tabTouched, patient, typ) }

// updatesKey completes a U or V prefix.
func updatesKey(prefix []byte, t store.Seq, n uint32) []byte {
	return binary.BigEndian.AppendUint32(appendU64(slices.Clone(prefix), uint64(t)), n)
}

// updates is a decoded U or V row: what one commit wrote of a type.
type updates struct {
	updated int64  // Unix ms
	count   uint64 // resources, samples among them
	list    []byte // n of L rows, or AuditEvents
}

// updatesGroup collects the entries of one row while a batch is staged.
type updatesGroup struct {
	count uint64
	list  []byte
}

type updatesID struct {
	patient, typ string
	whole        bool // the U row of the type
}

// noteUpdate adds an L row to the U and V rows of the batch.
func (s *stage) noteUpdate(typ, patient string, n uint32, count uint64) {
	s.noteUpdateIn(updatesID{typ: typ, whole: true}, count,
		func(b []byte) []byte { return binary.AppendUvarint(b, uint64(n)) })
	if patient == "" {
		return
	}
	if _, single := search.PatientParam(typ); single {
		s.noteUpdateIn(updatesID{patient: patient, typ: typ}, count,
			func(b []byte) []byte { return binary.AppendUvarint(b, uint64(n)) })
	}
}

// noteEvent adds an AuditEvent, which has no L row, to the U row of the batch.
func (s *stage) noteEvent(id string, p *place) {
	s.noteUpdateIn(updatesID{typ: "AuditEvent", whole: true}, 1,
		func(b []byte) []byte { return p.append(appendText(b, id)) })
}

func (s *stage) noteUpdateIn(id updatesID, count uint64, add func([]byte) []byte) {
	g := s.updates[id]
	if g == nil {
		g = &updatesGroup{}
		s.updates[id] = g
	}
	g.count += count
	g.list = add(g.list)
}

// putUpdates writes the U and V rows of a batch.
func (s *stage) putUpdates(t store.Seq, updated int64) error {
	for id, g := range s.updates {
		prefix := typeUpdates(id.typ)
		if !id.whole {
			prefix = patientUpdates(id.patient, id.typ)
		}
		if err := s.batch.Set(updatesKey(prefix, t, 0), encodeUpdates(updated, g.count, g.list), nil); err != nil {
			return err
		}
	}
	clear(s.updates)
	return nil
}

func encodeUpdates(updated int64, count uint64, list []byte) []byte {
	b := appendU64(make([]byte, 0, 16+len(list)), sortable(updated))
	return append(binary.AppendUvarint(b, count), list...)
}

func decodeUpdates(v []byte) (u updates, err error) {
	r := reader{b: v}
	u.updated, u.count = unsortable(r.u64()), r.uvarint()
	if u.list = r.b; r.bad {
		return u, errRow
	}
	return u, nil
}

// events reads the list of a U row of AuditEvents.
func (u *updates) events(t store.Seq) (out []row, err error) {
	for b := u.list; len(b) > 0; {
		r := reader{b: b}
		w := row{typ: "AuditEvent", t: t, id: r.text()}
		var ok bool
		if w.place, b, ok = takePlace(r.b); !ok || r.bad {
			return nil, errRow
		}
		out = append(out, w)
	}
	return out, nil
}

// changes reads the list of any other row: n of L rows.
func (u *updates) changes() (out []uint32, err error) {
	for r := (reader{b: u.list}); len(r.b) > 0; {
		n := r.uvarint()
		if r.bad || n > math.MaxUint32 {
			return nil, errRow
		}
		out = append(out, uint32(n))
	}
	return out, nil
}

// byUpdate reports whether a sort order is that of the U and V rows:
// lastUpdated, and among equals the id.
func byUpdate(sort []search.SortKey) bool {
	return len(sort) > 0 && sort[0].Param == "_lastUpdated" &&
		(len(sort) == 1 || len(sort) == 2 && sort[1] == search.SortKey{Param: "_id"})
}

// updatedPos is the position of a match in the order of updates.
func updatedPos(m *match) []byte {
	return append(appendU64([]byte{posUpdated}, sortable(m.doc.updated)), m.row.id...)
}

// updatePoint is a decoded position.
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
	return &updatePoint{unsortable(binary.BigEndian.Uint64(after[1:])), string(after[9:])}, nil
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

var errProbe = errors.New("more rows than a probe looks at")

// updateOrder gives out the matches in the order of lastUpdated. Few matches
// of a code are collected and sorted; else the rows are walked in order.
func (x *finder) updateOrder(desc bool, after []byte) error {
	from, err := takeUpdatedPos(x.op, after)
	if err != nil {
		return err
	}
	if codesOf(x.q) != nil {
		ms, err := x.probe()
		if err == nil {
			return x.giveUpdates(ms, desc, from)
		}
		if !errors.Is(err, errProbe) {
			return err
		}
	}
	return x.walkUpdates(desc, from)
}

// probe collects all matches, or fails with errProbe.
func (x *finder) probe() (ms []*match, err error) {
	y := *x
	y.passing, y.room, y.budget, y.steps = false, nil, x.d.opts.bounds.probe, 0
	y.emit = func(m *match, _ []byte) bool { ms = append(ms, m); return true }
	err = y.unsorted(nil)
	x.steps += y.steps
	return ms, err
}

func (x *finder) giveUpdates(ms []*match, desc bool, from *updatePoint) error {
	slices.SortFunc(ms, func(a, b *match) int {
		c := cmp.Compare(a.doc.updated, b.doc.updated)
		if desc {
			c = -c
		}
		return cmp.Or(c, strings.Compare(a.row.id, b.row.id))
	})
	for _, m := range ms {
		if !from.passed(m.doc.updated, m.row.id, desc) && !x.emit(m, updatedPos(m)) {
			return nil
		}
	}
	return nil
}

// updateRange bounds lastUpdated, [lo, hi) in Unix milliseconds, by the
// query's clauses.
func (x *finder) updateRange() (lo, hi int64) { return x.bounds("_lastUpdated", 1) }

// updateRows opens the U rows of the type, or the V rows of the patient.
func (x *finder) updateRows() (it *pebble.Iterator, prefix []byte, err error) {
	prefix = typeUpdates(x.q.Type)
	if x.q.Patient != "" {
		prefix = patientUpdates(x.q.Patient, x.q.Type)
	}
	it, err = x.v.snap.NewIter(&pebble.IterOptions{LowerBound: prefix, UpperBound: next(prefix)})
	return it, prefix, err
}

// rowOf reads the row on which an iterator stands.
func rowOf(it *pebble.Iterator, prefix []byte) (t store.Seq, u updates, err error) {
	k := it.Key()
	if len(k) != len(prefix)+12 {
		return 0, u, errRow
	}
	u, err = decodeUpdates(it.Value())
	return store.Seq(binary.BigEndian.Uint64(k[len(prefix):])), u, err
}

// firstUpdated is the T from which on nothing was updated before ms: rows lie
// in the order of T, and lastUpdated never decreases with T.
func (x *finder) firstUpdated(it *pebble.Iterator, prefix []byte, ms int64) (store.Seq, error) {
	lo, hi := store.Seq(0), x.at+1
	for lo < hi {
		mid := lo + (hi-lo)/2
		if !it.SeekGE(updatesKey(prefix, mid, 0)) {
			if err := it.Error(); err != nil {
				return 0, err
			}
			hi = mid
			continue
		}
		t, u, err := rowOf(it, prefix)
		if err != nil {
			return 0, err
		}
		if t < hi && u.updated < ms {
			lo = t + 1
		} else {
			hi = mid
		}
	}
	return lo, nil
}

// fewUpdates reports whether the query's bounds on lastUpdated leave so little
// that it is best met in that order.
func (x *finder) fewUpdates() (few bool, err error) {
	lo, hi := x.updateRange()
	if lo == math.MinInt64 {
		return false, nil
	}
	it, prefix, err := x.updateRows()
	if err != nil {
		return false, err
	}
	defer closing(it, &err)
	first, err := x.firstUpdated(it, prefix, lo)
	if err != nil {
		return false, err
	}
	var n uint64
	for ok := it.SeekGE(updatesKey(prefix, first, 0)); ok; ok = it.Next() {
		t, u, err := rowOf(it, prefix)
		if err != nil {
			return false, err
		}
		if t > x.at || u.updated >= hi {
			break
		}
		if n += u.count; n > x.d.opts.bounds.few {
			return false, nil
		}
	}
	return true, it.Error()
}

// walkUpdates walks the U or V rows: those of one instant at a time, in it by id.
func (x *finder) walkUpdates(desc bool, from *updatePoint) (err error) {
	lo, hi := x.updateRange()
	if from != nil {
		if desc {
			hi = min(hi, above(from.updated))
		} else {
			lo = max(lo, from.updated)
		}
	}
	it, prefix, err := x.updateRows()
	if err != nil {
		return err
	}
	defer closing(it, &err)
	var ok bool
	if desc {
		end := x.at + 1
		if hi != math.MaxInt64 {
			if end, err = x.firstUpdated(it, prefix, hi); err != nil {
				return err
			}
		}
		ok = it.SeekLT(updatesKey(prefix, end, 0))
	} else {
		first := store.Seq(0)
		if lo != math.MinInt64 {
			if first, err = x.firstUpdated(it, prefix, lo); err != nil {
				return err
			}
		}
		ok = it.SeekGE(updatesKey(prefix, first, 0))
	}
	u := &unit{x: x}
	defer func() { closing(closer(u.close), &err) }()
	for ok {
		t, row, err := rowOf(it, prefix)
		if err != nil {
			return err
		}
		if t > x.at || row.updated < lo || row.updated >= hi {
			break
		}
		if u.open && u.updated != row.updated {
			if more, err := u.give(from); err != nil || !more {
				return err
			}
		}
		if err := u.add(t, &row); err != nil {
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
	x       *finder
	open    bool
	updated int64
	docs    []row
	runs    []writtenRun
	changes *pebble.Iterator // over L; opened when first needed
}

// writtenRun is an L row of samples.
type writtenRun struct {
	t store.Seq
	e samplesEntry
}

func (u *unit) close() error {
	if u.changes == nil {
		return nil
	}
	return u.changes.Close()
}

// add takes the entries of a row into the unit.
func (u *unit) add(t store.Seq, r *updates) error {
	u.open, u.updated = true, r.updated
	if u.x.q.Type == "AuditEvent" {
		rows, err := r.events(t)
		u.docs = append(u.docs, rows...)
		return err
	}
	ns, err := r.changes()
	if err != nil {
		return err
	}
	if u.changes == nil {
		if u.changes, err = u.x.v.snap.NewIter(&pebble.IterOptions{LowerBound: []byte{tabChange},
			UpperBound: []byte{tabChange + 1}}); err != nil {
			return err
		}
	}
	for _, n := range ns {
		if err := u.x.step(); err != nil {
			return err
		}
		k := changeKey(t, n)
		if !u.changes.SeekGE(k) || !bytes.Equal(u.changes.Key(), k) {
			if err := u.changes.Error(); err != nil {
				return err
			}
			return errRow
		}
		if err := u.entry(t, u.changes.Value()); err != nil {
			return err
		}
	}
	return nil
}

func (u *unit) entry(t store.Seq, v []byte) error {
	if len(v) > 0 && v[0]&flagSeries != 0 {
		e, err := decodeSamplesEntry(v)
		if err == nil {
			u.runs = append(u.runs, writtenRun{t, e})
		}
		return err
	}
	e, err := decodeEntry(v)
	if err != nil || e.typ != u.x.q.Type {
		return errors.Join(err, wrongType(e.typ != u.x.q.Type))
	}
	if !e.deleted {
		u.docs = append(u.docs, row{place: e.place, typ: e.typ, id: e.id, t: t})
	}
	return nil
}

func wrongType(wrong bool) error {
	if wrong {
		return errRow
	}
	return nil
}

// give gives out the matches of the unit behind from, by id, and empties it.
func (u *unit) give(from *updatePoint) (more bool, err error) {
	x, after := u.x, ""
	if from != nil && from.updated == u.updated {
		after = from.id
	}
	docs := u.docs
	var walks []*samples
	defer func() {
		for _, w := range walks {
			closing(closer(w.close), &err)
		}
	}()
	for _, r := range u.runs {
		in, err := x.d.info(x.v.snap, &r.e.place, r.e.id)
		if err != nil {
			return false, err
		}
		if x.rules(in) {
			continue
		}
		moved, err := x.v.moved(in, r.t, r.e.first, r.e.end)
		if err != nil {
			return false, err
		}
		for _, m := range moved {
			docs = append(docs, m.row)
		}
		if x.documentsOnly {
			continue
		}
		w, err := x.written(in, &r, after)
		walks = append(walks, w)
		if err != nil {
			return false, err
		}
	}
	u.open, u.docs, u.runs = false, u.docs[:0], u.runs[:0]
	slices.SortFunc(docs, func(a, b row) int { return strings.Compare(a.id, b.id) })
	return x.mergeUnit(docs, walks, after)
}

// written walks the samples that a commit wrote of a series, behind an id.
func (x *finder) written(in *seriesInfo, r *writtenRun, after string) (*samples, error) {
	w := x.v.walkSeries(x.d, in, r.t, false)
	w.only = r.t
	w.pass = func(h *series.Header) bool { return store.Seq(h.MaxSeq) < r.t }
	lo, hi := microsOf(x.dates(in.bucket))
	lo, hi = max(lo, r.e.first), min(hi, r.e.end+1)
	if k, ok := series.ParseID(after); ok {
		switch bytes.Compare(in.t.Identity[:], k.Identity[:]) {
		case -1:
			hi = lo
		case 0:
			lo = max(lo, k.Start)
		}
	}
	return w, w.seek(lo, hi)
}

// mergeUnit merges rows, sorted by id, and walks of samples.
func (x *finder) mergeUnit(docs []row, walks []*samples, after string) (more bool, err error) {
	ids := make([]string, len(walks))
	stand := func(i int) {
		if ids[i] = ""; walks[i].valid() {
			s := walks[i].sample()
			k := walks[i].in.t.Key(&s)
			ids[i] = k.ID()
		}
	}
	for i := range walks {
		stand(i)
	}
	for {
		if err := x.step(); err != nil {
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
		var m *match
		if best < 0 || len(docs) > 0 && docs[0].id < ids[best] {
			r := docs[0]
			docs = docs[1:]
			if r.id <= after {
				continue
			}
			if m, err = x.visibleRow(r); err != nil {
				return false, err
			}
			if m == nil || !x.accept(m) {
				continue
			}
		} else {
			w, s, id := walks[best], walks[best].sample(), ids[best]
			if fits := id > after && x.fits(w.in, &s); fits {
				if m = newSample(w.in, &s); !x.filter.Allow(&m.facts) {
					m = nil
				}
			}
			if err := w.next(); err != nil {
				return false, err
			}
			if stand(best); m == nil {
				continue
			}
		}
		if !x.emit(m, updatedPos(m)) {
			return false, nil
		}
	}
}

// visibleRow reads a document, nil when the snapshot does not see it.
func (x *finder) visibleRow(r row) (*match, error) {
	m, err := x.v.fetchRow(r)
	if err != nil || r.t > x.at || m.doc.to != 0 && m.doc.to <= x.at {
		return nil, err
	}
	return m, nil
}
