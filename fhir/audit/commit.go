package audit

import (
	"context"

	"pulsegate/fhir"
	"pulsegate/fhir/store"
)

// Trail is the audit trail as services use it. *Recorder implements it.
type Trail interface {
	// Prepare returns the AuditEvent of ev and its leaf, for the batch of the
	// change that ev describes.
	Prepare(ev Event) (store.Write, store.Leaf, error)
	// Record makes events durable in a commit without other changes.
	Record(ctx context.Context, evs ...Event) error
}

var _ Trail = (*Recorder)(nil)

// Append adds the AuditEvents of evs and their leaves to b, after the writes
// that b has already.
func Append(t Trail, b *store.Batch, evs ...Event) error {
	for _, ev := range evs {
		w, leaf, err := t.Prepare(ev)
		if err != nil {
			return fhir.Wrap("audit.Append", err)
		}
		b.Writes, b.Leaves = append(b.Writes, w), append(b.Leaves, leaf)
	}
	return nil
}

// committer is the part of a store.Store that Commit needs.
type committer interface {
	Commit(ctx context.Context, b *store.Batch) (store.Result, error)
}

// Commit makes b durable together with the AuditEvents of evs, so that there is
// no change without its record and no record without its change.
func Commit(ctx context.Context, s committer, t Trail, b *store.Batch, evs ...Event) (store.Result, error) {
	if err := Append(t, b, evs...); err != nil {
		return store.Result{}, err
	}
	return s.Commit(ctx, b)
}
