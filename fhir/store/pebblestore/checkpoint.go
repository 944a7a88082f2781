package pebblestore

import (
	"context"

	"github.com/cockroachdb/pebble/v2"

	"pulsegate/fhir/store/pebblestore/internal/fault"
	"pulsegate/fhir/store/sharedlog"
)

// Checkpoint writes a copy of the store to dir, which must not exist, and returns the
// position of the copy in the log. Commits continue meanwhile. Files that do not change
// are linked, so that dir must be on the same file system.
func (d *DB) Checkpoint(ctx context.Context, dir string) (sharedlog.Position, error) {
	const op = "pebblestore.Checkpoint"
	v, err := d.enter(op)
	if err != nil {
		return sharedlog.Position{}, err
	}
	defer d.leave(v)
	if ctx.Err() != nil {
		return sharedlog.Position{}, fault.Canceled(op, ctx.Err())
	}
	if err := d.pdb.Checkpoint(dir, pebble.WithFlushedWAL()); err != nil {
		return sharedlog.Position{}, fault.Wrap(op, err)
	}
	// The copy may hold later commits than v.
	return PositionOf(dir, d.fs)
}
