// Package yield gives up the processor in long computations.
//
// A goroutine that computes keeps its core until the scheduler preempts it,
// after 10 ms, while a request needs a core about six times before it is
// answered. So everything that works through a lot (decoding, encoding, large
// commits, the change log, exports, compaction) yields every 100 to 200 us;
// the constants of the callers are chosen for that. The Go runtime has no
// priorities that would do it instead.
package yield

import "runtime"

// Now lets the other runnable goroutines run first.
func Now() { runtime.Gosched() }

// Counter yields once every Every steps. It is not safe for concurrent use.
type Counter struct {
	Every int
	steps int // since the last yield
}

// Add counts n steps and yields when Every is reached.
func (c *Counter) Add(n int) {
	if c.steps += n; c.steps >= c.Every {
		c.steps = 0
		Now()
	}
}
