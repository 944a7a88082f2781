package follow

import (
	"sync"
	"time"
)

// Lag tells for how long changes have waited to be processed. It is safe for concurrent use.
type Lag struct {
	mu      sync.Mutex
	waiting time.Time // of the first change since the last step began
	current time.Time // of the first change that the step in progress processes
}

// Changed records a change at a time.
func (l *Lag) Changed(at time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.waiting.IsZero() {
		l.waiting = at
	}
}

// Begin records that a step begins, which processes the changes so far.
func (l *Lag) Begin() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.current.IsZero() { // else the step before has failed
		l.current = l.waiting
	}
	l.waiting = time.Time{}
}

// Done records that the changes before Begin are processed.
func (l *Lag) Done() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.current = time.Time{}
}

// At returns the time for which the oldest change has waited at a time, or 0 if none waits.
func (l *Lag) At(now time.Time) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	oldest := l.current
	if oldest.IsZero() {
		oldest = l.waiting
	}
	if oldest.IsZero() {
		return 0
	}
	return max(0, now.Sub(oldest))
}
