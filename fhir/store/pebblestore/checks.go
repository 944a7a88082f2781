package pebblestore

import (
	"context"

	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore/internal/check"
	"pulsegate/fhir/store/pebblestore/internal/fault"
)

// Check implements store.Store. Every D row must have its I, P and X rows, and the
// other way round; versions follow one another; the log's hashes follow from its
// leaves; the rows of the sample tier agree. Reports name types, ids and keys, never content.
func (d *DB) Check(ctx context.Context, report func(problem string)) error {
	const op = "pebblestore.Check"
	v, err := d.enter(op)
	if err != nil {
		return err
	}
	defer d.leave(v)
	x, err := d.readCatalog(v.Reader)
	if err != nil {
		return fault.Wrap(op, err)
	}
	return fault.Wrap(op, check.All(ctx, &v.Snapshot, x, d.failed.Load, report))
}

// Inspect implements store.Store.
func (d *DB) Inspect(ctx context.Context, typ string, at store.Seq, fn func(*store.Row),
	report func(id, problem string)) error {
	const op = "pebblestore.Inspect"
	v, err := d.enter(op)
	if err != nil {
		return err
	}
	defer d.leave(v)
	if at, err = v.At(op, at); err != nil {
		return err
	}
	x, err := d.readCatalog(v.Reader)
	if err != nil {
		return fault.Wrap(op, err)
	}
	return fault.Wrap(op, check.Inspect(ctx, &v.Snapshot, x, d.failed.Load, typ, at, fn, report))
}

// SeriesStat sums up the series of one code.
type SeriesStat = check.SeriesStat

// SeriesStats reads the headers of every series, which takes seconds in a large
// store.
func (d *DB) SeriesStats(ctx context.Context) ([]SeriesStat, error) {
	const op = "pebblestore.SeriesStats"
	v, err := d.enter(op)
	if err != nil {
		return nil, err
	}
	defer d.leave(v)
	stats, err := check.Stats(ctx, &v.Snapshot)
	return stats, fault.Wrap(op, err)
}
