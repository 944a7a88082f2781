package pebblestore

import (
	"bytes"
	"encoding/binary"
	"slices"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/search"
	"pulsegate/fhir/series"
	"pulsegate/fhir/store"
)

const sweepBatch = 256

// current is the newest version of a resource as a group sees it.
type current struct {
	pointer
	doc    doc
	values *search.Values
	// complete says that values holds every parameter; otherwise it holds
	// those of rowValues.
	complete bool
	loaded   bool // doc and values are there
	// Of a document that is kept by form: its bytes before the stamp.
	canonical []byte
	form      *store.Template
	smp       *located // it is a sample
}

// stage is a group being built: the Pebble batch and, over the database, what
// the batches before in the same group have changed.
type stage struct {
	d     *DB
	batch *pebble.Batch
	meta  meta
	heads map[fhir.Ref]*current
	state map[string][]byte // nil: absent
	forms map[[16]byte]bool // written
	// changed is that of the group.
	changed []cacheKey
	updates map[updatesID]*updatesGroup // of the batch being added
	ids     *pebble.Iterator            // over what was applied before this group; opened when first needed

	// Of the series that the group touches.
	touched  map[series.Identity]store.Seq
	appended map[series.Identity]bool
	tallies  map[series.SeriesID]*seriesState
	written  map[series.SeriesID]*seriesInfo // whose tally has changed
	blocks   map[string]*openBlock           // by H key
}

// close ends what reads needed; the batch is not its business. Whoever met an
// error in reading has it.
func (s *stage) close() {
	if s.ids != nil {
		ids := s.ids
		s.ids = nil
		if err := ids.Close(); err != nil {
			return // the read that met the error has reported it
		}
	}
}

func newStage(d *DB) *stage {
	return &stage{d: d, batch: d.pdb.NewBatch(), meta: d.head, heads: map[fhir.Ref]*current{},
		state:   map[string][]byte{},
		touched: map[series.Identity]store.Seq{}, appended: map[series.Identity]bool{},
		tallies: map[series.SeriesID]*seriesState{},
		written: map[series.SeriesID]*seriesInfo{}, blocks: map[string]*openBlock{},
		updates: map[updatesID]*updatesGroup{}}
}

// write is one resolved resource write.
type write struct {
	ref      fhir.Ref
	old, now *current // old nil: none
	created  bool
}

// add resolves one batch and puts its rows into the group. A precondition that
// does not hold, or cannot be read, is the request's error. After an error that
// it returns, the group holds a part of the batch.
func (s *stage) add(r *request) error {
	b := r.batch
	r.result, r.commit, r.err = store.Result{}, store.Commit{}, nil
	if len(b.Writes)+len(b.State)+len(b.Leaves)+len(b.Series) == 0 {
		return nil
	}
	t := s.meta.t + 1
	updated := max(s.d.opts.Clock().UnixMilli(), s.d.head.updated+1, s.meta.updated)
	local := map[fhir.Ref]*current{}
	var writes []write
	outcomes := make([]store.Outcome, len(b.Writes))
	for i := range b.Writes {
		w, out, err := s.resolve(r, i, t, updated, local)
		if err != nil {
			return s.refuse(r, err)
		}
		outcomes[i] = out
		if w != nil {
			writes = append(writes, *w)
		}
	}
	if err := s.checkState(b.State); err != nil {
		return s.refuse(r, err)
	}
	if err := s.checkSeries(r); err != nil {
		return s.refuse(r, err)
	}
	r.result = store.Result{Outcomes: outcomes, LeafIndex: s.meta.leaves}
	if len(writes)+len(b.State)+len(b.Leaves)+len(r.series) == 0 {
		return nil
	}
	r.result.Seq = t
	r.commit.Seq = t
	s.meta.t, s.meta.updated = t, updated
	for i, a := range r.series {
		if err := s.putSeries(a, t, updated, uint32(i)); err != nil {
			return err
		}
		r.commit.Samples += a.count
	}
	for i := range writes {
		c, err := s.put(&writes[i], t, uint32(len(r.series)+i))
		if err != nil {
			return err
		}
		if c != nil {
			r.commit.Changes = append(r.commit.Changes, *c)
		}
	}
	if err := s.putUpdates(t, updated); err != nil {
		return err
	}
	for i := range b.State {
		if err := s.putState(&b.State[i]); err != nil {
			return err
		}
	}
	return s.putLeaves(b.Leaves)
}

