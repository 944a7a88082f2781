// Package limit implements the rate limits of endpoints: token buckets per
// address and per claimed client or key, in bounded memory. The limits only
// protect against overload: no security property depends on them, and they do
// not survive a restart.
//
// The limits are those of this process, unless Limits.Shared is set: then the
// processes of a cluster share each bucket, and while they cannot, each process
// applies its share of the limit, which is the limit divided by the number of
// processes.
package limit

import (
	"math"
	"net/netip"
	"sync"
	"time"
)

// Limits configures an endpoint. Zero fields have the default in their comment.
// Successful clients may send many requests, failing ones few.
type Limits struct {
	Global   int // requests per second in total; default 4000
	Remote   int // requests per second per IPv4 address or IPv6 /64; default 2000
	Failures int // failures per second per claimed client and address; default 5
	Denied   int // refusals per second recorded in the audit trail; default 20

	// Shared, if set, makes the limits those of all processes together. Name then
	// distinguishes the endpoint from others.
	Shared Shared
	Name   string
}

const (
	maxBuckets = 8192
	burst      = 2 // size of a bucket in seconds of its rate
	// A client that restarts with a wrong key causes a burst of failures.
	burstFailures = 20
	maxClaimed    = 64 // maximum length in bytes of a claimed client id with its own bucket
)

func (l Limits) withDefaults() Limits {
	for _, f := range []struct {
		field *int
		def   int
	}{{&l.Global, 4000}, {&l.Remote, 2000}, {&l.Failures, 5}, {&l.Denied, 20}} {
		if *f.field <= 0 {
			*f.field = f.def
		}
	}
	return l
}

// Key identifies a bucket: an address and, for failures, the claimed client, so
// that the failures of one client do not block another one behind the same
// proxy.
type Key struct{ remote, client string }

// Failing returns the key for the failures of a claimed client at an address.
func Failing(remote, claimed string) Key {
	if len(claimed) > maxClaimed {
		claimed = ""
	}
	return Key{Network(remote), "?" + claimed}
}

// Network returns the part of an address that identifies one party: the whole
// IPv4 address, or the /64 of an IPv6 address.
func Network(remote string) string {
	a, err := netip.ParseAddr(remote)
	if err != nil || a.Unmap().Is4() {
		return remote
	}
	p, err := a.WithZone("").Prefix(64)
	if err != nil {
		return remote
	}
	return p.String()
}

// bucket holds the tokens that were left at a time.
type bucket struct {
	left float64
	at   time.Time
}

// refill adds the tokens earned until now. If the clock was set back, it adds
// nothing.
func (b *bucket) refill(now time.Time, rate, size float64) {
	if d := now.Sub(b.at); d > 0 {
		b.left = min(size, b.left+d.Seconds()*rate)
	}
	b.at = now
}

// Buckets is a bounded table of token buckets. It is safe for concurrent use. It
// is not a golang-lru cache, because full buckets must be removed before those
// that limit somebody.
type Buckets struct {
	rate, size float64
	shared     *sharing // nil for buckets of this process only

	mu    sync.Mutex
	byKey map[Key]*bucket
	swept time.Time
}

// NewBuckets returns a table of buckets that each earn rate tokens per second and
// hold size tokens.
func NewBuckets(rate, size int) *Buckets {
	return &Buckets{rate: float64(rate), size: float64(size), byKey: map[Key]*bucket{}}
}

// Named returns the key of a bucket for something that has a name of its own,
// such as an API key.
func Named(name string) Key { return Key{client: name} }

// Take removes n tokens from a bucket. If it has less than one, Take removes
// nothing and returns the time until it has one.
func (t *Buckets) Take(k Key, now time.Time, n float64) (wait time.Duration, ok bool) {
	if t.shared == nil {
		return t.take(k, now, n, t.rate, t.size)
	}
	wait, ok, err := t.shared.take(k, now, n, t.rate, t.size)
	if err == nil {
		return wait, ok
	}
	processes := float64(max(1, t.shared.by.Processes()))
	return t.take(k, now, n, t.rate/processes, max(1, t.size/processes))
}

// take removes n tokens from a bucket of this process.
func (t *Buckets) take(k Key, now time.Time, n, rate, size float64) (wait time.Duration, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	b := t.byKey[k]
	if b == nil {
		if n == 0 {
			return 0, true // a query creates no entry
		}
		t.evict(now)
		b = &bucket{left: size, at: now}
		t.byKey[k] = b
	}
	b.refill(now, rate, size)
	if b.left < 1 {
		return time.Duration((1 - b.left) / rate * float64(time.Second)), false
	}
	b.left -= n
	return 0, true
}

// evict makes space for one more entry. At most once a second it removes full
// buckets, which carry no information. Then it removes arbitrary ones.
func (t *Buckets) evict(now time.Time) {
	if len(t.byKey) < maxBuckets {
		return
	}
	if d := now.Sub(t.swept); d >= time.Second || d < 0 {
		t.swept = now
		for k, b := range t.byKey {
			if b.refill(now, t.rate, t.size); b.left >= t.size {
				delete(t.byKey, k)
			}
		}
	}
	for k := range t.byKey {
		if len(t.byKey) < maxBuckets {
			return
		}
		delete(t.byKey, k)
	}
}

// Limiter holds all limits of an endpoint. It is safe for concurrent use.
type Limiter struct {
	global, remote, failures, denied *Buckets
}

// New returns a limiter.
func New(l Limits) *Limiter {
	l = l.withDefaults()
	return &Limiter{
		global:   NewBuckets(l.Global, burst*l.Global).Share(l.Shared, l.Name+" global"),
		remote:   NewBuckets(l.Remote, burst*l.Remote).Share(l.Shared, l.Name+" remote"),
		failures: NewBuckets(l.Failures, max(l.Failures, burstFailures)).Share(l.Shared, l.Name+" failures"),
		denied:   NewBuckets(l.Denied, l.Denied).Share(l.Shared, l.Name+" denied"),
	}
}

// Failed counts a failure. Requests beyond the limit are refused from the next
// one on.
func (l *Limiter) Failed(k Key, now time.Time) { l.failures.Take(k, now, 1) }

// MayFail reports whether another failure is within the limit.
func (l *Limiter) MayFail(k Key, now time.Time) (wait time.Duration, ok bool) {
	return l.failures.Take(k, now, 0)
}

// Record counts a refusal and reports whether it may be recorded in the audit
// trail.
func (l *Limiter) Record(now time.Time) bool {
	_, ok := l.denied.Take(Key{}, now, 1)
	return ok
}

// Admit counts a request and reports whether it may be processed. It is called
// before any part of the request is read. The limit of the address is checked
// first, so that a single address cannot exhaust the total limit.
func (l *Limiter) Admit(remote string, now time.Time) (time.Duration, bool) {
	if wait, ok := l.remote.Take(Key{remote: Network(remote)}, now, 1); !ok {
		return wait, false
	}
	return l.global.Take(Key{}, now, 1)
}

// RetryAfter converts a wait to whole seconds, at least one.
func RetryAfter(wait time.Duration) int { return max(1, int(math.Ceil(wait.Seconds()))) }
