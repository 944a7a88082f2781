package push

import (
	"context"
	"encoding/json"
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

// Tokens supplies the access tokens for one target. If an error has a method Class
// returning a string, that string is shown to operators.
type Tokens interface {
	Token(ctx context.Context) (string, error)
	// Reject drops a token that the target refused.
	Reject(token string)
}

// Options configures an Engine.
type Options struct {
	Store store.Store
	Audit *audit.Recorder
	Clock func() time.Time
	// Base is the FHIR base URL of this server without a trailing slash.
	Base   string
	Policy egress.Policy
	// GrantFor compiles the current grant of a client from its registered scopes and
	// the consents. After an error, the client may see nothing.
	GrantFor func(ctx context.Context, clientID string) (*access.Grant, error)
	// TokensFor returns the source of access tokens for a target.
	TokensFor func(t Target) (Tokens, error)
	// Forms holds the forms of what is sent, by name. FormStored is added.
	Forms map[string]Form
	// MinBackoff and MaxBackoff bound the wait between attempts. The defaults are
	// 1 second and 15 minutes.
	MinBackoff, MaxBackoff time.Duration
	// Timeout bounds a request. The default is 30 seconds.
	Timeout time.Duration
	Logger  *slog.Logger
}

// Engine follows the change log and sends what targets are to get. It is safe for
// concurrent use.
type Engine struct {
	opts   Options
	client *http.Client
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	stop   func()
	wake   chan struct{} // capacity 1

	// manage serializes the changes of targets.
	manage sync.Mutex
	// stepping is held during a step of the follower, so that Remove can wait until no
	// step knows the target any more.
	stepping sync.Mutex
	mu       sync.Mutex
	// targets holds the senders by name. Both guarded by mu: the map, and cursor, the
	// last commit that the follower has processed.
	targets map[string]*sender
	cursor  store.Seq
	// saved is the durable copy of cursor. It belongs to the goroutine of follow.
	saved store.Seq

	requests metric.Int64Counter
	latency  metric.Float64Histogram
}

// New starts an Engine, which continues at its durable cursor.
func New(ctx context.Context, o Options) (*Engine, error) {
	const op = "push.New"
	if o.Store == nil || o.Audit == nil || o.Clock == nil || o.GrantFor == nil || o.TokensFor == nil || o.Base == "" {
		return nil, fhir.Errorf(fhir.Internal, op, "Store, Audit, Clock, Base, GrantFor and TokensFor are required")
	}
	if o.MinBackoff <= 0 {
		o.MinBackoff = time.Second
	}
	if o.MaxBackoff <= 0 {
		o.MaxBackoff = 15 * time.Minute
	}
	if o.Timeout <= 0 {
		o.Timeout = 30 * time.Second
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	forms := map[string]Form{FormStored: stored(o.Base)}
	for name, f := range o.Forms {
		forms[name] = f
	}
	o.Forms = forms
	o.Policy.Timeout, o.Policy.MaxResponse = o.Timeout, maxAnswer
	e := &Engine{opts: o, client: egress.New(o.Policy), wake: make(chan struct{}, 1), targets: map[string]*sender{}}
	if err := e.metrics(); err != nil {
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
		e.Close()
		return nil, fhir.Wrap(op, err)
	}
	signal(e.wake)
	e.wg.Go(e.follow)
	return e, nil
}

func (e *Engine) metrics() (err error) {
	meter := otel.Meter("pulsegate/fhir/push")
	if e.requests, err = meter.Int64Counter("pulsegate.push.requests", metric.WithUnit("{request}"),
		metric.WithDescription("Observations sent to targets, by result")); err != nil {
		return err
	}
	e.latency, err = meter.Float64Histogram("pulsegate.push.duration", metric.WithUnit("s"),
		metric.WithExplicitBucketBoundaries(.01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600,
			21600, 86400),
		metric.WithDescription("Time from the queueing of an Observation to its acceptance by the target"))
	return err
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

// load restores the cursor and the targets.
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
	} else {
		e.cursor = e.opts.Store.LastSeq()
	}
	var all []Target
	var bad error
	err = e.opts.Store.List(ctx, keyPrefix+"target/", func(_ string, v []byte) bool {
		var t Target
		if bad = json.Unmarshal(v, &t); bad == nil {
			all = append(all, t)
		}
		return bad == nil
	})
	if err != nil {
		return err
	}
	if bad != nil {
		return bad
	}
	for _, t := range all {
		if v == nil {
			// Nothing has been queued yet, so that there is no durable cursor.
			e.cursor = min(e.cursor, t.From)
		}
		if t.Status == removed {
			e.wg.Go(func() { e.purge(e.ctx, t.Name) })
			continue
		}
		if err := e.launch(ctx, t); err != nil {
			return err
		}
	}
	return nil
}

// launch starts the sender of a target.
func (e *Engine) launch(ctx context.Context, t Target) error {
	s, err := newSender(ctx, e, t)
	if err != nil {
		return err
	}
	e.mu.Lock()
	e.targets[t.Name] = s
	e.mu.Unlock()
	run, cancel := context.WithCancel(e.ctx)
	s.cancel = cancel
	e.wg.Go(func() { defer close(s.ended); s.run(run) })
	return nil
}

// follow processes the change log until the Engine is closed.
func (e *Engine) follow() {
	backoff := e.opts.MinBackoff
	for {
		select {
		case <-e.ctx.Done():
			return
		case <-e.wake:
		}
		for more := true; more; {
			var err error
			more, err = e.step(e.ctx)
			if e.ctx.Err() != nil {
				return
			}
			if err == nil {
				backoff = e.opts.MinBackoff
				continue
			}
			e.opts.Logger.Error("targets cannot follow the change log", "error", err)
			if !sleep(e.ctx, nil, backoff) {
				return
			}
			backoff, more = min(2*backoff, e.opts.MaxBackoff), true
		}
	}
}

// sleep waits for d, or until wake receives. It returns false when ctx ends.
func sleep(ctx context.Context, wake <-chan struct{}, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
	case <-wake:
	}
	return true
}

