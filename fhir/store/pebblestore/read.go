package pebblestore

import (
	"bytes"
	"context"
	"math"
	"slices"

	"github.com/cockroachdb/pebble/v2"
	"golang.org/x/mod/sumdb/tlog"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/series"
	"pulsegate/fhir/store"
)

// idIterator walks the I table; one of them serves many lookups.
func idIterator(r pebble.Reader) (*pebble.Iterator, error) {
	return r.NewIter(&pebble.IterOptions{LowerBound: []byte{tabID}, UpperBound: []byte{tabID + 1}})
}

// headIn is headOf on an iterator of idIterator.
func headIn(it *pebble.Iterator, ref fhir.Ref, t store.Seq) (*pointer, error) {
	key := idKey(ref.Type, ref.ID, t)
	if !it.SeekGE(key) {
		return nil, it.Error()
	}
	if pre := len(key) - 8; len(it.Key()) != len(key) || !bytes.Equal(it.Key()[:pre], key[:pre]) {
		return nil, nil
	}
	x, err := decodePointer(it.Key(), it.Value())
	if err != nil {
		return nil, err
	}
	return &x, nil
}

// headOf returns the newest version of ref at t, nil when there is none.
func headOf(r pebble.Reader, ref fhir.Ref, t store.Seq) (p *pointer, err error) {
	pre := idPrefix(ref.Type, ref.ID)
	it, err := r.NewIter(&pebble.IterOptions{LowerBound: pre, UpperBound: next(pre)})
	if err != nil {
		return nil, err
	}
	defer closing(it, &err)
	if !it.SeekGE(idKey(ref.Type, ref.ID, t)) {
		return nil, it.Error()
	}
	x, err := decodePointer(it.Key(), it.Value())
	if err != nil {
		return nil, err
	}
	return &x, nil
}

// at resolves the snapshot a read names.
func (v *view) at(op string, t store.Seq) (store.Seq, error) {
	if t == 0 {
		return v.meta.t, nil
	}
	if t > v.meta.t {
		return 0, fhir.Errorf(fhir.Gone, op, "the snapshot is not known to this store")
	}
	return t, nil
}

// fetch reads the document that p points to.
func (v *view) fetch(ref fhir.Ref, p *pointer) (*match, error) {
	return v.fetchRow(row{place: p.place, typ: ref.Type, id: ref.ID, t: p.t})
}

func (v *view) fetchRow(r row) (*match, error) {
	val, err := get(v.snap, rowKey(tabDoc, &r.place, r.code, r.typ, r.id, r.t))
	if err != nil {
		return nil, err
	}
	if val == nil {
		return nil, errRow
	}
	d, err := v.forms.doc(v.snap, new(recent), r.typ, r.id, val)
	if err != nil {
		return nil, err
	}
	return newMatch(r, d), nil
}

// Read is of store.Store.
func (d *DB) Read(_ context.Context, ref fhir.Ref, at store.Seq) (fhir.Resource, *access.Facts, error) {
	const op = "pebblestore.Read"
	if at == 0 {
		if x, ok := d.lately.get(cacheKey{ref: ref}); ok {
			m := x.match.again()
			return m.resource(), &m.facts, nil
		}
	}
	v, err := d.enter(op)
	if err != nil {
		return fhir.Resource{}, nil, err
	}
	defer d.leave(v)
	t, err := v.at(op, at)
	if err != nil {
		return fhir.Resource{}, nil, err
	}
	m, err := d.current(v, ref, t)
	if err != nil {
		return fhir.Resource{}, nil, faulted(op, err)
	}
	if m == nil {
		return fhir.Resource{}, nil, fhir.Errorf(fhir.NotFound, op, "the resource does not exist")
	}
	r := m.resource()
	if at == 0 && ref.Type != "AuditEvent" { // those are many, and seldom read twice
		d.lately.put(cacheKey{ref: ref}, cached{match: m.again()}, v.group)
	}
	return r, &m.facts, nil
}

// current is the version of ref at t, nil when there is none: a document, or
// a sample.
func (d *DB) current(v *view, ref fhir.Ref, t store.Seq) (*match, error) {
	p, err := headOf(v.snap, ref, t)
	if err != nil {
		return nil, err
	}
	if p != nil {
		return v.fetch(ref, p)
	}
	s, err := d.sampleOf(v.snap, ref)
	if err != nil || s == nil || store.Seq(s.smp.Commit.Seq) > t {
		return nil, err
	}
	return newSample(s.in, &s.smp), nil
}

