package preferred

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/cluster/role"
	"pulsegate/fhir/store"
)

// Options configures an Engine.
type Options struct {
	Store store.Store
	Audit audit.Trail
	Clock func() time.Time
	// Key is the secret from which ids are derived, as mapping.Options.Key.
	Key    []byte
	Policy *Policy
	// Zone returns the configured zone of a patient, or nil. If Zone is nil, no patient has
	// a zone.
	Zone func(ctx context.Context, patient string) (*time.Location, error)
	// Roles decides which process derives the values. The default is role.Alone.
	Roles role.Roles
	// Delay is the time that the follower waits after a change, so that a burst of changes
	// is worked off together. The default is 1 second.
	Delay  time.Duration
	Logger *slog.Logger
}

// Engine keeps the preferred values up to date in the process that holds the role. It is
// safe for concurrent use.
type Engine struct {
	opts   Options
	cancel context.CancelFunc
	wg     sync.WaitGroup
	stop   func()
	wake   chan struct{}
	// current is the follower while this process holds the role, and nil otherwise.
	current atomic.Pointer[follower]
	// behind is the time in Unix nanoseconds of the first change that has not been
	// processed, or 0. It has no meaning while current is nil.
	behind atomic.Int64
	meters *meters
}

// follower derives values while this process holds the role.
type follower struct {
	*Engine
	opts Options // those of the Engine, with a store that is bound to the term
	ctx  context.Context

	// mu is held during a step and guards the cursor, which is the last commit that has
	// been processed, and saved, its durable copy.
	mu            sync.Mutex
	cursor, saved store.Seq
}

// roleName is the name of the role of the process that derives values.
const roleName = "preferred"

// Keys of the state.
const (
	cursorKey  = "preferred/cursor"
	policyKey  = "preferred/policy"
	openPrefix = "preferred/open/"
)

// maxBackoff bounds the time between attempts after errors.
const maxBackoff = time.Minute

// New starts an Engine, which continues at its durable cursor. If the policy has changed,
// it begins at the first commit.
func New(ctx context.Context, o Options) (*Engine, error) {
	const op = "preferred.New"
	if o.Store == nil || o.Audit == nil || o.Clock == nil || o.Policy == nil {
		return nil, fhir.Errorf(fhir.Internal, op, "Store, Audit, Clock and Policy are required")
	}
	if o.Delay <= 0 {
		o.Delay = time.Second
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Roles == nil {
		o.Roles = role.Alone{}
	}
	e := &Engine{opts: o, wake: make(chan struct{}, 1)}
	var err error
	if e.meters, err = newMeters(e); err != nil {
		return nil, fhir.Wrap(op, err)
	}
	var run context.Context
	run, e.cancel = context.WithCancel(context.WithoutCancel(ctx))
	e.stop = o.Store.Watch(func(c store.Commit) {
		if len(c.Changes) > 0 || c.Samples > 0 {
			e.signal()
		}
	})
	loaded := make(chan error, 1)
	e.wg.Go(func() {
		o.Roles.Run(run, roleName, func(ctx context.Context, t role.Term) { e.serve(ctx, t, loaded) })
	})
	if _, alone := o.Roles.(role.Alone); alone {
		// The state is read now, so that a server does not start that cannot read it.
		if err := <-loaded; err != nil {
			e.Close()
			return nil, fhir.Wrap(op, err)
		}
	}
	return e, nil
}

// serve derives values during a term of the role. The result of reading the state is sent
// to loaded in the first term.
func (e *Engine) serve(ctx context.Context, t role.Term, loaded chan<- error) {
	f := &follower{Engine: e, opts: e.opts, ctx: ctx}
	f.opts.Store = t.Store(e.opts.Store)
	err := f.load(ctx)
	if err == nil {
		e.behind.Store(0)
		e.current.Store(f)
	}
	select {
	case loaded <- err:
	default:
	}
	if err != nil {
		e.opts.Logger.ErrorContext(ctx, "the state of preferred values cannot be read", "error", err)
		return
	}
	e.signal()
	f.follow()
	e.current.Store(nil)
	// A call of Sync may be in a step.
	f.mu.Lock()
	//lint:ignore SA2001 no step of this term runs after this point
	f.mu.Unlock()
}

// signal wakes the follower.
func (e *Engine) signal() {
	e.behind.CompareAndSwap(0, e.opts.Clock().UnixNano())
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

// Close stops the follower, waits for it, and gives up the role.
func (e *Engine) Close() {
	e.stop()
	e.cancel()
	e.wg.Wait()
	e.meters.stop()
}

// load reads the cursor.
func (f *follower) load(ctx context.Context) error {
	hash, err := f.opts.Policy.hash()
	if err != nil {
		return err
	}
	have, err := f.opts.Store.Get(ctx, policyKey)
	if err != nil {
		return err
	}
	if string(have) != hash {
		_, err := f.opts.Store.Commit(ctx, &store.Batch{State: []store.StateWrite{
			{Key: policyKey, Value: []byte(hash)}, {Key: cursorKey, Value: []byte("0")}}})
		return err
	}
	v, err := f.opts.Store.Get(ctx, cursorKey)
	if err != nil || v == nil {
		return err
	}
	n, err := strconv.ParseUint(string(v), 10, 64)
	f.cursor, f.saved = store.Seq(n), store.Seq(n)
	return err
}

// hash identifies the content of the policy.
func (p *Policy) hash() (string, error) {
	b, err := json.Marshal(p)
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:16]), err
}

