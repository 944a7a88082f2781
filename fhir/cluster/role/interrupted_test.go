package role

import (
	"context"
	"encoding/json"
	"testing"
	"testing/synctest"
	"time"

	"pulsegate/fhir/store"
)

// lateState commits after its caller has stopped waiting.
type lateState struct {
	store.State
	begun   chan struct{} // capacity 1
	proceed chan struct{}
}

func (s *lateState) Commit(ctx context.Context, b *store.Batch) (store.Result, error) {
	s.begun <- struct{}{}
	<-s.proceed
	return s.State.Commit(context.WithoutCancel(ctx), b)
}

// TestInterruptedTakeover checks that a process that ends while it takes a role leaves no
// lease behind, although the takeover is committed.
func TestInterruptedTakeover(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db := open(t)
		late := &lateState{db, make(chan struct{}, 1), make(chan struct{})}
		l, err := New(Options{State: late, Node: "one", Lease: testLease, Clock: time.Now})
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			l.Run(ctx, "r", func(context.Context, Term) { t.Error("the process works") })
		}()
		<-late.begun
		stop()
		synctest.Wait()
		close(late.proceed)
		<-ended
		l.Close()
		row, err := db.Get(t.Context(), leaseKey("r"))
		if err != nil {
			t.Fatal(err)
		}
		var have lease
		if err := json.Unmarshal(row, &have); err != nil || have.Epoch != 1 || have.Instance != "" {
			t.Errorf("the lease is %s: %v; want one of epoch 1 that is free", row, err)
		}
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
}
