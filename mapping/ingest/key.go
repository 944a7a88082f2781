package ingest

import (
	"bytes"
	"context"
	"io"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/store"
	"pulsegate/mapping"
)

// roomKey holds the secret under which the ids of ingested resources are
// derived, or unkeyed.
const roomKey = "ingest/key"

// unkeyed is the mark of a store that had ingested resources before there was
// a secret.
var unkeyed = []byte("unkeyed")

// Key is the secret of st for mapping.Options.Key. It is part of the store, so
// that a backup has it, and is drawn when the store has none and no vendor's
// data. A store that has some and no secret is marked and goes on with ids that
// can be derived by anyone: under new ids its next deliveries would store
// everything a second time. Its key is empty.
func Key(ctx context.Context, st store.Store, random io.Reader) ([]byte, error) {
	const op = "ingest.Key"
	key, err := st.Get(ctx, roomKey)
	if err != nil {
		return nil, fhir.Wrap(op, err)
	}
	if key == nil {
		if key, err = newKey(ctx, st, random); err != nil {
			return nil, fhir.Wrap(op, err)
		}
	}
	switch {
	case bytes.Equal(key, unkeyed):
		return nil, nil
	case len(key) != mapping.KeySize:
		return nil, fhir.Errorf(fhir.Internal, op, "the store's key for ids has %d bytes, not %d", len(key),
			mapping.KeySize)
	}
	return bytes.Clone(key), nil
}

func newKey(ctx context.Context, st store.Store, random io.Reader) ([]byte, error) {
	// Every commit of ingest has a Provenance of its vendor.
	known := false
	err := st.Scan(ctx, store.ScanRange{Types: []string{"Provenance"}, Filter: access.All().Filter(access.Read)},
		func(f *store.Found) bool {
			known = f.Facts.Vendor != ""
			return !known
		})
	if err != nil {
		return nil, err
	}
	key := unkeyed
	if !known {
		key = make([]byte, mapping.KeySize)
		if _, err := io.ReadFull(random, key); err != nil {
			return nil, err
		}
	}
	_, err = st.Commit(ctx, &store.Batch{State: []store.StateWrite{{Key: roomKey, Value: key,
		Expect: store.StateAbsent}}})
	return key, err
}
