package sealed

import (
	"bytes"
	"context"
	"strings"

	"pulsegate/fhir"
	"pulsegate/fhir/store"
)

// Reseal seals every secret under Keys.Current that is sealed under Keys.Other, and
// returns their number. Afterwards, the other key can be removed from the cluster key
// files. Reseal fails if a secret cannot be opened.
func (v *Vault) Reseal(ctx context.Context) (resealed int, err error) {
	var names []string
	if err := v.List(ctx, "", func(s Secret) bool { names = append(names, s.Name); return true }); err != nil {
		return 0, err
	}
	for _, name := range names {
		err := store.Retry(tries, "sealed.Reseal", "the secret "+name+" changes too often", func() error {
			s, err := v.Get(ctx, name)
			if err != nil || !s.Exists() || bytes.Equal(s.stored[1:head], v.keys.Current.id()) {
				return err
			}
			if _, err = v.Replace(ctx, s, s.Value); err == nil {
				resealed++
			}
			return err
		})
		if err != nil {
			return resealed, err
		}
	}
	return resealed, nil
}

// Clear deletes all secrets of a store that belongs to no cluster: those of a cluster that
// it has left.
func Clear(ctx context.Context, st Store) error {
	const op = "sealed.Clear"
	b := &store.Batch{}
	err := st.List(ctx, prefix, func(key string, _ []byte) bool {
		b.State = append(b.State, store.StateWrite{Key: strings.Clone(key)})
		return true
	})
	if err == nil && len(b.State) > 0 {
		_, err = st.Commit(ctx, b)
	}
	return fhir.Wrap(op, err)
}

// Discard deletes the secrets that none of the keys can open, and returns their names.
// It is the decision of an operator who has lost a cluster key: everything that the secrets
// protected is lost. The owner of each secret handles its loss as that of a file of a
// single server.
func Discard(ctx context.Context, st Store, keys Keys) (names []string, err error) {
	const op = "sealed.Discard"
	known := func(stored []byte) bool {
		for _, k := range keys.All() {
			if len(stored) >= head && bytes.Equal(stored[1:head], k.id()) {
				return true
			}
		}
		return false
	}
	b := &store.Batch{}
	err = st.List(ctx, prefix, func(key string, stored []byte) bool {
		if !known(stored) {
			key = strings.Clone(key)
			names = append(names, strings.TrimPrefix(key, prefix))
			b.State = append(b.State, store.StateWrite{Key: key, Expect: store.StateEquals, Old: bytes.Clone(stored)})
		}
		return true
	})
	if err == nil && len(b.State) > 0 {
		_, err = st.Commit(ctx, b)
	}
	if err != nil {
		return nil, fhir.Wrap(op, err)
	}
	return names, nil
}