const (
	// yieldEvery is the number of changes after which the follower yields the
	// processor to requests.
	yieldEvery = 128
	// stepSize is the number of changes after which the follower commits.
	stepSize = 500
	// saveCursor bounds the commits that are processed again after a restart.
	saveCursor = 5000
)

// step queues about stepSize changes and commits the result.
func (e *Engine) step(ctx context.Context) (more bool, err error) {
	e.stepping.Lock()
	defer e.stepping.Unlock()
	e.mu.Lock()
	from := e.cursor
	none := len(e.targets) == 0
	e.mu.Unlock()
	st := &stepState{engine: e, ctx: ctx, grants: map[string]*access.Grant{}, rows: map[string]*row{}}
	if none { // a target that is added later gets what changes from then on
		if to := e.opts.Store.LastSeq(); to > from {
			return false, e.commit(ctx, st, to)
		}
		return false, nil
	}
	n, to, pace := 0, from, yield.Counter{Every: yieldEvery}
	fn := func(c *store.Change) bool {
		// Process commits whole, because the cursor cannot point inside one.
		if n >= stepSize && c.Seq != to {
			more = true
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
	if err = e.opts.Store.Changes(ctx, from, fn); err == nil {
		err = st.err
	}
	if err != nil || to == from {
		return more, fhir.Wrap("push.step", err)
	}
	return more, e.commit(ctx, st, to)
}

// commit makes a step durable.
func (e *Engine) commit(ctx context.Context, st *stepState, to store.Seq) error {
	for key := range st.rows {
		st.flush(key)
	}
	if st.err != nil {
		return fhir.Wrap("push.step", st.err)
	}
	if len(st.state) > 0 || to > e.saved+saveCursor {
		// A step that queues nothing moves the cursor only in memory. After a restart
		// it is processed again with the same result.
		st.state = append(st.state, store.StateWrite{Key: cursorKey, Value: strconv.AppendUint(nil, uint64(to), 10)})
		if _, err := e.opts.Store.Commit(ctx, &store.Batch{State: st.state}); err != nil {
			return fhir.Wrap("push.step", err)
		}
		e.saved = to
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.cursor = to
	for name := range st.woken {
		if s := e.targets[name]; s != nil {
			signal(s.wake)
		}
	}
	return nil
}

// stepState is the state of one step of the follower.
type stepState struct {
	engine *Engine
	ctx    context.Context
	grants map[string]*access.Grant // by client id
	rows   map[string]*row          // the row that the next id of a target and patient joins
	state  []store.StateWrite
	woken  map[string]bool // names of targets with new rows
	err    error
}

func (st *stepState) grant(clientID string) *access.Grant {
	g, ok := st.grants[clientID]
	if !ok {
		var err error
		if g, err = st.engine.opts.GrantFor(st.ctx, clientID); err != nil {
			g = nil // permits nothing
		}
		st.grants[clientID] = g
	}
	return g
}

// observation queues a change for every target that is to get it.
func (st *stepState) observation(c *store.Change) {
	e := st.engine
	var to []*Target
	e.mu.Lock()
	for _, s := range e.targets {
		// A deleted Observation may have to be retracted, whatever it is now.
		if c.Seq > s.target.From && s.target.Status != removed && (c.Deleted || s.target.match(&c.Facts)) {
			t := s.target
			to = append(to, &t)
		}
	}
	e.mu.Unlock()
	for _, t := range to {
		if c.Facts.Patient == "" || !c.Deleted && !visible(st.grant(t.Recipient), &c.Facts) {
			continue
		}
		st.add(t.Name, c.Facts.Patient, c.Seq, c.Ref.ID)
	}
}

// visible reports whether a grant permits disclosing an Observation.
func visible(g *access.Grant, f *access.Facts) bool {
	return g != nil && f != nil && g.May(access.Read, "Observation") && g.Filter(access.Read).Allow(f)
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
		r.At = st.engine.opts.Clock().UnixMilli()
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

// logFailure logs an error that is not the target's.
func (s *sender) logFailure(ctx context.Context, what string, err error) {
	if ctx.Err() == nil {
		s.engine.opts.Logger.ErrorContext(ctx, what, "target", s.name, "error", err)
	}
}

// origin returns scheme and host of a URL, for the audit trail.
func origin(base string) string {
	scheme, rest, _ := strings.Cut(base, "://")
	host, _, _ := strings.Cut(rest, "/")
	return scheme + "://" + host
}
