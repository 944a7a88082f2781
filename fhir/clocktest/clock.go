// Package clocktest provides a clock that a test sets by hand. It may be read
// by goroutines of the server while the test moves it.
package clocktest

import (
	"sync"
	"time"
)

// Clock stands still until it is moved. Its zero value stands at the zero time.
type Clock struct {
	mu  sync.Mutex
	now time.Time
	// step is added by each reading.
	step time.Duration
}

// At returns a clock that stands at t.
func At(t time.Time) *Clock { return &Clock{now: t} }

// Ticking returns a clock that starts at t and moves by step with each
// reading.
func Ticking(t time.Time, step time.Duration) *Clock { return &Clock{now: t, step: step} }

// Now returns the time; it serves as the clock of what is tested.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(c.step)
	return c.now
}

// Add moves the clock by d and returns the new time.
func (c *Clock) Add(d time.Duration) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
	return c.now
}

// Set moves the clock to t.
func (c *Clock) Set(t time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = t
}