// refuse fails a request of which nothing was put into the group yet.
func (s *stage) refuse(r *request, err error) error {
	r.err = faulted("pebblestore.Commit", err)
	return nil
}

// lookup finds the current version: of this batch, this group, or the store.
func (s *stage) lookup(ref fhir.Ref, local map[fhir.Ref]*current, fresh bool) (*current, error) {
	if c, ok := local[ref]; ok {
		return c, nil
	}
	if c, ok := s.heads[ref]; ok {
		return c, nil
	}
	if fresh {
		return nil, nil
	}
	if s.ids == nil {
		it, err := idIterator(s.d.pdb)
		if err != nil {
			return nil, err
		}
		s.ids = it
	}
	p, err := headIn(s.ids, ref, ^store.Seq(0))
	if err != nil {
		s.close() // the next look-up begins with an iterator that met no error
		return nil, err
	}
	if p != nil {
		return &current{pointer: *p}, nil
	}
	return s.lookupSample(ref)
}

// lookupSample finds the sample that ref names.
func (s *stage) lookupSample(ref fhir.Ref) (*current, error) {
	if k, ok := series.ParseID(ref.ID); ref.Type != "Observation" || !ok {
		return nil, nil
	} else if s.appended[k.Identity] {
		return nil, fhir.Errorf(fhir.Conflict, "pebblestore.Commit", "the stream is being written; try again")
	}
	l, err := s.d.tier.sampleOf(s.d.pdb, ref)
	if err != nil || l == nil {
		return nil, err
	}
	m := newSample(l.in, &l.smp)
	c := &current{smp: l, loaded: true, values: m.index(), complete: true, doc: m.doc}
	c.place, c.t, c.version, c.moved, c.series, c.hash = m.row.place, m.row.t, 1, true, l.in.id, l.hash()
	return c, nil
}

// load fetches the document of c.
func (s *stage) load(ref fhir.Ref, c *current) error {
	if c != nil && c.doc.formed { // of this group
		c.doc.json, c.doc.formed = fhir.Stamp(c.canonical, ref.Type, ref.ID, c.version,
			time.UnixMilli(c.doc.updated)), false
	}
	if c == nil || c.loaded {
		return nil
	}
	v, err := get(s.d.pdb, rowKey(tabDoc, &c.place, c.code, ref.Type, ref.ID, c.t))
	if err != nil {
		return err
	}
	if v == nil {
		return errRow
	}
	if c.doc, err = s.d.forms.doc(s.d.pdb, new(recent), ref.Type, ref.ID, v); err != nil {
		return err
	}
	c.values, c.complete, err = extractStored(ref.Type, c.doc.json)
	if err != nil {
		return errRow
	}
	c.loaded = true
	return nil
}