// ReadVersion is of store.Store.
func (d *DB) ReadVersion(ctx context.Context, ref fhir.Ref, version uint64) (fhir.Resource, *access.Facts, error) {
	const op = "pebblestore.ReadVersion"
	var res fhir.Resource
	var facts *access.Facts
	if version > 0 {
		err := d.History(ctx, ref, 0, version+1, func(r fhir.Resource, f *access.Facts) bool {
			if r.Version == version {
				res, facts = r, f
			}
			return false
		})
		if err != nil {
			return res, nil, err
		}
	}
	if facts == nil {
		return res, nil, fhir.Errorf(fhir.NotFound, op, "the version does not exist")
	}
	return res, facts, nil
}

// History is of store.Store.
func (d *DB) History(ctx context.Context, ref fhir.Ref, at store.Seq, before uint64,
	fn func(fhir.Resource, *access.Facts) bool) (err error) {
	const op = "pebblestore.History"
	v, err := d.enter(op)
	if err != nil {
		return err
	}
	defer d.leave(v)
	t, err := v.at(op, at)
	if err != nil {
		return err
	}
	pre := idPrefix(ref.Type, ref.ID)
	it, err := v.snap.NewIter(&pebble.IterOptions{LowerBound: pre, UpperBound: next(pre)})
	if err != nil {
		return faulted(op, err)
	}
	defer closing(it, &err)
	found := false
	for ok := it.SeekGE(idKey(ref.Type, ref.ID, t)); ok; ok = it.Next() {
		if ctx.Err() != nil {
			return canceled(op, ctx.Err())
		}
		p, err := decodePointer(it.Key(), it.Value())
		if err != nil {
			return faulted(op, err)
		}
		if before > 0 && p.version >= before {
			continue
		}
		m, err := v.fetch(ref, &p)
		if err != nil {
			return faulted(op, err)
		}
		found = true
		if !fn(m.doc.resource(ref.Type, ref.ID), &m.facts) {
			return nil
		}
	}
	if err := it.Error(); err != nil || found || before == 1 {
		return faulted(op, err)
	}
	s, err := d.sampleOf(v.snap, ref)
	if err == nil && s != nil && store.Seq(s.smp.Commit.Seq) <= t {
		m := newSample(s.in, &s.smp)
		fn(m.resource(), &m.facts)
	}
	return faulted(op, err)
}

// Heads is of store.Store.
func (d *DB) Heads(ctx context.Context, refs []fhir.Ref) (heads []store.Head, err error) {
	const op = "pebblestore.Heads"
	v, err := d.enter(op)
	if err != nil {
		return nil, err
	}
	defer d.leave(v)
	it, err := idIterator(v.snap)
	if err != nil {
		return nil, faulted(op, err)
	}
	defer closing(it, &err)
	heads = make([]store.Head, len(refs))
	for i, ref := range refs {
		if ctx.Err() != nil {
			return nil, canceled(op, ctx.Err())
		}
		p, err := headIn(it, ref, v.meta.t)
		if err != nil {
			return nil, faulted(op, err)
		}
		if p != nil {
			heads[i] = store.Head{Version: p.version, Hash: p.hash, Deleted: p.deleted, Seq: p.t}
			continue
		}
		s, err := d.sampleOf(v.snap, ref)
		if err != nil {
			return nil, faulted(op, err)
		}
		if s != nil {
			heads[i] = store.Head{Version: 1, Hash: s.hash(), Seq: store.Seq(s.smp.Commit.Seq)}
		}
	}
	return heads, nil
}

// Get is of store.Store.
func (d *DB) Get(_ context.Context, key string) ([]byte, error) {
	const op = "pebblestore.Get"
	if x, ok := d.lately.get(stateRef(key)); ok {
		return slices.Clone(x.state), nil
	}
	v, err := d.enter(op)
	if err != nil {
		return nil, err
	}
	defer d.leave(v)
	b, err := get(v.snap, stateKey(key))
	if err != nil {
		return nil, faulted(op, err)
	}
	if b != nil {
		if len(b) < 8 {
			return nil, faulted(op, errRow)
		}
		b = b[8:]
	}
	d.lately.put(stateRef(key), cached{state: b}, v.group)
	return slices.Clone(b), nil
}

// List is of store.Store.
func (d *DB) List(ctx context.Context, prefix string, fn func(key string, value []byte) bool) error {
	return d.ListFrom(ctx, prefix, prefix, fn)
}

