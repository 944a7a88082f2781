package subscription

import (
	"context"
	"encoding/json"
	"strconv"
	"strings"
	"sync"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/cluster/follow"
	"pulsegate/fhir/store"
	"pulsegate/fhir/yield"
)

// follower numbers and delivers events while this process holds the role.
type follower struct {
	*Engine
	opts    Options // those of the Engine, with a store that is bound to the term
	ctx     context.Context
	senders sync.WaitGroup

	mu   sync.Mutex
	subs map[string]*sub // by id, guarded by mu; only the goroutine of Step changes the map
	// cursor is the last commit that the follower has processed, and durable its
	// durable copy. Both belong to the goroutine of Step.
	cursor  store.Seq
	durable follow.Cursor
	// index and evaluations, the number of rules that changes were compared with, belong
	// to the goroutine of Step.
	index       index
	evaluations uint64
}

// sub is the state of one Subscription in memory, a few hundred bytes besides the
// goroutine of its sender.
type sub struct {
	id, owner string
	wake      chan struct{} // capacity 1
	cancel    context.CancelFunc

	// The following fields are guarded by follower.mu.
	spec      *Spec // nil if the configuration does not support the Subscription
	version   uint64
	status    string
	reason    string
	events    uint64    // number of the last event
	delivered uint64    // number of the last event that the endpoint accepted
	since     time.Time // when this version took effect

	// The following fields belong to the goroutine of Step.
	skip   store.Seq // last commit that the durable count covered at the start
	counts store.Seq // commit of the durable count, while events are only counted
	rules  []*rule   // in the index
}

// Load implements follow.Work.
func (f *follower) Load(ctx context.Context) error {
	if _, err := f.durable.Load(ctx, f.opts.Store); err != nil {
		return err
	}
	f.cursor = f.durable.Saved
	heads := map[string]head{}
	var bad error
	err := f.opts.Store.List(ctx, keyPrefix, func(k string, v []byte) bool {
		id, ok := strings.CutSuffix(strings.TrimPrefix(k, keyPrefix), "/head")
		if !ok {
			return true
		}
		var h head
		if bad = json.Unmarshal(v, &h); bad != nil {
			return false
		}
		heads[id] = h
		return true
	})
	if err != nil || bad != nil {
		return fhir.Wrap("subscription.load", firstOf(err, bad))
	}
	for _, h := range heads {
		if h.At > 0 { // later events must be counted again
			f.cursor = min(f.cursor, h.At)
		}
	}
	for id, h := range heads {
		if err := f.open(ctx, id, h); err != nil {
			return err
		}
	}
	return nil
}

func firstOf(a, b error) error {
	if a != nil {
		return a
	}
	return b
}

// open restores a Subscription after a restart.
func (f *follower) open(ctx context.Context, id string, h head) error {
	s := &sub{id: id, owner: h.Owner, events: h.Events, wake: make(chan struct{}, 1), skip: f.durable.Saved,
		counts: h.At}
	if h.At > 0 {
		s.skip = h.At
	}
	v, err := f.opts.Store.Get(ctx, sentKey(id))
	if err != nil {
		return err
	}
	if v != nil {
		if s.delivered, err = strconv.ParseUint(string(v), 10, 64); err != nil {
			return err
		}
	}
	s.delivered = min(s.delivered, s.events)
	res, _, err := f.opts.Store.Read(ctx, fhir.Ref{Type: "Subscription", ID: id}, 0)
	if err != nil {
		return err
	}
	if res.Deleted {
		return nil // the follower removes its state when it reaches the deletion
	}
	if err := f.adopt(ctx, s, &res); err != nil {
		return err
	}
	f.launch(s)
	return nil
}

