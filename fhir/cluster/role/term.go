package role

import (
	"bytes"
	"context"
	"slices"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/store"
)

// term is the time for which Leases hold a role.
type term struct {
	leases *Leases
	name   string
	epoch  uint64
	value  []byte             // of the row of the role during the term
	cancel context.CancelFunc // ends the context of the work

	// The following fields are guarded by Leases.mu. renewed is the time at which the
	// last acknowledged renewal began, and count the number of attempted renewals. over
	// is set when the work has ended, and lost if the role was lost before that.
	renewed    time.Time
	count      uint64
	over, lost bool
}

// Bind implements Term. It replaces the precondition of an earlier term of the role.
func (t *term) Bind(b *store.Batch) {
	w := store.StateWrite{Key: leaseKey(t.name), Value: t.value, Expect: store.StateEquals, Old: t.value}
	i := slices.IndexFunc(b.State, func(old store.StateWrite) bool { return old.Key == w.Key })
	if i < 0 {
		b.State = append(b.State, w)
	} else {
		b.State[i] = w
	}
}

// Store implements Term.
func (t *term) Store(st store.Store) store.Store {
	s := bound{st, t}
	if c, ok := st.(store.Columnar); ok {
		return boundColumnar{s, c}
	}
	return s
}

// bound is a store whose commits are bound to a term.
type bound struct {
	store.Store
	term *term
}

// boundColumnar is a bound store that keeps samples in columns.
type boundColumnar struct {
	bound
	store.Columnar
}

// Commit implements store.Store. It does not change b, which the caller may commit
// again, also in another term.
func (s bound) Commit(ctx context.Context, b *store.Batch) (store.Result, error) {
	copied := *b
	copied.State = slices.Clone(b.State)
	s.term.Bind(&copied)
	r, err := s.Store.Commit(ctx, &copied)
	if fhir.KindOf(err) == fhir.Conflict {
		_ = s.term.check(ctx) // ends the work if it is the cause
	}
	return r, err
}

// Sync implements store.Store. It fails with Conflict if another process has taken the
// role.
func (s bound) Sync(ctx context.Context) error {
	if err := s.Store.Sync(ctx); err != nil {
		return err
	}
	return fhir.Wrap("role.Sync", s.term.check(ctx))
}

// renew returns the write of a renewal that begins at a time.
func (t *term) renew(began time.Time) store.StateWrite {
	t.leases.mu.Lock()
	defer t.leases.mu.Unlock()
	t.count++
	return store.StateWrite{Key: renewedKey(t.name), Value: encode(renewal{t.epoch, t.count, began.UTC()})}
}

// age returns the time since the last acknowledged renewal began.
func (t *term) age() time.Duration {
	t.leases.mu.Lock()
	defer t.leases.mu.Unlock()
	return t.leases.opts.Clock().Sub(t.renewed)
}

// due returns the time until the next renewal.
func (t *term) due() time.Duration { return t.leases.renewal - t.age() }

// end ends the work because the role is lost.
func (t *term) end(ctx context.Context, why string) {
	t.leases.mu.Lock()
	first := !t.lost && !t.over
	t.lost = t.lost || first
	t.leases.mu.Unlock()
	t.cancel()
	if first {
		t.leases.opts.Logger.WarnContext(ctx, "this process has lost a role", "role", t.name, "epoch", t.epoch,
			"reason", why)
	}
}

// check ends the work if another process has taken the role, and then fails with Conflict.
// It also fails if the lease cannot be read.
func (t *term) check(ctx context.Context) error {
	v, err := t.leases.opts.State.Get(context.WithoutCancel(ctx), leaseKey(t.name))
	if err == nil && !bytes.Equal(v, t.value) {
		t.end(ctx, "taken by another process")
		return fhir.Errorf(fhir.Conflict, "role.check", "another process has taken the role %s", t.name)
	}
	return err
}

// watch ends the work when another process has taken the role, or when the lease has
// not been renewed for its length.
func (t *term) watch(ctx context.Context) {
	for ctx.Err() == nil {
		left := t.leases.opts.Lease - t.age()
		if left <= 0 {
			t.end(ctx, "the lease could not be renewed")
			return
		}
		_ = t.check(ctx) // the lease runs out if it cannot be read
		select {
		case <-ctx.Done():
		case <-t.leases.opts.After(min(left, t.leases.poll)):
		}
	}
}

// keep renews the lease until ctx ends.
func (t *term) keep(ctx context.Context) {
	for ctx.Err() == nil {
		wait := t.due()
		if wait <= 0 {
			t.leases.renewAll(ctx, t)
			wait = max(t.due(), t.leases.poll)
		}
		select {
		case <-ctx.Done():
		case <-t.leases.opts.After(wait):
		}
	}
}
