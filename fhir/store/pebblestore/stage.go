package pebblestore

import (
	"bytes"
	"encoding/binary"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/search"
	"pulsegate/fhir/series"
	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore/internal/fault"
	"pulsegate/fhir/store/pebblestore/internal/keys"
	"pulsegate/fhir/store/pebblestore/internal/readcache"
	"pulsegate/fhir/store/pebblestore/internal/rows"
	"pulsegate/fhir/store/pebblestore/internal/snapshot"
	"pulsegate/fhir/store/pebblestore/internal/tier"
)

const sweepBatch = 256

// current is the newest version of a resource as a group sees it.
type current struct {
	rows.Pointer
	doc    rows.Document
	values *search.Values
	// complete is set if values holds every parameter. Otherwise it holds those
	// that rows.ExtractStored extracts.
	complete bool
	loaded   bool // doc and values are set
	// The bytes of a templated document before the stamp, and its template.
	canonical []byte
	template  *store.Template
	sample    *tier.Located // set if the resource is a sample
}

// base is the state on which a group is built.
type base struct {
	reader pebble.Reader
	head   rows.Head
	edge   edge
	// below, if not nil, is a group that is not applied yet. reader, head and edge
	// include it.
	below *stage
}

// stage is a group in preparation: its Pebble batch, the changes that earlier
// batches of the group made to the base, and the effects that take place when the
// Pebble batch is applied (DB.settle). It changes nothing else, so that it can be
// discarded.
type stage struct {
	db   *DB
	from base
	// schema is the encoding of the rows that the group writes.
	schema  uint32
	catalog *rows.Catalog // of the state with the group; read when first needed
	batch   *pebble.Batch
	meta    rows.Head
	edge    edge
	heads   map[fhir.Ref]*current
	state   map[string][]byte           // a nil value means that the key is absent
	updates map[updatesID]*updatesGroup // of the batch that is being added
	ids     *pebble.Iterator            // over the base; opened when first needed

	// The series that the group changes.
	touched  map[series.Identity]store.Seq
	appended map[series.Identity]bool
	tallies  map[series.SeriesID]*rows.Tally
	written  map[series.SeriesID]*tier.Series // series whose tally has changed
	blocks   map[string]*openBlock            // by the key of the H row

	// Effects.
	changed   []readcache.Key // the values that the read cache must drop
	templates map[[16]byte]bool
	days      rows.DayWriter
	notes     []noted
	grown     []grown
	touches   map[string]store.Seq // guards
	swept     time.Time            // zero if the group does not sweep
}

// noted is a version of an Observation whose signature the group adds.
type noted struct {
	seq store.Seq
	doc *current
}

// grown is a series that the group changes, and its tally after the group.
type grown struct {
	in    *tier.Series
	tally *rows.Tally
}

// close closes the iterators. The caller closes or commits the batch.
func (s *stage) close() {
	if s.ids != nil {
		ids := s.ids
		s.ids = nil
		if err := ids.Close(); err != nil {
			return // the read that met the error has returned it
		}
	}
}

func newStage(d *DB, from base) *stage {
	s := &stage{db: d, from: from, schema: d.writes(), batch: d.pdb.NewBatch(), meta: from.head, edge: from.edge,
		heads: map[fhir.Ref]*current{}, state: map[string][]byte{},
		touched: map[series.Identity]store.Seq{}, appended: map[series.Identity]bool{},
		tallies: map[series.SeriesID]*rows.Tally{},
		written: map[series.SeriesID]*tier.Series{}, blocks: map[string]*openBlock{},
		updates: map[updatesID]*updatesGroup{}}
	if from.below != nil {
		s.days = d.days.Writer(&from.below.days)
	} else {
		s.days = d.days.Writer(nil)
	}
	return s
}

// write is one resolved resource write.
type write struct {
	ref      fhir.Ref
	old, now *current // old is nil if there was no version
	created  bool
}