// resolve decides one write: refused, unchanged (nil write), or what to write.
func (s *stage) resolve(r *request, i int, t store.Seq, updated int64,
	local map[fhir.Ref]*current) (*write, store.Outcome, error) {
	w := &r.batch.Writes[i]
	ref := w.Resource.Ref()
	out := store.Outcome{Ref: ref}
	old, err := s.lookup(ref, local, w.Expect == store.Fresh)
	if err != nil {
		return nil, out, err
	}
	if err := expect(w, old); err != nil {
		return nil, out, err
	}
	remove := w.Op == store.Remove
	if remove && (old == nil || old.deleted) || !remove && w.SkipSame && old != nil && !old.deleted &&
		old.hash == r.hashes[i] {
		out.Unchanged = true
		if old != nil {
			if err := s.load(ref, old); err != nil {
				return nil, out, err
			}
			out.Version, out.Deleted, out.LastUpdated = old.version, old.deleted, time.UnixMilli(old.doc.updated).UTC()
		}
		return nil, out, nil
	}
	if old != nil && old.t == t {
		return nil, out, fhir.Errorf(fhir.Invalid, "pebblestore.Commit",
			"write %d: a batch writes a resource at most once", i)
	}
	if err := s.load(ref, old); err != nil {
		return nil, out, err
	}
	now := &current{loaded: true}
	now.t, now.version, now.deleted = t, 1, remove
	if old != nil {
		now.version = old.version + 1
	}
	now.doc = doc{version: now.version, updated: updated, deleted: remove}
	out.Version, out.LastUpdated, out.Deleted = now.version, time.UnixMilli(updated).UTC(), remove
	if remove {
		now.place, now.hash, now.values, now.complete = old.place, old.hash, old.values, old.complete
		now.doc.vendor, now.doc.author, now.doc.categories, now.doc.json = old.doc.vendor, old.doc.author,
			old.doc.categories, old.doc.json
	} else {
		v := r.values[i]
		out.Created = old == nil || old.deleted
		now.place, now.hash, now.values, now.complete = placeOf(v), r.hashes[i], v, r.complete[i]
		now.doc.vendor, now.doc.author, now.doc.categories = w.Vendor, w.Author, v.Categories
		if w.Form != nil {
			now.canonical, now.form = w.Resource.JSON, w.Form
			now.doc.formed, now.doc.form, now.doc.own = true, w.Form.ID, store.AppendOwn(nil, w.Resource.JSON, w.Cuts)
		} else {
			now.doc.json = fhir.Stamp(w.Resource.JSON, ref.Type, ref.ID, now.version, out.LastUpdated)
			out.JSON = now.doc.json
		}
	}
	local[ref] = now
	return &write{ref: ref, old: old, now: now, created: out.Created}, out, nil
}

// expect checks the precondition of a resource write.
func expect(w *store.Write, old *current) error {
	const op = "pebblestore.Commit"
	switch w.Expect {
	case store.Absent, store.Fresh:
		if old != nil {
			return fhir.Errorf(fhir.Conflict, op, "the resource exists already")
		}
	case store.Version:
		if old == nil || old.version != w.IfVersion {
			return fhir.Errorf(fhir.PreconditionFailed, op, "the current version is another")
		}
	case store.Existing:
		if old == nil {
			return fhir.Errorf(fhir.NotFound, op, "the resource does not exist")
		}
		if old.deleted {
			return fhir.Errorf(fhir.Gone, op, "the resource is deleted")
		}
	}
	return nil
}

// checkState checks the preconditions of all state writes against what was
// before the batch, and later ones against earlier ones.
func (s *stage) checkState(ws []store.StateWrite) error {
	local := map[string][]byte{}
	for i := range ws {
		w := &ws[i]
		if w.Expect != store.StateAny {
			have, ok := local[w.Key]
			if !ok {
				var err error
				if have, err = s.stateOf(w.Key); err != nil {
					return err
				}
			}
			if w.Expect == store.StateAbsent && have != nil || w.Expect == store.StateEquals &&
				(have == nil || !bytes.Equal(have, w.Old)) {
				return fhir.Errorf(fhir.Conflict, "pebblestore.Commit", "state %d has changed", i)
			}
		}
		local[w.Key] = w.Value
	}
	return nil
}

func (s *stage) stateOf(key string) ([]byte, error) {
	if v, ok := s.state[key]; ok {
		return v, nil
	}
	v, err := get(s.d.pdb, stateKey(key))
	if err != nil || v == nil {
		return nil, err
	}
	if len(v) < 8 {
		return nil, errRow
	}
	return v[8:], nil
}

