package sync

import (
	"container/heap"
	"context"
	"log/slog"
	"sync"
	"time"

	"pulsegate/adapters/link"
	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/cluster/role"
	"pulsegate/fhir/store"
	"pulsegate/mapping/ingest"
)

// Ingester stores what was read. *ingest.Pipeline implements it.
type Ingester interface {
	Run(ctx context.Context, req ingest.Request) (ingest.Summary, error)
	Retract(ctx context.Context, r ingest.Retraction) (ingest.Summary, error)
}

// Consents reports whether data may be collected. *consent.Engine implements it.
type Consents interface {
	Collects(ctx context.Context, patient, vendor string) (fhir.Ref, bool, error)
}

// Options configures an Engine.
type Options struct {
	Store    store.State
	Links    *link.Links
	Ingest   Ingester
	Consents Consents
	Clock    func() time.Time
	// Hooks is the URL below which the vendors' webhooks are, without a trailing
	// slash, or "" if vendors cannot reach this server. Then everything is polled.
	Hooks string
	// Backfill is the time before the linking for which data are read. The default is
	// 90 days.
	Backfill time.Duration
	// Workers is the number of turns that run at a time. The default is 16.
	Workers int
	// LateAfter is the time without data after which a link is late. The default is
	// 48 hours: several vendors send data only when their app is opened.
	LateAfter time.Duration
	// Roles gives the role "vendor-sync", whose holder reads the links. The default is
	// role.Alone. With others, the store must be a store.Store, and Links.Clustered set.
	Roles  role.Roles
	Logger *slog.Logger
}

// Engine keeps the data of all links up to date. It is safe for concurrent use.
type Engine struct {
	Options
	meters meters

	mu       sync.Mutex
	wake     chan struct{} // closed when the queue has changed
	tasks    map[string]*task
	accounts map[string]string // ids of links by vendor and account
	turn     uint64            // number of turns queued, to order turns that are due at one time
	vendors  map[string]*vendor
	order    []*vendor // those of vendors; the one whose turn was longest ago is first
	backlog  int       // events in memory
	duties   []*duty
	changed  map[string]struct{} // patients whose Consents have changed
	consent  chan struct{}       // has an element if changed may have one
	// term is nil while another process has the role. Without other
	// processes, it never ends.
	term   role.Term
	queued map[string]struct{} // keys of the notifications in memory, if shared

	shared bool // several processes share the store
}

// task is the work for one link. id and vendor do not change. The plan belongs to
// the worker of the running turn, and the engine's mutex guards everything else.
type task struct {
	id      string
	vendor  *vendor
	link    link.Link
	plan    *plan
	account *bucket
	events  []*event
	ended   bool

	shown status // as of the latest turn

	running bool
	queue   *queue // that holds the task, or nil
	index   int    // in queue
	due     time.Time
	turn    uint64

	failures int
	blocked  time.Time // no turn before
	pull     bool      // all streams are to be polled
	again    time.Time // a turn that was asked for while one was running
}

// queue is a heap of tasks.
type queue []*task

func (q queue) Len() int { return len(q) }
func (q queue) Less(i, j int) bool {
	a, b := q[i], q[j]
	if !a.due.Equal(b.due) {
		return a.due.Before(b.due)
	}
	return a.turn < b.turn
}
func (q queue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].index, q[j].index = i, j
}
func (q *queue) Push(x any) {
	t := x.(*task)
	t.queue, t.index = q, len(*q)
	*q = append(*q, t)
}
func (q *queue) Pop() any {
	old := *q
	t := old[len(old)-1]
	old[len(old)-1] = nil
	*q = old[:len(old)-1]
	t.queue = nil
	return t
}

