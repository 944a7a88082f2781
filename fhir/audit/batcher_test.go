package audit_test

import (
	"context"
	"crypto/rand"
	"testing"
	"time"

	"pulsegate/fhir/audit"
	"pulsegate/fhir/store"
)

// slow is a store whose commits wait until a test lets them end.
type slow struct {
	store.Store
	begun chan chan struct{}
}

func (s slow) Commit(_ context.Context, b *store.Batch) (store.Result, error) {
	end := make(chan struct{})
	s.begun <- end
	<-end
	return store.Result{Outcomes: make([]store.Outcome, len(b.Writes))}, nil
}

// TestCommitsOfRecord counts the commits that are under way while none ends.
func TestCommitsOfRecord(t *testing.T) {
	for _, limit := range []int{0, 3} {
		s := slow{begun: make(chan chan struct{}, 8)}
		r, err := audit.NewRecorder(audit.Options{Store: s, Clock: time.Now, Rand: rand.Reader, Observer: "https://x",
			Commits: limit})
		if err != nil {
			t.Fatal(err)
		}
		const callers = 5
		done := make(chan error, callers)
		var ends []chan struct{}
		for i := range callers {
			go func() { done <- r.Record(context.Background(), audit.Event{Type: audit.Rest, Interaction: "read"}) }()
			if i < max(1, limit) {
				ends = append(ends, <-s.begun) // each caller has a commit of its own
			}
		}
		if len(s.begun) > 0 {
			t.Errorf("limit %d: a commit begins beyond the limit", limit)
		}
		for _, end := range ends {
			close(end)
		}
		for n := 0; n < callers; {
			select {
			case end := <-s.begun: // the callers beyond the limit
				close(end)
			case err := <-done:
				if n++; err != nil {
					t.Error(err)
				}
			}
		}
	}
}
