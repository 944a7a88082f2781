package roletest

import (
	"context"
	"sync/atomic"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/clocktest"
	"pulsegate/fhir/cluster/role"
	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore"
)

// Lease is the length of the leases of a Peer.
const Lease = 10 * time.Second

// Peer is one of several processes that share a store, with a clock that the test moves.
type Peer struct {
	*pebblestore.DB
	// Roles has leases in the store by the clock.
	Roles role.Roles
	// Killed makes commits fail, as if the process were gone.
	Killed atomic.Bool
	// Written counts the commits that succeeded.
	Written atomic.Int64
	// OnSync, if set, is called by Sync, which returns its error.
	OnSync func() error

	clock *clocktest.Clock
}

// tester is the part of testing.TB that NewPeer uses. A *rapid.T has it, too.
type tester interface {
	Helper()
	Fatal(args ...any)
}

// NewPeer returns a process with the store db.
func NewPeer(t tester, db *pebblestore.DB, node string) *Peer {
	t.Helper()
	p := &Peer{DB: db, clock: clocktest.At(time.Unix(0, 0))}
	leases, err := role.New(role.Options{State: p, Node: node, Lease: Lease, Clock: p.clock.Now, After: p.clock.After})
	if err != nil {
		t.Fatal(err)
	}
	p.Roles = leases
	return p
}

// Commit implements store.Store.
func (p *Peer) Commit(ctx context.Context, b *store.Batch) (store.Result, error) {
	if p.Killed.Load() {
		return store.Result{}, fhir.Errorf(fhir.Unavailable, "roletest", "killed")
	}
	r, err := p.DB.Commit(ctx, b)
	if err == nil {
		p.Written.Add(1)
	}
	return r, err
}

// Sync implements store.Store.
func (p *Peer) Sync(ctx context.Context) error {
	if p.OnSync != nil {
		if err := p.OnSync(); err != nil {
			return err
		}
	}
	return p.DB.Sync(ctx)
}

// Pass lets some time of the process pass, much less than a lease.
func (p *Peer) Pass() { p.clock.Add(Lease / 100) }

// Unbound gives roles with terms that do not bind commits. Tests use it as a control.
type Unbound struct{ role.Roles }

// Run implements role.Roles.
func (u Unbound) Run(ctx context.Context, name string, work func(context.Context, role.Term)) {
	u.Roles.Run(ctx, name, func(ctx context.Context, _ role.Term) { role.Alone{}.Run(ctx, name, work) })
}

// Never gives no roles.
type Never struct{}

// Run implements role.Roles.
func (Never) Run(ctx context.Context, _ string, _ func(context.Context, role.Term)) { <-ctx.Done() }