// New returns an Engine for the links in the store. Work begins with Run or Drain.
func New(ctx context.Context, o Options) (*Engine, error) {
	const op = "sync.New"
	if o.Backfill == 0 {
		o.Backfill = 90 * 24 * time.Hour
	}
	if o.Workers == 0 {
		o.Workers = 16
	}
	if o.LateAfter == 0 {
		o.LateAfter = 48 * time.Hour
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	e := &Engine{Options: o, wake: make(chan struct{}), tasks: map[string]*task{}, accounts: map[string]string{},
		queued: map[string]struct{}{}, vendors: map[string]*vendor{}, changed: map[string]struct{}{},
		consent: make(chan struct{}, 1)}
	for _, v := range o.Links.Vendors {
		one := newVendor(v)
		e.vendors[v.Code()], e.order = one, append(e.order, one)
	}
	if o.Roles == nil {
		e.Roles = role.Alone{}
	}
	_, alone := e.Roles.(role.Alone)
	if e.shared = !alone; e.shared {
		if _, ok := o.Store.(watched); !ok || !o.Links.Clustered {
			return nil, fhir.Errorf(fhir.Internal, op, "Store must be a store.Store, and Links.Clustered set")
		}
	}
	e.addDuties()
	var err error
	if e.meters, err = newMeters(e); err != nil {
		return nil, err
	}
	if !e.shared {
		// The work begins before Run for the sake of Drain.
		role.Alone{}.Run(ended(), "", func(_ context.Context, t role.Term) { err = e.begin(ctx, t) })
		if err != nil {
			return nil, fhir.Wrap(op, err)
		}
	}
	o.Links.Notify(e.linkChanged)
	return e, nil
}

// caller returns the agent of the engine's actions in the audit trail.
func caller() audit.Caller {
	return audit.Caller{Principal: &access.Principal{Operator: "sync", Grant: access.All()}, RequestID: fhir.RandomID()}
}

func accountKey(vendor, account string) string { return vendor + "/" + account }

// add adds a link that is not known yet, with its stored plan or nil.
func (e *Engine) add(l link.Link, p *plan) *task {
	e.mu.Lock()
	defer e.mu.Unlock()
	v := e.vendors[l.Vendor]
	if v == nil {
		return nil // the vendor is no longer configured
	}
	if t := e.tasks[l.ID]; t != nil {
		return t // another notice of the same change was faster
	}
	if p == nil {
		p = &plan{Streams: map[string]*progress{}}
	}
	p.complete(&l, v.streams, e.Clock(), e.Backfill)
	t := &task{id: l.ID, vendor: v, link: l, plan: p, account: newBucket(v.limits.Account)}
	if e.shared {
		t.account.resume(p.Budget, e.Clock())
		t.blocked = p.Budget.Blocked
	}
	e.tasks[l.ID] = t
	for _, a := range l.Accounts {
		e.accounts[accountKey(l.Vendor, a)] = l.ID
	}
	t.shown = t.status()
	e.schedule(t, time.Time{})
	return t
}

// linkChanged follows a change of a link by this process.
func (e *Engine) linkChanged(l link.Link) {
	if err := e.followLink(l); err != nil {
		// begin reads the plan, or followStore looks at the change again.
		e.Logger.Warn("sync: a plan could not be read", "link", l.ID, "error", err.Error())
	}
}

// followLink follows a change of a link.
func (e *Engine) followLink(l link.Link) error {
	e.mu.Lock()
	t := e.tasks[l.ID]
	if t == nil {
		working := e.term != nil
		e.mu.Unlock()
		if l.Status != link.Ended && working {
			return e.addChanged(l)
		}
		return nil
	}
	var dropped []*entry
	switch connected := l.Connected.After(t.link.Connected); {
	case l.Status == link.Ended:
		t.ended = true
		delete(e.tasks, l.ID)
		for _, a := range t.link.Accounts {
			if key := accountKey(t.link.Vendor, a); e.accounts[key] == l.ID {
				delete(e.accounts, key)
			}
		}
		dropped = e.drop(t)
		t.leave()
	default:
		t.link = l
		if connected {
			for _, a := range l.Accounts {
				e.accounts[accountKey(l.Vendor, a)] = l.ID
			}
			t.failures, t.blocked = 0, time.Time{}
			e.schedule(t, e.Clock())
		}
	}
	e.mu.Unlock()
	ctx := context.Background()
	e.handledAll(ctx, dropped)
	if l.Status == link.Ended {
		e.log(e.deletePlan(ctx, l.ID), t, "plan")
	}
	return nil
}

// schedule puts a task into a queue of its vendor, for the given time or, if that is
// zero, for when its plan is due. The caller holds the mutex.
func (e *Engine) schedule(t *task, at time.Time) {
	if t.running {
		if !at.IsZero() && (t.again.IsZero() || at.Before(t.again)) {
			t.again = at
		}
		return
	}
	t.leave()
	if t.ended || t.stopped() {
		return
	}
	now := e.Clock()
	q := &t.vendor.polls
	if at.IsZero() {
		at = t.plan.due(now)
	}
	if len(t.events) > 0 {
		q, at = &t.vendor.urgent, now
	}
	if at.Before(t.blocked) {
		at = t.blocked
	}
	e.turn++
	t.due, t.turn = at, e.turn
	heap.Push(q, t)
	close(e.wake)
	e.wake = make(chan struct{})
}

// leave removes the task from its queue.
func (t *task) leave() {
	if t.queue != nil {
		heap.Remove(t.queue, t.index)
	}
}

// stopped reports whether the link cannot be read until a person acts.
func (t *task) stopped() bool { return t.link.Status == link.Reconnect || t.link.Status == link.Gone }

func maxTime(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func minTime(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// next takes the task of the next turn. If none is due, it returns nil, the time at
// which one may be, which is farFuture if there is none, and a channel that is closed
// when a queue has changed.
func (e *Engine) next() (*task, time.Time, <-chan struct{}) {
	e.mu.Lock()
	defer e.mu.Unlock()
	now := e.Clock()
	first := farFuture
	for i, v := range e.order {
		t, at := v.next(now)
		if t != nil {
			e.order = append(append(e.order[:i:i], e.order[i+1:]...), v)
			t.running, t.again = true, time.Time{}
			return t, now, e.wake
		}
		first = minTime(first, at)
	}
	return nil, first, e.wake
}

// perform performs the turn of a task.
func (e *Engine) perform(ctx context.Context, t *task) {
	if e.shared {
		defer e.saveBudget(ctx, t.vendor)
	}
	if e.finished(t, e.take(ctx, t)) {
		// The link ended during its turn, which may have stored the plan again.
		e.log(e.deletePlan(context.WithoutCancel(ctx), t.id), t, "plan")
	}
}

// finished puts a task back after its turn. A zero time means when the plan is due. It
// reports whether the link has ended.
func (e *Engine) finished(t *task, at time.Time) (ended bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	t.running, t.shown = false, t.status()
	if e.tasks[t.id] != t && !t.ended { // the role was lost
		return false
	}
	if !t.again.IsZero() && (at.IsZero() || t.again.Before(at)) {
		at = t.again
	}
	e.schedule(t, at)
	return t.ended
}

// Run works until ctx ends, and returns when the turns under way have ended. Of several
// processes, one reads the links at a time.
func (e *Engine) Run(ctx context.Context) {
	var wg sync.WaitGroup
	wg.Go(func() { e.followConsents(ctx) })
	if e.shared {
		e.Roles.Run(ctx, "vendor-sync", e.lead)
	} else {
		e.turns(ctx)
	}
	wg.Wait()
	e.Links.Wait()
}

// turns takes turns and performs duties until ctx ends.
func (e *Engine) turns(ctx context.Context) {
	var wg sync.WaitGroup
	for range e.Workers {
		wg.Go(func() { e.work(ctx) })
	}
	wg.Go(func() { e.performDuties(ctx) })
	if e.shared {
		wg.Go(func() { e.followStore(ctx) })
	}
	wg.Wait()
}

func (e *Engine) work(ctx context.Context) {
	for ctx.Err() == nil {
		t, at, changed := e.next()
		if t != nil {
			e.perform(ctx, t)
			continue
		}
		if !wait(ctx, at.Sub(e.Clock()), changed) {
			return
		}
	}
}

// wait waits for a time or for changed, and reports whether ctx is alive.
func wait(ctx context.Context, d time.Duration, changed <-chan struct{}) bool {
	t := time.NewTimer(min(max(d, time.Millisecond), time.Hour))
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-changed:
	case <-t.C:
	}
	return true
}

// Drain does everything that is due at the time of the clock, in the calling
// goroutine, and returns the number of turns. It is for tests and for tools that
// control the clock.
func (e *Engine) Drain(ctx context.Context) int {
	turns := 0
	for ctx.Err() == nil {
		e.followChanges(ctx)
		if e.shared {
			e.followOnce(ctx)
		}
		e.performDue(ctx)
		t, _, _ := e.next()
		if t == nil {
			return turns
		}
		turns++
		e.perform(ctx, t)
	}
	return turns
}

// NextDue returns the time of the next turn or duty.
func (e *Engine) NextDue() time.Time {
	e.mu.Lock()
	defer e.mu.Unlock()
	at := farFuture
	for _, v := range e.order {
		for _, q := range []queue{v.urgent, v.polls} {
			if len(q) > 0 {
				at = minTime(at, maxTime(q[0].due, v.blocked))
			}
		}
	}
	for _, d := range e.duties {
		at = minTime(at, d.due)
	}
	return at
}