// add resolves one batch and adds its rows to the group. If a precondition fails or
// cannot be read, add sets the request's error and returns nil. If it returns an
// error, the group holds a part of the batch.
func (s *stage) add(r *request) error {
	b := r.batch
	r.result, r.commit, r.err = store.Result{}, store.Commit{}, nil
	if len(b.Writes)+len(b.State)+len(b.Leaves)+len(b.Series) == 0 {
		return nil
	}
	if was, ok, err := s.remembered(b.ID); err != nil || ok {
		if r.result = was; err != nil {
			return s.refuse(r, err)
		}
		return nil
	}
	if b.ID != ([16]byte{}) && r.age.exceeds(store.BatchMemory/2, s.from.head.Updated) {
		return s.refuse(r, errForgotten())
	}
	if err := s.checkGuards(b); err != nil {
		return s.refuse(r, err)
	}
	seq := s.meta.Seq + 1
	updated := max(s.db.opts.Clock().UnixMilli(), s.from.head.Updated+1, s.meta.Updated)
	local := map[fhir.Ref]*current{}
	var writes []write
	outcomes := make([]store.Outcome, len(b.Writes))
	for i := range b.Writes {
		w, out, err := s.resolve(r, i, seq, updated, local)
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
	r.result = store.Result{Outcomes: outcomes, LeafIndex: s.meta.Leaves}
	if len(writes)+len(b.State)+len(b.Leaves)+len(r.series) == 0 {
		return nil
	}
	r.result.Seq = seq
	r.commit.Seq = seq
	s.meta.Seq, s.meta.Updated = seq, updated
	for _, guard := range b.Touches {
		s.touch(guard, seq)
	}
	s.touchTypes(writes, len(r.series) > 0, seq)
	for i, a := range r.series {
		if err := s.putSeries(a, seq, updated, uint32(i)); err != nil {
			return err
		}
		r.commit.Samples += a.Count
	}
	for i := range writes {
		c, err := s.put(&writes[i], seq, uint32(len(r.series)+i))
		if err != nil {
			return err
		}
		if c != nil {
			r.commit.Changes = append(r.commit.Changes, *c)
		}
	}
	if err := s.putUpdates(seq, updated); err != nil {
		return err
	}
	for i := range b.State {
		if err := s.putState(&b.State[i]); err != nil {
			return err
		}
	}
	if err := s.remember(b.ID, &r.result, updated); err != nil {
		return err
	}
	return s.putLeaves(b.Leaves)
}

// refuse fails a request before any of its rows are added to the group.
func (s *stage) refuse(r *request, err error) error {
	r.err = fault.Wrap("pebblestore.Commit", err)
	return nil
}

// lookup returns the current version: from this batch, this group or the store.
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
		it, err := rows.NewIDIter(s.from.reader)
		if err != nil {
			return nil, err
		}
		s.ids = it
	}
	p, err := rows.HeadIn(s.ids, ref, ^store.Seq(0))
	if err != nil {
		s.close() // the next lookup needs an iterator without an error
		return nil, err
	}
	if p != nil {
		return &current{Pointer: *p}, nil
	}
	return s.lookupSample(ref)
}

// lookupSample returns the sample with the id of ref, or nil.
func (s *stage) lookupSample(ref fhir.Ref) (*current, error) {
	if k, ok := series.ParseID(ref.ID); ref.Type != "Observation" || !ok {
		return nil, nil
	} else if s.appended[k.Identity] {
		return nil, fhir.Errorf(fhir.Conflict, "pebblestore.Commit", "the stream is being written; try again")
	}
	l, err := s.db.tier.Sample(s.from.reader, ref)
	if err != nil || l == nil {
		return nil, err
	}
	m := snapshot.NewSample(l.Series, &l.Sample)
	c := &current{sample: l, loaded: true, values: m.Index(), complete: true, doc: m.Document}
	c.Location, c.Seq, c.Version, c.Moved, c.Series, c.Hash = m.Row.Location, m.Row.Seq, 1, true, l.Series.ID, l.Hash()
	return c, nil
}

// load reads the document of c.
func (s *stage) load(ref fhir.Ref, c *current) error {
	if c != nil && c.doc.Templated { // written in this group
		c.doc.JSON, c.doc.Templated = fhir.Stamp(c.canonical, ref.Type, ref.ID, c.Version,
			time.UnixMilli(c.doc.Updated)), false
	}
	if c == nil || c.loaded {
		return nil
	}
	v, err := rows.Get(s.from.reader, keys.RowKey(keys.TableDocument, &c.Location, c.Code, ref.Type, ref.ID, c.Seq))
	if err != nil {
		return err
	}
	if v == nil {
		return fault.ErrRow
	}
	if c.doc, err = s.db.templates.Document(s.from.reader, new(rows.Recent), ref.Type, ref.ID, v); err != nil {
		return err
	}
	c.values, c.complete, err = rows.ExtractStored(ref.Type, c.doc.JSON)
	if err != nil {
		return fault.ErrRow
	}
	c.loaded = true
	return nil
}

