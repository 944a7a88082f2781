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
	"pulsegate/fhir/store/pebblestore/internal/fault"
	"pulsegate/fhir/store/pebblestore/internal/find"
	"pulsegate/fhir/store/pebblestore/internal/readcache"
	"pulsegate/fhir/store/pebblestore/internal/rows"
	"pulsegate/fhir/store/pebblestore/internal/tier"
	"pulsegate/fhir/yield"
)

const (
	groupBatches = 256
	groupBytes   = 8 << 20
	maxBatch     = 64 << 20
	ahead        = 5 * time.Millisecond
)

// request is one Commit in progress.
type request struct {
	batch    *store.Batch
	values   []*search.Values
	complete []bool // parallel to values, see current.complete
	hashes   [][16]byte
	bytes    int
	series   []*tier.Prepared
	// compact, if not nil, is a change of rows that changes no answer; the request
	// then has no batch.
	compact *tier.Compaction
	index   *indexStep // if not nil, the request builds or drops index rows
	age     age        // of a batch with an ID
	result  store.Result
	err     error
	commit  store.Commit
	done    chan struct{}
}

// group holds the requests that share one fsync.
type group struct {
	requests []*request
	batch    *pebble.Batch // nil if there is nothing to write
	view     *view
	// changed holds the resources and state keys whose cached values the group
	// replaces.
	changed []readcache.Key
}

// Commit implements store.Store. ctx ends the wait for the queue. Once the batch is
// queued, Commit waits for its result, which the caller must know.
func (d *DB) Commit(ctx context.Context, b *store.Batch) (store.Result, error) {
	const op = "pebblestore.Commit"
	start := time.Now()
	r, err := d.prepare(b)
	if err != nil {
		return store.Result{}, err
	}
	v, err := d.enter(op) // delays Close
	if err != nil {
		return store.Result{}, err
	}
	defer d.leave(v)
	if b.ID != ([16]byte{}) {
		r.age = age{sent: b.Sent, updated: max(v.Head.Updated, d.opts.Clock().UnixMilli())}
		if b.Sent.IsZero() {
			r.age.sent = start
		}
	}
	select {
	case <-ctx.Done():
		return store.Result{}, fault.Canceled(op, ctx.Err())
	default:
	}
	select {
	case d.in <- r:
	case <-ctx.Done():
		return store.Result{}, fault.Canceled(op, ctx.Err())
	}
	<-r.done
	d.meters.done(ctx, start, r.err)
	return r.result, r.err
}

// yieldWrites is the number of documents after which the preparation of a batch
// yields the processor. They take about 100 us. A goroutine that does not yield keeps its core for 10 ms at a
// time, and a waiting request needs several turns.
const yieldWrites = 8

