// Package follow runs work that follows the commits of a store, such as sending
// notifications or deriving values, in the one process of a cluster that holds a role.
//
// A Follower waits for the role, restores the state of its Work, and calls a step of the
// work after each commit that changes resources, whichever process has made it. The work
// writes through a store that is bound to the term of the role, so that a process that has
// lost the role writes nothing. Its position is a Cursor, which it commits together with
// the results of a step. So a step that was interrupted, by a crash or by the loss of the
// role, is repeated by the next holder with the same result.
//
// Loop, Watch, Signal and Sleep are the parts that serve work with another structure.
package follow

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"pulsegate/fhir/cluster/role"
	"pulsegate/fhir/store"
)

// Work is the work of a Follower during one term of its role.
type Work interface {
	// Load restores the state.
	Load(ctx context.Context) error
	// Step processes what is due. If next is not 0, Step is called again after that time
	// even if nothing changes.
	Step(ctx context.Context) (next time.Duration, err error)
	// Close waits for the goroutines of the work. It is called once per term, after the
	// context of the term has ended, also if Load has failed.
	Close()
}

// Options configures a Follower.
type Options[W Work] struct {
	Store store.Store
	// Roles decides which process works. The default is role.Alone.
	Roles role.Roles
	// Role is the name of the role.
	Role string
	// Begin returns the work of a term. ctx ends with the term, and st is Store with every
	// commit bound to the term.
	Begin func(ctx context.Context, t role.Term, st store.Store) W
	// Changed, if set, is called in every process after each commit that changes
	// resources, before the work is woken.
	Changed func()
	// Delay is the time between a change and the step that processes it, so that a burst
	// of changes is processed together.
	Delay time.Duration
	// MinBackoff and MaxBackoff bound the wait after an error.
	MinBackoff, MaxBackoff time.Duration
	Logger                 *slog.Logger
}

// Follower runs work in the process that holds a role. The zero value is not started.
type Follower[W Work] struct {
	opts    Options[W]
	alone   bool
	wake    chan struct{} // capacity 1
	unwatch func()
	cancel  context.CancelFunc
	running sync.WaitGroup
	current atomic.Pointer[W]
}

// Start starts the Follower. It runs until Close, whether or not ctx ends. With role.Alone,
// Start waits for Load and returns its error, so that a server does not start that cannot
// read its state. Otherwise, an error of Load is logged, and the role is given up.
func (f *Follower[W]) Start(ctx context.Context, o Options[W]) error {
	if o.Roles == nil {
		o.Roles = role.Alone{}
	}
	f.opts, f.wake = o, make(chan struct{}, 1)
	_, f.alone = o.Roles.(role.Alone)
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	f.cancel = cancel
	// Watch before the state is read, so that no commit is missed.
	f.unwatch = o.Store.Watch(func(c store.Commit) {
		if len(c.Changes) == 0 && c.Samples == 0 {
			return
		}
		if o.Changed != nil {
			o.Changed()
		}
		Signal(f.wake)
	})
	loaded := make(chan error, 1)
	f.running.Go(func() {
		o.Roles.Run(run, o.Role, func(ctx context.Context, t role.Term) { f.serve(ctx, t, loaded) })
	})
	if !f.alone {
		return nil
	}
	err := <-loaded
	if err != nil {
		f.Close()
	}
	return err
}

// serve works during a term of the role. The result of Load is sent to loaded in the first
// term.
func (f *Follower[W]) serve(ctx context.Context, t role.Term, loaded chan<- error) {
	ctx, cancel := context.WithCancel(ctx)
	w := f.opts.Begin(ctx, t, t.Store(f.opts.Store))
	defer w.Close()
	defer cancel() // Close waits for goroutines that Load has started
	err := w.Load(ctx)
	if err == nil {
		f.current.Store(&w)
		defer f.current.Store(nil)
	}
	select {
	case loaded <- err:
	default:
	}
	if err != nil {
		if ctx.Err() == nil {
			f.opts.Logger.ErrorContext(ctx, "the state of a follower cannot be read", "role", f.opts.Role, "error", err)
		}
		return
	}
	Signal(f.wake)
	loop := Loop{Wake: f.wake, Delay: f.opts.Delay, MinBackoff: f.opts.MinBackoff, MaxBackoff: f.opts.MaxBackoff,
		Failed: func(err error) {
			f.opts.Logger.ErrorContext(ctx, "the change log cannot be followed", "role", f.opts.Role, "error", err)
		}}
	loop.Run(ctx, w.Step)
}

// Current returns the work while this process holds the role, and the zero value otherwise.
func (f *Follower[W]) Current() (w W) {
	if p := f.current.Load(); p != nil {
		w = *p
	}
	return w
}

// Alone reports whether Roles is role.Alone, so that no other process works.
func (f *Follower[W]) Alone() bool { return f.alone }

// Close stops the work, waits for it, and gives up the role.
func (f *Follower[W]) Close() {
	f.unwatch()
	f.cancel()
	f.running.Wait()
}
