package pebblestore

import (
	"context"
	"slices"

	"github.com/cockroachdb/pebble/v2"
	"golang.org/x/mod/sumdb/tlog"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore/internal/fault"
	"pulsegate/fhir/store/pebblestore/internal/keys"
	"pulsegate/fhir/store/pebblestore/internal/readcache"
	"pulsegate/fhir/store/pebblestore/internal/rows"
	"pulsegate/fhir/store/pebblestore/internal/snapshot"
)

// Read implements store.Store.
func (d *DB) Read(_ context.Context, ref fhir.Ref, at store.Seq) (fhir.Resource, *access.Facts, error) {
	const op = "pebblestore.Read"
	if at == 0 {
		if x, ok := d.reads.Get(readcache.Key{Ref: ref}); ok {
			m := x.Match.Clone()
			return m.Resource(), &m.Facts, nil
		}
	}
	v, err := d.enter(op)
	if err != nil {
		return fhir.Resource{}, nil, err
	}
	defer d.leave(v)
	seq, err := v.At(op, at)
	if err != nil {
		return fhir.Resource{}, nil, err
	}
	m, err := v.Current(ref, seq)
	if err != nil {
		return fhir.Resource{}, nil, fault.Wrap(op, err)
	}
	if m == nil {
		return fhir.Resource{}, nil, fhir.Errorf(fhir.NotFound, op, "the resource does not exist")
	}
	r := m.Resource()
	if at == 0 && ref.Type != "AuditEvent" { // there are many, and few are read twice
		d.reads.Put(readcache.Key{Ref: ref}, readcache.Value{Match: m.Clone()}, v.group)
	}
	return r, &m.Facts, nil
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
	seq, err := v.At(op, at)
	if err != nil {
		return err
	}
	pre := keys.IDPrefix(ref.Type, ref.ID)
	it, err := v.Reader.NewIter(&pebble.IterOptions{LowerBound: pre, UpperBound: keys.PrefixEnd(pre)})
	if err != nil {
		return fault.Wrap(op, err)
	}
	defer fault.Close(it, &err)
	found := false
	for ok := it.SeekGE(keys.IDKey(ref.Type, ref.ID, seq)); ok; ok = it.Next() {
		if ctx.Err() != nil {
			return fault.Canceled(op, ctx.Err())
		}
		p, err := rows.DecodePointer(it.Key(), it.Value())
		if err != nil {
			return fault.Wrap(op, err)
		}
		if before > 0 && p.Version >= before {
			continue
		}
		m, err := v.Fetch(ref, &p)
		if err != nil {
			return fault.Wrap(op, err)
		}
		found = true
		if !fn(m.Document.Resource(ref.Type, ref.ID), &m.Facts) {
			return nil
		}
	}
	if err := it.Error(); err != nil || found || before == 1 {
		return fault.Wrap(op, err)
	}
	s, err := d.tier.Sample(v.Reader, ref)
	if err == nil && s != nil && store.Seq(s.Sample.Commit.Seq) <= seq {
		m := snapshot.NewSample(s.Series, &s.Sample)
		fn(m.Resource(), &m.Facts)
	}
	return fault.Wrap(op, err)
}

// Heads implements store.Store.
func (d *DB) Heads(ctx context.Context, refs []fhir.Ref) (heads []store.Head, err error) {
	const op = "pebblestore.Heads"
	v, err := d.enter(op)
	if err != nil {
		return nil, err
	}
	defer d.leave(v)
	it, err := rows.NewIDIter(v.Reader)
	if err != nil {
		return nil, fault.Wrap(op, err)
	}
	defer fault.Close(it, &err)
	heads = make([]store.Head, len(refs))
	for i, ref := range refs {
		if ctx.Err() != nil {
			return nil, fault.Canceled(op, ctx.Err())
		}
		p, err := rows.HeadIn(it, ref, v.Head.Seq)
		if err != nil {
			return nil, fault.Wrap(op, err)
		}
		if p != nil {
			heads[i] = store.Head{Version: p.Version, Hash: p.Hash, Deleted: p.Deleted, Seq: p.Seq}
			continue
		}
		s, err := d.tier.Sample(v.Reader, ref)
		if err != nil {
			return nil, fault.Wrap(op, err)
		}
		if s != nil {
			heads[i] = store.Head{Version: 1, Hash: s.Hash(), Seq: store.Seq(s.Sample.Commit.Seq)}
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
			return 0, nil, fault.Canceled(op, ctx.Err())
		}
		found[i] = make([]store.Presence, ws[i].Columns.Len())
		if err := v.Probe(&ws[i], found[i]); err != nil {
			return 0, nil, fault.Wrap(op, err)
		}
	}
	return v.Head.Seq, found, nil
}

