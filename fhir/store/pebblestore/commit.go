package pebblestore

import (
	"context"
	"crypto/sha256"
	"errors"
	"slices"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"pulsegate/fhir"
	"pulsegate/fhir/search"
	"pulsegate/fhir/store"
	"pulsegate/fhir/yield"
)

const (
	groupBatches = 256
	groupBytes   = 8 << 20
	maxBatch     = 64 << 20
	ahead        = 5 * time.Millisecond
)

// request is one Commit on its way.
type request struct {
	batch    *store.Batch
	values   []*search.Values
	complete []bool // of values, see current
	hashes   [][16]byte
	bytes    int
	series   []*appended
	// compact, when not nil, is all there is: a change below the contract.
	compact *compaction
	result  store.Result
	err     error
	commit  store.Commit
	answer  chan struct{}
}

// group is what shares one fsync.
type group struct {
	reqs  []*request
	batch *pebble.Batch // nil: nothing to write
	view  *view
	// changed are the resources and the state that were there before, or may
	// have been.
	changed []cacheKey
}

// Commit is of store.Store. ctx ends the wait for a place in the queue; once
// queued the batch's fate is awaited, for the caller must know it.
func (d *DB) Commit(ctx context.Context, b *store.Batch) (store.Result, error) {
	const op = "pebblestore.Commit"
	start := time.Now()
	r, err := d.prepare(b)
	if err != nil {
		return store.Result{}, err
	}
	v, err := d.enter(op) // holds Close back
	if err != nil {
		return store.Result{}, err
	}
	defer d.leave(v)
	select {
	case <-ctx.Done():
		return store.Result{}, canceled(op, ctx.Err())
	default:
	}
	select {
	case d.in <- r:
	case <-ctx.Done():
		return store.Result{}, canceled(op, ctx.Err())
	}
	<-r.answer
	d.meters.done(ctx, start, r.err)
	return r.result, r.err
}

func canceled(op string, err error) error {
	return &fhir.Error{Kind: fhir.Unavailable, Op: op, Err: err}
}

// Large batches yield the processor every yieldWrites documents, every block of
// samples, and every yieldProbes samples that are looked up, about 100 us each.
const (
	yieldWrites = 8
	yieldProbes = 4096
)

// prepare does what needs no order: extraction, hashing, checks.
func (d *DB) prepare(b *store.Batch) (*request, error) {
	const op = "pebblestore.Commit"
	r := &request{batch: b, values: make([]*search.Values, len(b.Writes)), complete: make([]bool, len(b.Writes)),
		hashes: make([][16]byte, len(b.Writes)),
		answer: make(chan struct{})}
	for i := range b.Series {
		a, err := d.prepareSeries(&b.Series[i])
		if err != nil {
			return nil, err
		}
		for j := range a.pieces {
			r.bytes += len(a.pieces[j].body)
		}
		r.series = append(r.series, a)
	}
	if err := distinct(b.Series); err != nil {
		return nil, err
	}
	pace := yield.Counter{Every: yieldWrites}
	for i := range b.Writes {
		w := &b.Writes[i]
		pace.Add(1)
		if !fhir.KnownType(w.Resource.Type) || !fhir.ValidID(w.Resource.ID) {
			return nil, fhir.Errorf(fhir.Invalid, op, "write %d: type or id is not valid", i)
		}
		if w.Op != store.Put {
			continue
		}
		r.bytes += len(w.Resource.JSON)
		p := fhir.Prefix(w.Resource.Type, w.Resource.ID)
		if len(w.Resource.JSON) < len(p) || string(w.Resource.JSON[:len(p)]) != p {
			return nil, fhir.Errorf(fhir.Invalid, op, "write %d: JSON is not in canonical form", i)
		}
		if w.Form != nil && !w.Form.Fits(w.Resource.JSON, len(p), w.Cuts) {
			return nil, fhir.Errorf(fhir.Invalid, op, "write %d: JSON is not of its form", i)
		}
		if err := r.extract(i); err != nil {
			return nil, faulted(op, err)
		}
		r.hashes[i] = w.Hash
		if w.Hash == ([16]byte{}) {
			s := sha256.Sum256(w.Resource.JSON)
			copy(r.hashes[i][:], s[:])
		}
	}
	for i := range b.State {
		if b.State[i].Key == "" {
			return nil, fhir.Errorf(fhir.Invalid, op, "state %d: empty key", i)
		}
		r.bytes += len(b.State[i].Value)
	}
	for _, l := range b.Leaves {
		r.bytes += len(l)
	}
	if r.bytes > maxBatch {
		return nil, fhir.Errorf(fhir.TooLarge, op, "batch is larger than %d bytes", maxBatch)
	}
	return r, nil
}

// extract takes the index values of a write. A document that is kept by form
// has no bytes of its own from which the rest could be taken later.
func (r *request) extract(i int) (err error) {
	w := &r.batch.Writes[i]
	switch {
	case w.Values != nil:
		r.values[i], r.complete[i] = w.Values, true
	case w.Form != nil:
		r.complete[i] = true
		r.values[i], err = search.Extract(w.Resource.Type, w.Resource.JSON)
	default:
		r.values[i], r.complete[i], err = extractStored(w.Resource.Type, w.Resource.JSON)
	}
	return err
}

