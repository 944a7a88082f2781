// Package memlog keeps a shared log and its snapshots in memory. It is for tests of
// several processes, and for measuring them with a chosen latency.
//
// A Cluster is the state of the log's servers. Each process has a Client of its own,
// with its own connection to the servers. A connection can be cut, and every call can
// meet a fault: the request or the answer is lost, the request arrives after later
// ones, the servers store an entry without a majority, the call is slow. A Plan
// chooses the fault of each call. Random draws them from a seed, and the n-th call of
// a client then always meets the same fault.
//
// The servers behave as a MongoDB replica set does. They store writes in one order. If
// they have lost their majority, they still store entries, which take their places but
// are not durable and which no reader sees. When the majority is back, these entries
// become durable (RegainMajority), or the servers discard them (RollBack).
package memlog

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"pulsegate/fhir/store/sharedlog"
)

var (
	// ErrLost reports that a connection was lost. The call may or may not have had an
	// effect.
	ErrLost = errors.New("memlog: the connection was lost")
	// ErrNoMajority reports that no majority has confirmed an entry, which is stored
	// and may become durable or be rolled back.
	ErrNoMajority = errors.New("memlog: no majority confirmed the entry")
	// ErrClosed reports a call of a client that was closed.
	ErrClosed = errors.New("memlog: the client is closed")
	// ErrDamaged reports an entry or a file whose content does not have its hash.
	ErrDamaged = errors.New("memlog: the content does not have its hash")
)

// Options configure a Cluster. The zero Options describe servers without faults and
// without latency.
type Options struct {
	// Plan chooses the fault of each call. If it is nil, there are none.
	Plan Plan
	// Latency is the duration of each call: half of it passes before the servers act,
	// half of it after.
	Latency time.Duration
	// Sleep waits for d or until ctx ends. If it is nil, a timer is used.
	Sleep func(ctx context.Context, d time.Duration) error
	// Now returns the time by which Remove decides whether a file may be removed. If
	// it is nil, the time stands still, and no file is ever a day old.
	Now func() time.Time
}

// Cluster is the state of the log's servers. It is safe for concurrent use.
type Cluster struct {
	options Options

	// mu guards the fields below.
	mu       sync.Mutex
	identity sharedlog.Identity
	places   map[uint64]*stored
	first    uint64 // entries before this place were removed
	head     uint64 // the last place up to which all entries are durable
	last     uint64 // the last durable entry
	minority bool   // the servers have lost their majority
	// regained is the number of calls after which the majority is back, or 0 if it
	// comes back by RegainMajority or RollBack only.
	regained uint64
	rollBack bool          // whether the entries are then rolled back
	changed  chan struct{} // closed, and replaced, when entries become durable or are discarded
	calls    uint64
	late     []lateAppend
	archive  archive
}

// stored is an entry in its place. All fields but durable are immutable.
type stored struct {
	entry   sharedlog.Entry
	sum     sharedlog.Hash
	durable bool // guarded by Cluster.mu
}

// lateAppend is a request on its way.
type lateAppend struct {
	due   uint64 // the number of calls after which it arrives
	entry *sharedlog.Entry
}

// New returns the servers of a log that is empty.
func New(o Options) *Cluster {
	if o.Sleep == nil {
		o.Sleep = sleep
	}
	if o.Now == nil {
		o.Now = func() time.Time { return time.Time{} }
	}
	return &Cluster{options: o, places: map[uint64]*stored{}, first: 1, changed: make(chan struct{}),
		archive: newArchive()}
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// LoseMajority lets the servers lose their majority. Entries that are appended from now
// on are stored, but are not durable, and the calls wait.
func (c *Cluster) LoseMajority() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.minority, c.regained = true, 0
}

// RegainMajority makes all entries durable that were stored without a majority.
func (c *Cluster) RegainMajority() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.settle(false)
}

// RollBack lets the servers regain their majority, and discards all entries that were
// stored without one.
func (c *Cluster) RollBack() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.settle(true)
}

// settle ends a time without a majority.
func (c *Cluster) settle(rollBack bool) {
	c.minority, c.regained = false, 0
	for i, s := range c.places {
		switch {
		case s.durable:
		case rollBack:
			delete(c.places, i)
		default:
			s.durable = true
		}
	}
	c.count()
	c.wake()
}

// wake calls the appends that wait for a majority.
func (c *Cluster) wake() {
	close(c.changed)
	c.changed = make(chan struct{})
}

// count finds the durable places after others than the last one changed.
func (c *Cluster) count() {
	c.head, c.last = c.first-1, 0
	for i, s := range c.places {
		if s.durable {
			c.last = max(c.last, i)
		}
	}
	c.advance()
}

// advance moves head over durable entries.
func (c *Cluster) advance() {
	for s := c.places[c.head+1]; s != nil && s.durable; s = c.places[c.head+1] {
		c.head++
	}
}

