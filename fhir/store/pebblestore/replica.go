package pebblestore

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"pulsegate/fhir"
	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore/internal/fault"
	"pulsegate/fhir/store/pebblestore/internal/keys"
	"pulsegate/fhir/store/pebblestore/internal/readcache"
	"pulsegate/fhir/store/sharedlog"
)

// maxFlights is the number of groups that are on their way to the log at the same
// time. Each is built on the one before it.
const maxFlights = 4

// maxBelow bounds the bytes of two groups or more on which another one is built. Their
// rows are copied and sorted for each further group.
const maxBelow = 1 << 20

// replica follows the log of a shared store, and puts the groups of this process into
// it. Its goroutine (run) takes the place of the committer and the syncer, and owns all
// that they own. Calls of the log run on goroutines of their own, which send their
// results to it.
type replica struct {
	db      *DB
	conf    *Shared
	codec   *entryCodec
	meters  *logMeters
	index   atomic.Uint64   // place up to which the log was applied, for metrics
	ctx     context.Context // ends the calls of the log
	stop    context.CancelFunc
	calls   sync.WaitGroup
	kick    chan struct{} // a caller of Sync waits
	closing chan struct{}
	sent    chan sent
	looked  chan *look
	offered chan *offer
	landed  atomic.Pointer[func(*sharedlog.Entry)] // see DB.Landed

	mu        sync.Mutex
	waiting   map[*waiter]struct{}
	tickets   uint64
	confirmed time.Time // when the latest successful look or append began
	ended     bool

	// The fields below belong to the goroutine of run.
	flights []*flight
	backlog []work // to be built before new requests
	held    []*held
	served  uint64           // tickets up to this one are served
	foreign uint64           // entries of other processes that were applied
	looks   []*look          // under way
	wanted  bool             // a look is wanted
	pause   <-chan time.Time // until it ends, no look begins
	soon    <-chan time.Time // ends when a look may begin beside another one
	delay   time.Duration    // of the next pause; 0 if the last look succeeded
	failing time.Time        // when the first of the looks that failed began
	patient <-chan time.Time // ends when the replica may have waited too long
	stalled bool             // requests are refused, because the log fails
	// latency is the mean duration of recent appends. The next group is not built before
	// notBefore, so that it can hold more requests.
	latency   time.Duration
	notBefore time.Time
	// lookLatency is the mean duration of recent looks, and lastLook the time when the
	// latest one began. Looks that overlap begin at equal distances, so that the callers
	// of Sync spread evenly over them.
	lookLatency time.Duration
	lastLook    time.Time
	ahead       map[uint64]logged // offered entries whose predecessors are not applied yet
	fed         time.Time         // when the latest offered entry was applied
	dead        bool              // the store has stopped
	closed      bool              // the store is closed, and waits for nothing
	last        <-chan time.Time  // ends the wait of Close; nil until then
}

// waiter is a caller of Sync. A look at the log serves it if it began after the
// waiter drew its ticket.
type waiter struct {
	ticket uint64
	err    error
	done   chan struct{}
}

// work holds requests that are built as one group.
type work struct {
	requests []*request
	// confirmed is set if the head of the log was confirmed after the requests came, so
	// that a refusal is an answer.
	confirmed bool
}

// held is a group that writes nothing. Its answers, refusals and unchanged resources,
// hold if no other process had changed the store when they were submitted.
type held struct {
	work
	over    *flight // on which it was built, if that is not applied yet
	ticket  uint64
	foreign uint64 // replica.foreign when it was built
}

func newReplica(d *DB, conf *Shared) (*replica, error) {
	codec, err := newEntryCodec()
	if err != nil {
		return nil, err
	}
	r := &replica{db: d, conf: conf, codec: codec, kick: make(chan struct{}, 1), closing: make(chan struct{}),
		sent: make(chan sent), looked: make(chan *look), offered: make(chan *offer), ahead: map[uint64]logged{},
		waiting: map[*waiter]struct{}{}}
	r.ctx, r.stop = context.WithCancel(context.Background())
	return r, nil
}

