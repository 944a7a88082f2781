package logtest

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"

	"pulsegate/fhir/store/sharedlog"
	"pulsegate/fhir/store/sharedlog/memlog"
)

// fault names the way in which a log breaks the contract.
type fault string

// faults are broken logs, each with a check that must reject it.
var faults = []struct {
	fault fault
	check string
}{
	{"drops an acknowledged entry", "places"},
	{"drops an acknowledged entry", "race"},
	{"drops an acknowledged entry", "visible"},
	{"reorders", "places"},
	{"reads stale", "places"},
	{"reads stale", "visible"},
	{"hides guards", "fields"},
	{"wrong hash", "places"},
	{"refuses its own entry", "again"},
	{"overwrites", "taken"},
	{"overwrites", "one place"},
	{"overwrites", "race"},
	{"reads over gaps", "gap"},
	{"hides void entries", "void"},
	{"does not stop", "stop"},
	{"shares memory", "retained"},
	{"ignores the hash of the position", "diverged"},
	{"ignores the hash of the position", "restored"},
	{"reads from the first entry", "truncated"},
	{"appends to what was truncated", "truncated"},
	{"sets any identity", "identity"},
	{"sets any identity", "identity race"},
	{"bounds of what it read", "bounds"},
	{"accepts any size", "sizes"},
	{"refuses more than a document", "large"},
	{"ignores cancellation", "cancelled"},
	{"does not close", "closed"},
	{"reads what no majority has", "undurable"},
	{"reads what was changed", "tampered"},
	{"accepts any epoch", "epochs"},
	{"lists the oldest first", "snapshots"},
	{"lists incomplete snapshots", "snapshot incomplete"},
	{"stores what it gets", "snapshot wrong files"},
	{"reads each file", "snapshot shared files"},
	{"removes shared files", "snapshot shared files"},
	{"removes files at once", "snapshot removal"},
	{"removes files at once", "snapshot removed during Put"},
	{"never removes files", "snapshot removal"},
	{"opens what was changed", "snapshot tampered"},
	{"limits files to a chunk", "snapshot files"},
}

// TestControls runs the checks on broken logs.
func TestControls(t *testing.T) {
	for _, f := range faults {
		t.Run(string(f.fault)+"/"+f.check, func(t *testing.T) {
			if err := runCheck(t, f.check, newWorld(f.fault).server()); err == nil {
				t.Errorf("the check %q accepts a log that %s", f.check, f.fault)
			} else if errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("the check %q hangs: %v", f.check, err)
			}
		})
	}
}

// TestControlsSound runs the suite on the same logs without a fault.
func TestControlsSound(t *testing.T) {
	Run(t, func(*testing.T) *Server { return newWorld("").server() })
}

// TestControlsComplete requires a control for every check.
func TestControlsComplete(t *testing.T) {
	for _, c := range slices.Concat(logChecks, concurrencyChecks, snapshotChecks) {
		if !slices.ContainsFunc(faults, func(f struct {
			fault fault
			check string
		}) bool {
			return f.check == c.name
		}) {
			t.Errorf("no broken log for the check %q", c.name)
		}
	}
}

func runCheck(t *testing.T, name string, s *Server) error {
	for _, c := range slices.Concat(logChecks, concurrencyChecks, snapshotChecks) {
		if c.name == name {
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			defer cancel()
			return c.run(ctx, s)
		}
	}
	t.Fatalf("no check %q", name)
	return nil
}

// world is a cluster of memlog behind broken clients.
type world struct {
	fault     fault
	cluster   *memlog.Cluster
	minority  bool
	snapshots *brokenSnapshots

	// mu guards the fields below.
	mu  sync.Mutex
	all map[uint64]*sharedlog.Entry // every entry that was sent, by place
}

func newWorld(f fault) *world {
	w := &world{fault: f, all: map[uint64]*sharedlog.Entry{}, snapshots: newBrokenSnapshots(f)}
	w.cluster = memlog.New(memlog.Options{Plan: func(memlog.Call) (f memlog.Fault) {
		if w.minority {
			f.NoMajority = memlog.Never
		}
		return f
	}})
	return w
}

