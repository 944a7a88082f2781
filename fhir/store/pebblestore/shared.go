package pebblestore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"pulsegate/fhir"
	"pulsegate/fhir/store/pebblestore/internal/fault"
	"pulsegate/fhir/store/pebblestore/internal/keys"
	"pulsegate/fhir/store/pebblestore/internal/rows"
	"pulsegate/fhir/store/sharedlog"
)

// ErrRejoin reports that this copy of the store cannot follow the log: the log was
// restored to an earlier state, belongs to another cluster, no longer has the entries
// that the copy needs, or has entries in a newer encoding. The process must discard
// the copy and begin again from a snapshot, except that for a newer encoding a newer
// program suffices. Open returns it, and a running store stops with it.
var ErrRejoin = errors.New("this copy of the store cannot follow the log of the cluster")

// ErrSchema reports that the cluster writes rows in an encoding that this program does
// not read. A newer program does.
var ErrSchema = errors.New("this program is too old for the cluster")

// Shared connects a store to the log through which several processes share it.
type Shared struct {
	Log  sharedlog.Log
	Node string // name of this process, for people
	// Identity is the cluster to which the process belongs. If its Schema is zero,
	// entries are written with RowSchema. The log or RaiseSchema may raise it.
	Identity sharedlog.Identity
	// Found allows a store that has data but no position in a log to become the first
	// of a cluster whose log is empty. All others begin from a snapshot of it. Without
	// Found, Open refuses such a store with ErrRejoin.
	Found bool
	// Adopt allows a store of an earlier epoch, which was just installed from a snapshot
	// in the log's own database.
	Adopt bool
	// Ring, if not nil, is called after the process has put an entry at the place
	// index. It must be quick.
	Ring func(index uint64)
	// Wake tells that the log has new entries. It may be nil.
	Wake <-chan struct{}
	// Poll is the interval at which the process looks at the log without a wake. Zero
	// means 50 ms.
	Poll time.Duration
	// Confirmed is the age of the last confirmed look at the log from which Ready
	// fails. Zero means 1 s.
	Confirmed time.Duration
	// Patience is the time for which requests wait for the log until they fail with
	// Unavailable. Zero means 3 s.
	Patience time.Duration

	limits  pace
	flights int // groups on their way at the same time
	broken  broken
	newest  uint32 // the newest schema that the process reads; RowSchema if zero
}

// pace bounds the waits for the log. Tests change it.
type pace struct {
	attempt  time.Duration // for one call of the log
	patience time.Duration // from the first failure until requests fail with Unavailable
	grace    time.Duration // for Close, until entries on their way are given up
	retry    time.Duration // before the first repetition, then twice as long each time
	maxRetry time.Duration
}

var defaultPace = pace{attempt: 4 * time.Second, patience: 3 * time.Second, grace: 5 * time.Second,
	retry: 10 * time.Millisecond, maxRetry: time.Second}

// broken selects wrong behavior, for controls of tests.
type broken struct {
	answerEarly bool // answer before the entry is in the log
	applyEarly  bool // show a group before its entry is durable
	forget      bool // take an unknown outcome for a failure
	shallow     bool // build a group on the one before it without those before that one
	anyOffer    bool // apply offered entries that do not follow the entries before them
	joinLooks   bool // let a look serve those who came after it began
}

// setDefaults returns the options with defaults for zero values.
func (s Shared) setDefaults() (*Shared, error) {
	if s.Log == nil {
		return nil, fault.Refusal("the log of the cluster is missing")
	}
	if s.Poll <= 0 {
		s.Poll = 50 * time.Millisecond
	}
	if s.Confirmed <= 0 {
		s.Confirmed = time.Second
	}
	if s.flights == 0 {
		s.flights = maxFlights
	}
	if s.limits == (pace{}) {
		s.limits = defaultPace
	}
	if s.Patience > 0 {
		s.limits.patience = s.Patience
	}
	if s.Identity.Schema == 0 {
		s.Identity.Schema = RowSchema
	}
	if s.newest == 0 {
		s.newest = RowSchema
	}
	return &s, checkSchema(s.Identity.Schema, s.newest)
}