// catchUp applies the log up to its end, before the store is opened.
func (r *replica) catchUp() error {
	id, err := r.conf.Log.Identity(r.ctx)
	if err != nil {
		return r.openError(err)
	}
	if id == (sharedlog.Identity{}) && r.conf.Found {
		id = r.conf.Identity // this process is founding the cluster
	}
	if id.Cluster != r.conf.Identity.Cluster || id.Epoch != r.conf.Identity.Epoch {
		return rejoin("the log is of another cluster or epoch")
	}
	for {
		l := r.read(&look{began: time.Now(), from: r.db.position.Position})
		for _, e := range l.entries {
			if _, err := r.applyForeign(e.entry, e.sum); err != nil {
				return err
			}
		}
		if l.err != nil {
			return r.openError(l.err)
		}
		if !l.more {
			r.confirmed = l.began
			return nil
		}
	}
}

func (r *replica) openError(err error) error {
	if e := mustRejoin(err); e != nil {
		return e
	}
	return unreachable("pebblestore.Open", err)
}

// run is the goroutine of the replica. It ends when DB.in is closed.
func (r *replica) run() {
	defer close(r.db.done)
	defer r.end()
	poll := time.NewTicker(r.conf.Poll)
	defer poll.Stop()
	wake, closing := r.conf.Wake, r.closing
	for {
		r.advance()
		var in <-chan *request
		var later <-chan time.Time
		if wait := time.Until(r.notBefore); r.accepts() && (wait <= 0 || r.stalled || r.dead || r.closed) {
			in = r.db.in
		} else if wait > 0 {
			later = time.After(wait)
		}
		select {
		case q, ok := <-in:
			if !ok {
				return
			}
			r.accept(q)
		case s := <-r.sent:
			r.onSent(s)
		case l := <-r.looked:
			r.onLooked(l)
		case <-r.kick:
		case <-later:
		case <-poll.C:
			r.wanted = r.wanted || len(r.looks) == 0 && r.idle() >= r.conf.Poll/2
		case o := <-r.offered:
			r.onOffered(o)
		case _, ok := <-wake:
			if r.wanted = r.wanted || time.Since(r.fed) >= r.conf.Poll; !ok {
				wake = nil
			}
		case <-r.pause:
			r.pause = nil
		case <-r.soon:
		case <-r.patient:
			r.outOfPatience()
		case <-closing:
			closing = nil
			r.last = time.After(r.conf.limits.grace)
		case <-r.last:
			r.giveUp()
		}
	}
}

// advance does what can be done without waiting.
func (r *replica) advance() {
	if r.db.failed.Load() && !r.dead {
		r.die()
	}
	r.watchTrouble()
	for len(r.backlog) > 0 && r.buildable() {
		w := r.backlog[0]
		r.backlog = r.backlog[1:]
		r.build(w)
	}
	r.advanceLooks()
}

// buildable reports whether another group can be built now.
func (r *replica) buildable() bool {
	if r.dead || len(r.flights) >= r.conf.flights || r.lostPlace() {
		return false
	}
	if len(r.flights) < 2 {
		return true
	}
	bytes := 0
	for _, f := range r.flights {
		bytes += f.stage.batch.Len()
	}
	return bytes < maxBelow
}

// accepts reports whether new requests are taken from the queue.
func (r *replica) accepts() bool {
	return r.dead || r.closed || r.stalled || r.buildable() && len(r.backlog) == 0
}

func (r *replica) accept(q *request) {
	switch {
	case r.dead:
		r.fail([]*request{q}, r.db.errStopped("pebblestore.Commit"))
	case r.closed:
		r.fail([]*request{q}, errClosed("pebblestore.Commit"))
	case r.stalled:
		r.fail([]*request{q}, unreachable("pebblestore.Commit", errors.New("no answer for too long")))
	default:
		r.build(work{requests: r.db.gather(q)})
	}
}

