package sync

import (
	"context"
	"encoding/json"
	"strings"
	"time"

	"pulsegate/adapters/link"
	"pulsegate/fhir"
	"pulsegate/fhir/cluster/follow"
	"pulsegate/fhir/cluster/role"
	"pulsegate/fhir/store"
)

// Keys by which other processes tell the holder of the role what to do.
const (
	newPrefix    = "sync/new/"
	pullPrefix   = "sync/pull/"
	budgetPrefix = "sync/budget/"
)

// watched is a store that tells of its commits.
type watched interface {
	store.State
	Sync(ctx context.Context) error
	Watch(fn func(store.Commit)) (stop func())
}

// current makes this process show what all processes have stored.
func (e *Engine) current(ctx context.Context) error {
	if !e.shared {
		return nil
	}
	return fhir.Wrap("sync.current", e.Store.(watched).Sync(ctx)) // as New has checked
}

// ended returns a context that has ended.
func ended() context.Context {
	ctx, stop := context.WithCancel(context.Background())
	stop()
	return ctx
}

// lead reads the links until ctx ends, which is when the role is lost.
func (e *Engine) lead(ctx context.Context, t role.Term) {
	defer e.resign()
	for {
		err := e.begin(ctx, t)
		if err == nil {
			break
		}
		if ctx.Err() == nil {
			e.Logger.Error("sync: the links could not be read", "error", err.Error())
		}
		if !wait(ctx, minWait, make(chan struct{})) {
			return
		}
		e.resign()
	}
	e.turns(ctx)
}

// begin reads what the store holds of the links.
func (e *Engine) begin(ctx context.Context, t role.Term) error {
	e.mu.Lock()
	e.term = t
	for _, d := range e.duties {
		d.due = e.Clock()
	}
	e.mu.Unlock()
	if e.shared {
		if err := e.loadBudgets(ctx); err != nil {
			return err
		}
	}
	links, err := e.Links.List(ctx, "")
	if err != nil {
		return err
	}
	for _, l := range links {
		p, err := e.loadPlan(ctx, l.ID)
		if err != nil {
			return err
		}
		e.add(l, p)
	}
	return e.readInbox(ctx)
}

// addChanged adds a link that has changed and is not in memory. It has a stored plan if
// the links are being read, and if another process has read it.
func (e *Engine) addChanged(l link.Link) error {
	var p *plan
	if e.shared {
		var err error
		if p, err = e.loadPlan(context.Background(), l.ID); err != nil {
			return err
		}
	}
	e.add(l, p)
	return nil
}

// resign forgets the links, which another process reads from now on.
func (e *Engine) resign() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.term, e.backlog = nil, 0
	e.tasks, e.accounts, e.queued = map[string]*task{}, map[string]string{}, map[string]struct{}{}
	for _, v := range e.order {
		v.urgent, v.polls = nil, nil
	}
}

// commit commits a batch of the holder of the role. It fails with Conflict if the role is
// lost.
func (e *Engine) commit(ctx context.Context, writes ...store.StateWrite) error {
	b := &store.Batch{State: writes}
	e.bind(b)
	_, err := e.Store.Commit(ctx, b)
	return err
}

// bind ties a batch to the role.
func (e *Engine) bind(b *store.Batch) {
	e.mu.Lock()
	t := e.term
	e.mu.Unlock()
	if t != nil {
		t.Bind(b)
	}
}

// followEvery is the shortest time between two looks for what other processes did.
const followEvery = 100 * time.Millisecond

// followStore follows what other processes do, until ctx ends.
func (e *Engine) followStore(ctx context.Context) {
	committed, stop := follow.Watch(e.Store.(watched)) // as New has checked
	defer stop()
	for {
		for e.followOnce(ctx) {
		}
		if !wait(ctx, followEvery, make(chan struct{})) {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-committed:
		}
	}
}

// followMost bounds the rows of each kind that followOnce handles in one commit.
const followMost = 500

// followOnce follows changes of links, new notifications, and requests to poll. It
// reports whether there may be more.
func (e *Engine) followOnce(ctx context.Context) (more bool) {
	var done []store.StateWrite
	for _, follow := range []func(context.Context) ([]store.StateWrite, error){e.followLinks, e.followInbox,
		e.followPulls} {
		rows, err := follow(ctx)
		if err != nil && ctx.Err() == nil {
			e.Logger.Warn("sync: changes by other servers could not be read", "error", err.Error())
		}
		done, more = append(done, rows...), more || len(rows) >= followMost
	}
	if len(done) == 0 {
		return false
	}
	// A link that has changed again is looked at again.
	if err := e.commit(ctx, done...); err != nil {
		if !store.Lost(err) && ctx.Err() == nil {
			e.Logger.Warn("sync: followed changes could not be removed", "error", err.Error())
		}
		return false
	}
	return more
}

