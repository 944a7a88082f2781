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
	// Delay is the time that the follower waits after a change, so that a burst of changes
	// is worked off together. The default is 1 second.
	Delay  time.Duration
	Logger *slog.Logger
}

// Engine keeps the preferred values up to date. It is safe for concurrent use.
type Engine struct {
	opts   Options
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	stop   func()
	wake   chan struct{}

	// mu is held during a step and guards the cursor, which is the last commit that has
	// been processed, and saved, its durable copy.
	mu            sync.Mutex
	cursor, saved store.Seq
	// behind is the time in Unix nanoseconds of the first change that has not been
	// processed, or 0.
	behind atomic.Int64
	meters *meters
}

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
	e := &Engine{opts: o, wake: make(chan struct{}, 1)}
	var err error
	if e.meters, err = newMeters(e); err != nil {
		return nil, fhir.Wrap(op, err)
	}
	if err := e.load(ctx); err != nil {
		e.meters.stop()
		return nil, fhir.Wrap(op, err)
	}
	e.ctx, e.cancel = context.WithCancel(context.WithoutCancel(ctx))
	e.stop = o.Store.Watch(func(c store.Commit) {
		if len(c.Changes) > 0 || c.Samples > 0 {
			e.signal()
		}
	})
	e.signal()
	e.wg.Go(e.follow)
	return e, nil
}

// signal wakes the follower.
func (e *Engine) signal() {
	e.behind.CompareAndSwap(0, e.opts.Clock().UnixNano())
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

// Close stops the follower and waits for it.
func (e *Engine) Close() {
	e.stop()
	e.cancel()
	e.wg.Wait()
	e.meters.stop()
}

// load reads the cursor.
func (e *Engine) load(ctx context.Context) error {
	hash, err := e.opts.Policy.hash()
	if err != nil {
		return err
	}
	have, err := e.opts.Store.Get(ctx, policyKey)
	if err != nil {
		return err
	}
	if string(have) != hash {
		_, err := e.opts.Store.Commit(ctx, &store.Batch{State: []store.StateWrite{
			{Key: policyKey, Value: []byte(hash)}, {Key: cursorKey, Value: []byte("0")}}})
		return err
	}
	v, err := e.opts.Store.Get(ctx, cursorKey)
	if err != nil || v == nil {
		return err
	}
	n, err := strconv.ParseUint(string(v), 10, 64)
	e.cursor, e.saved = store.Seq(n), store.Seq(n)
	return err
}

// hash identifies the content of the policy.
func (p *Policy) hash() (string, error) {
	b, err := json.Marshal(p)
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:16]), err
}

// follow processes changes, and days and nights that have ended, until the Engine is
// closed.
func (e *Engine) follow() {
	backoff := e.opts.Delay
	next := time.Duration(0)
	for {
		if !e.wait(next) {
			return
		}
		var err error
		if next, err = e.sync(e.ctx); e.ctx.Err() != nil {
			return
		}
		if err == nil {
			backoff = e.opts.Delay
			continue
		}
		e.opts.Logger.Error("preferred values cannot follow the change log", "error", err)
		if !sleepFor(e.ctx, backoff) {
			return
		}
		backoff = min(2*backoff, maxBackoff)
		e.signal()
	}
}

// wait waits for a change and then for Delay, or for next unless it is 0. It reports false
// if the Engine is closed.
func (e *Engine) wait(next time.Duration) bool {
	var timer <-chan time.Time
	if next > 0 {
		t := time.NewTimer(next)
		defer t.Stop()
		timer = t.C
	}
	select {
	case <-e.ctx.Done():
		return false
	case <-timer:
		return true
	case <-e.wake:
		return sleepFor(e.ctx, e.opts.Delay)
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
// reflect all commits before the call.
func (e *Engine) Sync(ctx context.Context) error {
	_, err := e.sync(ctx)
	return err
}

// maxTries bounds the attempts of a step while other writers change its values.
const maxTries = 16

// sync runs steps until nothing is due. It returns the time until a day or night ends, or
// 0.
func (e *Engine) sync(ctx context.Context) (next time.Duration, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for more := true; more; {
		e.behind.Store(0)
		err := store.Retry(maxTries, "preferred.step", "other writers changed the preferred values again and again",
			func() (err error) { more, err = e.step(ctx); return err })
		if err != nil {
			e.behind.CompareAndSwap(0, e.opts.Clock().UnixNano())
			return 0, err
		}
		if ctx.Err() != nil {
			return 0, fhir.Wrap("preferred.step", ctx.Err())
		}
	}
	err = e.opts.Store.List(ctx, openPrefix, func(key string, _ []byte) bool {
		if o, ok := parseOpen(key); ok {
			next = max(time.Unix(o.closes, 0).Sub(e.opts.Clock()), time.Second)
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
