// Package role runs work that one process of a cluster may do at a time: sending
// notifications, polling vendors, signing checkpoints.
//
// A role is a lease in small state. The process that holds it renews it, and another
// process takes it when it has seen no renewal for the length of the lease, measured
// by its own monotonic clock, so that clocks need not agree. Each time the role
// changes hands, its epoch grows. Every commit of the work has the epoch as a
// precondition, so that a process that overslept its lease can write nothing.
//
// A server that is alone holds every role from its start (Alone).
package role

import (
	"context"

	"pulsegate/fhir/store"
)

// Roles gives roles to the work of this process.
type Roles interface {
	// Run calls work each time this process takes the role, until ctx ends. The
	// context of work ends when the role is lost or ctx ends, and Run waits for work.
	// If work returns before that, the role is given up, and taken again after a
	// while. Run returns when ctx has ended.
	Run(ctx context.Context, name string, work func(ctx context.Context, t Term))
}

// Term is the time for which a process holds a role.
type Term interface {
	// Bind adds the precondition of the term to a batch. The commit fails with
	// Conflict if the role has changed hands, and the context of the work then ends.
	Bind(b *store.Batch)
	// Store returns st with every commit bound to the term.
	Store(st store.Store) store.Store
}

// Alone gives every role to this process. It is for servers without a cluster.
type Alone struct{}

var _ Roles = Alone{}

// Run implements Roles.
func (Alone) Run(ctx context.Context, _ string, work func(context.Context, Term)) {
	work(ctx, always{})
	<-ctx.Done()
}

// always is a term that cannot end.
type always struct{}

func (always) Bind(*store.Batch) {}

func (always) Store(st store.Store) store.Store { return st }