// prepare extracts, hashes and checks the writes. These steps need no order and run
// on the caller's goroutine.
func (d *DB) prepare(b *store.Batch) (*request, error) {
	const op = "pebblestore.Commit"
	r := &request{batch: b, values: make([]*search.Values, len(b.Writes)), complete: make([]bool, len(b.Writes)),
		hashes: make([][16]byte, len(b.Writes)),
		done:   make(chan struct{})}
	for i := range b.Series {
		a, err := d.tier.Prepare(&b.Series[i])
		if err != nil {
			return nil, err
		}
		for j := range a.Blocks {
			r.bytes += len(a.Blocks[j].Body)
		}
		r.series = append(r.series, a)
	}
	if err := tier.CheckDistinct(b.Series); err != nil {
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
			return nil, fhir.Errorf(fhir.Invalid, op, "write %d: the JSON is not in canonical form", i)
		}
		if w.Template != nil && !w.Template.Fits(w.Resource.JSON, len(p), w.Cuts) {
			return nil, fhir.Errorf(fhir.Invalid, op, "write %d: the JSON does not fit its template", i)
		}
		if err := r.extract(i); err != nil {
			return nil, fault.Wrap(op, err)
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

// extract extracts the index values of a write. A templated document is extracted
// in full, because the committer could not do so later from its slots.
func (r *request) extract(i int) (err error) {
	w := &r.batch.Writes[i]
	switch {
	case w.Values != nil:
		r.values[i], r.complete[i] = w.Values, true
	case w.Template != nil:
		r.complete[i] = true
		r.values[i], err = search.Extract(w.Resource.Type, w.Resource.JSON)
	default:
		r.values[i], r.complete[i], err = rows.ExtractStored(w.Resource.Type, w.Resource.JSON)
	}
	return err
}

// committer collects requests into groups, resolves and applies them.
func (d *DB) committer() {
	defer close(d.toSync)
	for r := range d.in {
		reqs := d.gather(r)
		g, err := d.build(reqs)
		if err != nil {
			d.fail(err)
			g = &group{requests: reqs}
		}
		d.toSync <- g
	}
}

// gather collects the waiting requests. If lastUpdated is ahead of the clock, as
// after very many groups per second, it first waits a millisecond, which costs one
// group.
func (d *DB) gather(first *request) []*request {
	if lead := time.Duration(d.head.Updated-d.opts.Clock().UnixMilli()) * time.Millisecond; lead > ahead {
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

// build assembles and applies the Pebble batch of a group.
func (d *DB) build(reqs []*request) (*group, error) {
	g := &group{requests: reqs}
	if d.failed.Load() || !d.refuseForSpace(reqs) {
		return g, nil
	}
	d.meters.group.Record(context.Background(), int64(len(reqs)))
	s, err := d.assemble(d.base(), reqs)
	if s == nil || err != nil {
		return g, err
	}
	if err := d.apply(s.batch); err != nil {
		return g, err
	}
	d.settle(s)
	g.batch, g.view, g.changed = s.batch, d.newView(), s.changed
	return g, nil
}

// base returns the state after the groups that were applied.
func (d *DB) base() base { return base{reader: d.pdb, head: d.head, edge: d.edge} }

// assemble builds the Pebble batch of the requests that have no error yet, and sets
// their results. It returns nil if there is nothing to write. A request whose rows
// cannot be read fails alone. An error means that the store cannot be written.
func (d *DB) assemble(from base, reqs []*request) (*stage, error) {
	left := slices.DeleteFunc(slices.Clone(reqs), func(r *request) bool { return r.err != nil })
	for {
		s := newStage(d, from)
		bad, err := s.addAll(left)
		if err == nil && s.meta == from.head && s.batch.Empty() { // nothing was written
			return nil, s.batch.Close()
		}
		if err == nil {
			return s, nil
		}
		err = errors.Join(err, s.batch.Close())
		if bad == nil {
			return nil, err
		}
		// The stage holds a part of the request. Assemble the group without it.
		bad.err = fault.Wrap("pebblestore.Commit", err)
		left = slices.DeleteFunc(left, func(r *request) bool { return r == bad })
	}
}

// addAll adds requests to the group and completes it. If rows of a request could not
// be read, it returns the request as bad.
func (s *stage) addAll(reqs []*request) (bad *request, err error) {
	defer s.close()
	for _, r := range reqs {
		r.err = nil
		if r.compact != nil {
			continue
		}
		add := s.add
		if r.index != nil {
			add = s.addIndex
		}
		if err := add(r); err != nil {
			return r, err
		}
	}
	// Compactions come last: a sample that a commit of this group removed from a
	// series voids them.
	for _, r := range reqs {
		if r.compact == nil {
			continue
		}
		if err := s.putCompaction(r.compact); err != nil {
			return r, err
		}
	}
	if s.meta == s.from.head && s.batch.Empty() {
		return nil, nil
	}
	return nil, s.finish()
}

// settle lets the effects of a group take place whose batch was applied. Call it
// before a view shows the group.
func (d *DB) settle(s *stage) {
	d.head, d.edge = s.meta, s.edge
	d.groups++
	d.days.Add(&s.days)
	for id := range s.templates {
		// Writing a row again does no harm, so the oldest ones may be forgotten.
		d.writtenTemplates.Add(id, struct{}{})
	}
	for guard, seq := range s.touches {
		d.guards.touch(guard, seq)
	}
	for _, n := range s.notes {
		c := n.doc
		d.search.Note(n.seq, find.Cluster{Patient: c.Patient, Code: c.Code}, &c.doc, c.Deleted, c.values)
	}
	if d.compactor.enabled.Load() {
		for _, g := range s.grown {
			d.compactor.consider(g.in, g.tally)
		}
	}
	if !s.swept.IsZero() {
		d.lastSweep = s.swept
		d.search.Tidy()
	}
}

// apply writes a batch to the WAL and the memtable. It runs Pebble on a
// separate goroutine, which a fatal error in Pebble would end.
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

// syncer waits for the fsync of each group, in order, then publishes its view,
// notifies the watchers and answers the writers.
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
			for _, r := range g.requests {
				r.result, r.err = store.Result{}, d.errStopped("pebblestore.Commit")
				close(r.done)
			}
			continue
		}
		if g.view != nil {
			d.reads.Drop(g.changed, g.view.group)
			d.publish(g.view)
			if d.watched() {
				d.notify(commitsOf(g.requests))
			}
		}
		for _, r := range g.requests {
			close(r.done)
		}
	}
}

// watched reports whether there are watchers.
func (d *DB) watched() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.watches) > 0
}

// commitsOf returns the commits of requests.
func commitsOf(reqs []*request) (out []store.Commit) {
	for _, r := range reqs {
		if r.commit.Seq != 0 {
			out = append(out, r.commit)
		}
	}
	return out
}

// notify calls the watchers with commits.
func (d *DB) notify(commits []store.Commit) {
	if len(commits) == 0 {
		return
	}
	d.mu.Lock()
	fns := make([]func(store.Commit), 0, len(d.watches))
	for id := uint64(0); id < d.nextID && len(fns) < len(d.watches); id++ {
		if fn, ok := d.watches[id]; ok {
			fns = append(fns, fn)
		}
	}
	d.mu.Unlock()
	for _, c := range commits {
		for _, fn := range fns {
			fn(c)
		}
	}
}
