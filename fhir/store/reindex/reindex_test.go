package reindex_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"pulsegate/fhir/search"
	"pulsegate/fhir/store"
	"pulsegate/fhir/store/reindex"
)

// index has steps to do. A negative number makes a step fail.
type index struct {
	steps []int
	done  int
	calls []time.Time
}

func (x *index) IndexState(context.Context, *search.Param) (store.IndexState, error) {
	return store.IndexState{}, nil
}

func (x *index) Reindex(_ context.Context, limit int) (bool, error) {
	x.calls = append(x.calls, time.Now())
	if len(x.steps) == 0 {
		return false, nil
	}
	n := x.steps[0]
	x.steps = x.steps[1:]
	if n < 0 {
		return false, errors.New("the store is not available")
	}
	x.done += min(n, limit)
	return len(x.steps) > 0, nil
}

// TestRun checks that the work goes on after a failure, ends, and begins again when it
// is woken or has waited.
func TestRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		x := &index{steps: []int{2, 2, -1, 9, 2}}
		wake := make(chan struct{})
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			reindex.Run(ctx, reindex.Options{Index: x, Wake: wake, Batch: 5, Poll: time.Hour})
		}()
		time.Sleep(time.Minute)
		synctest.Wait()
		if x.done != 2+2+5+2 || len(x.calls) != 5 {
			t.Errorf("%d documents in %d steps", x.done, len(x.calls))
		}
		x.steps = []int{1}
		wake <- struct{}{}
		synctest.Wait()
		if x.done != 12 {
			t.Errorf("after a wake, %d documents", x.done)
		}
		x.steps = []int{1}
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		if x.done != 13 {
			t.Errorf("after a poll, %d documents", x.done)
		}
		stop()
		<-ended
	})
}