func (w *world) server() *Server {
	return &Server{
		Client:    func() (sharedlog.Log, error) { return &broken{Client: w.cluster.Client("node"), world: w}, nil },
		Snapshots: func() (sharedlog.Snapshots, error) { return w.snapshots, nil },
		Undurable: func(ctx context.Context, e *sharedlog.Entry) (func(bool) error, error) {
			w.minority = true
			err := w.cluster.Client("node").Append(ctx, e)
			w.minority = false
			w.keep(e)
			if !errors.Is(err, memlog.ErrNoMajority) {
				return nil, err
			}
			return func(keep bool) error {
				if keep {
					w.cluster.RegainMajority()
				} else {
					w.cluster.RollBack()
				}
				return nil
			}, nil
		},
		Backup: func(context.Context) (func() error, error) {
			restore := w.cluster.Backup()
			return func() error { restore(); return nil }, nil
		},
		TamperEntry: func(index uint64) error { w.cluster.TamperEntry(index); return nil },
		TamperFile:  w.snapshots.tamper,
		Pass:        w.snapshots.pass,
		Epochs:      true,
	}
}

func (w *world) keep(e *sharedlog.Entry) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.all[e.Index] = e
}

// broken is a client with the fault of its world.
type broken struct {
	*memlog.Client
	world *world
	calls int
	stale []*sharedlog.Entry
}

func (b *broken) is(f fault) bool { return b.world.fault == f }

func (b *broken) Append(ctx context.Context, e *sharedlog.Entry) error {
	b.calls++
	if b.is("drops an acknowledged entry") && b.calls == 3 {
		return nil
	}
	if b.is("refuses more than a document") && len(e.Rows) > 12<<20 {
		return sharedlog.ErrTooLarge
	}
	if b.is("ignores cancellation") {
		ctx = context.WithoutCancel(ctx)
	}
	err := b.Client.Append(ctx, e)
	switch {
	case err == nil && b.is("refuses its own entry"):
		b.world.mu.Lock()
		defer b.world.mu.Unlock()
		if b.world.all[e.Index] != nil {
			return sharedlog.ErrTaken
		}
		b.world.all[e.Index] = e
		return nil
	case errors.Is(err, sharedlog.ErrTaken) && b.is("overwrites"),
		errors.Is(err, sharedlog.ErrTooLarge) && b.is("accepts any size"),
		errors.Is(err, sharedlog.ErrEpoch) && b.is("accepts any epoch"),
		errors.Is(err, memlog.ErrClosed) && b.is("does not close"),
		errors.Is(err, sharedlog.ErrTruncated) && b.is("appends to what was truncated"):
		err = nil
	}
	if err == nil {
		b.world.keep(e)
	}
	return err
}

func (b *broken) Read(ctx context.Context, p sharedlog.Position, fn func(*sharedlog.Entry, sharedlog.Hash) bool) error {
	var entries []*sharedlog.Entry
	err := b.Client.Read(ctx, p, func(e *sharedlog.Entry, _ sharedlog.Hash) bool {
		entries = append(entries, e)
		return true
	})
	switch b.world.fault {
	case "reorders":
		if n := len(entries); n > 1 {
			entries[n-1], entries[n-2] = entries[n-2], entries[n-1]
		}
	case "reads stale":
		entries, b.stale = b.stale, entries
	case "hides guards":
		for _, e := range entries {
			e.Touched = e.Touched[:min(len(e.Touched), 100)]
		}
	case "hides void entries":
		entries = slices.DeleteFunc(entries, func(e *sharedlog.Entry) bool { return e.Index == 3 })
	case "overwrites", "shares memory", "reads over gaps", "reads what no majority has", "reads what was changed",
		"ignores the hash of the position":
		entries, err = b.unchecked(p.Index), nil
	case "reads from the first entry":
		if errors.Is(err, sharedlog.ErrTruncated) {
			first, _, _ := b.Bounds(ctx)
			entries, err = b.unchecked(first-1), nil
		}
	}
	for _, e := range entries {
		sum := e.Sum()
		if b.is("wrong hash") {
			sum[0]++
		}
		if !fn(e, sum) && !b.is("does not stop") {
			break
		}
	}
	return err
}

// unchecked returns all entries that were sent to the places after index.
func (b *broken) unchecked(index uint64) []*sharedlog.Entry {
	b.world.mu.Lock()
	defer b.world.mu.Unlock()
	var out []*sharedlog.Entry
	for i, e := range b.world.all {
		if i > index {
			out = append(out, e)
		}
	}
	slices.SortFunc(out, func(x, y *sharedlog.Entry) int { return int(x.Index) - int(y.Index) })
	return out
}

func (b *broken) SetIdentity(ctx context.Context, old, now sharedlog.Identity) (bool, error) {
	if b.is("sets any identity") {
		old, _ = b.Identity(ctx)
	}
	return b.Client.SetIdentity(ctx, old, now)
}

func (b *broken) Bounds(ctx context.Context) (first, last uint64, err error) {
	first, last, err = b.Client.Bounds(ctx)
	if b.is("bounds of what it read") {
		last = min(last, 2)
	}
	return first, last, err
}