// follow processes changes, and days and nights that have ended, until the term
// ends.
func (f *follower) follow() {
	backoff := f.opts.Delay
	next := time.Duration(0)
	for {
		if !f.wait(next) {
			return
		}
		var err error
		if next, err = f.sync(f.ctx); f.ctx.Err() != nil {
			return
		}
		if err == nil {
			backoff = f.opts.Delay
			continue
		}
		f.opts.Logger.Error("preferred values cannot follow the change log", "error", err)
		if !sleepFor(f.ctx, backoff) {
			return
		}
		backoff = min(2*backoff, maxBackoff)
		f.signal()
	}
}

// wait waits for a change and then for Delay, or for next unless it is 0. It reports false
// if the term ends.
func (f *follower) wait(next time.Duration) bool {
	var timer <-chan time.Time
	if next > 0 {
		t := time.NewTimer(next)
		defer t.Stop()
		timer = t.C
	}
	select {
	case <-f.ctx.Done():
		return false
	case <-timer:
		return true
	case <-f.wake:
		return sleepFor(f.ctx, f.opts.Delay)
	}
}

// sleepFor waits for d. It reports false if ctx ends first.
func sleepFor(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// Sync processes everything that is due now. When it returns nil, the preferred values
// reflect all commits before the call. It fails with Unavailable if another process
// derives the values.
func (e *Engine) Sync(ctx context.Context) error {
	f := e.current.Load()
	if f == nil {
		return fhir.Errorf(fhir.Unavailable, "preferred.Sync", "another process derives the preferred values")
	}
	_, err := f.sync(ctx)
	return err
}

// maxTries bounds the attempts of a step while other writers change its values.
const maxTries = 16

// sync runs steps until nothing is due. It returns the time until a day or night ends, or
// 0.
func (f *follower) sync(ctx context.Context) (next time.Duration, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for more := true; more; {
		f.behind.Store(0)
		err := store.Retry(maxTries, "preferred.step", "other writers changed the preferred values again and again",
			func() (err error) {
				if f.ctx.Err() != nil { // the role is lost, so that every commit fails
					return fhir.Wrap("preferred.step", f.ctx.Err())
				}
				more, err = f.step(ctx)
				return err
			})
		if err != nil {
			f.behind.CompareAndSwap(0, f.opts.Clock().UnixNano())
			return 0, err
		}
		if ctx.Err() != nil {
			return 0, fhir.Wrap("preferred.step", ctx.Err())
		}
	}
	err = f.opts.Store.List(ctx, openPrefix, func(key string, _ []byte) bool {
		if o, ok := parseOpen(key); ok {
			next = max(time.Unix(o.closes, 0).Sub(f.opts.Clock()), time.Second)
		}
		return next == 0
	})
	return min(next, time.Hour), fhir.Wrap("preferred.sync", err)
}

// openKey is the key of a day or night that may still grow: preferred/open/, the time when
// it is over, the patient, the concept, and the day.
type openKey struct {
	closes           int64 // Unix seconds
	patient, concept string
	day              int64
}

func (key *openKey) String() string {
	return openPrefix + hex16(key.closes) + "/" + key.patient + "/" + key.concept + "/" + strconv.FormatInt(key.day, 10)
}

// hex16 writes a time so that keys are in order of time.
func hex16(n int64) string {
	s := strconv.FormatUint(uint64(max(n, 0)), 16)
	return strings.Repeat("0", 16-len(s)) + s
}

func parseOpen(key string) (o openKey, ok bool) {
	parts := strings.Split(strings.TrimPrefix(key, openPrefix), "/")
	if len(parts) != 4 {
		return o, false
	}
	closes, err := strconv.ParseUint(parts[0], 16, 63)
	if err != nil {
		return o, false
	}
	day, err := strconv.ParseInt(parts[3], 10, 64)
	return openKey{int64(closes), parts[1], parts[2], day}, err == nil
}
