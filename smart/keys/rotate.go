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

// Due is when the current key has signed for MaxAge. It is in the key's file,
// so a restart does not put it off.
func (r *Ring) Due() time.Time {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return time.Unix(r.keys[0].created, 0).Add(MaxAge)
}

// Tick rotates if that is due and returns how long to wait until the next
// look. overlap is as in Rotate.
func (r *Ring) Tick(overlap time.Duration) (wait time.Duration, err error) {
	now := r.clock()
	if due := r.Due(); now.Before(due) {
		return min(due.Sub(now), recheck), nil
	}
	if err := r.Rotate(overlap); err != nil {
		return retry, err
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
			log.ErrorContext(ctx, "signing key not rotated", "err", err)
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
