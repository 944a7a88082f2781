// Package budget bounds the memory for the bodies of all concurrent requests. A
// request reserves memory in proportion to the size of its body before it reads on.
// If other requests have reserved the rest, it fails with kind Unavailable; the client
// can repeat it shortly after.
//
// It owns the count. It does not own the memory per byte of a body (Factor is a
// measured bound) or the limit for a single body.
package budget

import (
	"context"
	"errors"
	"net/http"
	"sync/atomic"

	"pulsegate/fhir"
)

const (
	// Factor bounds the bytes of memory per byte of a body: the body, its compact
	// JSON, its tree, its canonical and stored JSON, and the rows of the commit.
	Factor = 10
	// Small is the size in bytes up to which a body is read without a
	// reservation.
	Small = 64 << 10
)

// Budget is safe for concurrent use. A nil Budget has no limit.
type Budget struct {
	limit int64
	used  atomic.Int64
}

// New returns a budget of limit bytes.
func New(limit int64) *Budget { return &Budget{limit: limit} }

// Used returns the number of reserved bytes.
func (b *Budget) Used() int64 { return b.used.Load() }

// Held is the reservation of one request. It is not safe for concurrent use; the
// goroutines of a request must use it one after the other.
type Held struct {
	budget   *Budget
	reserved int64
}

// Hold returns an empty reservation.
func (b *Budget) Hold() *Held { return &Held{budget: b} }

// Grow reserves n more bytes. If they are not available, it reserves none and returns
// an error of kind Unavailable.
func (h *Held) Grow(n int64) error {
	if h == nil || h.budget == nil || n <= 0 {
		return nil
	}
	if h.budget.used.Add(n) > h.budget.limit {
		h.budget.used.Add(-n)
		return &fhir.Error{Kind: fhir.Unavailable, Op: "budget.Grow", Err: ErrFull,
			Issues: []fhir.Issue{{Severity: "error", Code: "throttled",
				Diagnostics: "the memory for request bodies is in use; repeat the request in a moment"}}}
	}
	h.reserved += n
	return nil
}

// Release ends the reservation.
func (h *Held) Release() {
	if h != nil && h.budget != nil {
		h.budget.used.Add(-h.reserved)
		h.reserved = 0
	}
}

// ErrFull is the cause of errors from Grow. It is a normal state of the server, not a
// failure.
var ErrFull = errors.New("the budget is taken")

type heldKey struct{}

// Of returns the reservation of the request of ctx. Outside of Handler and for small
// bodies it returns nil, which has no limit.
func Of(ctx context.Context) *Held {
	h, _ := ctx.Value(heldKey{}).(*Held)
	return h
}

// Handler gives each request that may have a large body a reservation until it is
// answered.
func (b *Budget) Handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Body == nil || r.Body == http.NoBody || r.ContentLength >= 0 && r.ContentLength <= Small &&
			r.Header.Get("Content-Encoding") == "" {
			next.ServeHTTP(w, r)
			return
		}
		h := b.Hold()
		defer h.Release()
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), heldKey{}, h)))
	})
}