// fail answers requests of which nothing was written, or of which it is not known.
func (r *replica) fail(reqs []*request, err error) {
	for _, q := range reqs {
		q.result, q.commit, q.err = store.Result{}, store.Commit{}, err
	}
	r.answer(reqs)
}

func (r *replica) answer(reqs []*request) {
	for _, q := range reqs {
		close(q.done)
	}
}

// build assembles a group on the newest state, and sends it on its way.
func (r *replica) build(w work) {
	d := r.db
	for _, q := range w.requests {
		q.err = nil
	}
	if !d.refuseForSpace(w.requests) {
		r.answer(w.requests)
		return
	}
	d.meters.group.Record(context.Background(), int64(len(w.requests)))
	s, err := r.assemble(w.requests)
	if err != nil {
		d.fail(err)
		r.backlog = append(r.backlog, w) // die answers it
		return
	}
	if s == nil {
		r.hold(w)
		return
	}
	r.launch(s, w.requests)
}

// assemble builds a group on the state after the groups that are on their way.
func (r *replica) assemble(reqs []*request) (_ *stage, err error) {
	d := r.db
	from := d.base()
	if n := len(r.flights); n > 0 && !r.flights[n-1].applied {
		below := r.flights[n-1].stage
		over := d.pdb.NewIndexedBatch()
		defer fault.Close(over, &err)
		for _, f := range r.flights {
			if f.applied || r.conf.broken.shallow && f.stage != below {
				continue
			}
			if err := over.Apply(f.stage.batch, nil); err != nil {
				return nil, err
			}
		}
		from = base{reader: over, head: below.meta, edge: below.edge, below: below}
	}
	return d.assemble(from, reqs)
}

// hold keeps the answers of a group that writes nothing until they are known to be
// current.
func (r *replica) hold(w work) {
	h := &held{work: w, foreign: r.foreign}
	if n := len(r.flights); n > 0 {
		h.over = r.flights[n-1]
	}
	if !w.confirmed {
		h.ticket = r.draw()
	}
	r.held = append(r.held, h)
	r.release()
}

// release answers the held groups whose answers are known to be current, and builds
// those again that are not.
func (r *replica) release() {
	var keep []*held
	for _, h := range r.held {
		if h.over != nil && h.over.applied {
			h.over = nil
		}
		current := h.ticket <= r.served
		switch {
		case h.over != nil && h.over.gone:
			r.backlog = append(r.backlog, work{h.requests, h.confirmed || current})
		case h.over != nil || !current:
			keep = append(keep, h)
		case h.foreign != r.foreign && !h.confirmed:
			r.backlog = append(r.backlog, work{h.requests, true})
		default:
			r.answer(h.requests)
		}
	}
	r.held = keep
}

// draw returns a new ticket.
func (r *replica) draw() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.tickets++
	return r.tickets
}

func (r *replica) lastTicket() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.tickets
}

// confirm serves those who waited for a look that began after their ticket: the store
// now shows all that was acknowledged before.
func (r *replica) confirm(ticket uint64, began time.Time) {
	r.served = max(r.served, ticket)
	r.mu.Lock()
	if began.After(r.confirmed) {
		r.confirmed = began
	}
	for w := range r.waiting {
		if w.ticket <= r.served {
			delete(r.waiting, w)
			close(w.done)
		}
	}
	r.mu.Unlock()
	r.release()
}

// idle returns the time since the head was confirmed.
func (r *replica) idle() time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	return time.Since(r.confirmed)
}