// resolve decides on one write. It returns a nil write if nothing changes.
func (s *stage) resolve(r *request, i int, seq store.Seq, updated int64,
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
	if remove && (old == nil || old.Deleted) || !remove && w.SkipSame && old != nil && !old.Deleted &&
		old.Hash == r.hashes[i] {
		out.Unchanged = true
		if old != nil {
			if err := s.load(ref, old); err != nil {
				return nil, out, err
			}
			out.Version, out.Deleted, out.LastUpdated = old.Version, old.Deleted, time.UnixMilli(old.doc.Updated).UTC()
		}
		return nil, out, nil
	}
	if old != nil && old.Seq == seq {
		return nil, out, fhir.Errorf(fhir.Invalid, "pebblestore.Commit",
			"write %d: a batch writes a resource at most once", i)
	}
	if err := s.load(ref, old); err != nil {
		return nil, out, err
	}
	now := &current{loaded: true}
	now.Seq, now.Version, now.Deleted = seq, 1, remove
	if old != nil {
		now.Version = old.Version + 1
	}
	now.doc = rows.Document{Version: now.Version, Updated: updated, Deleted: remove}
	out.Version, out.LastUpdated, out.Deleted = now.Version, time.UnixMilli(updated).UTC(), remove
	if remove {
		now.Location, now.Hash, now.values, now.complete = old.Location, old.Hash, old.values, old.complete
		now.doc.Vendor, now.doc.Author, now.doc.Categories, now.doc.JSON = old.doc.Vendor, old.doc.Author,
			old.doc.Categories, old.doc.JSON
	} else {
		v := r.values[i]
		out.Created = old == nil || old.Deleted
		now.Location, now.Hash, now.values, now.complete = keys.LocationOf(v), r.hashes[i], v, r.complete[i]
		now.doc.Vendor, now.doc.Author, now.doc.Categories = w.Vendor, w.Author, v.Categories
		if w.Template != nil {
			now.canonical, now.template = w.Resource.JSON, w.Template
			now.doc.Templated, now.doc.TemplateID, now.doc.Slots = true, w.Template.ID,
				store.AppendSlots(nil, w.Resource.JSON, w.Cuts)
		} else {
			now.doc.JSON = fhir.Stamp(w.Resource.JSON, ref.Type, ref.ID, now.Version, out.LastUpdated)
			out.JSON = now.doc.JSON
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
			return fhir.Errorf(fhir.Conflict, op, "the resource already exists")
		}
	case store.Version:
		if old == nil || old.Version != w.IfVersion {
			return fhir.Errorf(fhir.PreconditionFailed, op,
				"the resource has changed since version %d; read it again and repeat the update", w.IfVersion)
		}
	case store.Existing:
		if old == nil {
			return fhir.Errorf(fhir.NotFound, op, "the resource does not exist")
		}
		if old.Deleted {
			return fhir.Errorf(fhir.Gone, op, "the resource is deleted")
		}
	}
	return nil
}

// checkState checks the preconditions of all state writes against the state before
// the batch, and against earlier writes of the batch.
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
	v, err := rows.Get(s.from.reader, keys.StateKey(key))
	if err != nil || v == nil {
		return nil, err
	}
	if len(v) < 8 {
		return nil, fault.ErrRow
	}
	return v[8:], nil
}

