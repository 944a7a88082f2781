package push

import (
	"bytes"
	"context"
	"maps"
	"math"
	"slices"
	"sync"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/cluster/follow"
	"pulsegate/fhir/cluster/role"
	"pulsegate/fhir/store"
	"pulsegate/fhir/yield"
)

// follower follows the change log and sends while this process holds the role.
type follower struct {
	*Engine
	opts  Options // those of the Engine, with a store that is bound to the term
	ctx   context.Context
	term  role.Term
	tasks sync.WaitGroup // senders and other goroutines of the term
	// look wakes attend, after commits of other processes; capacity 1.
	look    chan struct{}
	unwatch func() // nil if attend is not woken by commits

	// stepping is held during a step and while the targets are read, so that no step
	// queues for a target that is removed, or misses one that is added. It guards closed,
	// which is set when no task may be started any more; revision, that of the targets
	// that were read last, and known, which is set if the senders correspond to them; and
	// purging, the names of the targets with state that is being deleted.
	stepping sync.Mutex
	closed   bool
	revision []byte
	known    bool
	purging  map[string]bool

	mu sync.Mutex
	// targets holds the senders by name. Both are guarded by mu: the map, and cursor, the
	// last commit that the follower has processed.
	targets map[string]*sender
	cursor  store.Seq
	// durable is the durable copy of cursor. It belongs to the goroutine of Step.
	durable follow.Cursor
}

// Load implements follow.Work.
func (f *follower) Load(ctx context.Context) error {
	if !f.role.Alone() { // no other process changes the targets of one that is alone
		f.unwatch = f.opts.Store.Watch(func(store.Commit) { follow.Signal(f.look) })
	}
	found, err := f.durable.Load(ctx, f.opts.Store)
	if err != nil {
		return err
	}
	if f.cursor = f.durable.Saved; !found {
		// Nothing has been queued yet.
		f.cursor = f.opts.Store.LastSeq()
		all, err := f.rows(ctx)
		if err != nil {
			return err
		}
		for i := range all {
			f.cursor = min(f.cursor, all[i].From)
		}
	}
	if err := f.refresh(); err != nil {
		return err
	}
	f.tasks.Go(f.attend)
	return nil
}

// attend reads the targets again after commands at other processes have changed them.
func (f *follower) attend() {
	loop := follow.Loop{Wake: f.look, Pause: attendEvery, MinBackoff: f.opts.MinBackoff,
		MaxBackoff: f.opts.MaxBackoff,
		Failed:     func(err error) { f.opts.Logger.ErrorContext(f.ctx, "targets cannot be read", "error", err) }}
	loop.Run(f.ctx, func(context.Context) (next time.Duration, err error) { return 0, f.refresh() })
}

// attendEvery is the least time between two looks for changed targets.
const attendEvery = 50 * time.Millisecond

// refresh starts, stops and changes the senders so that they correspond to the stored
// targets.
func (f *follower) refresh() error {
	f.manage.Lock()
	defer f.manage.Unlock()
	f.stepping.Lock()
	defer f.stepping.Unlock()
	return store.Retry(maxTries, "push.refresh", "other processes change targets", f.read)
}

// read does the work of refresh. Its error is a Conflict if another process changes
// targets meanwhile. The caller holds stepping.
func (f *follower) read() error {
	if f.closed {
		return nil
	}
	if err := f.ctx.Err(); err != nil { // the role is lost, so that every commit fails
		return fhir.Wrap("push.refresh", err)
	}
	// The revision is read first: a change meanwhile is seen by the next call.
	current, err := f.opts.Store.Get(f.ctx, revisionKey)
	if err != nil || f.known && bytes.Equal(current, f.revision) {
		return fhir.Wrap("push.refresh", err)
	}
	f.known, f.revision = false, current
	all, err := f.rows(f.ctx)
	if err != nil {
		return err
	}
	for i := range all {
		if err := f.apply(&all[i]); err != nil {
			return fhir.Wrap("push.refresh", err)
		}
	}
	f.known = true
	return nil
}

// apply makes the sender of a target correspond to it. The caller holds stepping.
func (f *follower) apply(t *targetRow) error {
	f.mu.Lock()
	s := f.targets[t.Name]
	if s != nil {
		s.target = t.Target
	}
	if t.Status == removed {
		delete(f.targets, t.Name)
	}
	f.mu.Unlock()
	switch {
	case t.Status == removed && !f.purging[t.Name]:
		f.purging[t.Name] = true
		f.tasks.Go(func() { f.purge(f.ctx, t.Name, s) })
	case t.Status == removed:
	case s != nil:
		follow.Signal(s.wake)
	default:
		return f.launch(t)
	}
	return nil
}

