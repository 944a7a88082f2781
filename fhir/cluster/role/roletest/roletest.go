// Package roletest gives roles to the processes of a test as the test says.
package roletest

import (
	"context"
	"fmt"
	"sync"

	"pulsegate/fhir/cluster/role"
	"pulsegate/fhir/store"
)

// Roles moves all roles between the processes of a test.
type Roles struct {
	st    store.Store
	mu    sync.Mutex
	given *Process      // guarded by mu
	epoch int           // guarded by mu
	moved chan struct{} // closed by Give; guarded by mu
}

// Process is one process that asks for roles.
type Process struct {
	all  *Roles
	deaf bool // does not learn that it has lost its roles; guarded by all.mu
}

var _ role.Roles = (*Process)(nil)

// New returns roles that no process has. Their epoch is kept in st.
func New(st store.Store) *Roles { return &Roles{st: st, moved: make(chan struct{})} }

// Process returns a new process.
func (r *Roles) Process() *Process { return &Process{all: r} }

// Give gives all roles to p, or to none if p is nil.
func (r *Roles) Give(p *Process) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.given = p
	r.epoch++
	_, err := r.st.Commit(context.Background(),
		&store.Batch{State: []store.StateWrite{{Key: epochKey, Value: epochOf(r.epoch)}}})
	close(r.moved)
	r.moved = make(chan struct{})
	return err
}

// Deafen makes p one that is suspended: it does not learn that it has lost its roles.
func (r *Roles) Deafen(p *Process) {
	r.mu.Lock()
	defer r.mu.Unlock()
	p.deaf = true
}

const epochKey = "role/test"

func epochOf(n int) []byte { return fmt.Append(nil, n) }

// look returns the epoch if p has the roles, or 0, and a channel that is closed when the
// roles move.
func (p *Process) look(since int) (epoch int, moved <-chan struct{}) {
	p.all.mu.Lock()
	defer p.all.mu.Unlock()
	switch {
	case p.deaf && since > 0:
		return since, p.all.moved
	case p.all.given == p:
		return p.all.epoch, p.all.moved
	}
	return 0, p.all.moved
}

// Run implements role.Roles.
func (p *Process) Run(ctx context.Context, _ string, work func(context.Context, role.Term)) {
	for ctx.Err() == nil {
		epoch, moved := p.look(0)
		if epoch > 0 {
			p.term(ctx, epoch, work)
		}
		select {
		case <-ctx.Done():
		case <-moved:
		}
	}
}

// term runs work until the epoch ends.
func (p *Process) term(ctx context.Context, epoch int, work func(context.Context, role.Term)) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	go func() {
		for {
			now, moved := p.look(epoch)
			if now != epoch {
				stop()
				return
			}
			select {
			case <-ctx.Done():
				return
			case <-moved:
			}
		}
	}()
	work(ctx, term(epoch))
}

// term is an epoch.
type term int

// Bind implements role.Term.
func (t term) Bind(b *store.Batch) {
	v := epochOf(int(t))
	b.State = append(b.State, store.StateWrite{Key: epochKey, Value: v, Expect: store.StateEquals, Old: v})
}

// Store implements role.Term.
func (t term) Store(st store.Store) store.Store { return bound{st, t} }

type bound struct {
	store.Store
	term term
}

func (s bound) Commit(ctx context.Context, b *store.Batch) (store.Result, error) {
	own := *b
	own.State = append([]store.StateWrite(nil), b.State...)
	s.term.Bind(&own)
	return s.Store.Commit(ctx, &own)
}