func (e *Engine) followLinks(ctx context.Context) (done []store.StateWrite, err error) {
	changes, err := e.Links.Changes(ctx, followMost)
	for i := range changes {
		l, err := e.Links.Get(ctx, changes[i].ID)
		if err != nil && fhir.KindOf(err) != fhir.NotFound {
			return done, err
		}
		if err != nil {
			l = link.Link{ID: changes[i].ID, Status: link.Ended}
		}
		if err := e.followLink(l); err != nil {
			return done, err
		}
		done = append(done, changes[i].Seen())
	}
	return done, err
}

func (e *Engine) followInbox(ctx context.Context) (done []store.StateWrite, err error) {
	var suffixes []string
	err = e.Store.List(ctx, newPrefix, func(key string, _ []byte) bool {
		suffixes = append(suffixes, strings.TrimPrefix(key, newPrefix))
		return len(suffixes) < followMost
	})
	for _, suffix := range suffixes {
		if err != nil || e.full() {
			return done, err
		}
		var value []byte
		if value, err = e.Store.Get(ctx, inboxPrefix+suffix); err == nil && value != nil {
			e.readEntry(ctx, inboxPrefix+suffix, value)
		}
		done = append(done, store.StateWrite{Key: newPrefix + suffix})
	}
	return done, err
}

func (e *Engine) followPulls(ctx context.Context) (done []store.StateWrite, err error) {
	err = e.Store.List(ctx, pullPrefix, func(key string, value []byte) bool {
		done = append(done, store.StateWrite{Key: strings.Clone(key), Expect: store.StateEquals,
			Old: []byte(string(value))})
		return len(done) < followMost
	})
	for i := range done {
		_ = e.pull(strings.TrimPrefix(done[i].Key, pullPrefix)) // the link may have ended
	}
	return done, err
}

// full reports whether no more events fit into memory.
func (e *Engine) full() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.backlog >= maxBacklog
}

// maxNew bounds the notifications that the holder of the role has not looked at.
const maxNew = 20_000

// crowded reports whether notifications must be refused.
func (e *Engine) crowded(ctx context.Context) bool {
	if !e.shared {
		return e.full()
	}
	n := 0
	err := e.Store.List(ctx, newPrefix, func(string, []byte) bool { n++; return n < maxNew })
	return err != nil || n >= maxNew
}

// leads reports whether this process reads the links.
func (e *Engine) leads() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.term != nil
}

// storedTask returns the state of a link that another process reads, as of the latest
// commit of its plan.
func (e *Engine) storedTask(ctx context.Context, id string) (*task, error) {
	l, err := e.Links.Get(ctx, id)
	if err != nil {
		return nil, err
	}
	v := e.vendors[l.Vendor]
	if v == nil {
		return nil, noLink("sync.Status")
	}
	p, err := e.loadPlan(ctx, id)
	if err != nil {
		return nil, err
	}
	if p == nil {
		p = &plan{Streams: map[string]*progress{}}
	}
	p.complete(&l, v.streams, e.Clock(), e.Backfill)
	t := &task{id: id, vendor: v, link: l, plan: p, due: p.due(e.Clock())}
	t.shown = t.status()
	return t, nil
}

// level is the state of a budget, for the next process with the role.
type level struct {
	Left    float64   `json:"left"` // requests; negative if the budget is overdrawn
	At      time.Time `json:"at,omitzero"`
	Blocked time.Time `json:"blocked,omitzero"` // no request before
}

// saveBudgetEvery is the time between two saves of the budget of a vendor.
const saveBudgetEvery = 10 * time.Second

// saveBudget stores the budget of a vendor, unless that was done within saveBudgetEvery.
func (e *Engine) saveBudget(ctx context.Context, v *vendor) {
	e.mu.Lock()
	now := e.Clock()
	state := v.application.level(now)
	if state.Blocked = v.blocked; !v.blocked.After(now) {
		state.Blocked = time.Time{}
	}
	same := state.Blocked.Equal(v.saved.Blocked) &&
		(v.application.limit == nil || now.Sub(v.saved.At) < saveBudgetEvery)
	if !same {
		v.saved = state
	}
	e.mu.Unlock()
	if same {
		return
	}
	b, err := json.Marshal(state)
	if err == nil {
		err = e.commit(ctx, store.StateWrite{Key: budgetPrefix + v.Code(), Value: b})
	}
	if err != nil && ctx.Err() == nil {
		e.Logger.Warn("sync: a budget could not be stored", "vendor", v.Code(), "error", err.Error())
	}
}

// loadBudgets continues the budgets of the vendors.
func (e *Engine) loadBudgets(ctx context.Context) error {
	for _, v := range e.order {
		raw, err := e.Store.Get(ctx, budgetPrefix+v.Code())
		if err != nil {
			return err
		}
		var state level
		if raw != nil {
			if err := json.Unmarshal(raw, &state); err != nil {
				return fhir.Wrap("sync.budget", err)
			}
		}
		e.mu.Lock()
		v.application = newBucket(v.limits.Application)
		v.application.resume(state, e.Clock())
		v.blocked, v.saved = state.Blocked, state
		e.mu.Unlock()
	}
	return nil
}
