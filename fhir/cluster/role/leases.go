package role

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"io"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/store"
)

// DefaultLease is the default of Options.Lease. It is longer than MongoDB's default
// election timeout of 10 seconds, so that an election does not move the roles.
const DefaultLease = 15 * time.Second

// Options configures Leases.
type Options struct {
	// State is the state that all processes share.
	State store.State
	// Node names this process for operators.
	Node string
	// Dir identifies the data directory that this process has locked (package datadir).
	// Leases of the same Node and Dir are those of a process that is gone, and are taken
	// at once. If Dir is empty, no leases are.
	Dir string
	// Lease is the time after which another process may take a role that is not
	// renewed. A lease carries its length, so that processes may differ. The default
	// is DefaultLease.
	Lease time.Duration
	// Clock returns the time with a monotonic reading, as time.Now does. After is
	// time.After by default.
	Clock func() time.Time
	After func(d time.Duration) <-chan time.Time
	// Rand is the source of the instance id. The default is crypto/rand.Reader.
	Rand   io.Reader
	Logger *slog.Logger
}

// Leases gives roles to this process by leases in shared state. It is safe for
// concurrent use.
type Leases struct {
	opts     Options
	instance string // drawn at random, so that a restarted process is another one
	// poll is the interval at which a process looks at the lease of a role that it
	// waits for or holds. spread is the additional wait, per role that the process
	// holds, before it takes another. renewal is the interval of renewals.
	poll, spread, renewal time.Duration

	// taking and renewing have capacity 1. taking is full during an attempt to take a
	// role, so that the number of roles held is right in each attempt, and renewing
	// during a renewal. Who fills renewing may use failing, which is set if the last
	// renewal failed.
	taking, renewing chan struct{}
	failing          bool
	mu               sync.Mutex
	held             map[string]*term // by role, guarded by mu

	// closing ends with Close. runs counts the calls of Run; none begins once closed is
	// set, which mu guards.
	closing context.Context
	close   context.CancelFunc
	runs    sync.WaitGroup
	closed  bool
}

var _ Roles = (*Leases)(nil)

// New returns Leases that hold no role yet.
func New(o Options) (*Leases, error) {
	const op = "role.New"
	if o.State == nil || o.Node == "" || o.Clock == nil {
		return nil, fhir.Errorf(fhir.Internal, op, "State, Node and Clock are required")
	}
	if o.Lease <= 0 {
		o.Lease = DefaultLease
	}
	if o.After == nil {
		o.After = time.After
	}
	if o.Rand == nil {
		o.Rand = rand.Reader
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	var id [8]byte
	if _, err := io.ReadFull(o.Rand, id[:]); err != nil {
		return nil, fhir.Wrap(op, err)
	}
	l := &Leases{opts: o, instance: hex.EncodeToString(id[:]), poll: o.Lease / 100, spread: o.Lease / 50,
		renewal: o.Lease / 4, taking: make(chan struct{}, 1), renewing: make(chan struct{}, 1),
		held: map[string]*term{}}
	l.closing, l.close = context.WithCancel(context.Background())
	return l, nil
}

// Close ends the work of all roles, waits for it, and releases the roles. Calls of Run
// return, and later ones do nothing. Call it before the state is closed.
func (l *Leases) Close() {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	l.close()
	l.runs.Wait()
}

// lease is the content of the row of a role.
type lease struct {
	Node string `json:"node,omitempty"`
	Dir  string `json:"dir,omitempty"`
	// Instance is empty if the role is free.
	Instance string        `json:"instance,omitempty"`
	Epoch    uint64        `json:"epoch"`
	Lease    time.Duration `json:"lease,omitempty"`
	Since    time.Time     `json:"since,omitzero"`
}

// renewal is the content of the row of renewals of a role.
type renewal struct {
	Epoch uint64    `json:"epoch"`
	Count uint64    `json:"count"`
	At    time.Time `json:"at"`
}

const keyPrefix = "role/"

func leaseKey(name string) string   { return keyPrefix + name }
func renewedKey(name string) string { return keyPrefix + name + "/renewed" }

// encode returns the JSON of a lease or renewal, whose types cannot fail to encode.
func encode(v any) []byte {
	b, _ := json.Marshal(v)
	return b
}

// Run implements Roles.
func (l *Leases) Run(ctx context.Context, name string, work func(context.Context, Term)) {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return
	}
	l.runs.Add(1)
	l.mu.Unlock()
	defer l.runs.Done()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	defer context.AfterFunc(l.closing, stop)()
	for {
		t := l.acquire(ctx, name)
		if t == nil {
			return
		}
		if lost := l.hold(ctx, t, work); lost {
			continue
		}
		// The work has given up. Leave the role to others for a while.
		select {
		case <-ctx.Done():
			return
		case <-l.opts.After(l.opts.Lease):
		}
	}
}

