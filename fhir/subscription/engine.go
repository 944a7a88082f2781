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

// Options of an Engine.
type Options struct {
	Store store.Store
	Audit *audit.Recorder
	Clock func() time.Time
	Rand  io.Reader // safe for concurrent use, as crypto/rand.Reader
	// Base is the FHIR base URL, without a slash at the end.
	Base   string
	Policy egress.Policy
	// GrantFor compiles what a client may do now, from its registered scopes
	// and the consents. An error means that it may see nothing.
	GrantFor func(ctx context.Context, clientID string) (*access.Grant, error)
	// HandshakeDelay is the time between the creation and the first
	// handshake, so that the client has its answer before. Zero: 1 s.
	HandshakeDelay time.Duration
	// MinBackoff and MaxBackoff bound the wait between attempts. Zero: 1 s
	// and 1 min. After an attempt that had waited MaxBackoff the
	// Subscription goes to error.
	MinBackoff, MaxBackoff time.Duration
	// MaxPerClient bounds the Subscriptions of one client. Zero: 100.
	MaxPerClient int
	Logger       *slog.Logger
}

// Engine numbers and delivers events.
type Engine struct {
	opts   Options
	client *http.Client
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	stop   func()
	wake   chan struct{}

	mu     sync.Mutex
	subs   map[string]*sub
	cursor store.Seq // of the follower; only it uses the two
	saved  store.Seq // the durable one
	// reserved are the Subscriptions that Check has let through and that the
	// follower has not met yet, guarded by mu.
	reserved map[string]map[string]time.Time
	// behind is closed once the follower has done what was there at the start.
	behind chan struct{}

	latency  metric.Float64Histogram
	attempts metric.Int64Counter
}

// sub is one Subscription in memory: a few hundred bytes and its sender.
type sub struct {
	id, owner string
	wake      chan struct{} // capacity 1
	cancel    context.CancelFunc

	// guarded by Engine.mu
	spec      *Spec
	version   uint64
	status    string
	reason    string
	events    uint64 // numbers given
	delivered uint64 // last number answered
	since     time.Time

	// Only the follower uses these.
	skip   store.Seq // after a restart: what the durable number counts already
	counts store.Seq // the commit of the durable number, while events are only counted
}

type head struct {
	Owner  string `json:"owner"`
	Events uint64 `json:"events"`
	// At is set while events are only counted: Events counts up to this commit.
	// Otherwise it counts up to the cursor.
	At store.Seq `json:"at,omitempty"`
}

const room = "subscription/"

func headKey(id string) string { return room + id + "/head" }
func sentKey(id string) string { return room + id + "/sent" }
func eventPrefix(id string) string {
	return room + id + "/event/"
}
func eventKey(id string, n uint64) string { return eventPrefix(id) + fmt.Sprintf("%016x", n) }

const cursorKey = room + "cursor"

// New starts an Engine: it takes up its cursor and goes on.
func New(ctx context.Context, o Options) (*Engine, error) {
	const op = "subscription.New"
	if o.Store == nil || o.Audit == nil || o.Clock == nil || o.Rand == nil || o.GrantFor == nil || o.Base == "" {
		return nil, fhir.Errorf(fhir.Internal, op, "store, audit, clock, randomness, base and GrantFor are needed")
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
		reserved: map[string]map[string]time.Time{}, behind: make(chan struct{})}
	meter := otel.Meter("pulsegate/fhir/subscription")
	var err error
	if e.latency, err = meter.Float64Histogram("pulsegate.subscription.notification.duration", metric.WithUnit("s"),
		metric.WithExplicitBucketBoundaries(.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60,
			300, 900, 3600),
		metric.WithDescription("From the numbering of an event to its acceptance by the endpoint")); err != nil {
		return nil, fhir.Wrap(op, err)
	}
	if e.attempts, err = meter.Int64Counter("pulsegate.subscription.notifications", metric.WithUnit("{notification}"),
		metric.WithDescription("Notifications sent, failed ones too")); err != nil {
		return nil, fhir.Wrap(op, err)
	}
	e.ctx, e.cancel = context.WithCancel(context.WithoutCancel(ctx))
	// Watch before the cursor is read: no commit falls in between.
	e.stop = o.Store.Watch(func(c store.Commit) {
		if len(c.Changes) > 0 || c.Samples > 0 {
			poke(e.wake)
		}
	})
	if err := e.load(ctx); err != nil {
		e.stop()
		e.cancel()
		return nil, fhir.Wrap(op, err)
	}
	poke(e.wake)
	e.wg.Go(e.follow)
	return e, nil
}

