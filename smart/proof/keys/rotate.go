package keys

import (
	"context"
	"log/slog"
	"time"
)

const (
	// MaxAge is how long a key signs.
	MaxAge = 30 * 24 * time.Hour
	// recheck bounds a wait, for the wall clock may be set meanwhile.
	recheck = time.Hour
	// retry follows a rotation that failed; the old key signs on.
	retry = time.Minute
)

// Due is when the oldest current key has signed for MaxAge. It is in the key's
// file, so a restart does not put it off.
func (r *Ring) Due() time.Time {
	_, due := r.next()
	return due
}

func (r *Ring) next() (purpose string, due time.Time) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	for _, p := range []string{Alg, IDAlg} {
		if at := time.Unix(r.keys[p][0].Created, 0).Add(MaxAge); due.IsZero() || at.Before(due) {
			purpose, due = p, at
		}
	}
	return purpose, due
}

// Tick rotates what is due and returns how long to wait until the next look.
// A new key is published for Lead before it signs; the one before it verifies
// for overlap after that.
func (r *Ring) Tick(overlap time.Duration) (wait time.Duration, err error) {
	now := r.clock()
	for range 2 {
		purpose, due := r.next()
		if now.Before(due) {
			return min(due.Sub(now), recheck), nil
		}
		if err := r.rotate(purpose, overlap, Lead); err != nil {
			return retry, err
		}
	}
	return recheck, nil
}

// Run rotates until ctx ends. overlap is at least the longest life of a token
// and the skew of who verifies it.
func (r *Ring) Run(ctx context.Context, overlap time.Duration, log *slog.Logger) {
	for {
		due := r.Due()
		wait, err := r.Tick(overlap)
		switch {
		case err != nil:
			log.ErrorContext(ctx, "signing key not rotated", "error", err)
		case !r.Due().Equal(due):
			log.InfoContext(ctx, "signing key rotated", "next", r.Due())
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
