package pebblestore

import (
	"context"

	"pulsegate/fhir/search"
	"pulsegate/fhir/store"
)

var _ store.Columnar = (*DB)(nil)

// Find implements store.Store.
func (d *DB) Find(ctx context.Context, req store.Find, fn func(*store.Found) bool) error {
	const op = "pebblestore.Find"
	v, err := d.enter(op)
	if err != nil {
		return err
	}
	defer d.leave(v)
	return d.search.Find(ctx, op, &v.Snapshot, req, fn)
}

// Count implements store.Store.
func (d *DB) Count(ctx context.Context, req store.Find) (uint64, error) {
	const op = "pebblestore.Count"
	v, err := d.enter(op)
	if err != nil {
		return 0, err
	}
	defer d.leave(v)
	return d.search.Count(ctx, op, &v.Snapshot, req)
}

// Scan implements store.Store.
func (d *DB) Scan(ctx context.Context, r store.ScanRange, fn func(*store.Found) bool) error {
	const op = "pebblestore.Scan"
	v, err := d.enter(op)
	if err != nil {
		return err
	}
	defer d.leave(v)
	return d.search.Scan(ctx, op, &v.Snapshot, r, fn)
}

// Versions implements store.Store.
func (d *DB) Versions(ctx context.Context, r store.VersionRange,
	fn func(*store.Found) bool) (search.Position, error) {
	const op = "pebblestore.Versions"
	v, err := d.enter(op)
	if err != nil {
		return "", err
	}
	defer d.leave(v)
	return d.search.Versions(ctx, op, &v.Snapshot, r, fn)
}

// FindNewest implements store.Columnar.
func (d *DB) FindNewest(ctx context.Context, req store.Find, n int, fn func(*store.Found) bool) error {
	const op = "pebblestore.FindNewest"
	v, err := d.enter(op)
	if err != nil {
		return err
	}
	defer d.leave(v)
	return d.search.FindNewest(ctx, op, &v.Snapshot, req, n, fn)
}

// FindRuns implements store.Columnar.
func (d *DB) FindRuns(ctx context.Context, req store.Find, doc func(*store.Found) bool,
	run func(*store.Run) bool) error {
	const op = "pebblestore.FindRuns"
	v, err := d.enter(op)
	if err != nil {
		return err
	}
	defer d.leave(v)
	return d.search.FindRuns(ctx, op, &v.Snapshot, req, doc, run)
}