// Close stops following and sending, and waits for it.
func (e *Engine) Close() {
	e.stop()
	e.cancel()
	e.wg.Wait()
	e.client.CloseIdleConnections()
}

func poke(c chan struct{}) {
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
	err = e.opts.Store.List(ctx, room, func(k string, v []byte) bool {
		id, ok := strings.CutSuffix(strings.TrimPrefix(k, room), "/head")
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
		if h.At > 0 { // what came later is not counted durably
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

// open takes a numbered Subscription up again after a restart.
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
		return nil // its change is still before the follower, which clears up
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.adopt(s, &res)
	e.launch(s)
	return nil
}

// adopt puts a version of the resource in force. The caller holds mu.
func (e *Engine) adopt(s *sub, res *fhir.Resource) {
	spec, err := Parse(res.JSON, e.opts.Base, e.opts.Policy)
	if err != nil {
		// Accepted under another configuration: it stays, and sends nothing.
		e.opts.Logger.Warn("subscription is not offered any more", "subscription", s.id)
		s.spec, s.status, s.reason = nil, "error", "not offered by the present configuration"
	} else {
		s.spec, s.status, s.reason = spec, spec.Status, ""
		if s.status == "error" {
			s.reason = errorText
		}
	}
	s.version, s.since = res.Version, e.opts.Clock()
	poke(s.wake)
}

// launch starts the sender of s. The caller holds mu.
func (e *Engine) launch(s *sub) {
	ctx, cancel := context.WithCancel(e.ctx)
	s.cancel = cancel
	e.subs[s.id] = s
	e.wg.Go(func() { (&sender{e: e, s: s}).run(ctx) })
}

// follow walks the change log.
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
				once.Do(func() { close(e.behind) })
				break
			}
			if err != nil {
				e.opts.Logger.Error("subscriptions cannot follow the change log", "err", err)
				if !sleep(e.ctx, nil, backoff) {
					return
				}
				backoff = min(2*backoff, e.opts.MaxBackoff)
			}
		}
	}
}

// yieldEvery is the number of changes after which the follower yields the
// processor, about 200 us.
const yieldEvery = 128

// stepSize bounds the changes of one commit of the follower.
const stepSize = 500

// saveCursor bounds the commits that are walked again after a restart.
const saveCursor = 5000

