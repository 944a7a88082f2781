// Package budget bounds the memory that the bodies of requests under way take
// together. A request reserves before it reads on, in proportion to what it has
// read, and is refused with kind Unavailable when the others have taken the rest:
// it can be sent again a moment later.
//
// It owns the count. It does not own what a byte of a body costs (Factor is a
// measured bound), nor how large one body may be.
package budget

import (
	"context"
	"errors"
	"net/http"
	"sync/atomic"

	"pulsegate/fhir"
)

const (
	// Factor is the greatest number of bytes of memory per byte of a body: the
	// body, its compact form, the tree of its values, the canonical and the stored
	// form, and the rows of the commit.
	Factor = 10
	// Small is the size in bytes up to which a body is read without a
	// reservation.
	Small = 64 << 10
	// Least is the smallest limit that lets one body of 10 MiB through.
	Least = Factor * (10<<20 + Small)
)

// Budget is safe for concurrent use. A nil Budget has no limit.
type Budget struct {
	limit int64
	used  atomic.Int64
}

// New returns a budget of so many bytes.
func New(limit int64) *Budget { return &Budget{limit: limit} }

// Used returns the bytes that are reserved now.
func (b *Budget) Used() int64 { return b.used.Load() }

// Held holds the reservation of one request. It is not safe for concurrent use:
// the goroutines of a request use it one after the other.
type Held struct {
	b *Budget
	n int64
}

// Hold begins a reservation of nothing.
func (b *Budget) Hold() *Held { return &Held{b: b} }

// Grow reserves n bytes more, or none with an error of kind Unavailable.
func (h *Held) Grow(n int64) error {
	if h == nil || h.b == nil || n <= 0 {
		return nil
	}
	if h.b.used.Add(n) > h.b.limit {
		h.b.used.Add(-n)
		return &fhir.Error{Kind: fhir.Unavailable, Op: "budget.Grow", Err: ErrFull,
			Issues: []fhir.Issue{{Severity: "error", Code: "throttled",
				Diagnostics: "the server works on as much as its memory allows; send the request again in a moment"}}}
	}
	h.n += n
	return nil
}

// Release gives everything back.
func (h *Held) Release() {
	if h != nil && h.b != nil {
		h.b.used.Add(-h.n)
		h.n = 0
	}
}

// ErrFull is the cause of a refusal. It is a state of the server, and no failure.
var ErrFull = errors.New("the budget is taken")

type heldKey struct{}

// Of returns what the request of ctx has reserved; nil, which reserves without
// a limit, outside Handler and for small bodies.
func Of(ctx context.Context) *Held {
	h, _ := ctx.Value(heldKey{}).(*Held)
	return h
}

// Handler gives each request whose body may be large a reservation until it is
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
