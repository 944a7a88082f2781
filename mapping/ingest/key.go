package ingest

import (
	"bytes"
	"context"
	"io"

	"pulsegate/fhir"
	"pulsegate/fhir/store"
	"pulsegate/mapping"
)

// Key returns the secret for mapping.Options.Key, from which the ids of ingested
// resources are derived. It is kept in the store, so that backups contain it. A
// store without a secret gets one that is read from random; of several processes that
// do so at a time, all return the same one.
func Key(ctx context.Context, st store.Store, random io.Reader) ([]byte, error) {
	const op = "ingest.Key"
	key, err := st.Get(ctx, keyIDSecret)
	if err != nil {
		return nil, fhir.Wrap(op, err)
	}
	if key == nil {
		if key, err = newKey(ctx, st, random); err != nil {
			return nil, fhir.Wrap(op, err)
		}
	}
	if len(key) != mapping.KeySize {
		return nil, fhir.Errorf(fhir.Internal, op, "the store's key for ids has %d bytes instead of %d", len(key),
			mapping.KeySize)
	}
	return bytes.Clone(key), nil
}

// newKey stores a new key. If another process has stored one first, it returns that key.
func newKey(ctx context.Context, st store.Store, random io.Reader) ([]byte, error) {
	key := make([]byte, mapping.KeySize)
	if _, err := io.ReadFull(random, key); err != nil {
		return nil, err
	}
	_, err := st.Commit(ctx, &store.Batch{State: []store.StateWrite{{Key: keyIDSecret, Value: key,
		Expect: store.StateAbsent}}})
	if store.Lost(err) {
		return st.Get(ctx, keyIDSecret)
	}
	return key, err
}
