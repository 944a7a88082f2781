package pebblestore

import (
	"context"
	"slices"

	"github.com/cockroachdb/pebble/v2"
	"golang.org/x/mod/sumdb/tlog"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/store"
)

// Read implements store.Store.
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
	m, err := v.current(ref, t)
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

// ReadVersion implements store.Store.
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

// History implements store.Store.
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
	s, err := d.tier.sampleOf(v.snap, ref)
	if err == nil && s != nil && store.Seq(s.smp.Commit.T) <= t {
		m := newSample(s.in, &s.smp)
		fn(m.resource(), &m.facts)
	}
	return faulted(op, err)
}

// Heads implements store.Store.
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
		s, err := d.tier.sampleOf(v.snap, ref)
		if err != nil {
			return nil, faulted(op, err)
		}
		if s != nil {
			heads[i] = store.Head{Version: 1, Hash: s.hash(), Seq: store.Seq(s.smp.Commit.T)}
		}
	}
	return heads, nil
}

// Probe implements store.Store.
func (d *DB) Probe(ctx context.Context, ws []store.SeriesWrite) (store.Seq, [][]store.Presence, error) {
	const op = "pebblestore.Probe"
	v, err := d.enter(op)
	if err != nil {
		return 0, nil, err
	}
	defer d.leave(v)
	found := make([][]store.Presence, len(ws))
	for i := range ws {
		if ctx.Err() != nil {
			return 0, nil, canceled(op, ctx.Err())
		}
		found[i] = make([]store.Presence, ws[i].Columns.Len())
		if err := v.probe(&ws[i], found[i]); err != nil {
			return 0, nil, faulted(op, err)
		}
	}
	return v.meta.t, found, nil
}

// Get implements store.Store.
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

// List implements store.Store.
func (d *DB) List(ctx context.Context, prefix string, fn func(key string, value []byte) bool) error {
	return d.ListFrom(ctx, prefix, prefix, fn)
}

// ListFrom implements store.Store.
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

// Changes implements store.Store.
func (d *DB) Changes(ctx context.Context, from store.Seq, fn func(*store.Change) bool) error {
	return d.changes(ctx, from, false, fn)
}

// ChangesBrief implements store.Columnar.
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
		if v0 := it.Value(); isSeriesChange(v0) && brief {
			more = fn(&store.Change{Seq: t})
		} else if isSeriesChange(v0) {
			more, err = v.sampleChanges(t, v0, fn)
		} else {
			more, err = v.change(t, v0, fn)
		}
		if err != nil || !more {
			return faulted(op, err)
		}
	}
	return faulted(op, it.Error())
}

// Log implements store.Store.
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

// hashes implements tlog.HashReader.
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