// candidate holds the rows of a role that a process waits for.
type candidate struct {
	// row and renewed are the values of the two rows, and since is the time at which
	// they were first seen.
	row, renewed []byte
	since        time.Time
	seen         bool
}

// acquire waits until this process takes a role. It returns nil if ctx ends first.
func (l *Leases) acquire(ctx context.Context, name string) *term {
	var c candidate
	failing := false
	for ctx.Err() == nil {
		t, err := l.try(ctx, name, &c)
		if t != nil {
			return t
		}
		failed := err != nil && !store.Lost(err) && ctx.Err() == nil
		if failed && !failing { // once per outage
			l.opts.Logger.WarnContext(ctx, "a role cannot be taken", "role", name, "error", err)
		}
		failing = failed
		select {
		case <-ctx.Done():
		case <-l.opts.After(l.poll):
		}
	}
	return nil
}

// try looks at the lease of a role and takes it if it is free or has not been renewed
// for its length.
func (l *Leases) try(ctx context.Context, name string, c *candidate) (*term, error) {
	row, err := l.opts.State.Get(ctx, leaseKey(name))
	if err != nil {
		return nil, err
	}
	renewed, err := l.opts.State.Get(ctx, renewedKey(name))
	if err != nil {
		return nil, err
	}
	// The time is read after the rows: they were written before it.
	now := l.opts.Clock()
	if !c.seen || !bytes.Equal(row, c.row) || !bytes.Equal(renewed, c.renewed) {
		*c = candidate{row, renewed, now, true}
	}
	var have lease
	if row != nil {
		if err := json.Unmarshal(row, &have); err != nil {
			return nil, fhir.Wrap("role.try", err)
		}
	}
	select {
	case <-ctx.Done():
		return nil, nil
	case l.taking <- struct{}{}:
	}
	defer func() { <-l.taking }()
	if now.Sub(c.since) < l.patience(name, &have) {
		return nil, nil
	}
	return l.take(ctx, name, have.Epoch+1, c)
}

// patience returns the time for which a role must have been as it is before this
// process takes it.
func (l *Leases) patience(name string, have *lease) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	d := time.Duration(len(l.held)) * l.spread
	if have.Instance == "" || have.Instance == l.instance && l.held[name] == nil {
		// The role is free, or this process took it in a commit whose answer was lost.
		return d
	}
	if have.Instance != l.instance && have.Dir != "" && have.Dir == l.opts.Dir && have.Node == l.opts.Node {
		return d // the process that held the lock of this directory before this one
	}
	return d + max(l.opts.Lease, have.Lease)
}

// take commits a takeover that no renewal and no other takeover has preceded.
func (l *Leases) take(ctx context.Context, name string, epoch uint64, c *candidate) (*term, error) {
	began := l.opts.Clock()
	t := &term{leases: l, name: name, epoch: epoch, renewed: began,
		value: encode(lease{Node: l.opts.Node, Dir: l.opts.Dir, Instance: l.instance, Epoch: epoch, Lease: l.opts.Lease,
			Since: began.UTC()})}
	writes := []store.StateWrite{{Key: leaseKey(name), Value: t.value}, t.renew(began)}
	for i, old := range [][]byte{c.row, c.renewed} {
		if writes[i].Expect = store.StateAbsent; old != nil {
			writes[i].Expect, writes[i].Old = store.StateEquals, old
		}
	}
	done := l.begin(ctx, &store.Batch{State: writes})
	select {
	case err := <-done:
		if err != nil {
			return nil, err
		}
		return t, nil
	case <-ctx.Done():
		l.giveBack(ctx, t, done)
		return nil, ctx.Err()
	}
}