// put writes the rows of one resource write and ends those of the version before.
// It returns the change, or nil for an AuditEvent.
func (s *stage) put(w *write, seq store.Seq, n uint32) (*store.Change, error) {
	if k, ok := series.ParseID(w.ref.ID); ok && w.ref.Type == "Observation" {
		if err := s.touchStream(k.Identity, seq); err != nil {
			return nil, err
		}
	}
	s.touchConsent(w, seq)
	if w.old != nil {
		s.changed = append(s.changed, readcache.Key{Ref: w.ref})
		if w.old.sample != nil {
			if err := s.takeOut(w.old.sample); err != nil {
				return nil, err
			}
			if err := s.batch.Set(keys.IDKey(w.ref.Type, w.ref.ID, w.old.Seq), w.old.Encode(), nil); err != nil {
				return nil, err
			}
			w.old.sample = nil
			if err := s.days.PutDocument(s.batch, w.ref.Type, &w.old.Location, w.old.values); err != nil {
				return nil, err
			}
		}
		w.old.doc.EndSeq = seq
		if err := s.putRows(w.ref, w.old); err != nil {
			return nil, err
		}
	}
	if w.now.doc.Templated {
		if err := s.putTemplate(w.now.template); err != nil {
			return nil, err
		}
	}
	if err := s.putRows(w.ref, w.now); err != nil {
		return nil, err
	}
	if !w.now.Deleted {
		if err := s.days.PutDocument(s.batch, w.ref.Type, &w.now.Location, w.now.values); err != nil {
			return nil, err
		}
	}
	if w.ref.Type == "Observation" {
		if w.old != nil { // it may have been a sample
			s.noteCluster(seq, w.old)
		}
		s.noteCluster(seq, w.now)
	}
	if err := s.batch.Set(keys.IDKey(w.ref.Type, w.ref.ID, seq), w.now.Encode(), nil); err != nil {
		return nil, err
	}
	s.heads[w.ref] = w.now
	if w.created {
		s.meta.Resources++
	} else if w.now.Deleted {
		s.meta.Resources--
	}
	if w.ref.Type == "AuditEvent" {
		s.noteEvent(w.ref.ID, &w.now.Location)
		return nil, nil
	}
	c := w.now
	s.noteUpdate(w.ref.Type, c.Patient, n, 1)
	e := rows.Change{Location: c.Location, Type: w.ref.Type, ID: w.ref.ID, Version: c.Version, Created: w.created,
		Deleted: c.Deleted,
		Vendor:  c.doc.Vendor, Author: c.doc.Author, Categories: c.doc.Categories}
	if err := s.batch.Set(keys.ChangeKey(seq, n), e.Encode(), nil); err != nil {
		return nil, err
	}
	return &store.Change{Seq: seq, Ref: w.ref, Version: c.Version, Created: w.created, Deleted: c.Deleted,
		Facts: access.Facts{
			Type: w.ref.Type, ID: w.ref.ID, Patient: c.Patient, Vendor: c.doc.Vendor, Author: c.doc.Author,
			Categories: c.doc.Categories,
			Tokens:     c.tokens(w.ref.Type),
		}}, nil
}

// tokens returns access.Facts.Tokens for this version.
func (c *current) tokens(typ string) func(param string) []access.Token {
	if c.Deleted && access.Several(typ) {
		return access.Undecided(typ)
	}
	if vals := c.values; c.complete {
		return func(param string) []access.Token { return vals.Tokens(param) }
	}
	some, json := c.values, c.doc.JSON
	all := sync.OnceValue(func() *search.Values {
		v, err := search.Extract(typ, json)
		if err != nil { // no granular scope covers a document that cannot be read
			v = &search.Values{}
		}
		return v
	})
	return func(param string) []access.Token {
		if len(some.ByParam[param]) > 0 {
			return some.Tokens(param)
		}
		return all().Tokens(param)
	}
}

// putRows writes the D, P and X rows of one version. A deletion marker has only a D
// row.
func (s *stage) putRows(ref fhir.Ref, c *current) error {
	if err := s.batch.Set(keys.RowKey(keys.TableDocument, &c.Location, c.Code, ref.Type, ref.ID, c.Seq), c.doc.Encode(),
		nil); err != nil || c.Deleted {
		return err
	}
	v := append(keys.AppendUint64(nil, uint64(c.doc.EndSeq)), c.Code[:]...)
	for _, h := range rows.OtherCodes(ref.Type, c.values, c.Code) {
		if err := s.batch.Set(keys.RowKey(keys.TableCode, &c.Location, h, ref.Type, ref.ID, c.Seq), v,
			nil); err != nil {
			return err
		}
	}
	var err error
	set := s.indexRow(ref.ID, c.Seq, &c.Location, c.doc.EndSeq, &err)
	rows.EachIndexPrefix(ref.Type, c.values, s.schema >= rows.OrderedSchema, set)
	if e := s.putRuntime(ref, c, set); e != nil {
		return e
	}
	return err
}