// Get implements store.Store.
func (d *DB) Get(_ context.Context, key string) ([]byte, error) {
	const op = "pebblestore.Get"
	if x, ok := d.reads.Get(readcache.StateKey(key)); ok {
		return slices.Clone(x.State), nil
	}
	v, err := d.enter(op)
	if err != nil {
		return nil, err
	}
	defer d.leave(v)
	b, err := rows.Get(v.Reader, keys.StateKey(key))
	if err != nil {
		return nil, fault.Wrap(op, err)
	}
	if b != nil {
		if len(b) < 8 {
			return nil, fault.Wrap(op, fault.ErrRow)
		}
		b = b[8:]
	}
	d.reads.Put(readcache.StateKey(key), readcache.Value{State: b}, v.group)
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
	pre := keys.StateKey(prefix)
	it, err := v.Reader.NewIter(&pebble.IterOptions{LowerBound: keys.StateKey(max(prefix, from)),
		UpperBound: keys.PrefixEnd(pre)})
	if err != nil {
		return fault.Wrap(op, err)
	}
	defer fault.Close(it, &err)
	for ok := it.First(); ok; ok = it.Next() {
		if ctx.Err() != nil {
			return fault.Canceled(op, ctx.Err())
		}
		val := it.Value()
		if len(val) < 8 {
			return fault.Wrap(op, fault.ErrRow)
		}
		if !fn(string(it.Key()[1:]), append([]byte{}, val[8:]...)) {
			return nil
		}
	}
	return fault.Wrap(op, it.Error())
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
	if from >= v.Head.Seq {
		return nil
	}
	it, err := v.Reader.NewIter(&pebble.IterOptions{LowerBound: keys.ChangeKey(from+1, 0),
		UpperBound: []byte{keys.TableChange + 1}})
	if err != nil {
		return fault.Wrap(op, err)
	}
	defer fault.Close(it, &err)
	for ok := it.First(); ok; ok = it.Next() {
		if ctx.Err() != nil {
			return fault.Canceled(op, ctx.Err())
		}
		k := rows.Reader{Bytes: it.Key()[1:]}
		seq := store.Seq(k.Uint64())
		var more bool
		if v0 := it.Value(); rows.IsSeriesChange(v0) && brief {
			var run *store.SampleChange
			if run, err = v.SampleRun(v0); err == nil {
				more = fn(&store.Change{Seq: seq, Samples: run})
			}
		} else if rows.IsSeriesChange(v0) {
			more, err = v.SampleChanges(seq, v0, fn)
		} else {
			more, err = v.Change(seq, v0, fn)
		}
		if err != nil || !more {
			return fault.Wrap(op, err)
		}
	}
	return fault.Wrap(op, it.Error())
}

// Log implements store.Store.
func (d *DB) Log() store.Log { return logView{d} }

type logView struct{ db *DB }

func (l logView) Size() uint64 {
	l.db.mu.Lock()
	defer l.db.mu.Unlock()
	return l.db.view.Head.Leaves
}

func (l logView) Leaf(i uint64) (leaf store.Leaf, err error) {
	const op = "pebblestore.Log.Leaf"
	v, err := l.db.enter(op)
	if err != nil {
		return nil, err
	}
	defer l.db.leave(v)
	log, err := rows.OpenLog(v.Reader)
	if err != nil {
		return nil, fault.Wrap(op, err)
	}
	defer fault.Close(log, &err)
	if leaf, err = log.Leaf(i); err != nil {
		return nil, fault.Wrap(op, err)
	}
	if leaf == nil {
		return nil, fhir.Errorf(fhir.NotFound, op, "the log has no leaf %d", i)
	}
	return leaf, nil
}

// hashes returns stored hashes, as tlog.HashReader requires.
func (v *view) hashes(indexes []int64) (out []tlog.Hash, err error) {
	log, err := rows.OpenLog(v.Reader)
	if err != nil {
		return nil, err
	}
	defer fault.Close(log, &err)
	out = make([]tlog.Hash, len(indexes))
	for i, x := range indexes {
		b, err := log.Hash(x)
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
	v, err := l.db.enter(op)
	if err != nil {
		return nil, err
	}
	defer l.db.leave(v)
	hs, err := v.hashes(indexes)
	if err != nil {
		return nil, fault.Wrap(op, err)
	}
	out := make([][32]byte, len(hs))
	for i := range hs {
		out[i] = hs[i]
	}
	return out, nil
}

func (l logView) Root(n uint64) ([32]byte, error) {
	const op = "pebblestore.Log.Root"
	v, err := l.db.enter(op)
	if err != nil {
		return [32]byte{}, err
	}
	defer l.db.leave(v)
	if n > v.Head.Leaves {
		return [32]byte{}, fhir.Errorf(fhir.NotFound, op, "the log has %d leaves", v.Head.Leaves)
	}
	h, err := tlog.TreeHash(int64(n), tlog.HashReaderFunc(v.hashes))
	return h, fault.Wrap(op, err)
}
