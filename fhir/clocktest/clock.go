// Package clocktest provides a clock that tests control.
package clocktest

import (
	"slices"
	"sync"
	"time"
)

// Clock is a clock that advances only when told to. The zero value shows the zero
// time. It is safe for concurrent use.
type Clock struct {
	mu     sync.Mutex
	now    time.Time
	step   time.Duration // added by each call of Now
	alarms []alarm
}

// alarm is a channel that After has returned and that has not received yet.
type alarm struct {
	at time.Time
	ch chan time.Time // capacity 1
}

// At returns a clock that shows t.
func At(t time.Time) *Clock { return &Clock{now: t} }

// Ticking returns a clock that starts at t and advances by step with each call of
// Now.
func Ticking(t time.Time, step time.Duration) *Clock { return &Clock{now: t, step: step} }

// Now returns the time of the clock.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.advance(c.now.Add(c.step))
	return c.now
}

// advance sets the time and fires the alarms that are due. The caller holds mu.
func (c *Clock) advance(t time.Time) {
	c.now = t
	c.alarms = slices.DeleteFunc(c.alarms, func(a alarm) bool {
		if t.Before(a.at) {
			return false
		}
		a.ch <- t
		return true
	})
}

// After returns a channel that receives the time when the clock has advanced by d.
func (c *Clock) After(d time.Duration) <-chan time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	a := alarm{c.now.Add(d), make(chan time.Time, 1)}
	c.alarms = append(c.alarms, a)
	c.advance(c.now)
	return a.ch
}

// Add advances the clock by d and returns the new time.
func (c *Clock) Add(d time.Duration) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.advance(c.now.Add(d))
	return c.now
}

// Set sets the clock to t.
func (c *Clock) Set(t time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.advance(t)
}

// Distinct returns a clock that shows the time of now, or a millisecond more than at its
// previous reading if that is later. It is for stores: they give each commit a
// millisecond of its own and wait if these run ahead of their clock, as they do at each
// commit if the clock stands still.
func Distinct(now func() time.Time) func() time.Time {
	var mu sync.Mutex
	var last time.Time
	return func() time.Time {
		mu.Lock()
		defer mu.Unlock()
		if t := now(); t.After(last.Add(time.Millisecond)) {
			last = t
		} else {
			last = last.Add(time.Millisecond)
		}
		return last
	}
}
