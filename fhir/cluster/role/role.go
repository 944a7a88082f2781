// Package role runs work that one process of a cluster may do at a time: sending
// notifications, polling vendors, signing checkpoints.
//
// A role is a lease in small state. The process that holds it renews it, and another
// process takes it when it has seen no renewal for the length of the lease, measured
// by its own monotonic clock, so that clocks need not agree. Each time the role
// changes hands, its epoch grows. Every commit of the work has the epoch as a
// precondition, so that a process that overslept its lease can write nothing.
//
// A server that is alone holds every role from its start (Alone). A server of a
// cluster uses Leases.
//
// # Leases
//
// A process takes a role by a commit whose preconditions are the lease and the
// renewal that it has seen, so that a renewal that it has not seen yet makes it fail.
// It renews all its roles in one commit, four times per lease. The work ends as soon
// as a lease length has passed since the last acknowledged renewal began, even if the
// store cannot be reached. Since a renewal begins before anybody sees it, the work of
// the former holder has ended when the next one begins, as long as their clocks run
// at the same rate and neither is suspended. Commits need no such assumption.
//
// What a process does outside the store, such as sending a notification, is not
// bound to the epoch. A process that was stopped for longer than its lease can repeat
// a request that the next holder makes, too, until its own timer has run. Such work
// must therefore commit, or call Sync of the bound store, before each request, and its
// requests must bear repetition, as they must after a crash.
//
// A process does not take all free roles at once: with each role that it holds, it
// waits longer before it takes another, so that the roles of processes that start
// together are spread over them. Roles are not moved afterwards.
//
// A process is known by an instance id that is drawn at its start. A lease from
// before a restart is not its own, but if it was taken by a process of the same name
// with the same data directory, whose lock this process has now, its holder is gone, and
// the role is taken at once, with a new epoch. What the former process had on its way to
// the log fails by that epoch.
//
// # State
//
//	role/<name>           JSON: node, data directory, instance, epoch, length of the lease, time of the
//	                      takeover. Without an instance, the role is free.
//	role/<name>/renewed   JSON: epoch, number and time of the last renewal
//
// The times are for operators. Nothing compares them.
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
	// Store returns st with every commit bound to the term. Its Sync fails with
	// Conflict, too, if the role has changed hands.
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
