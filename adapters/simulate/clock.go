package simulate

import (
	"sync"
	"time"
)

// Clock shows simulated time. It runs at a multiple of the speed of another clock, or
// stands still until it is moved. It is safe for concurrent use.
type Clock struct {
	mu    sync.Mutex
	wall  func() time.Time
	base  time.Time // reading of wall at the start
	start time.Time // simulated time at base, with everything added by Add
	speed float64   // simulated seconds per second of wall
	limit bool      // the clock never passes wall
}

// NewClock returns a clock that shows start now and then runs speed times as fast as
// wall. If wall is nil, the clock stands still and only Add and Set move it.
func NewClock(wall func() time.Time, start time.Time, speed float64) *Clock {
	c := &Clock{wall: wall, start: start, speed: speed}
	if wall != nil {
		c.base = wall()
	}
	return c
}

// CatchUp returns a clock that shows start now, runs speed times as fast as wall until it
// has caught up with it, and then shows the same time. Clients on wall never see data from
// their future.
func CatchUp(wall func() time.Time, start time.Time, speed float64) *Clock {
	c := NewClock(wall, start, speed)
	c.limit = true
	return c
}

// Now returns the simulated time.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now()
}

func (c *Clock) now() time.Time {
	if c.wall == nil {
		return c.start
	}
	wall := c.wall()
	now := c.start.Add(time.Duration(float64(wall.Sub(c.base)) * c.speed))
	if c.limit && now.After(wall) {
		return wall
	}
	return now
}

// Add moves the clock forward by d and returns the new time.
func (c *Clock) Add(d time.Duration) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.start = c.start.Add(d)
	return c.now()
}

// Set moves the clock to t, from where it runs on.
func (c *Clock) Set(t time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.start = c.start.Add(t.Sub(c.now()))
}

// Wall returns how long the simulated duration d lasts on the other clock, at least a
// millisecond. For a clock that stands still it returns a second.
func (c *Clock) Wall(d time.Duration) time.Duration {
	if c.wall == nil || c.speed <= 0 {
		return time.Second
	}
	return max(time.Duration(float64(d)/c.speed), time.Millisecond)
}

// Window is a half-open interval of simulated time.
type Window struct{ From, To time.Time }

// Contains reports whether t is in the window.
func (w Window) Contains(t time.Time) bool { return !t.Before(w.From) && t.Before(w.To) }
