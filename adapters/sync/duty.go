package sync

import (
	"context"
	"sync"
	"time"

	"pulsegate/adapters/cloud"
)

// duty is work that does not belong to a link. The engine's mutex guards due.
type duty struct {
	name     string
	due      time.Time
	failures int
	// do returns when to call it again.
	do func(ctx context.Context) (time.Time, error)
}

// addDuties adds the subscriptions at vendors and the end of unlinked grants.
func (e *Engine) addDuties() {
	now := e.Clock()
	e.duties = append(e.duties, &duty{name: "unlink", due: now, do: func(ctx context.Context) (time.Time, error) {
		_, err := e.Links.Sweep(ctx, caller())
		return e.Clock().Add(time.Hour), err
	}})
	if e.Hooks == "" {
		return
	}
	for _, v := range e.order {
		notifier, ok := v.Vendor.(cloud.Notifier)
		if !ok {
			continue
		}
		e.duties = append(e.duties, &duty{name: "subscribe " + v.Code(), due: now,
			do: func(ctx context.Context) (time.Time, error) {
				return notifier.Subscribe(ctx, e.Hooks+"/"+v.Code())
			}})
	}
}

// performDue performs all duties that are due, each once.
func (e *Engine) performDue(ctx context.Context) {
	e.mu.Lock()
	due := []*duty(nil)
	for _, d := range e.duties {
		if !d.due.After(e.Clock()) {
			due = append(due, d)
		}
	}
	e.mu.Unlock()
	for _, d := range due {
		e.performDuty(ctx, d)
	}
}

func (e *Engine) performDuty(ctx context.Context, d *duty) {
	next, err := d.do(ctx)
	now := e.Clock()
	e.mu.Lock()
	defer e.mu.Unlock()
	d.failures++
	if err == nil {
		d.failures = 0
		d.due = maxTime(next, now.Add(time.Second))
		return
	}
	d.due = now.Add(waitFor(nil, d.failures))
	if ctx.Err() == nil {
		e.Logger.Warn("sync: a duty failed and will be tried again", "duty", d.name, "error", err.Error())
	}
}

// performDuties performs duties until ctx ends, each in a goroutine, so that a slow
// vendor does not delay another.
func (e *Engine) performDuties(ctx context.Context) {
	var wg sync.WaitGroup
	for _, d := range e.duties {
		wg.Go(func() {
			never := make(chan struct{})
			for ctx.Err() == nil {
				e.mu.Lock()
				due := d.due
				e.mu.Unlock()
				if due.After(e.Clock()) {
					wait(ctx, due.Sub(e.Clock()), never)
					continue
				}
				e.performDuty(ctx, d)
			}
		})
	}
	wg.Wait()
}