// put writes the rows of one resource write and closes those of the version
// before. It returns the change, nil for an AuditEvent.
func (s *stage) put(w *write, t store.Seq, n uint32) (*store.Change, error) {
	if k, ok := series.ParseID(w.ref.ID); ok && w.ref.Type == "Observation" {
		if err := s.touch(k.Identity, t); err != nil {
			return nil, err
		}
	}
	if w.old != nil {
		s.changed = append(s.changed, cacheKey{ref: w.ref})
		if w.old.smp != nil {
			if err := s.takeOut(w.old.smp); err != nil {
				return nil, err
			}
			if err := s.batch.Set(idKey(w.ref.Type, w.ref.ID, w.old.t), w.old.encode(), nil); err != nil {
				return nil, err
			}
			w.old.smp = nil
			if err := s.d.days.document(s.batch, w.ref.Type, &w.old.place, w.old.values); err != nil {
				return nil, err
			}
		}
		w.old.doc.to = t
		if err := s.rows(w.ref, w.old); err != nil {
			return nil, err
		}
	}
	if w.now.doc.formed {
		if err := s.putForm(w.now.form); err != nil {
			return nil, err
		}
	}
	if err := s.rows(w.ref, w.now); err != nil {
		return nil, err
	}
	if !w.now.deleted {
		if err := s.d.days.document(s.batch, w.ref.Type, &w.now.place, w.now.values); err != nil {
			return nil, err
		}
	}
	if w.ref.Type == "Observation" {
		if w.old != nil { // it may have been a sample
			s.noteCluster(t, w.old)
		}
		s.noteCluster(t, w.now)
	}
	if err := s.batch.Set(idKey(w.ref.Type, w.ref.ID, t), w.now.encode(), nil); err != nil {
		return nil, err
	}
	s.heads[w.ref] = w.now
	if w.created {
		s.meta.resources++
	} else if w.now.deleted {
		s.meta.resources--
	}
	if w.ref.Type == "AuditEvent" {
		s.noteEvent(w.ref.ID, &w.now.place)
		return nil, nil
	}
	c := w.now
	s.noteUpdate(w.ref.Type, c.patient, n, 1)
	e := entry{place: c.place, typ: w.ref.Type, id: w.ref.ID, version: c.version, created: w.created,
		deleted: c.deleted,
		vendor:  c.doc.vendor, author: c.doc.author, categories: c.doc.categories}
	if err := s.batch.Set(changeKey(t, n), e.encode(), nil); err != nil {
		return nil, err
	}
	return &store.Change{Seq: t, Ref: w.ref, Version: c.version, Created: w.created, Deleted: c.deleted,
		Facts: access.Facts{
			Type: w.ref.Type, ID: w.ref.ID, Patient: c.patient, Vendor: c.doc.vendor, Author: c.doc.author,
			Categories: c.doc.categories,
			Tokens:     c.tokens(w.ref.Type),
		}}, nil
}

// tokens returns what access.Facts.Tokens of this version is.
func (c *current) tokens(typ string) func(param string) []access.Token {
	if vals := c.values; c.complete {
		return func(param string) []access.Token { return tokensOf(vals, param) }
	}
	some, json := c.values, c.doc.json
	all := sync.OnceValue(func() *search.Values {
		v, err := search.Extract(typ, json)
		if err != nil { // no granular scope covers what cannot be read
			v = &search.Values{}
		}
		return v
	})
	return func(param string) []access.Token {
		if len(some.ByParam[param]) > 0 {
			return tokensOf(some, param)
		}
		return tokensOf(all(), param)
	}
}