// step does up to stepSize changes in one commit.
func (e *Engine) step(ctx context.Context) (more bool, err error) {
	st := &stepState{e: e, grants: map[string]*access.Grant{}, given: map[string]uint64{},
		counted: map[string]uint64{}, runs: map[string]*run{}}
	n, place, pace := 0, uint64(0), yield.Counter{Every: yieldEvery}
	err = e.changes(ctx, func(c *store.Change) bool {
		// A commit is done whole: the cursor cannot stand inside one.
		if n >= stepSize && c.Seq != st.to {
			more = true
			return false
		}
		n++
		pace.Add(1)
		place++
		if c.Seq != st.to {
			st.to, place = c.Seq, 0
		}
		switch c.Ref.Type {
		case "Observation":
			st.observation(ctx, c, place)
		case "Subscription":
			// What comes later must see it: the step ends with this commit.
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

// changes are those behind the cursor. As long as there is no Subscription
// nobody wants to know of samples one by one; a step ends with the commit that
// brings the first.
func (e *Engine) changes(ctx context.Context, fn func(*store.Change) bool) error {
	e.mu.Lock()
	none := len(e.subs) == 0
	e.mu.Unlock()
	if s, ok := e.opts.Store.(store.Columnar); ok && none {
		return s.ChangesBrief(ctx, e.cursor, fn)
	}
	return e.opts.Store.Changes(ctx, e.cursor, fn)
}

// stepState is one step of the follower.
type stepState struct {
	e      *Engine
	to     store.Seq
	grants map[string]*access.Grant
	given  map[string]uint64 // events given in this step, by subscription
	runs   map[string]*run   // that may go on, by subscription
	// counted are events without a row, by subscription.
	counted map[string]uint64
	state   []store.StateWrite
	subs    []store.Change
	opened  []*sub
	closed  []string
	// leaving are the Subscriptions whose events get rows again.
	leaving []string
	err     error
}

func (st *stepState) grant(ctx context.Context, owner string) *access.Grant {
	g, ok := st.grants[owner]
	if !ok {
		var err error
		if g, err = st.e.opts.GrantFor(ctx, owner); err != nil {
			g = nil // may see nothing
		}
		st.grants[owner] = g
	}
	return g
}

// observation numbers one change for every Subscription that asks for it.
// place is its place among the changes of its commit.
func (st *stepState) observation(ctx context.Context, c *store.Change, place uint64) {
	if c.Deleted {
		return
	}
	e := st.e
	e.mu.Lock()
	var match []*sub
	for _, s := range e.subs {
		if s.spec != nil && s.status != "off" && c.Seq > s.skip && s.spec.Match(&c.Facts) {
			match = append(match, s)
		}
	}
	e.mu.Unlock()
	for _, s := range match {
		g := st.grant(ctx, s.owner)
		if !g.May(access.Read, "Observation") || !g.Filter(access.Read).Allow(&c.Facts) {
			continue
		}
		if st.full(s) {
			st.counted[s.id]++
			continue
		}
		st.given[s.id]++
		r := st.runs[s.id]
		if r == nil || !r.follows(c.Seq, place) {
			st.finish(s.id)
			r = &run{event: event{Number: s.events + st.given[s.id], At: e.opts.Clock().UTC()}, T: c.Seq, Place: place}
			st.runs[s.id] = r
		}
		r.add(c)
	}
}

// full reports whether the next event of s is only counted: nobody takes the
// events of a Subscription in error, which may stay so for ever, so that only
// the first keepMissed are kept for when it is set to requested again.
func (st *stepState) full(s *sub) bool {
	if st.counted[s.id] > 0 {
		return true // in order: no row comes behind one that is missing
	}
	st.e.mu.Lock()
	defer st.e.mu.Unlock()
	return s.status == "error" && s.events+st.given[s.id]-s.delivered >= keepMissed
}

// finish writes the run of a Subscription.
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

// commit makes the step durable and puts it in force.
func (st *stepState) commit(ctx context.Context) error {
	const op = "subscription.step"
	e := st.e
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
		// A step that gave nothing mostly moves the cursor in memory only;
		// after a restart it is walked again, which changes nothing.
		// It never goes back, though a part may be walked again: the numbers of
		// the others count up to it.
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
	for _, numbers := range []map[string]uint64{st.given, st.counted} {
		for id, n := range numbers {
			if s := e.subs[id]; s != nil {
				s.events += n
				poke(s.wake)
			}
		}
	}
	for _, s := range st.opened {
		e.settle(s.owner, s.id)
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

// subscription takes up a change of a Subscription.
func (st *stepState) subscription(ctx context.Context, c *store.Change) error {
	e := st.e
	res, facts, err := e.opts.Store.Read(ctx, c.Ref, 0)
	if err != nil {
		return err
	}
	e.mu.Lock()
	s := e.subs[c.Ref.ID]
	if res.Deleted {
		e.mu.Unlock()
		st.closed = append(st.closed, c.Ref.ID)
		delete(st.given, c.Ref.ID)
		delete(st.counted, c.Ref.ID)
		delete(st.runs, c.Ref.ID)
		e.forget(c.Ref.ID)
		st.state = deleteFunc(st.state, c.Ref.ID)
		return e.opts.Store.List(ctx, room+c.Ref.ID+"/", func(k string, _ []byte) bool {
			st.state = append(st.state, store.StateWrite{Key: k})
			return true
		})
	}
	defer e.mu.Unlock()
	if s == nil {
		for _, o := range st.opened {
			if o.id == c.Ref.ID {
				s = o
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
			st.leaving = append(st.leaving, s.id)
		}
	}
	return nil
}

func deleteFunc(in []store.StateWrite, id string) []store.StateWrite {
	out := in[:0]
	for _, w := range in {
		if !strings.HasPrefix(w.Key, room+id+"/") {
			out = append(out, w)
		}
	}
	return out
}

// sleep waits for d, for wake, or for the end of ctx (false).
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
