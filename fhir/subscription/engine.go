package subscription

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/metric"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/egress"
	"pulsegate/fhir/store"
	"pulsegate/fhir/yield"
)

// Options configures an Engine.
type Options struct {
	Store store.Store
	Audit *audit.Recorder
	Clock func() time.Time
	Rand  io.Reader // safe for concurrent use, like crypto/rand.Reader
	// Base is the FHIR base URL without a trailing slash.
	Base   string
	Policy egress.Policy
	// GrantFor compiles the current grant of a client from its registered scopes
	// and the consents. After an error, the client may see nothing.
	GrantFor func(ctx context.Context, clientID string) (*access.Grant, error)
	// HandshakeDelay is the time between the creation of a Subscription and its
	// first handshake, so that the client gets the response to its request first.
	// The default is 1 second.
	HandshakeDelay time.Duration
	// MinBackoff and MaxBackoff bound the wait between attempts. The defaults are
	// 1 second and 1 minute. If an attempt after a wait of MaxBackoff fails, the
	// Subscription goes to error.
	MinBackoff, MaxBackoff time.Duration
	// MaxPerClient bounds the Subscriptions of one client. The default is 100.
	MaxPerClient int
	Logger       *slog.Logger
}

// Engine numbers and delivers events. It is safe for concurrent use.
type Engine struct {
	opts   Options
	client *http.Client
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	stop   func()
	wake   chan struct{}

	mu   sync.Mutex
	subs map[string]*sub // by id, guarded by mu; only the follower changes the map
	// reserved holds, by client and id, when Check accepted a Subscription that the
	// follower has not found in the change log yet. It is guarded by mu.
	reserved map[string]map[string]time.Time
	// cursor is the last commit that the follower has processed, and saved its
	// durable copy. Both belong to the goroutine of follow.
	cursor, saved store.Seq
	// caughtUp is closed when the follower has processed all changes that existed
	// at the start.
	caughtUp chan struct{}

	latency  metric.Float64Histogram
	attempts metric.Int64Counter
}

// sub is the state of one Subscription in memory, a few hundred bytes besides the
// goroutine of its sender.
type sub struct {
	id, owner string
	wake      chan struct{} // capacity 1
	cancel    context.CancelFunc

	// The following fields are guarded by Engine.mu.
	spec      *Spec // nil if the configuration does not support the Subscription
	version   uint64
	status    string
	reason    string
	events    uint64    // number of the last event
	delivered uint64    // number of the last event that the endpoint accepted
	since     time.Time // when this version took effect

	// The following fields belong to the goroutine of follow.
	skip   store.Seq // last commit that the durable count covered at the start
	counts store.Seq // commit of the durable count, while events are only counted
}

// head is the durable state of a Subscription.

type head struct {
	Owner  string `json:"owner"`
	Events uint64 `json:"events"`
	// At is set while events are only counted. Events is then the count up to this
	// commit, otherwise up to the cursor.
	At store.Seq `json:"at,omitempty"`
}

// keyPrefix is the prefix of all state keys of this package.
const keyPrefix = "subscription/"

func headKey(id string) string { return keyPrefix + id + "/head" }
func sentKey(id string) string { return keyPrefix + id + "/sent" }
func eventPrefix(id string) string {
	return keyPrefix + id + "/event/"
}
func eventKey(id string, n uint64) string { return eventPrefix(id) + fmt.Sprintf("%016x", n) }

const cursorKey = keyPrefix + "cursor"