// sync waits for a look at the log that begins after the call.
func (r *replica) sync(ctx context.Context) error {
	const op = "pebblestore.Sync"
	w := &waiter{done: make(chan struct{})}
	r.mu.Lock()
	if r.ended {
		r.mu.Unlock()
		return errClosed(op)
	}
	r.tickets++
	w.ticket = r.tickets
	r.waiting[w] = struct{}{}
	r.mu.Unlock()
	select {
	case r.kick <- struct{}{}:
	default:
	}
	timeout := time.NewTimer(r.conf.limits.patience)
	defer timeout.Stop()
	var err error
	select {
	case <-w.done:
		return w.err
	case <-ctx.Done():
		err = fault.Canceled(op, ctx.Err())
	case <-timeout.C:
		err = unreachable(op, errors.New("no answer for too long"))
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.waiting, w)
	return err
}

// applyAll applies entries in order, shows them, and calls the watchers.
func (r *replica) applyAll(entries []logged) error {
	var all effects
	for _, e := range entries {
		at := r.db.position.Index
		if e.entry.Index <= at { // an append has told before
			continue
		}
		if e.entry.Index != at+1 {
			return fault.Refusal("the log has left out an entry")
		}
		if len(r.flights) > 0 && r.flights[0].sum == e.sum {
			r.show(&all)
			r.flights[0].durable = true
			if err := r.land(); err != nil {
				return err
			}
			continue
		}
		r.abandon(0) // another entry is at the place of the first
		one, err := r.applyForeign(e.entry, e.sum)
		if err != nil {
			return err
		}
		all.add(one)
	}
	r.show(&all)
	r.forgetOffers()
	return nil
}

// effects collects the values that the read cache must drop, and the commits for the
// watchers, of applied entries.
type effects struct {
	any     bool
	changed []readcache.Key
	commits []store.Commit
}

func (e *effects) add(o *effects) {
	e.any = true
	e.changed = append(e.changed, o.changed...)
	e.commits = append(e.commits, o.commits...)
}

// show publishes the state after entries, and calls the watchers.
func (r *replica) show(e *effects) {
	if !e.any {
		return
	}
	d := r.db
	d.groups++
	v := d.newView()
	d.reads.Drop(e.changed, v.group)
	d.publish(v)
	d.notify(e.commits)
	*e = effects{}
}

// applyForeign applies the rows of an entry of another process, if it is valid.
func (r *replica) applyForeign(e *sharedlog.Entry, sum sharedlog.Hash) (_ *effects, err error) {
	d := r.db
	at := d.position
	next, valid := at.Next(e, sum)
	at.Position = next
	batch := d.pdb.NewBatch()
	defer fault.Close(batch, &err)
	var f *foreign
	if valid {
		if f, err = r.decode(e, batch); err != nil {
			return nil, errDecode{err}
		}
		if err := d.schemas.applied(batch, e); err != nil {
			return nil, err
		}
	}
	if err := batch.Set(keys.Position, at.Encode(), nil); err != nil {
		return nil, err
	}
	if err := d.apply(batch); err != nil {
		return nil, err
	}
	d.position = at
	r.index.Store(at.Index)
	if !valid {
		r.meters.entries.Add(r.ctx, 1, r.meters.void)
		return &effects{any: true}, nil
	}
	r.foreign++
	r.meters.entries.Add(r.ctx, 1, r.meters.foreign)
	d.settleForeign(f)
	out := &effects{any: true, changed: f.changed}
	if f.documents != nil {
		out.commits = d.commits(f)
	}
	return out, nil
}

// decode checks a valid entry and sets the representation of batch to its rows.
func (r *replica) decode(e *sharedlog.Entry, batch *pebble.Batch) (*foreign, error) {
	// Entries of earlier epochs are those before a restore of the log.
	if e.Epoch > r.conf.Identity.Epoch {
		return nil, rejoin("the log has entries of a later epoch")
	}
	if e.Schema > r.conf.newest {
		return nil, tooOld("the log has entries in a newer encoding; install a newer version of this program")
	}
	repr, err := r.codec.unpack(e)
	if err != nil {
		return nil, err
	}
	f, err := scan(e, repr, r.db.head, r.db.watched())
	if err != nil {
		return nil, err
	}
	return f, batch.SetRepr(repr)
}

