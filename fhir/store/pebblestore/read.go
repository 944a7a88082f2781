package pebblestore

import (
	"bytes"
	"context"

	"github.com/cockroachdb/pebble/v2"
	"golang.org/x/mod/sumdb/tlog"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/store"
)

// idIterator walks the I table; one of them serves many lookups.
func idIterator(r pebble.Reader) (*pebble.Iterator, error) {
	return r.NewIter(&pebble.IterOptions{LowerBound: []byte{tabID}, UpperBound: []byte{tabID + 1}})
}

// headIn is headOf on an iterator of idIterator.
func headIn(it *pebble.Iterator, ref fhir.Ref, t store.T) (*pointer, error) {
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
func headOf(r pebble.Reader, ref fhir.Ref, t store.T) (p *pointer, err error) {
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
func (v *view) at(op string, t store.T) (store.T, error) {
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
	d, err := decodeDoc(val)
	if err != nil {
		return nil, err
	}
	return newMatch(r, d), nil
}

// Read is of store.Store.
func (d *DB) Read(_ context.Context, ref fhir.Ref, at store.T) (fhir.Resource, *access.Facts, error) {
	const op = "pebblestore.Read"
	v, err := d.enter(op)
	if err != nil {
		return fhir.Resource{}, nil, err
	}
	defer d.leave(v)
	t, err := v.at(op, at)
	if err != nil {
		return fhir.Resource{}, nil, err
	}
	p, err := headOf(v.snap, ref, t)
	if err != nil {
		return fhir.Resource{}, nil, fhir.Wrap(op, err)
	}
	if p == nil {
		return fhir.Resource{}, nil, fhir.Errorf(fhir.NotFound, op, "the resource does not exist")
	}
	m, err := v.fetch(ref, p)
	if err != nil {
		return fhir.Resource{}, nil, fhir.Wrap(op, err)
	}
	return m.doc.resource(ref.Type, ref.ID), &m.facts, nil
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
func (d *DB) History(ctx context.Context, ref fhir.Ref, at store.T, before uint64, fn func(fhir.Resource, *access.Facts) bool) (err error) {
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
		return fhir.Wrap(op, err)
	}
	defer closing(it, &err)
	for ok := it.SeekGE(idKey(ref.Type, ref.ID, t)); ok; ok = it.Next() {
		if ctx.Err() != nil {
			return canceled(op, ctx.Err())
		}
		p, err := decodePointer(it.Key(), it.Value())
		if err != nil {
			return fhir.Wrap(op, err)
		}
		if before > 0 && p.version >= before {
			continue
		}
		m, err := v.fetch(ref, &p)
		if err != nil {
			return fhir.Wrap(op, err)
		}
		if !fn(m.doc.resource(ref.Type, ref.ID), &m.facts) {
			return nil
		}
	}
	return fhir.Wrap(op, it.Error())
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
		return nil, fhir.Wrap(op, err)
	}
	defer closing(it, &err)
	heads = make([]store.Head, len(refs))
	for i, ref := range refs {
		if ctx.Err() != nil {
			return nil, canceled(op, ctx.Err())
		}
		p, err := headIn(it, ref, v.meta.t)
		if err != nil {
			return nil, fhir.Wrap(op, err)
		}
		if p != nil {
			heads[i] = store.Head{Version: p.version, Hash: p.hash, Deleted: p.deleted, T: p.t}
		}
	}
	return heads, nil
}

// Get is of store.Store.
func (d *DB) Get(_ context.Context, key string) ([]byte, error) {
	const op = "pebblestore.Get"
	v, err := d.enter(op)
	if err != nil {
		return nil, err
	}
	defer d.leave(v)
	b, err := get(v.snap, stateKey(key))
	if err != nil || b == nil {
		return nil, fhir.Wrap(op, err)
	}
	if len(b) < 8 {
		return nil, fhir.Wrap(op, errRow)
	}
	return b[8:], nil
}

// List is of store.Store.
func (d *DB) List(ctx context.Context, prefix string, fn func(key string, value []byte) bool) (err error) {
	const op = "pebblestore.List"
	v, err := d.enter(op)
	if err != nil {
		return err
	}
	defer d.leave(v)
	pre := stateKey(prefix)
	it, err := v.snap.NewIter(&pebble.IterOptions{LowerBound: pre, UpperBound: next(pre)})
	if err != nil {
		return fhir.Wrap(op, err)
	}
	defer closing(it, &err)
	for ok := it.First(); ok; ok = it.Next() {
		if ctx.Err() != nil {
			return canceled(op, ctx.Err())
		}
		val := it.Value()
		if len(val) < 8 {
			return fhir.Wrap(op, errRow)
		}
		if !fn(string(it.Key()[1:]), append([]byte{}, val[8:]...)) {
			return nil
		}
	}
	return fhir.Wrap(op, it.Error())
}

// Changes is of store.Store.
func (d *DB) Changes(ctx context.Context, from store.T, fn func(*store.Change) bool) (err error) {
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
		return fhir.Wrap(op, err)
	}
	defer closing(it, &err)
	for ok := it.First(); ok; ok = it.Next() {
		if ctx.Err() != nil {
			return canceled(op, ctx.Err())
		}
		e, err := decodeEntry(it.Value())
		if err != nil {
			return fhir.Wrap(op, err)
		}
		k := reader{b: it.Key()[1:]}
		t := store.T(k.u64())
		r := row{place: e.place, typ: e.typ, id: e.id, t: t}
		var m *match
		c := store.Change{T: t, Ref: fhir.Ref{Type: e.typ, ID: e.id}, Version: e.version, Created: e.created, Deleted: e.deleted,
			Facts: access.Facts{Type: e.typ, ID: e.id, Patient: e.patient, Vendor: e.vendor, Author: e.author, Categories: e.categories}}
		c.Facts.Tokens = func(param string) []access.Token {
			if m == nil {
				// A row that cannot be read has no tokens: nothing is let out for it.
				if m, _ = v.fetchRow(r); m == nil {
					return nil
				}
			}
			return m.tokens(param)
		}
		if !fn(&c) {
			return nil
		}
	}
	return fhir.Wrap(op, it.Error())
}

// Log is of store.Store.
func (d *DB) Log() store.Log { return logView{d} }

type logView struct{ d *DB }

func (l logView) Size() uint64 {
	l.d.mu.Lock()
	defer l.d.mu.Unlock()
	return l.d.view.meta.leaves
}

func (l logView) Leaf(i uint64) (store.Leaf, error) {
	const op = "pebblestore.Log.Leaf"
	v, err := l.d.enter(op)
	if err != nil {
		return nil, err
	}
	defer l.d.leave(v)
	b, err := get(v.snap, leafKey(i))
	if err != nil {
		return nil, fhir.Wrap(op, err)
	}
	if b == nil {
		return nil, fhir.Errorf(fhir.NotFound, op, "the log has no leaf %d", i)
	}
	return b, nil
}

func (v *view) hashes(indexes []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(indexes))
	for i, x := range indexes {
		b, err := get(v.snap, hashKey(x))
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
		return nil, fhir.Wrap(op, err)
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
	return h, fhir.Wrap(op, err)
}
