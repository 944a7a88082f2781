package sync

import (
	"container/heap"
	"math"
	"net/http"
	"time"

	"golang.org/x/time/rate"

	"pulsegate/adapters/cloud"
)

// share is the part of a vendor's limit that we use, because the vendor counts in
// windows of its own.
const share = 0.8

// bucket is a token bucket that may be overdrawn.
type bucket struct{ limit *rate.Limiter }

func newBucket(r cloud.Rate) *bucket {
	if r.Requests == 0 {
		return &bucket{}
	}
	perSecond := share * float64(r.Requests) / r.Per.Seconds()
	return &bucket{rate.NewLimiter(rate.Limit(perSecond), max(1, int(share*float64(r.Requests))))}
}

// ready returns the time from which a request may be sent.
func (b *bucket) ready(now time.Time) time.Time {
	if b.limit == nil {
		return now
	}
	left := b.limit.TokensAt(now)
	if left >= 1 {
		return now
	}
	return now.Add(time.Duration((1-left)/float64(b.limit.Limit())*float64(time.Second)) + time.Millisecond)
}

// level returns the state of the bucket.
func (b *bucket) level(now time.Time) level {
	if b.limit == nil {
		return level{At: now}
	}
	return level{Left: b.limit.TokensAt(now), At: now}
}

// resume sets a new bucket to a state.
func (b *bucket) resume(s level, now time.Time) {
	if b.limit == nil || s.At.IsZero() {
		return
	}
	left := s.Left + max(0, now.Sub(s.At).Seconds())*float64(b.limit.Limit())
	if n := b.limit.Burst() - int(math.Floor(left)); n > 0 {
		// Reservations above the burst are refused.
		for ; n > 0; n -= b.limit.Burst() {
			b.limit.ReserveN(now, min(n, b.limit.Burst()))
		}
	}
}

func (b *bucket) spend(now time.Time) {
	if b.limit != nil {
		b.limit.ReserveN(now, 1)
	}
}

// vendor is a vendor and the state of its budget. The engine's mutex guards it.
type vendor struct {
	cloud.Vendor
	streams     []cloud.Stream
	limits      cloud.Budget
	application *bucket
	blocked     time.Time
	throttled   int // answers 429 since the last success
	// heard is the time of the latest notification.
	heard time.Time
	saved level // stored latest
	// urgent holds the links with events, and polls all others. Only the head of a
	// queue is looked at, so that links that wait for the vendor cost nothing.
	urgent, polls queue
}

func newVendor(v cloud.Vendor) *vendor {
	limits := v.Budget()
	return &vendor{Vendor: v, streams: v.Streams(), limits: limits, application: newBucket(limits.Application)}
}

// next takes the next task that is due, or returns the time at which there may be
// one.
func (v *vendor) next(now time.Time) (*task, time.Time) {
	first := farFuture
	gate := maxTime(v.application.ready(now), v.blocked)
	for _, q := range []*queue{&v.urgent, &v.polls} {
		for len(*q) > 0 {
			t := (*q)[0]
			at := maxTime(t.due, t.account.ready(now))
			if at.After(t.due) && at.After(now) {
				t.due = at // others with the same vendor need not wait for this account
				heap.Fix(q, 0)
				continue
			}
			if at = maxTime(at, gate); at.After(now) {
				first = minTime(first, at)
				break
			}
			heap.Pop(q)
			return t, now
		}
	}
	return nil, first
}

// spend charges a request to both budgets.
func (e *Engine) spend(v *vendor, t *task) {
	e.mu.Lock()
	defer e.mu.Unlock()
	now := e.Clock()
	v.application.spend(now)
	t.account.spend(now)
}

// throttledInRow is the number of accounts in a row that meet the vendor's limit
// until the whole vendor is suspended.
const throttledInRow = 3

// throttle suspends an account, and the vendor if the limit seems to be that of the
// application.
func (e *Engine) throttle(v *vendor, t *task, wait time.Duration) time.Time {
	e.mu.Lock()
	defer e.mu.Unlock()
	until := e.Clock().Add(wait)
	t.blocked = until
	if v.throttled++; v.throttled >= throttledInRow {
		v.blocked, v.throttled = e.Clock().Add(min(wait, 5*time.Minute)), 0
	}
	return until
}

// observe reads the headers of an answer.
func (e *Engine) observe(v *vendor, t *task, h http.Header) {
	if v.limits.Remaining == nil {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	now := e.Clock()
	if left, reset, ok := v.limits.Remaining(h, now); ok && left <= 0 && reset.After(now) {
		t.blocked = minTime(reset, now.Add(time.Hour))
	}
}