// launch starts the sender of a target. The caller holds stepping.
func (f *follower) launch(t *targetRow) error {
	s, err := newSender(f.ctx, f, t.Target)
	if err != nil {
		return err
	}
	if t.Joining {
		if err := f.join(f.ctx, s, t.row); err != nil {
			return err
		}
	}
	f.mu.Lock()
	f.targets[t.Name] = s
	f.mu.Unlock()
	run, cancel := context.WithCancel(f.ctx)
	s.cancel = cancel
	f.tasks.Go(func() { defer close(s.ended); s.run(run) })
	return nil
}

// join queues for a new target what has changed between its addition, possibly at
// another process, and the cursor. The caller holds stepping.
func (f *follower) join(ctx context.Context, s *sender, row []byte) error {
	f.mu.Lock()
	cursor := f.cursor
	f.mu.Unlock()
	from := s.target.From
	for more := from < cursor; more; {
		st := f.newStep(ctx, s)
		var err error
		if from, more, err = st.scan(from, cursor); err == nil {
			err = st.flushAll()
		}
		if err == nil && len(st.state) > 0 {
			err = f.commitState(ctx, st.state...)
		}
		if err != nil {
			return err
		}
	}
	t := s.target
	t.Joining = false
	w, err := t.write()
	if err != nil {
		return err
	}
	w.Expect, w.Old = store.StateEquals, row
	next, err := revision(f.revision)
	if err != nil {
		return err
	}
	if err := f.commitState(ctx, w, next); err != nil {
		return err
	}
	s.target, f.revision = t, next.Value
	return nil
}

// commitState is a Commit for changes that no command made.
func (f *follower) commitState(ctx context.Context, ws ...store.StateWrite) error {
	_, err := f.opts.Store.Commit(ctx, &store.Batch{State: ws})
	return err
}

// Step implements follow.Work. It processes the change log up to its end.
func (f *follower) Step(ctx context.Context) (next time.Duration, err error) {
	for more := true; more && err == nil && ctx.Err() == nil; {
		more, err = f.step(ctx)
	}
	return 0, err
}

// Close implements follow.Work.
func (f *follower) Close() {
	if f.unwatch != nil {
		f.unwatch()
	}
	f.stepping.Lock()
	f.closed = true
	f.stepping.Unlock()
	f.tasks.Wait()
}

const (
	// yieldEvery is the number of changes after which the follower yields the
	// processor to requests.
	yieldEvery = 128
	// stepSize is the number of changes after which the follower commits.
	stepSize = 500
)

// step queues about stepSize changes and commits the result.
func (f *follower) step(ctx context.Context) (more bool, err error) {
	f.stepping.Lock()
	defer f.stepping.Unlock()
	f.mu.Lock()
	from := f.cursor
	senders := slices.Collect(maps.Values(f.targets))
	f.mu.Unlock()
	st := f.newStep(ctx, senders...)
	if len(senders) == 0 { // a target that is added later gets what changes from then on
		if to := f.opts.Store.LastSeq(); to > from {
			return false, f.commit(ctx, st, to)
		}
		return false, nil
	}
	to, more, err := st.scan(from, math.MaxUint64)
	if err != nil || to == from {
		return more, err
	}
	return more, f.commit(ctx, st, to)
}

// newStep returns a step that queues for some targets.
func (f *follower) newStep(ctx context.Context, senders ...*sender) *stepState {
	return &stepState{follower: f, ctx: ctx, senders: senders, grants: map[string]*access.Grant{},
		rows: map[string]*row{}}
}

// scan queues about stepSize changes after from and at most up to last, and returns the
// last commit that it has processed.
func (st *stepState) scan(from, last store.Seq) (to store.Seq, more bool, err error) {
	n, pace := 0, yield.Counter{Every: yieldEvery}
	to = from
	fn := func(c *store.Change) bool {
		// Process commits whole, because the cursor cannot point inside one.
		if c.Seq > last || n >= stepSize && c.Seq != to {
			more = c.Seq <= last
			return false
		}
		n++
		pace.Add(1)
		to = c.Seq
		if c.Ref.Type == "Observation" {
			st.observation(c)
		}
		return st.err == nil
	}
	if err = st.follower.opts.Store.Changes(st.ctx, from, fn); err == nil {
		err = st.err
	}
	return to, more, fhir.Wrap("push.step", err)
}