// indexRow returns a function that sets the X row of a version with a prefix.
func (s *stage) indexRow(id string, seq store.Seq, at *keys.Location, end store.Seq, err *error) func(p []byte) {
	v := at.Append(keys.AppendUint64(nil, uint64(end)))
	return func(p []byte) {
		if e := s.batch.Set(keys.AppendUint64(keys.AppendString(p, id), uint64(seq)), v, nil); e != nil {
			*err = e
		}
	}
}

func (s *stage) putState(w *store.StateWrite) error {
	s.changed = append(s.changed, readcache.StateKey(w.Key))
	s.state[w.Key] = w.Value
	if strings.HasPrefix(w.Key, rows.IndexPrefix) {
		s.catalog = nil
		s.db.runtime.Store(true)
	}
	if w.Value == nil {
		return s.batch.Delete(keys.StateKey(w.Key), nil)
	}
	var ms int64
	if !w.Expires.IsZero() {
		ms = max(1, w.Expires.UnixMilli())
		if err := s.batch.Set(keys.ExpiryKey(ms, w.Key), nil, nil); err != nil {
			return err
		}
	}
	s.state[w.Key] = slices.Clone(w.Value)
	return s.batch.Set(keys.StateKey(w.Key), append(keys.AppendUint64(nil, uint64(ms)), w.Value...), nil)
}

// finish completes the group with the head row and, once per second, removes
// expired state.
func (s *stage) finish() error {
	if s.from.head.Seq == 0 && s.schema >= rows.OrderedSchema { // all documents of this store have all rows
		x := rows.Index{Version: rows.BuiltinVersion, Done: true}
		if err := s.putState(&store.StateWrite{Key: rows.BuiltinIndex, Value: x.Encode()}); err != nil {
			return err
		}
	}
	if err := s.batch.Set(keys.Head, s.meta.Encode(), nil); err != nil {
		return err
	}
	if err := s.finishSeries(); err != nil {
		return err
	}
	now, last := s.db.opts.Clock(), s.db.lastSweep
	for at := s.from.below; at != nil; at = at.from.below {
		if at.swept.After(last) {
			last = at.swept
		}
	}
	if now.Sub(last) < time.Second {
		return nil
	}
	more, err := s.sweep(now)
	if err != nil { // expired state can be removed later
		s.db.opts.Logger.Warn("expired state was not removed", "error", fault.Describe(err))
	}
	if !more { // otherwise the next group goes on
		s.swept = now
	}
	return nil
}

// sweep removes state that has expired, and reports whether there may be more.
func (s *stage) sweep(now time.Time) (more bool, err error) {
	it, err := s.from.reader.NewIter(&pebble.IterOptions{LowerBound: []byte{keys.TableExpiry},
		UpperBound: keys.ExpiryKey(now.UnixMilli(), "")})
	if err != nil {
		return false, err
	}
	defer fault.Close(it, &err)
	for ok, n := it.First(), 0; ok; ok, n = it.Next(), n+1 {
		if n == sweepBatch {
			return true, nil
		}
		k := it.Key()
		if len(k) < 9 {
			return false, fault.ErrRow
		}
		key := string(k[9:])
		if _, touched := s.state[key]; touched {
			continue
		}
		v, err := rows.Get(s.from.reader, keys.StateKey(key))
		if err != nil {
			return false, err
		}
		if len(v) >= 8 && binary.BigEndian.Uint64(v) == binary.BigEndian.Uint64(k[1:]) {
			if err := s.batch.Delete(keys.StateKey(key), nil); err != nil {
				return false, err
			}
			s.changed = append(s.changed, readcache.StateKey(key))
		}
		if err := s.batch.Delete(k, nil); err != nil {
			return false, err
		}
	}
	return false, it.Error()
}

// noteCluster adds the signature of a document that the group writes.
func (s *stage) noteCluster(seq store.Seq, c *current) { s.notes = append(s.notes, noted{seq, c}) }

// putTemplate writes the F row of a template, unless it is known to exist.
func (s *stage) putTemplate(f *store.Template) error {
	if _, ok := s.db.writtenTemplates.Get(f.ID); ok {
		return nil
	}
	for at := s; at != nil; at = at.from.below {
		if at.templates[f.ID] {
			return nil
		}
	}
	if s.templates == nil {
		s.templates = map[[16]byte]bool{}
	}
	s.templates[f.ID] = true
	return s.batch.Set(keys.TemplateKey(f.ID), f.Encoded, nil)
}
