package server

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"pulsegate/fhir/cluster/datadir"
	"pulsegate/fhir/cluster/hints/redistest"
	"pulsegate/fhir/cluster/role"
	"pulsegate/fhir/store"
)

// longLease is the length of a lease that no test waits for.
const longLease = 20 * time.Minute

// TestOrderlyStop checks that a server that is stopped leaves no lease behind.
func TestOrderlyStop(t *testing.T) {
	f := newFleet(t, redistest.URL(t))
	f.lease = role.DefaultLease
	peers := map[string]string{"peer-listen": freeAddress(t)}
	one := f.start("one", "", peers)
	holds := func(s *sailor, name string) bool {
		return slices.ContainsFunc(s.status(t).Roles, func(h role.Holder) bool { return h.Node == name })
	}
	until(t, "the first server has a role and is the sequencer", func() bool {
		s := one.status(t)
		return holds(one, "one") && s.Sequencer != nil && s.Sequencer.Node == "one"
	})
	two := f.start("two", "", map[string]string{"peer-listen": freeAddress(t)})
	one.end(t)
	if err := two.store.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	if holds(two, "one") {
		t.Errorf("the server that was stopped has roles: %+v", two.status(t).Roles)
	}
	until(t, "the other server is the sequencer", func() bool {
		s := two.status(t)
		return s.Sequencer != nil && s.Sequencer.Node == "two"
	})
}

// TestRestartAfterKill starts a server whose former self was killed during its start,
// with the role without which no server starts. It does not wait for the end of the lease.
func TestRestartAfterKill(t *testing.T) {
	f := newFleet(t, "")
	one := f.start("one", "", nil)
	dir := filepath.Join(t.TempDir(), "data")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	lock, err := datadir.Acquire(dir)
	if err != nil {
		t.Fatal(err)
	}
	former := &mortal{State: one.store}
	leases, err := role.New(role.Options{State: former, Node: "two", Dir: lock.ID(), Lease: longLease,
		Clock: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	leases.Run(t.Context(), "setup", func(context.Context, role.Term) {
		former.dead.Store(true)
		go leases.Close()
	})
	if _, err := f.tryStart("two", dir, nil); err == nil {
		t.Fatal("two servers with one data directory")
	}
	if err := lock.Close(); err != nil {
		t.Fatal(err)
	}
	two := f.start("two", dir, nil)
	roles := two.status(t).Roles
	i := slices.IndexFunc(roles, func(h role.Holder) bool { return h.Role == "setup" })
	if i < 0 || roles[i].Epoch != 3 || roles[i].Instance != "" { // of one, the former self, and two
		t.Errorf("%+v", roles)
	}
}

// mortal is the store of a process that can be killed.
type mortal struct {
	store.State
	dead atomic.Bool
}

func (m *mortal) Commit(ctx context.Context, b *store.Batch) (store.Result, error) {
	if m.dead.Load() {
		return store.Result{}, errors.New("killed")
	}
	return m.State.Commit(ctx, b)
}