// commit makes a step durable.
func (f *follower) commit(ctx context.Context, st *stepState, to store.Seq) error {
	if err := st.flushAll(); err != nil {
		return err
	}
	if len(st.state) > 0 || f.durable.Due(to) {
		st.state = append(st.state, f.durable.Write(to))
		if err := f.commitState(ctx, st.state...); err != nil {
			return fhir.Wrap("push.step", err)
		}
		f.durable.Saved = to
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.cursor = to
	for name := range st.woken {
		if s := f.targets[name]; s != nil {
			follow.Signal(s.wake)
		}
	}
	return nil
}

// stepState is the state of one step of the follower.
type stepState struct {
	follower *follower
	ctx      context.Context
	senders  []*sender
	grants   map[string]*access.Grant // by client id
	rows     map[string]*row          // the row that the next id of a target and patient joins
	state    []store.StateWrite
	woken    map[string]bool // names of targets with new rows
	err      error
}

func (st *stepState) grant(clientID string) *access.Grant {
	g, ok := st.grants[clientID]
	if !ok {
		var err error
		if g, err = st.follower.opts.GrantFor(st.ctx, clientID); err != nil {
			g = nil // permits nothing
		}
		st.grants[clientID] = g
	}
	return g
}

// observation queues a change for every target that is to get it.
func (st *stepState) observation(c *store.Change) {
	f := st.follower
	var to []*Target
	f.mu.Lock()
	for _, s := range st.senders {
		// A deleted Observation may have to be retracted, whatever it is now.
		if c.Seq > s.target.From && s.target.Status != removed && (c.Deleted || s.target.match(&c.Facts)) {
			t := s.target
			to = append(to, &t)
		}
	}
	f.mu.Unlock()
	for _, t := range to {
		if c.Facts.Patient == "" || !c.Deleted && !visible(st.grant(t.Recipient), &c.Facts) {
			continue
		}
		st.add(t.Name, c.Facts.Patient, c.Seq, c.Ref.ID)
	}
}

// add queues an id.
func (st *stepState) add(target, patient string, seq store.Seq, id string) {
	key := rowPrefix("queue", target) + patient + "/"
	r := st.rows[key]
	if r != nil && (r.seq != seq || len(r.IDs) >= maxRow) {
		next := 0
		if r.seq == seq {
			next = r.number + 1
		}
		st.flush(key)
		r = &row{seq: seq, number: next}
		st.rows[key] = r
	} else if r == nil {
		r = &row{seq: seq}
		st.rows[key] = r
	}
	if len(r.IDs) == 0 {
		r.At = st.follower.opts.Clock().UnixMilli()
	}
	r.IDs = append(r.IDs, id)
	if st.woken == nil {
		st.woken = map[string]bool{}
	}
	st.woken[target] = true
}

// flush adds the open row with a key prefix to the state.
func (st *stepState) flush(prefix string) {
	w, err := st.rows[prefix].write(prefix)
	if err != nil {
		st.err = err
		return
	}
	st.state = append(st.state, w)
	delete(st.rows, prefix)
}

// flushAll adds all open rows to the state.
func (st *stepState) flushAll() error {
	for key := range st.rows {
		st.flush(key)
	}
	return fhir.Wrap("push.step", st.err)
}

// purge ends the sender of a removed target, if there is one, and deletes the state of
// the target, its own row last. After a crash, the next holder of the role continues.
func (f *follower) purge(ctx context.Context, name string, s *sender) {
	if s != nil {
		s.cancel()
		<-s.ended
	}
	if err := f.deleteRows(ctx, name); err != nil {
		if ctx.Err() == nil {
			f.opts.Logger.Error("the state of a removed target cannot be deleted", "target", name, "error", err)
		}
		return
	}
	f.stepping.Lock()
	defer f.stepping.Unlock()
	delete(f.purging, name)
}

func (f *follower) deleteRows(ctx context.Context, name string) error {
	for _, kind := range rowKinds() {
		for {
			var ws []store.StateWrite
			err := f.opts.Store.List(ctx, rowPrefix(kind, name), func(k string, _ []byte) bool {
				ws = append(ws, store.StateWrite{Key: k})
				return len(ws) < 1000
			})
			if err == nil && len(ws) > 0 {
				err = f.commitState(ctx, ws...)
			}
			if err != nil {
				return fhir.Wrap("push.deleteRows", err)
			}
			if len(ws) == 0 {
				break
			}
		}
	}
	return f.commitState(ctx, store.StateWrite{Key: statKey(name)}, store.StateWrite{Key: targetKey(name)})
}