// adopt applies a version of the resource. Only the goroutine of Step calls it.
func (f *follower) adopt(ctx context.Context, s *sub, res *fhir.Resource) error {
	spec, status, reason, err := f.interpret(ctx, res.JSON)
	if err != nil {
		return err
	}
	if spec == nil {
		f.opts.Logger.Warn("a subscription is not supported by the current configuration", "subscription", s.id)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	s.spec, s.status, s.reason = spec, status, reason
	s.version, s.since = res.Version, f.opts.Clock()
	if f.subs[s.id] == s { // otherwise launch does it
		f.reindex(s, spec, status)
	}
	follow.Signal(s.wake)
	return nil
}

// interpret returns the content, the status, and the reason of a status error of a
// stored Subscription. The content is nil if the Subscription was accepted under
// another configuration. It is kept then, but nothing is sent.
func (e *Engine) interpret(ctx context.Context, body []byte) (spec *Spec, status, reason string, err error) {
	p, err := e.parser(ctx)
	if err != nil {
		return nil, "", "", err
	}
	spec, err = p.parse(body)
	switch {
	case err != nil:
		return nil, "error", "not supported by the current configuration", nil
	case spec.Status == "error" && spec.Error != "":
		return spec, spec.Status, spec.Error, nil
	case spec.Status == "error":
		return spec, spec.Status, errorText, nil
	}
	return spec, spec.Status, "", nil
}

// launch starts the sender of s. Only the goroutine of Step calls it.
func (f *follower) launch(s *sub) {
	ctx, cancel := context.WithCancel(f.ctx)
	f.mu.Lock()
	defer f.mu.Unlock()
	s.cancel = cancel
	f.subs[s.id] = s
	f.reindex(s, s.spec, s.status)
	f.senders.Go(func() { (&sender{follower: f, sub: s}).run(ctx) })
}

// Step implements follow.Work. It processes the change log up to its end.
func (f *follower) Step(ctx context.Context) (next time.Duration, err error) {
	for more := true; more && err == nil && ctx.Err() == nil; {
		more, err = f.step(ctx)
	}
	return 0, err
}

// Close implements follow.Work.
func (f *follower) Close() { f.senders.Wait() }

// yieldEvery is the number of changes, some 200 µs of work, after which the
// follower yields the processor to requests.
const yieldEvery = 128

// stepSize is the number of changes after which the follower commits.
const stepSize = 500

// step processes about stepSize changes and commits the result.
func (f *follower) step(ctx context.Context) (more bool, err error) {
	st := &stepState{follower: f, grants: map[string]*access.Grant{}, numbered: map[string]uint64{},
		counted: map[string]uint64{}, runs: map[string]*run{}}
	n, index, pace := 0, uint64(0), yield.Counter{Every: yieldEvery}
	err = f.changes(ctx, func(c *store.Change) bool {
		// Process commits whole, because the cursor cannot point inside one.
		if n >= stepSize && c.Seq != st.to {
			more = true
			return false
		}
		n++
		pace.Add(1) // a commit may be large, and requests are waiting
		index++
		if c.Seq != st.to {
			st.to, index = c.Seq, 0
		}
		switch c.Ref.Type {
		case "Subscription":
			// Later changes depend on it, so the step ends with this commit.
			n = stepSize
			st.subs = append(st.subs, *c)
			st.subs[len(st.subs)-1].Facts.Tokens = nil
			return true
		case "Basic": // it may be a topic
			n = stepSize
			st.topics = true
		case "":
			return true
		}
		if st.err = st.change(ctx, c, index); st.err != nil {
			return false
		}
		return true
	})
	if err == nil {
		err = st.err
	}
	if err != nil || st.to == 0 {
		return false, err
	}
	return more, st.commit(ctx)
}

// changes calls fn for the changes after the cursor. While there is no
// Subscription, it skips the individual samples; the step ends with the commit
// that adds the first Subscription.
func (f *follower) changes(ctx context.Context, fn func(*store.Change) bool) error {
	f.mu.Lock()
	none := len(f.subs) == 0
	f.mu.Unlock()
	if s, ok := f.opts.Store.(store.Columnar); ok && none {
		return s.ChangesBrief(ctx, f.cursor, fn)
	}
	return f.opts.Store.Changes(ctx, f.cursor, fn)
}

// stepState is the state of one step of the follower. Maps are by subscription
// id, except grants.
type stepState struct {
	follower *follower
	to       store.Seq                // last commit of the step
	grants   map[string]*access.Grant // by client id
	numbered map[string]uint64        // number of events with a row
	counted  map[string]uint64        // number of events without a row
	runs     map[string]*run          // runs that the next change may continue
	state    []store.StateWrite
	subs     []store.Change // changes of Subscriptions
	topics   bool           // whether a Basic has changed
	opened   []*sub
	closed   []string
	resuming []string // Subscriptions whose events get rows again
	err      error
}

func (st *stepState) grant(ctx context.Context, owner string) *access.Grant {
	g, ok := st.grants[owner]
	if !ok {
		var err error
		if g, err = st.follower.opts.GrantFor(ctx, owner); err != nil {
			g = nil // permits nothing
		}
		st.grants[owner] = g
	}
	return g
}

// countOnly reports whether the next event of s is counted without a row. A
// Subscription can remain in error forever, so only its first keepMissed events
// are stored for when it is set to requested again.
func (st *stepState) countOnly(s *sub) bool {
	if st.counted[s.id] > 0 {
		return true // a row must not follow an event without one
	}
	st.follower.mu.Lock()
	defer st.follower.mu.Unlock()
	return s.status == "error" && s.events+st.numbered[s.id]-s.delivered >= keepMissed
}

// finish adds the rows of the current run of a Subscription to the state.
func (st *stepState) finish(id string) {
	r := st.runs[id]
	if r == nil {
		return
	}
	delete(st.runs, id)
	var err error
	if st.state, err = r.rows(st.state, id); err != nil {
		st.err = err
	}
}

// commit makes the step durable and applies it to the Engine.
func (st *stepState) commit(ctx context.Context) error {
	const op = "subscription.step"
	f := st.follower
	for i := range st.subs {
		if err := st.subscription(ctx, &st.subs[i]); err != nil {
			return fhir.Wrap(op, err)
		}
	}
	for id := range st.runs {
		st.finish(id)
	}
	if st.err != nil {
		return fhir.Wrap(op, st.err)
	}
	heads, err := st.heads()
	if err != nil {
		return fhir.Wrap(op, err)
	}
	if len(st.state) > 0 || f.durable.Due(st.to) {
		// The durable cursor never moves back, even if Load moved the cursor back for
		// counted events, because the counts of the other Subscriptions are valid up
		// to it.
		to := max(st.to, f.durable.Saved)
		st.state = append(st.state, f.durable.Write(to))
		if _, err := f.opts.Store.Commit(ctx, &store.Batch{State: st.state}); err != nil {
			return fhir.Wrap(op, err)
		}
		f.durable.Saved = to
	}
	f.apply(st, heads)
	if st.topics {
		return f.refresh(ctx)
	}
	return nil
}

// apply applies a committed step.
func (f *follower) apply(st *stepState, heads map[string]store.Seq) {
	f.mu.Lock()
	f.cursor = st.to
	for id, at := range heads {
		if s := f.subs[id]; s != nil {
			s.counts = at
		}
	}
	for _, numbers := range []map[string]uint64{st.numbered, st.counted} {
		for id, n := range numbers {
			if s := f.subs[id]; s != nil {
				s.events += n
				follow.Signal(s.wake)
			}
		}
	}
	f.mu.Unlock()
	for _, s := range st.opened {
		f.launch(s)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, id := range st.closed {
		if s := f.subs[id]; s != nil {
			s.cancel()
			f.reindex(s, nil, "")
			delete(f.subs, id)
		}
	}
}

// refresh interprets all Subscriptions again, after topics have changed.
func (f *follower) refresh(ctx context.Context) error {
	for id, s := range f.subs { // only this goroutine changes the map
		res, _, err := f.opts.Store.Read(ctx, fhir.Ref{Type: "Subscription", ID: id}, 0)
		if err != nil {
			return err
		}
		if res.Deleted || res.Version != s.version {
			continue // its change comes later in the log
		}
		if err := f.adopt(ctx, s, &res); err != nil {
			return err
		}
	}
	return nil
}

// subscription processes a change of a Subscription.
func (st *stepState) subscription(ctx context.Context, c *store.Change) error {
	f := st.follower
	res, facts, err := f.opts.Store.Read(ctx, c.Ref, 0)
	if err != nil {
		return err
	}
	s := f.subs[c.Ref.ID] // only this goroutine changes the map
	if res.Deleted {
		st.closed = append(st.closed, c.Ref.ID)
		delete(st.numbered, c.Ref.ID)
		delete(st.counted, c.Ref.ID)
		delete(st.runs, c.Ref.ID)
		st.state = withoutKeysOf(st.state, c.Ref.ID)
		return f.opts.Store.List(ctx, keyPrefix+c.Ref.ID+"/", func(k string, _ []byte) bool {
			st.state = append(st.state, store.StateWrite{Key: k})
			return true
		})
	}
	if s == nil {
		for _, opened := range st.opened {
			if opened.id == c.Ref.ID {
				s = opened
			}
		}
	}
	if s == nil {
		s = &sub{id: c.Ref.ID, owner: facts.Author, wake: make(chan struct{}, 1)}
		st.opened = append(st.opened, s)
		v, err := json.Marshal(head{Owner: s.owner})
		if err != nil {
			return err
		}
		st.state = append(st.state, store.StateWrite{Key: headKey(s.id), Value: v},
			store.StateWrite{Key: sentKey(s.id)})
	}
	if s.version != res.Version {
		if err := f.adopt(ctx, s, &res); err != nil {
			return err
		}
		if s.counts > 0 && s.status != "error" {
			st.resuming = append(st.resuming, s.id)
		}
	}
	return nil
}

// withoutKeysOf removes the writes for a Subscription.
func withoutKeysOf(in []store.StateWrite, id string) []store.StateWrite {
	out := in[:0]
	for _, w := range in {
		if !strings.HasPrefix(w.Key, keyPrefix+id+"/") {
			out = append(out, w)
		}
	}
	return out
}