// loadPosition reads the position row. A store without one begins at the first place
// if it is empty or may found the cluster.
func (d *DB) loadPosition(ctx context.Context, conf *Shared) error {
	v, err := rows.Get(d.pdb, keys.Position)
	if err != nil {
		return err
	}
	if v == nil {
		return d.firstPosition(ctx, conf)
	}
	p, err := rows.DecodePosition(v)
	if err != nil {
		return err
	}
	if p.Cluster != conf.Identity.Cluster {
		return rejoin("the store belongs to another cluster")
	}
	if conf.Adopt && p.Epoch < conf.Identity.Epoch {
		p.Epoch = conf.Identity.Epoch
		if err := d.pdb.Set(keys.Position, p.Encode(), pebble.Sync); err != nil {
			return err
		}
	}
	if p.Epoch != conf.Identity.Epoch {
		return rejoin(fmt.Sprintf("the store is of epoch %d, the cluster of epoch %d", p.Epoch, conf.Identity.Epoch))
	}
	d.position = p
	return nil
}

func (d *DB) firstPosition(ctx context.Context, conf *Shared) error {
	if d.head != (rows.Head{}) {
		if !conf.Found {
			return rejoin("the store has data that is not from the log")
		}
		first, last, err := conf.Log.Bounds(ctx)
		if err != nil {
			return unreachable("pebblestore.Open", err)
		}
		if first != 0 || last != 0 {
			return rejoin("the store has data that is not from the log, which has entries")
		}
	}
	d.position = rows.Position{Cluster: conf.Identity.Cluster, Epoch: conf.Identity.Epoch}
	return d.pdb.Set(keys.Position, d.position.Encode(), pebble.Sync)
}

// rejoin returns an ErrRejoin with a reason.
func rejoin(reason string) error { return fmt.Errorf("%w: %w", ErrRejoin, fault.Refusal(reason)) }

// tooOld returns an ErrRejoin that is also an ErrSchema.
func tooOld(reason string) error { return rejoinError{rejoin(reason), ErrSchema} }

// rejoinError is an ErrRejoin with its cause.
type rejoinError struct {
	error
	cause error
}

// Unwrap returns the ErrRejoin and its cause.
func (e rejoinError) Unwrap() []error { return []error{e.error, e.cause} }

// mustRejoin returns the ErrRejoin for an error of the log, or nil.
func mustRejoin(err error) error {
	for _, e := range []error{sharedlog.ErrDiverged, sharedlog.ErrTruncated, sharedlog.ErrEpoch} {
		if errors.Is(err, e) {
			return rejoinError{rejoin(e.Error()), e}
		}
	}
	if errors.Is(err, ErrRejoin) {
		return err
	}
	return nil
}

// unreachable returns the error of an operation for which the log did not answer.
func unreachable(op string, err error) error {
	return &fhir.Error{Kind: fhir.Unavailable, Op: op, Err: err, Issues: []fhir.Issue{{Severity: "error",
		Code: fhir.Unavailable.IssueCode(), Diagnostics: "the log of the cluster does not answer; try again"}}}
}

// errUnknown is the error of a commit that may or may not have taken place.
func errUnknown() error {
	return fhir.Errorf(fhir.Unavailable, "pebblestore.Commit",
		"the log of the cluster does not answer, and it is not known whether the change took place; read before you repeat it")
}

// Sync implements store.Store.
func (d *DB) Sync(ctx context.Context) error {
	const op = "pebblestore.Sync"
	if d.failed.Load() {
		return d.errStopped(op)
	}
	if d.replica == nil {
		return nil
	}
	return d.replica.sync(ctx)
}

// Ready returns nil if the store can serve requests: it has not stopped, and if it is
// shared, its head was confirmed not longer than Shared.Confirmed ago.
func (d *DB) Ready() error {
	const op = "pebblestore.Ready"
	if d.failed.Load() {
		return d.errStopped(op)
	}
	r := d.replica
	if r == nil {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if age := time.Since(r.confirmed); age > r.conf.Confirmed {
		return unreachable(op, fmt.Errorf("the head of the log was last confirmed %v ago", age.Round(time.Millisecond)))
	}
	return nil
}

// Position returns the place in the log up to which the store shows it. It is zero if
// the store is not shared.
func (d *DB) Position() sharedlog.Position {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.view.position
}