// troubled reports whether the log fails.
func (r *replica) troubled() bool {
	for _, f := range r.flights {
		if f.troubled || f.taken {
			return true
		}
	}
	return r.delay > 0
}

// waitsSince returns the time since which the replica waits for the log: for the first
// entry on its way, or for a look that succeeds.
func (r *replica) waitsSince() (since time.Time, waits bool) {
	if r.delay > 0 {
		since, waits = r.failing, true
	}
	if len(r.flights) > 0 && (!waits || r.flights[0].began.Before(since)) {
		since, waits = r.flights[0].began, true
	}
	return since, waits
}

// watchTrouble starts the time after which requests are refused because the log does not
// answer, and ends the refusal.
func (r *replica) watchTrouble() {
	if r.last != nil && !r.closed && r.troubled() {
		r.giveUp()
	}
	since, waits := r.waitsSince()
	left := r.conf.limits.patience - time.Since(since)
	if r.stalled = r.stalled && waits && left <= 0; waits && !r.stalled && r.patient == nil {
		r.patient = time.After(max(left, time.Millisecond))
	}
}

// outOfPatience refuses requests if the log has not answered for too long.
func (r *replica) outOfPatience() {
	r.patient = nil
	if since, waits := r.waitsSince(); !waits || time.Since(since) < r.conf.limits.patience {
		return
	}
	r.stalled = true
	r.refuseWaiting(unreachable("pebblestore.Commit", errors.New("no answer for too long")))
}

// refuseWaiting answers the requests of which nothing is on its way.
func (r *replica) refuseWaiting(err error) {
	for _, h := range r.held {
		r.fail(h.requests, err)
	}
	for _, w := range r.backlog {
		r.fail(w.requests, err)
	}
	r.held, r.backlog = nil, nil
}

// giveUp ends the attempts whose outcome is not known, because the store is closed.
func (r *replica) giveUp() {
	r.closed = true
	r.failFlights()
	r.refuseWaiting(errClosed("pebblestore.Commit"))
}

// die answers everybody after the store has stopped.
func (r *replica) die() {
	r.dead = true
	r.failFlights()
	r.refuseWaiting(r.db.errStopped("pebblestore.Commit"))
	r.endWaiters(r.db.errStopped("pebblestore.Sync"), false)
}

// failFlights gives up the groups on their way.
func (r *replica) failFlights() {
	for _, f := range r.ground(0) {
		r.fail(f.requests, errUnknown())
	}
	r.release()
}

func (r *replica) endWaiters(err error, ended bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ended = r.ended || ended
	for w := range r.waiting {
		w.err = err
		close(w.done)
	}
	clear(r.waiting)
}

// end stops the calls of the log.
func (r *replica) end() {
	r.stop()
	r.calls.Wait()
	if err := r.meters.reg.Unregister(); err != nil {
		r.db.opts.Logger.Error("metrics of the log", "error", fault.Describe(err))
	}
	r.endWaiters(errClosed("pebblestore.Sync"), true)
}

// stopped stops the store because of an error that is not one of the disk, or of one.
func (d *DB) stopped(err error) {
	var own fault.Refusal
	if errors.Is(err, ErrRejoin) || errors.As(err, &own) {
		d.why.CompareAndSwap(nil, &err)
	}
	d.fail(err)
}

// errStopped returns the error of every call of a store that has stopped.
func (d *DB) errStopped(op string) error {
	if why := d.why.Load(); why != nil {
		return &fhir.Error{Kind: fhir.Unavailable, Op: op, Err: *why, Issues: []fhir.Issue{{Severity: "error",
			Code: fhir.Unavailable.IssueCode(), Diagnostics: "this server cannot follow the log of its cluster; its log says why"}}}
	}
	return fhir.Errorf(fhir.Unavailable, op, "the store has stopped after a failed write to disk; restart the server")
}