// committer gathers requests into groups, resolves and applies them.
func (d *DB) committer() {
	defer close(d.toSync)
	for r := range d.in {
		reqs := d.gather(r)
		g, err := d.build(reqs)
		if err != nil {
			d.fail(err)
			g = &group{reqs: reqs}
		}
		d.toSync <- g
	}
}

// gather takes what is waiting. When stamps run ahead of the clock (very many
// groups a second) it first lets a millisecond pass: one group more.
func (d *DB) gather(first *request) []*request {
	if lead := time.Duration(d.head.updated-d.opts.Clock().UnixMilli()) * time.Millisecond; lead > ahead {
		time.Sleep(time.Millisecond)
	}
	reqs, bytes := []*request{first}, first.bytes
	for len(reqs) < groupBatches && bytes < groupBytes {
		select {
		case r, ok := <-d.in:
			if !ok {
				return reqs
			}
			reqs, bytes = append(reqs, r), bytes+r.bytes
		default:
			return reqs
		}
	}
	return reqs
}

// build makes and applies the Pebble batch of a group.
func (d *DB) build(reqs []*request) (g *group, err error) {
	g = &group{reqs: reqs}
	if d.failed.Load() {
		return g, nil
	}
	if !d.refuseForSpace(reqs) {
		return g, nil
	}
	d.meters.group.Record(context.Background(), int64(len(reqs)))
	for left := slices.Clone(reqs); ; {
		bad, err := d.assemble(g, left)
		if bad == nil {
			return g, err
		}
		left = slices.DeleteFunc(left, func(r *request) bool { return r == bad })
		// Rows of this request could not be read. It fails alone; the group is
		// assembled again without its traces in memory.
		bad.err = faulted("pebblestore.Commit", err)
		clear(d.edge)
		clear(d.days)
	}
}

// assemble makes and applies the Pebble batch of a group's requests. bad is the request whose rows could not be read; without one
// an error means that the store cannot be written.
func (d *DB) assemble(g *group, reqs []*request) (bad *request, err error) {
	d.trimDays()
	s := newStage(d)
	defer s.close()
	for _, r := range reqs {
		if r.compact != nil || r.err != nil {
			continue
		}
		if err := s.add(r); err != nil {
			return r, errors.Join(err, s.batch.Close())
		}
	}
	// Compactions come last: what the commits of this group have taken out of
	// a series voids them.
	for _, r := range reqs {
		if r.compact == nil || r.err != nil {
			continue
		}
		if err := s.putCompaction(r.compact); err != nil {
			return r, errors.Join(err, s.batch.Close())
		}
	}
	if s.meta == d.head && s.batch.Empty() { // nothing was written
		return nil, s.batch.Close()
	}
	if err := s.finish(); err != nil {
		return nil, errors.Join(err, s.batch.Close())
	}
	if err := d.apply(s.batch); err != nil {
		return nil, err
	}
	d.head, g.batch = s.meta, s.batch
	d.formsWritten(s.forms)
	d.groups++
	g.view = &view{snap: d.pdb.NewSnapshot(), meta: d.head, group: d.groups, forms: &d.forms, refs: 1}
	g.changed = s.changed
	return nil, nil
}

// apply writes a batch to the WAL and the memtable. A fatal error inside
// Pebble ends the goroutine it runs on, so it gets one of its own.
func (d *DB) apply(b *pebble.Batch) error {
	res := make(chan error, 1)
	go func() {
		err := errors.New("pebble stopped while applying")
		defer func() { res <- err }()
		if d.opts.NoSync {
			err = d.pdb.Apply(b, pebble.NoSync)
			return
		}
		err = d.pdb.ApplyNoSyncWait(b, pebble.Sync)
	}()
	return <-res
}

// syncer waits for each group's fsync, shows it, tells the watchers and
// answers the writers, in order.
func (d *DB) syncer() {
	defer close(d.done)
	for g := range d.toSync {
		if g.batch != nil {
			if !d.opts.NoSync {
				if err := g.batch.SyncWait(); err != nil {
					d.fail(err)
				}
			}
			if err := g.batch.Close(); err != nil {
				d.fail(err)
			}
		}
		if d.failed.Load() {
			for _, r := range g.reqs {
				r.result, r.err = store.Result{}, errStopped("pebblestore.Commit")
				close(r.answer)
			}
			continue
		}
		if g.view != nil {
			d.lately.drop(g.changed, g.view.group)
			d.publish(g.view)
			d.tell(g)
		}
		for _, r := range g.reqs {
			close(r.answer)
		}
	}
}

func (d *DB) tell(g *group) {
	d.mu.Lock()
	fns := make([]func(store.Commit), 0, len(d.watches))
	for id := uint64(0); id < d.nextID && len(fns) < len(d.watches); id++ {
		if fn, ok := d.watches[id]; ok {
			fns = append(fns, fn)
		}
	}
	d.mu.Unlock()
	for _, r := range g.reqs {
		if r.commit.Seq == 0 {
			continue
		}
		for _, fn := range fns {
			fn(r.commit)
		}
	}
}