// New starts an Engine, which continues at its durable cursor.
func New(ctx context.Context, o Options) (*Engine, error) {
	const op = "subscription.New"
	if o.Store == nil || o.Audit == nil || o.Clock == nil || o.Rand == nil || o.GrantFor == nil || o.Base == "" {
		return nil, fhir.Errorf(fhir.Internal, op, "Store, Audit, Clock, Rand, Base and GrantFor are required")
	}
	if o.HandshakeDelay <= 0 {
		o.HandshakeDelay = time.Second
	}
	if o.MinBackoff <= 0 {
		o.MinBackoff = time.Second
	}
	if o.MaxBackoff <= 0 {
		o.MaxBackoff = time.Minute
	}
	if o.MaxPerClient <= 0 {
		o.MaxPerClient = 100
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	o.Policy.Timeout = maxTimeout
	e := &Engine{opts: o, client: egress.New(o.Policy), subs: map[string]*sub{}, wake: make(chan struct{}, 1),
		reserved: map[string]map[string]time.Time{}, caughtUp: make(chan struct{})}
	meter := otel.Meter("pulsegate/fhir/subscription")
	var err error
	if e.latency, err = meter.Float64Histogram("pulsegate.subscription.notification.duration", metric.WithUnit("s"),
		metric.WithExplicitBucketBoundaries(.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60,
			300, 900, 3600),
		metric.WithDescription("Time from the numbering of an event to its acceptance by the endpoint")); err != nil {
		return nil, fhir.Wrap(op, err)
	}
	if e.attempts, err = meter.Int64Counter("pulsegate.subscription.notifications", metric.WithUnit("{notification}"),
		metric.WithDescription("Notifications sent, including those that failed")); err != nil {
		return nil, fhir.Wrap(op, err)
	}
	e.ctx, e.cancel = context.WithCancel(context.WithoutCancel(ctx))
	// Watch before the cursor is read, so that no commit is missed.
	e.stop = o.Store.Watch(func(c store.Commit) {
		if len(c.Changes) > 0 || c.Samples > 0 {
			signal(e.wake)
		}
	})
	if err := e.load(ctx); err != nil {
		e.stop()
		e.cancel()
		return nil, fhir.Wrap(op, err)
	}
	signal(e.wake)
	e.wg.Go(e.follow)
	return e, nil
}

// Close stops the follower and all senders and waits for them.
func (e *Engine) Close() {
	e.stop()
	e.cancel()
	e.wg.Wait()
	e.client.CloseIdleConnections()
}

// signal wakes the receiver of c, which has capacity 1.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func (e *Engine) load(ctx context.Context) error {
	v, err := e.opts.Store.Get(ctx, cursorKey)
	if err != nil {
		return err
	}
	if v != nil {
		n, err := strconv.ParseUint(string(v), 10, 64)
		if err != nil {
			return err
		}
		e.cursor, e.saved = store.Seq(n), store.Seq(n)
	}
	heads := map[string]head{}
	var bad error
	err = e.opts.Store.List(ctx, keyPrefix, func(k string, v []byte) bool {
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
			e.cursor = min(e.cursor, h.At)
		}
	}
	for id, h := range heads {
		if err := e.open(ctx, id, h); err != nil {
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
func (e *Engine) open(ctx context.Context, id string, h head) error {
	s := &sub{id: id, owner: h.Owner, events: h.Events, wake: make(chan struct{}, 1), skip: e.saved, counts: h.At}
	if h.At > 0 {
		s.skip = h.At
	}
	v, err := e.opts.Store.Get(ctx, sentKey(id))
	if err != nil {
		return err
	}
	if v != nil {
		if s.delivered, err = strconv.ParseUint(string(v), 10, 64); err != nil {
			return err
		}
	}
	s.delivered = min(s.delivered, s.events)
	res, _, err := e.opts.Store.Read(ctx, fhir.Ref{Type: "Subscription", ID: id}, 0)
	if err != nil {
		return err
	}
	if res.Deleted {
		return nil // the follower removes its state when it reaches the deletion
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.adopt(s, &res)
	e.launch(s)
	return nil
}

// adopt applies a version of the resource. The caller holds mu.
func (e *Engine) adopt(s *sub, res *fhir.Resource) {
	spec, err := parse(res.JSON, e.opts.Base, e.opts.Policy)
	if err != nil {
		// It was accepted under another configuration. Keep it, but send nothing.
		e.opts.Logger.Warn("a subscription is not supported by the current configuration", "subscription", s.id)
		s.spec, s.status, s.reason = nil, "error", "not supported by the current configuration"
	} else {
		s.spec, s.status, s.reason = spec, spec.Status, ""
		if s.status == "error" {
			s.reason = errorText
		}
	}
	s.version, s.since = res.Version, e.opts.Clock()
	signal(s.wake)
}

// launch starts the sender of s. The caller holds mu.
func (e *Engine) launch(s *sub) {
	ctx, cancel := context.WithCancel(e.ctx)
	s.cancel = cancel
	e.subs[s.id] = s
	e.wg.Go(func() { (&sender{engine: e, sub: s}).run(ctx) })
}

// follow processes the change log until the Engine is closed.
func (e *Engine) follow() {
	backoff := e.opts.MinBackoff
	var once sync.Once
	for {
		select {
		case <-e.ctx.Done():
			return
		case <-e.wake:
		}
		for {
			more, err := e.step(e.ctx)
			if e.ctx.Err() != nil {
				return
			}
			if err == nil && !more {
				backoff = e.opts.MinBackoff
				once.Do(func() { close(e.caughtUp) })
				break
			}
			if err != nil {
				e.opts.Logger.Error("subscriptions cannot follow the change log", "error", err)
				if !sleep(e.ctx, nil, backoff) {
					return
				}
				backoff = min(2*backoff, e.opts.MaxBackoff)
			}
		}
	}
}

// yieldEvery is the number of changes, some 200 µs of work, after which the
// follower yields the processor to requests.
const yieldEvery = 128

// stepSize is the number of changes after which the follower commits.
const stepSize = 500

// saveCursor bounds the commits that are processed again after a restart.
const saveCursor = 5000

// step processes about stepSize changes and commits the result.
func (e *Engine) step(ctx context.Context) (more bool, err error) {
	st := &stepState{engine: e, grants: map[string]*access.Grant{}, numbered: map[string]uint64{},
		counted: map[string]uint64{}, runs: map[string]*run{}}
	n, index, pace := 0, uint64(0), yield.Counter{Every: yieldEvery}
	err = e.changes(ctx, func(c *store.Change) bool {
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
		case "Observation":
			st.observation(ctx, c, index)
		case "Subscription":
			// Later changes depend on it, so the step ends with this commit.
			n = stepSize
			st.subs = append(st.subs, *c)
			st.subs[len(st.subs)-1].Facts.Tokens = nil
		}
		return true
	})
	if err != nil || st.to == 0 {
		return false, err
	}
	return more, st.commit(ctx)
}

// changes calls fn for the changes after the cursor. While there is no
// Subscription, it skips the individual samples; the step ends with the commit
// that adds the first Subscription.
func (e *Engine) changes(ctx context.Context, fn func(*store.Change) bool) error {
	e.mu.Lock()
	none := len(e.subs) == 0
	e.mu.Unlock()
	if s, ok := e.opts.Store.(store.Columnar); ok && none {
		return s.ChangesBrief(ctx, e.cursor, fn)
	}
	return e.opts.Store.Changes(ctx, e.cursor, fn)
}

// stepState is the state of one step of the follower. Maps are by subscription
// id, except grants.
type stepState struct {
	engine   *Engine
	to       store.Seq                // last commit of the step
	grants   map[string]*access.Grant // by client id
	numbered map[string]uint64        // number of events with a row
	counted  map[string]uint64        // number of events without a row
	runs     map[string]*run          // runs that the next change may continue
	state    []store.StateWrite
	subs     []store.Change // changes of Subscriptions
	opened   []*sub
	closed   []string
	resuming []string // Subscriptions whose events get rows again
	err      error
}

func (st *stepState) grant(ctx context.Context, owner string) *access.Grant {
	g, ok := st.grants[owner]
	if !ok {
		var err error
		if g, err = st.engine.opts.GrantFor(ctx, owner); err != nil {
			g = nil // permits nothing
		}
		st.grants[owner] = g
	}
	return g
}

// observation numbers a change for every Subscription that it matches. index is
// the index of the change within its commit.
func (st *stepState) observation(ctx context.Context, c *store.Change, index uint64) {
	if c.Deleted {
		return
	}
	e := st.engine
	e.mu.Lock()
	var match []*sub
	for _, s := range e.subs {
		if s.spec != nil && s.status != "off" && c.Seq > s.skip && s.spec.match(&c.Facts) {
			match = append(match, s)
		}
	}
	e.mu.Unlock()
	for _, s := range match {
		g := st.grant(ctx, s.owner)
		if !g.May(access.Read, "Observation") || !g.Filter(access.Read).Allow(&c.Facts) {
			continue
		}
		if st.countOnly(s) {
			st.counted[s.id]++
			continue
		}
		st.numbered[s.id]++
		r := st.runs[s.id]
		if r == nil || !r.follows(c.Seq, index) {
			st.finish(s.id)
			r = &run{event: event{Number: s.events + st.numbered[s.id], At: e.opts.Clock().UTC()}, Seq: c.Seq,
				Index: index}
			st.runs[s.id] = r
		}
		r.add(c)
	}
}

// countOnly reports whether the next event of s is counted without a row. A
// Subscription can remain in error forever, so only its first keepMissed events
// are stored for when it is set to requested again.
func (st *stepState) countOnly(s *sub) bool {
	if st.counted[s.id] > 0 {
		return true // a row must not follow an event without one
	}
	st.engine.mu.Lock()
	defer st.engine.mu.Unlock()
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
	e := st.engine
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
	if len(st.state) > 0 || st.to > e.saved+saveCursor {
		// A step without events usually moves the cursor only in memory. After a
		// restart it is processed again with the same result. The durable cursor
		// never moves back, even if load moved the cursor back for counted events,
		// because the counts of the other Subscriptions are valid up to it.
		to := max(st.to, e.saved)
		st.state = append(st.state, store.StateWrite{Key: cursorKey, Value: strconv.AppendUint(nil, uint64(to), 10)})
		if _, err := e.opts.Store.Commit(ctx, &store.Batch{State: st.state}); err != nil {
			return fhir.Wrap(op, err)
		}
		e.saved = to
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.cursor = st.to
	for id, at := range heads {
		if s := e.subs[id]; s != nil {
			s.counts = at
		}
	}
	for _, numbers := range []map[string]uint64{st.numbered, st.counted} {
		for id, n := range numbers {
			if s := e.subs[id]; s != nil {
				s.events += n
				signal(s.wake)
			}
		}
	}
	for _, s := range st.opened {
		e.release(s.owner, s.id)
		e.launch(s)
	}
	for _, id := range st.closed {
		if s := e.subs[id]; s != nil {
			s.cancel()
			delete(e.subs, id)
		}
	}
	return nil
}

// subscription processes a change of a Subscription.
func (st *stepState) subscription(ctx context.Context, c *store.Change) error {
	e := st.engine
	res, facts, err := e.opts.Store.Read(ctx, c.Ref, 0)
	if err != nil {
		return err
	}
	e.mu.Lock()
	s := e.subs[c.Ref.ID]
	if res.Deleted {
		e.mu.Unlock()
		st.closed = append(st.closed, c.Ref.ID)
		delete(st.numbered, c.Ref.ID)
		delete(st.counted, c.Ref.ID)
		delete(st.runs, c.Ref.ID)
		e.releaseDeleted(c.Ref.ID)
		st.state = withoutKeysOf(st.state, c.Ref.ID)
		return e.opts.Store.List(ctx, keyPrefix+c.Ref.ID+"/", func(k string, _ []byte) bool {
			st.state = append(st.state, store.StateWrite{Key: k})
			return true
		})
	}
	defer e.mu.Unlock()
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
		e.adopt(s, &res)
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

// sleep waits for d or wake. It reports false if ctx ends first.
func sleep(ctx context.Context, wake <-chan struct{}, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-wake:
	case <-t.C:
	}
	return true
}
