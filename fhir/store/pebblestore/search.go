package pebblestore

import (
	"context"

	"pulsegate/fhir/store"
)

var _ store.Columnar = (*DB)(nil)

// Find implements store.Store.
func (d *DB) Find(ctx context.Context, f store.Find, fn func(*store.Found) bool) error {
	const op = "pebblestore.Find"
	v, err := d.enter(op)
	if err != nil {
		return err
	}
	defer d.leave(v)
	return d.search.find(ctx, op, &v.snapshot, f, fn)
}

// Count implements store.Store.
func (d *DB) Count(ctx context.Context, f store.Find) (uint64, error) {
	const op = "pebblestore.Count"
	v, err := d.enter(op)
	if err != nil {
		return 0, err
	}
	defer d.leave(v)
	return d.search.count(ctx, op, &v.snapshot, f)
}

// Scan implements store.Store.
func (d *DB) Scan(ctx context.Context, r store.ScanRange, fn func(*store.Found) bool) error {
	const op = "pebblestore.Scan"
	v, err := d.enter(op)
	if err != nil {
		return err
	}
	defer d.leave(v)
	return d.search.scan(ctx, op, &v.snapshot, r, fn)
}

// FindNewest implements store.Columnar.
func (d *DB) FindNewest(ctx context.Context, f store.Find, n int, fn func(*store.Found) bool) error {
	const op = "pebblestore.FindNewest"
	v, err := d.enter(op)
	if err != nil {
		return err
	}
	defer d.leave(v)
	return d.search.findNewest(ctx, op, &v.snapshot, f, n, fn)
}

// FindRuns implements store.Columnar.
func (d *DB) FindRuns(ctx context.Context, f store.Find, doc func(*store.Found) bool, run func(*store.Run) bool) error {
	const op = "pebblestore.FindRuns"
	v, err := d.enter(op)
	if err != nil {
		return err
	}
	defer d.leave(v)
	return d.search.findRuns(ctx, op, &v.snapshot, f, doc, run)
}