// DeliverLate lets all requests arrive that are on their way.
func (c *Cluster) DeliverLate() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.deliver(Never)
}

// deliver lets the requests arrive that are due after some calls.
func (c *Cluster) deliver(calls uint64) {
	c.late = slices.DeleteFunc(c.late, func(l lateAppend) bool {
		if l.due > calls {
			return false
		}
		// The client no longer waits for the answer.
		_, _ = c.insert(l.entry)
		return true
	})
}

// Backup returns a function that restores the servers to their present state: log,
// identity and snapshots. Entries that are not durable now are not part of it.
func (c *Cluster) Backup() (restore func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	places := maps.Clone(c.places)
	maps.DeleteFunc(places, func(_ uint64, s *stored) bool { return !s.durable })
	identity, first, archive := c.identity, c.first, c.archive.clone()
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.places, c.identity, c.first, c.archive = maps.Clone(places), identity, first, archive.clone()
		c.late = nil
		c.settle(true)
	}
}

// TamperEntry changes a byte of the rows of an entry, without its hash. It reports
// whether there is an entry with rows.
func (c *Cluster) TamperEntry(index uint64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.places[index]
	if s == nil || len(s.entry.Rows) == 0 {
		return false
	}
	changed := *s
	changed.entry.Rows = tampered(s.entry.Rows)
	c.places[index] = &changed
	return true
}

func tampered(b []byte) []byte {
	b = slices.Clone(b)
	b[len(b)/2] ^= 1
	return b
}

// Holds reports whether an entry is stored at a place, durable or not.
func (c *Cluster) Holds(index uint64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.places[index] != nil
}

// Calls returns the number of calls that the servers have seen or lost.
func (c *Cluster) Calls() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.calls
}

// begin counts a call and lets happen what was due.
func (c *Cluster) begin(f Fault) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls++
	if c.regained != 0 && c.calls > c.regained {
		c.settle(c.rollBack)
	}
	c.deliver(c.calls)
	if f.NoMajority > 0 && !c.minority {
		c.minority, c.regained, c.rollBack = true, c.after(f.NoMajority), f.RollBack
	}
}

// delay remembers an entry that arrives after some more calls.
func (c *Cluster) delay(e *sharedlog.Entry, calls uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.late = append(c.late, lateAppend{c.after(calls), e})
}

// after returns the number of calls when some more will have been made.
func (c *Cluster) after(calls uint64) uint64 { return c.calls + min(calls, Never-c.calls) }

// insert stores an entry if its place is free, or returns the same entry if it was
// stored before. The caller holds mu.
func (c *Cluster) insert(e *sharedlog.Entry) (*stored, error) {
	if s := c.places[e.Index]; s != nil {
		if s.entry.Nonce != e.Nonce {
			return nil, sharedlog.ErrTaken
		}
		return s, nil
	}
	if e.Index < c.first {
		return nil, sharedlog.ErrTruncated
	}
	if c.identity != (sharedlog.Identity{}) && c.identity.Epoch != e.Epoch {
		return nil, sharedlog.ErrEpoch
	}
	s := &stored{*e, e.Sum(), !c.minority}
	c.places[e.Index] = s
	if s.durable {
		c.last = max(c.last, e.Index)
		c.advance()
	}
	return s, nil
}

// append stores an entry and waits until it is durable.
func (c *Cluster) append(ctx context.Context, e *sharedlog.Entry) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	s, err := c.insert(e)
	if err != nil {
		return err
	}
	for !s.durable {
		if c.places[e.Index] != s || c.regained != 0 {
			return ErrNoMajority
		}
		changed := c.changed
		c.mu.Unlock()
		select {
		case <-changed:
			err = nil
		case <-ctx.Done():
			err = ctx.Err()
		}
		c.mu.Lock()
		if err != nil {
			return err
		}
	}
	return nil
}

// read returns the durable entries after p.
func (c *Cluster) read(p sharedlog.Position) ([]*stored, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p.Index == 0 && c.first > 1 || p.Index > 0 && p.Index < c.first {
		return nil, sharedlog.ErrTruncated
	}
	if p.Index > 0 {
		if s := c.places[p.Index]; s == nil || !s.durable || s.sum != p.Last {
			return nil, sharedlog.ErrDiverged
		}
	}
	if c.head <= p.Index {
		return nil, nil
	}
	out := make([]*stored, 0, c.head-p.Index)
	for i := p.Index + 1; i <= c.head; i++ {
		out = append(out, c.places[i])
	}
	return out, nil
}

// truncate removes entries before a place, but not the last one.
func (c *Cluster) truncate(index uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for ; c.first < min(index, c.head); c.first++ {
		delete(c.places, c.first)
	}
}

func (c *Cluster) bounds() (first, last uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.last == 0 {
		return 0, 0
	}
	for first = c.first; c.places[first] == nil || !c.places[first].durable; first++ {
	}
	return first, c.last
}