// ListFrom is of store.Store.
func (d *DB) ListFrom(ctx context.Context, prefix, from string, fn func(key string, value []byte) bool) (err error) {
	const op = "pebblestore.List"
	v, err := d.enter(op)
	if err != nil {
		return err
	}
	defer d.leave(v)
	pre := stateKey(prefix)
	it, err := v.snap.NewIter(&pebble.IterOptions{LowerBound: stateKey(max(prefix, from)), UpperBound: next(pre)})
	if err != nil {
		return faulted(op, err)
	}
	defer closing(it, &err)
	for ok := it.First(); ok; ok = it.Next() {
		if ctx.Err() != nil {
			return canceled(op, ctx.Err())
		}
		val := it.Value()
		if len(val) < 8 {
			return faulted(op, errRow)
		}
		if !fn(string(it.Key()[1:]), append([]byte{}, val[8:]...)) {
			return nil
		}
	}
	return faulted(op, it.Error())
}

// Changes is of store.Store.
func (d *DB) Changes(ctx context.Context, from store.Seq, fn func(*store.Change) bool) error {
	return d.changes(ctx, from, false, fn)
}

// ChangesBrief is of store.Columnar.
func (d *DB) ChangesBrief(ctx context.Context, from store.Seq, fn func(*store.Change) bool) error {
	return d.changes(ctx, from, true, fn)
}

func (d *DB) changes(ctx context.Context, from store.Seq, brief bool, fn func(*store.Change) bool) (err error) {
	const op = "pebblestore.Changes"
	v, err := d.enter(op)
	if err != nil {
		return err
	}
	defer d.leave(v)
	if from >= v.meta.t {
		return nil
	}
	it, err := v.snap.NewIter(&pebble.IterOptions{LowerBound: changeKey(from+1, 0), UpperBound: []byte{tabChange + 1}})
	if err != nil {
		return faulted(op, err)
	}
	defer closing(it, &err)
	for ok := it.First(); ok; ok = it.Next() {
		if ctx.Err() != nil {
			return canceled(op, ctx.Err())
		}
		k := reader{b: it.Key()[1:]}
		t := store.Seq(k.u64())
		var more bool
		if v0 := it.Value(); len(v0) > 0 && v0[0]&flagSeries != 0 && brief {
			more = fn(&store.Change{Seq: t})
		} else if len(v0) > 0 && v0[0]&flagSeries != 0 {
			more, err = d.sampleChanges(v, t, v0, fn)
		} else {
			more, err = v.change(t, v0, fn)
		}
		if err != nil || !more {
			return faulted(op, err)
		}
	}
	return faulted(op, it.Error())
}

// change calls fn with the change of one document.
func (v *view) change(t store.Seq, raw []byte, fn func(*store.Change) bool) (bool, error) {
	e, err := decodeEntry(raw)
	if err != nil {
		return false, err
	}
	r := row{place: e.place, typ: e.typ, id: e.id, t: t}
	var m *match
	c := store.Change{Seq: t, Ref: fhir.Ref{Type: e.typ, ID: e.id}, Version: e.version, Created: e.created,
		Deleted: e.deleted,
		Facts: access.Facts{Type: e.typ, ID: e.id, Patient: e.patient, Vendor: e.vendor, Author: e.author,
			Categories: e.categories}}
	c.Facts.Tokens = func(param string) []access.Token {
		if m == nil {
			// A row that cannot be read has no tokens: nothing is let out for it.
			if m, _ = v.fetchRow(r); m == nil {
				return nil
			}
		}
		return m.tokens(param)
	}
	return fn(&c), nil
}

// sampleChanges calls fn with the samples of a SeriesWrite in order, those
// among them that have become documents too.
func (d *DB) sampleChanges(v *view, t store.Seq, raw []byte, fn func(*store.Change) bool) (more bool, err error) {
	e, err := decodeSamplesEntry(raw)
	if err != nil {
		return false, err
	}
	in, err := d.info(v.snap, &e.place, e.id)
	if err != nil {
		return false, err
	}
	moved, err := v.moved(in, t, e.first, e.end)
	if err != nil {
		return false, err
	}
	w := v.walkSeries(d, in, t, false)
	w.pass = func(h *series.Header) bool { return store.Seq(h.MaxSeq) < t }
	defer closing(closer(w.close), &err)
	if err := w.seek(e.first, e.end+1); err != nil {
		return false, err
	}
	for w.valid() || len(moved) > 0 {
		var m *match
		if w.valid() {
			s := w.sample()
			if store.Seq(s.Commit.Seq) != t {
				if err := w.next(); err != nil {
					return false, err
				}
				continue
			}
			m = newSample(in, &s)
		}
		if len(moved) > 0 && (m == nil || moved[0].row.id < m.row.id) {
			m, moved = moved[0], moved[1:]
		} else if err := w.next(); err != nil {
			return false, err
		}
		if !fn(&store.Change{Seq: t, Ref: fhir.Ref{Type: "Observation", ID: m.row.id}, Version: 1, Created: true,
			Facts: m.facts}) {
			return false, nil
		}
	}
	return true, nil
}

