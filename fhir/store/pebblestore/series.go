package pebblestore

import (
	"context"

	"pulsegate/fhir/store"
)

// Probe is of store.Store.
func (d *DB) Probe(ctx context.Context, ws []store.SeriesWrite) (store.T, [][]store.Presence, error) {
	return store.Documents{Store: d}.Probe(ctx, ws)
}
