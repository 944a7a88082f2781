// Package limit holds the rate limits of the authorization server's endpoints:
// token buckets by address and by the client that a request claims to be from,
// in bounded memory. They are a shield, not a rule of security: nothing
// depends on their surviving a restart.
package limit

import (
	"math"
	"net/netip"
	"sync"
	"time"
)

// Limits of the endpoint; zero fields take the defaults. A good client may
// ask often; one that fails may not.
type Limits struct {
	Global   int // requests per second from everywhere; 4000
	Remote   int // requests per second from one address, or IPv6 /64; 2000
	Failures int // failures per second of one claimed client at one address; 5
	Denied   int // refusals per second that are recorded in the trail; 20
}

const (
	maxBuckets = 8192
	burst      = 2 // seconds of the rate that may come at once
	// A burst of failures is a client that restarts with a wrong key.
	burstFailures = 20
	maxClaimed    = 64 // bytes of a claimed client id that make a key of its own
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

// Who is the key of a bucket: an address, and for failures the client that it
// claims to be. One client's failures must not shut out another behind the
// same proxy.
type Who struct{ remote, client string }

// Failing names the bucket for failures of a claimed client at an address.
func Failing(remote, claimed string) Who {
	if len(claimed) > maxClaimed {
		claimed = ""
	}
	return Who{Network(remote), "?" + claimed}
}

// Network is the part of an address that one party holds: all of IPv4, the
// /64 of IPv6.
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

// bucket holds what is left at a time.
type bucket struct {
	left float64
	at   time.Time
}

// refill brings the bucket to now. A clock that went back adds nothing.
func (b *bucket) refill(now time.Time, rate, size float64) {
	if d := now.Sub(b.at); d > 0 {
		b.left = min(size, b.left+d.Seconds()*rate)
	}
	b.at = now
}

// buckets is a bounded table of token buckets. It is not a golang-lru cache,
// because full buckets must be removed before those that limit somebody.
type buckets struct {
	rate, size float64

	mu    sync.Mutex
	m     map[Who]*bucket
	swept time.Time
}

func newBuckets(rate, size int) *buckets {
	return &buckets{rate: float64(rate), size: float64(size), m: map[Who]*bucket{}}
}

// take takes n from a bucket. When there is less than one in it, it takes
// nothing and says how long until there is one.
func (t *buckets) take(k Who, now time.Time, n float64) (wait time.Duration, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	b := t.m[k]
	if b == nil {
		if n == 0 {
			return 0, true // to ask makes no entry
		}
		t.room(now)
		b = &bucket{left: t.size, at: now}
		t.m[k] = b
	}
	b.refill(now, t.rate, t.size)
	if b.left < 1 {
		return time.Duration((1 - b.left) / t.rate * float64(time.Second)), false
	}
	b.left -= n
	return 0, true
}

// room makes place for one more entry: full buckets say nothing and go first,
// at most once a second; then any one goes.
func (t *buckets) room(now time.Time) {
	if len(t.m) < maxBuckets {
		return
	}
	if d := now.Sub(t.swept); d >= time.Second || d < 0 {
		t.swept = now
		for k, b := range t.m {
			if b.refill(now, t.rate, t.size); b.left >= t.size {
				delete(t.m, k)
			}
		}
	}
	for k := range t.m {
		if len(t.m) < maxBuckets {
			return
		}
		delete(t.m, k)
	}
}

// Limiter is every limit of an endpoint.
type Limiter struct {
	global, remote, failures, denied *buckets
}

// New returns a limiter.
func New(l Limits) *Limiter {
	l = l.withDefaults()
	return &Limiter{
		global:   newBuckets(l.Global, burst*l.Global),
		remote:   newBuckets(l.Remote, burst*l.Remote),
		failures: newBuckets(l.Failures, max(l.Failures, burstFailures)),
		denied:   newBuckets(l.Denied, l.Denied),
	}
}

// Failed counts a failure: what is over the limit is refused from the next
// request on.
func (l *Limiter) Failed(k Who, now time.Time) { l.failures.take(k, now, 1) }

// MayFail reports whether another failure is within the limit.
func (l *Limiter) MayFail(k Who, now time.Time) (wait time.Duration, ok bool) {
	return l.failures.take(k, now, 0)
}

// Record reports whether one more refusal may go into the trail.
func (l *Limiter) Record(now time.Time) bool {
	_, ok := l.denied.take(Who{}, now, 1)
	return ok
}

// Admit is asked before anything of a request is read. The address comes
// first, so that what one sends too much of is not taken from everyone.
func (l *Limiter) Admit(remote string, now time.Time) (time.Duration, bool) {
	if wait, ok := l.remote.take(Who{remote: Network(remote)}, now, 1); !ok {
		return wait, false
	}
	return l.global.take(Who{}, now, 1)
}

// RetryAfter is a wait in whole seconds, at least one.
func RetryAfter(wait time.Duration) int { return max(1, int(math.Ceil(wait.Seconds()))) }
