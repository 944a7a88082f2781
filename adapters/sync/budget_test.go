package sync

import (
	"testing"
	"time"

	"pulsegate/adapters/cloud"
)

// TestBudgetContinues checks that a budget that another process continues permits no more
// requests than one that was never handed over.
func TestBudgetContinues(t *testing.T) {
	limit := cloud.Rate{Requests: 100, Per: time.Minute}
	for _, spent := range []int{0, 30, 80, 200} {
		for _, idle := range []time.Duration{0, 10 * time.Second, time.Hour} {
			now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
			want, heir := newBucket(limit), newBucket(limit)
			for range spent {
				want.spend(now)
			}
			state := want.level(now)
			now = now.Add(idle)
			heir.resume(state, now)
			left := want.limit.TokensAt(now)
			if got := heir.limit.TokensAt(now); got > left || got < left-1 {
				t.Errorf("%d requests, idle for %v: %v left, want %v", spent, idle, got, left)
			}
		}
	}
}
