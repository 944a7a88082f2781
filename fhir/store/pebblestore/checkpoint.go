package pebblestore

import (
	"context"
	"log/slog"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"pulsegate/fhir"
	"pulsegate/fhir/store/pebblestore/internal/fault"
	"pulsegate/fhir/store/pebblestore/internal/keys"
	"pulsegate/fhir/store/pebblestore/internal/rows"
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

// PositionOf returns the position in the log of the store in dir, which is closed. It
// changes nothing. If fs is nil, the store is on disk. It fails with NotFound if the
// store is not shared.
func PositionOf(dir string, fs vfs.FS) (at sharedlog.Position, err error) {
	const op = "pebblestore.PositionOf"
	if fs == nil {
		fs = vfs.Default
	}
	quiet := &DB{opts: Options{Logger: slog.New(slog.DiscardHandler)}}
	pdb, err := pebble.Open(dir, &pebble.Options{FS: fs, ReadOnly: true, Merger: rows.Merger,
		Logger: &pebbleLog{db: quiet}, EventListener: quiet.events()})
	if err != nil {
		return at, &fhir.Error{Kind: fhir.Unavailable, Op: op,
			Err: fault.Refusal("the store cannot be opened: " + fault.Describe(err))}
	}
	defer fault.Close(pdb, &err)
	v, err := rows.Get(pdb, keys.Position)
	if err != nil {
		return at, fault.Wrap(op, err)
	}
	if v == nil {
		return at, fhir.Errorf(fhir.NotFound, op, "the store has no position in a log")
	}
	p, err := rows.DecodePosition(v)
	return p.Position, fault.Wrap(op, err)
}