// rows writes the D, P and X rows of one version. Deletion markers have only
// the D row.
func (s *stage) rows(ref fhir.Ref, c *current) error {
	if err := s.batch.Set(rowKey(tabDoc, &c.place, c.code, ref.Type, ref.ID, c.t), c.doc.encode(),
		nil); err != nil || c.deleted {
		return err
	}
	v := append(appendU64(nil, uint64(c.doc.to)), c.code[:]...)
	for _, h := range otherCodes(ref.Type, c.values, c.code) {
		if err := s.batch.Set(rowKey(tabCode, &c.place, h, ref.Type, ref.ID, c.t), v, nil); err != nil {
			return err
		}
	}
	v = c.place.append(appendU64(nil, uint64(c.doc.to)))
	var err error
	indexRows(ref.Type, c.values, func(p []byte) {
		if e := s.batch.Set(appendU64(appendStr(p, ref.ID), uint64(c.t)), v, nil); e != nil {
			err = e
		}
	})
	return err
}

func (s *stage) putState(w *store.StateWrite) error {
	s.changed = append(s.changed, stateRef(w.Key))
	s.state[w.Key] = w.Value
	if w.Value == nil {
		return s.batch.Delete(stateKey(w.Key), nil)
	}
	var ms int64
	if !w.Expires.IsZero() {
		ms = max(1, w.Expires.UnixMilli())
		if err := s.batch.Set(expireKey(ms, w.Key), nil, nil); err != nil {
			return err
		}
	}
	s.state[w.Key] = slices.Clone(w.Value)
	return s.batch.Set(stateKey(w.Key), append(appendU64(nil, uint64(ms)), w.Value...), nil)
}

// finish closes the group: the head row, and expired state once a second.
func (s *stage) finish() error {
	if err := s.batch.Set(headKey, s.meta.encode(), nil); err != nil {
		return err
	}
	if err := s.finishSeries(); err != nil {
		return err
	}
	now := s.d.opts.Clock()
	if now.Sub(s.d.lastSweep) < time.Second {
		return nil
	}
	s.d.lastSweep = now
	s.d.search.tidy()
	if err := s.sweep(now); err != nil { // what is expired can wait
		s.d.opts.Logger.Warn("expired state was not removed", "error", faultOf(err))
	}
	return nil
}

func (s *stage) sweep(now time.Time) (err error) {
	it, err := s.d.pdb.NewIter(&pebble.IterOptions{LowerBound: []byte{tabExpire},
		UpperBound: expireKey(now.UnixMilli(), "")})
	if err != nil {
		return err
	}
	defer closing(it, &err)
	for ok, n := it.First(), 0; ok && n < sweepBatch; ok, n = it.Next(), n+1 {
		k := it.Key()
		if len(k) < 9 {
			return errRow
		}
		key := string(k[9:])
		if _, touched := s.state[key]; touched {
			continue
		}
		v, err := get(s.d.pdb, stateKey(key))
		if err != nil {
			return err
		}
		if len(v) >= 8 && binary.BigEndian.Uint64(v) == binary.BigEndian.Uint64(k[1:]) {
			if err := s.batch.Delete(stateKey(key), nil); err != nil {
				return err
			}
			s.changed = append(s.changed, stateRef(key))
		}
		if err := s.batch.Delete(k, nil); err != nil {
			return err
		}
	}
	return it.Error()
}

// noteCluster tells the searches of a document that the group writes.
func (s *stage) noteCluster(t store.Seq, c *current) {
	s.d.search.note(t, clusterID{patient: c.patient, code: c.code}, &c.doc, c.deleted, c.values)
}

// putForm writes the form of a document, unless it is known to be there.
func (s *stage) putForm(f *store.Template) error {
	if s.d.wrote[f.ID] || s.forms[f.ID] {
		return nil
	}
	if s.forms == nil {
		s.forms = map[[16]byte]bool{}
	}
	s.forms[f.ID] = true
	return s.batch.Set(formKey(f.ID), f.Encoded, nil)
}

// formsWritten remembers the forms of a group that was applied.
func (d *DB) formsWritten(ids map[[16]byte]bool) {
	if len(d.wrote)+len(ids) > maxForms {
		clear(d.wrote) // to write one again does no harm
	}
	for id := range ids {
		d.wrote[id] = true
	}
}
