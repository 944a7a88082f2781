package pebblestore

import (
	"context"
	"slices"
	"time"

	"pulsegate/fhir/store/pebblestore/internal/fault"
	"pulsegate/fhir/store/sharedlog"
)

// maxLooks is the number of looks at the log that are under way at the same time. A caller
// of Sync that comes after a look began does not wait for the end of that look before its
// own begins.
const maxLooks = 2

// look is one reading of the log.
type look struct {
	ticket  uint64
	began   time.Time
	from    sharedlog.Position
	entries []logged
	more    bool // there may be further entries
	err     error
}

type logged struct {
	entry *sharedlog.Entry
	sum   sharedlog.Hash
}

// Bounds of the entries that a look holds in memory.
const (
	lookEntries = 256
	lookBytes   = 32 << 20
)

// advanceLooks begins a look at the log if it is needed. Beside another look, it
// begins one only for those who wait.
func (r *replica) advanceLooks() {
	r.soon = nil
	n := len(r.looks)
	if r.dead || r.pause != nil || n >= maxLooks {
		return
	}
	if waits := r.unserved() || r.wanted && r.lostPlace(); !waits && (n > 0 || !r.wanted) {
		return
	}
	if n > 0 {
		apart := min(r.lookLatency/maxLooks, maxGather)
		if wait := apart - time.Since(r.lastLook); wait >= minGather {
			r.soon = time.After(wait)
			return
		}
	}
	r.startLook(&look{began: time.Now(), ticket: r.lastTicket()})
}

// lostPlace reports whether another entry was seen at the place of a flight.
func (r *replica) lostPlace() bool {
	return slices.ContainsFunc(r.flights, func(f *flight) bool { return f.taken })
}

// unserved reports whether a caller waits for a look that neither has begun nor is
// replaced by an append under way.
func (r *replica) unserved() bool {
	covered := r.served
	for _, f := range r.flights {
		if !f.troubled && !f.taken {
			covered = max(covered, f.ticket)
		}
	}
	for _, l := range r.looks {
		covered = max(covered, l.ticket)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.tickets > covered && len(r.waiting)+len(r.held) > 0
}

// startLook reads the log on another goroutine.
func (r *replica) startLook(l *look) {
	r.looks, r.wanted = append(r.looks, l), false
	r.lastLook = time.Now()
	l.from = r.db.position.Position
	r.calls.Add(1)
	go func() {
		defer r.calls.Done()
		r.read(l)
		select {
		case r.looked <- l:
		case <-r.ctx.Done():
		}
	}()
}

// read reads the entries after l.from.
func (r *replica) read(l *look) *look {
	ctx, cancel := context.WithTimeout(r.ctx, r.conf.limits.attempt)
	defer cancel()
	bytes := 0
	l.err = r.conf.Log.Read(ctx, l.from, func(e *sharedlog.Entry, sum sharedlog.Hash) bool {
		l.entries = append(l.entries, logged{e, sum})
		bytes += len(e.Rows)
		l.more = len(l.entries) >= lookEntries || bytes >= lookBytes
		return !l.more
	})
	return l
}

// onLooked applies what a look has found. Looks may end in another order than they began.
// Each serves those who came before it began, and applies what is not applied yet.
func (r *replica) onLooked(l *look) {
	r.looks = slices.DeleteFunc(r.looks, func(x *look) bool { return x == l })
	if r.dead {
		return
	}
	r.lookLatency += (time.Since(l.began) - r.lookLatency) / 8
	if len(l.entries) > 0 && r.db.spaceSince(lookAtSpace).level() == over {
		l.entries, l.more, l.err = nil, false, fault.Refusal("the disk is full")
	}
	if err := r.applyAll(l.entries); err != nil {
		r.db.stopped(err)
		return
	}
	switch {
	case l.err != nil:
		if err := mustRejoin(l.err); err != nil && l.from.Index < r.db.position.Index {
			r.wanted = true // the entries at the place from which it read may be truncated by now
			return
		} else if err != nil {
			r.db.stopped(err)
			return
		}
		if r.delay == 0 {
			r.failing = l.began
		}
		r.delay = min(max(2*r.delay, r.conf.limits.retry), r.conf.limits.maxRetry)
		r.pause, r.wanted = time.After(r.delay), true
	case l.more:
		r.delay = 0
		r.startLook(&look{began: l.began, ticket: l.ticket})
	default:
		r.delay = 0
		if r.conf.broken.joinLooks {
			l.ticket = r.lastTicket()
		}
		r.confirm(l.ticket, l.began)
	}
}
