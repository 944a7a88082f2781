package follow

import (
	"context"
	"time"

	"pulsegate/fhir/store"
)

// Loop repeats a step whenever there may be something to do.
type Loop struct {
	// Wake has an element when there may be something to do.
	Wake <-chan struct{}
	// Delay is the time between an element of Wake and the step.
	Delay time.Duration
	// Pause is the time that passes at least between two steps.
	Pause time.Duration
	// MinBackoff and MaxBackoff bound the wait after an error, which doubles with each
	// further error.
	MinBackoff, MaxBackoff time.Duration
	// Failed is called with the error of a step, unless ctx has ended.
	Failed func(error)
}

// Run calls step until ctx ends: after an element of Wake, after the time that the last
// call has returned unless it is 0, and after an error.
func (l *Loop) Run(ctx context.Context, step func(context.Context) (next time.Duration, err error)) {
	backoff, next := l.MinBackoff, time.Duration(0)
	for l.wait(ctx, next) {
		var err error
		for next, err = step(ctx); err != nil && ctx.Err() == nil; next, err = step(ctx) {
			l.Failed(err)
			if !Sleep(ctx, nil, backoff) {
				return
			}
			backoff = min(2*backoff, l.MaxBackoff)
		}
		backoff = l.MinBackoff
		if l.Pause > 0 && !Sleep(ctx, nil, l.Pause) {
			return
		}
	}
}

// wait waits until a step is due. It returns false when ctx ends.
func (l *Loop) wait(ctx context.Context, next time.Duration) bool {
	var due <-chan time.Time
	if next > 0 {
		t := time.NewTimer(next)
		defer t.Stop()
		due = t.C
	}
	select {
	case <-ctx.Done():
		return false
	case <-due:
		return ctx.Err() == nil
	case <-l.Wake:
	}
	if l.Delay > 0 {
		return Sleep(ctx, nil, l.Delay)
	}
	return ctx.Err() == nil
}

// Sleep waits for d or for an element of wake, which may be nil. It returns false when ctx
// ends.
func Sleep(ctx context.Context, wake <-chan struct{}, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-wake:
	case <-t.C:
	}
	return ctx.Err() == nil
}

// Signal wakes the receiver of c, which has capacity 1.
func Signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// watchable is the part of a store that Watch uses.
type watchable interface {
	Watch(fn func(store.Commit)) (stop func())
}

// Watch returns a channel that has an element after each commit of a store, until stop is
// called. An element may stand for several commits.
func Watch(st watchable) (committed <-chan struct{}, stop func()) {
	c := make(chan struct{}, 1)
	return c, st.Watch(func(store.Commit) { Signal(c) })
}
