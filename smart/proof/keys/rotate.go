package keys

import (
	"context"
	"log/slog"
	"time"

	"pulsegate/fhir/cluster/role"
	"pulsegate/fhir/store"
)

const (
	// MaxAge is the time for which a key signs.
	MaxAge = 30 * 24 * time.Hour
	// recheck bounds a wait, because the wall clock may be set meanwhile.
	recheck = time.Hour
	// retry is the wait after a failed rotation. The old key continues to sign.
	retry = time.Minute
)

// Tick rotates the keys that are due and returns the time until the next check.
// A new key is published for Lead before it signs, or for a day if it signs
// assertions; the previous key verifies for overlap after that.
func (r *Ring) Tick(overlap time.Duration) (wait time.Duration, err error) {
	return r.tick(context.Background(), nil, overlap)
}

func (r *Ring) tick(ctx context.Context, bind func(*store.Batch), overlap time.Duration) (time.Duration, error) {
	now := r.clock()
	for range purposes() {
		set, err := r.storage.keys(ctx)
		if err != nil {
			return retry, err
		}
		if _, due := set.due(); now.Before(due) {
			return min(due.Sub(now), recheck), nil
		}
		err = r.storage.change(ctx, bind, func(set keySet) (keySet, error) {
			purpose, due := set.due()
			if purpose == "" || now.Before(due) {
				return nil, nil // another process was faster
			}
			if purpose == assertionAlg {
				return set.rotate(purpose, now.Unix(), max(overlap, assertionLead), assertionLead)
			}
			return set.rotate(purpose, now.Unix(), overlap, Lead)
		})
		if err != nil {
			return retry, err
		}
	}
	return recheck, nil
}

// roleName is the role of the process that rotates the keys.
const roleName = "keys"

// Run rotates keys until ctx ends, while this process has the role. overlap must be at
// least the maximum lifetime of a token plus the clock skew of its verifiers.
func (r *Ring) Run(ctx context.Context, roles role.Roles, overlap time.Duration, log *slog.Logger) {
	roles.Run(ctx, roleName, func(ctx context.Context, t role.Term) { r.run(ctx, t, overlap, log) })
}

func (r *Ring) run(ctx context.Context, t role.Term, overlap time.Duration, log *slog.Logger) {
	due := r.due(ctx)
	for {
		wait, err := r.tick(ctx, t.Bind, overlap)
		next := r.due(ctx)
		switch {
		case err != nil && ctx.Err() != nil: // the role is lost, or the server stops
		case err != nil:
			log.ErrorContext(ctx, "signing key not rotated", "error", err)
		case !next.Equal(due):
			log.InfoContext(ctx, "signing key rotated", "next", next)
		}
		due = next
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case <-t.C:
		}
	}
}

// due returns the time of the next rotation, for the log.
func (r *Ring) due(ctx context.Context) time.Time {
	set, err := r.storage.keys(ctx)
	if err != nil {
		return time.Time{}
	}
	_, due := set.due()
	return due
}