// giveBack releases a role whose takeover was interrupted, because it may be committed all
// the same. Others would wait for the end of the lease.
func (l *Leases) giveBack(ctx context.Context, t *term, done <-chan error) {
	end, stop := context.WithTimeout(context.WithoutCancel(ctx), releaseTimeout)
	defer stop()
	select {
	case <-end.Done():
		return
	case <-done: // an error does not say that nothing is committed
	}
	if err := l.release(end, t); err != nil && !store.Lost(err) {
		l.opts.Logger.WarnContext(end, "a role cannot be released", "role", t.name, "error", err)
	}
}

// release commits that a role is free, if its row is still that of the term.
func (l *Leases) release(ctx context.Context, t *term) error {
	return l.commit(ctx, &store.Batch{State: []store.StateWrite{{Key: leaseKey(t.name),
		Value: encode(lease{Epoch: t.epoch}), Expect: store.StateEquals, Old: t.value}}})
}

// commit commits a batch and returns when ctx ends, even if the store does not.
func (l *Leases) commit(ctx context.Context, b *store.Batch) error {
	return await(ctx, l.begin(ctx, b))
}

// begin begins to commit a batch. The channel receives the outcome.
func (l *Leases) begin(ctx context.Context, b *store.Batch) <-chan error {
	done := make(chan error, 1)
	go func() {
		_, err := l.opts.State.Commit(ctx, b)
		done <- err
	}()
	return done
}

// await returns the outcome of a commit, or an error when ctx ends.
func await(ctx context.Context, done <-chan error) error {
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return &fhir.Error{Kind: fhir.Unavailable, Op: "role.commit", Err: ctx.Err()}
	}
}

// releaseTimeout bounds the commit that releases a role.
const releaseTimeout = 2 * time.Second

// hold runs work until it returns, and releases the role. It reports whether the role
// was lost.
func (l *Leases) hold(ctx context.Context, t *term, work func(context.Context, Term)) (lost bool) {
	running, cancel := context.WithCancel(ctx)
	t.cancel = cancel
	l.mu.Lock()
	l.held[t.name] = t
	l.mu.Unlock()
	l.opts.Logger.InfoContext(ctx, "this process has taken a role", "role", t.name, "epoch", t.epoch)
	var wg sync.WaitGroup
	wg.Go(func() { t.watch(running) })
	wg.Go(func() { t.keep(running) })
	work(running, t)
	cancel()
	wg.Wait()
	l.mu.Lock()
	delete(l.held, t.name)
	t.over, lost = true, t.lost
	l.mu.Unlock()
	if lost {
		return true
	}
	end, stop := context.WithTimeout(context.WithoutCancel(ctx), releaseTimeout)
	defer stop()
	if err := l.release(end, t); err != nil {
		l.opts.Logger.WarnContext(end, "a role cannot be released", "role", t.name, "error", err)
	}
	return false
}

// renewAll renews all roles of this process in one commit, if that of t is due.
func (l *Leases) renewAll(ctx context.Context, t *term) {
	select {
	case <-ctx.Done():
		return
	case l.renewing <- struct{}{}:
	}
	defer func() { <-l.renewing }()
	if t.due() > 0 {
		return // renewed together with another role
	}
	began := l.opts.Clock()
	l.mu.Lock()
	terms := slices.Collect(maps.Values(l.held))
	l.mu.Unlock()
	b := &store.Batch{}
	for _, t := range terms {
		t.Bind(b)
		b.State = append(b.State, t.renew(began))
	}
	err := l.commit(ctx, b)
	failed := err != nil && !store.Lost(err) && ctx.Err() == nil
	if failed && !l.failing { // once per outage
		l.opts.Logger.WarnContext(ctx, "roles cannot be renewed", "error", err)
	}
	l.failing = failed
	if store.Lost(err) {
		for _, t := range terms {
			_ = t.check(ctx)
		}
		return // those that are left are renewed in the next attempt
	}
	if err == nil {
		l.mu.Lock()
		defer l.mu.Unlock()
		for _, t := range terms {
			t.renewed = began
		}
	}
}
