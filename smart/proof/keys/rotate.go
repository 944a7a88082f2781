package keys

import (
	"context"
	"log/slog"
	"time"
)

const (
	// MaxAge is the time for which a key signs.
	MaxAge = 30 * 24 * time.Hour
	// recheck bounds a wait, because the wall clock may be set meanwhile.
	recheck = time.Hour
	// retry is the wait after a failed rotation. The old key continues to sign.
	retry = time.Minute
)

// due returns the time when the oldest current key has signed for MaxAge. The
// key's file stores its creation, so a restart does not postpone the rotation.
func (r *Ring) due() time.Time {
	_, due := r.next()
	return due
}

func (r *Ring) next() (purpose string, due time.Time) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	for _, p := range purposes() {
		if at := time.Unix(r.keys[p][0].Created, 0).Add(MaxAge); due.IsZero() || at.Before(due) {
			purpose, due = p, at
		}
	}
	return purpose, due
}

// Tick rotates the keys that are due and returns the time until the next check.
// A new key is published for Lead before it signs, or for a day if it signs
// assertions; the previous key verifies for overlap after that.
func (r *Ring) Tick(overlap time.Duration) (wait time.Duration, err error) {
	now := r.clock()
	for range purposes() {
		purpose, due := r.next()
		if now.Before(due) {
			return min(due.Sub(now), recheck), nil
		}
		lead, overlap := Lead, overlap
		if purpose == assertionAlg {
			lead, overlap = assertionLead, max(overlap, assertionLead)
		}
		if err := r.rotate(purpose, overlap, lead); err != nil {
			return retry, err
		}
	}
	return recheck, nil
}

// Run rotates keys until ctx ends. overlap must be at least the maximum
// lifetime of a token plus the clock skew of its verifiers.
func (r *Ring) Run(ctx context.Context, overlap time.Duration, log *slog.Logger) {
	for {
		due := r.due()
		wait, err := r.Tick(overlap)
		switch {
		case err != nil:
			log.ErrorContext(ctx, "signing key not rotated", "error", err)
		case !r.due().Equal(due):
			log.InfoContext(ctx, "signing key rotated", "next", r.due())
		}
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case <-t.C:
		}
	}
}