// moved are the samples that a commit wrote within a time of one series and
// that have become documents since, by id.
func (v *view) moved(in *seriesInfo, t store.Seq, first, last int64) (out []*match, err error) {
	lo, hi := series.Key{Identity: in.t.Identity, Start: first},
		series.Key{Identity: in.t.Identity, Start: last, Check: math.MaxUint32}
	it, err := v.snap.NewIter(&pebble.IterOptions{LowerBound: idPrefix("Observation", lo.ID()),
		UpperBound: next(idPrefix("Observation", hi.ID()))})
	if err != nil {
		return nil, err
	}
	defer closing(it, &err)
	for ok := it.First(); ok; ok = it.Next() {
		p, err := decodePointer(it.Key(), it.Value())
		if err != nil {
			return nil, err
		}
		if !p.moved || p.t != t || p.series != in.id {
			continue
		}
		_, rest, _ := takeStr(it.Key()[1:])
		id, _, _ := takeStr(rest)
		m, err := v.fetch(fhir.Ref{Type: "Observation", ID: id}, &p)
		if err != nil {
			return nil, err
		}
		out = append(out, m)
	}
	return out, it.Error()
}

// Log is of store.Store.
func (d *DB) Log() store.Log { return logView{d} }

type logView struct{ d *DB }

func (l logView) Size() uint64 {
	l.d.mu.Lock()
	defer l.d.mu.Unlock()
	return l.d.view.meta.leaves
}

func (l logView) Leaf(i uint64) (leaf store.Leaf, err error) {
	const op = "pebblestore.Log.Leaf"
	v, err := l.d.enter(op)
	if err != nil {
		return nil, err
	}
	defer l.d.leave(v)
	rows, err := openLog(v.snap)
	if err != nil {
		return nil, faulted(op, err)
	}
	defer closing(rows, &err)
	if leaf, err = rows.leaf(i); err != nil {
		return nil, faulted(op, err)
	}
	if leaf == nil {
		return nil, fhir.Errorf(fhir.NotFound, op, "the log has no leaf %d", i)
	}
	return leaf, nil
}

func (v *view) hashes(indexes []int64) (out []tlog.Hash, err error) {
	rows, err := openLog(v.snap)
	if err != nil {
		return nil, err
	}
	defer closing(rows, &err)
	out = make([]tlog.Hash, len(indexes))
	for i, x := range indexes {
		b, err := rows.hash(x)
		if err != nil {
			return nil, err
		}
		if len(b) != tlog.HashSize {
			return nil, fhir.Errorf(fhir.NotFound, "pebblestore.Log.Hashes", "the log has no stored hash %d", x)
		}
		copy(out[i][:], b)
	}
	return out, nil
}

func (l logView) Hashes(indexes []int64) ([][32]byte, error) {
	const op = "pebblestore.Log.Hashes"
	v, err := l.d.enter(op)
	if err != nil {
		return nil, err
	}
	defer l.d.leave(v)
	hs, err := v.hashes(indexes)
	if err != nil {
		return nil, faulted(op, err)
	}
	out := make([][32]byte, len(hs))
	for i := range hs {
		out[i] = hs[i]
	}
	return out, nil
}

func (l logView) Root(n uint64) ([32]byte, error) {
	const op = "pebblestore.Log.Root"
	v, err := l.d.enter(op)
	if err != nil {
		return [32]byte{}, err
	}
	defer l.d.leave(v)
	if n > v.meta.leaves {
		return [32]byte{}, fhir.Errorf(fhir.NotFound, op, "the log has %d leaves", v.meta.leaves)
	}
	h, err := tlog.TreeHash(int64(n), tlog.HashReaderFunc(v.hashes))
	return h, faulted(op, err)
}
