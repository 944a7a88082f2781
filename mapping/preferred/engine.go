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
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/cluster/follow"
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
	role   follow.Follower[*follower]
	meters *meters
}

// follower derives values while this process holds the role.
type follower struct {
	*Engine
	opts Options // those of the Engine, with a store that is bound to the term
	ctx  context.Context
	lag  follow.Lag

	// mu is held during a step and guards the cursor, which is the last commit that has
	// been processed, and durable, its durable copy.
	mu      sync.Mutex
	cursor  store.Seq
	durable follow.Cursor
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
	e := &Engine{opts: o}
	var err error
	if e.meters, err = newMeters(e); err != nil {
		return nil, fhir.Wrap(op, err)
	}
	err = e.role.Start(ctx, follow.Options[*follower]{Store: o.Store, Roles: o.Roles, Role: roleName, Begin: e.begin,
		Changed: e.changed, Delay: o.Delay, MinBackoff: o.Delay, MaxBackoff: maxBackoff, Logger: o.Logger})
	if err != nil {
		e.meters.stop()
		return nil, fhir.Wrap(op, err)
	}
	return e, nil
}

// begin returns the follower of a term of the role.
func (e *Engine) begin(ctx context.Context, _ role.Term, st store.Store) *follower {
	f := &follower{Engine: e, opts: e.opts, ctx: ctx, durable: follow.Cursor{Key: cursorKey}}
	f.opts.Store = st
	return f
}

// changed notes the time of a change.
func (e *Engine) changed() {
	if f := e.role.Current(); f != nil {
		f.lag.Changed(e.opts.Clock())
	}
}

// Close stops the follower, waits for it, and gives up the role.
func (e *Engine) Close() {
	e.role.Close()
	e.meters.stop()
}

// Load implements follow.Work.
func (f *follower) Load(ctx context.Context) error {
	f.lag.Changed(f.opts.Clock()) // what has changed since the last term
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
	_, err = f.durable.Load(ctx, f.opts.Store)
	f.cursor = f.durable.Saved
	return err
}

// hash identifies the content of the policy.
func (p *Policy) hash() (string, error) {
	b, err := json.Marshal(p)
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:16]), err
}

// Close implements follow.Work.
func (f *follower) Close() {
	// A call of Sync may be in a step.
	f.mu.Lock()
	//lint:ignore SA2001 no step of this term runs after this point
	f.mu.Unlock()
}

// Sync processes everything that is due now. When it returns nil, the preferred values
// reflect all commits before the call. It fails with Unavailable if another process
// derives the values.
func (e *Engine) Sync(ctx context.Context) error {
	f := e.role.Current()
	if f == nil {
		return fhir.Errorf(fhir.Unavailable, "preferred.Sync", "another process derives the preferred values")
	}
	_, err := f.Step(ctx)
	return err
}

// maxTries bounds the attempts of a step while other writers change its values.
const maxTries = 16

// Step implements follow.Work. It processes changes, and days and nights that have ended,
// until nothing is due. It returns the time until the next day or night ends, or 0.
func (f *follower) Step(ctx context.Context) (next time.Duration, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for more := true; more; {
		f.lag.Begin()
		err := store.Retry(maxTries, "preferred.step", "other writers changed the preferred values again and again",
			func() (err error) {
				if f.ctx.Err() != nil { // the role is lost, so that every commit fails
					return fhir.Wrap("preferred.step", f.ctx.Err())
				}
				more, err = f.step(ctx)
				return err
			})
		if err != nil {
			return 0, err
		}
		if ctx.Err() != nil {
			return 0, fhir.Wrap("preferred.step", ctx.Err())
		}
	}
	f.lag.Done()
	err = f.opts.Store.List(ctx, openPrefix, func(key string, _ []byte) bool {
		if o, ok := parseOpen(key); ok {
			next = max(time.Unix(o.closes, 0).Sub(f.opts.Clock()), time.Second)
		}
		return next == 0
	})
	return min(next, time.Hour), fhir.Wrap("preferred.Step", err)
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
