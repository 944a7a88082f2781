package keys

import (
	"bytes"
	"context"
	"encoding/json"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/cluster/sealed"
	"pulsegate/fhir/store"
)

// storage keeps the keys of a Ring.
type storage interface {
	// keys returns the current keys.
	keys(ctx context.Context) (keySet, error)
	// change replaces the keys by the result of fn, which gets the current keys and
	// returns nil to keep them. It may call fn again if another process was faster. bind,
	// if not nil, adds preconditions to the commit.
	change(ctx context.Context, bind func(*store.Batch), fn func(keySet) (keySet, error)) error
}

const (
	secretName = "signing-keys"
	// tries bounds the attempts to change the keys while other processes do so.
	tries = 16
)

// vaultStorage keeps the keys of a cluster in one secret, so that a change replaces all
// of them or none.
type vaultStorage struct {
	vault *sealed.Vault
	value *sealed.Value[keySet]
}

func newVaultStorage(v *sealed.Vault) vaultStorage {
	return vaultStorage{v, sealed.NewValue(v, secretName, decodeSet)}
}

func (s vaultStorage) keys(ctx context.Context) (keySet, error) {
	set, secret, err := s.value.Get(ctx)
	if err == nil && !secret.Exists() {
		err = fhir.Errorf(fhir.Unavailable, "keys.Ring", "the cluster has no signing keys; restart this server")
	}
	return set, err
}

func (s vaultStorage) change(ctx context.Context, bind func(*store.Batch), fn func(keySet) (keySet, error)) error {
	return store.Retry(tries, "keys.change", "the signing keys change too often", func() error {
		if err := ctx.Err(); err != nil {
			return err // for example because the process has lost the role
		}
		set, secret, err := s.value.Get(ctx)
		if err != nil {
			return err
		}
		next, err := fn(set)
		if err != nil || next == nil {
			return err
		}
		b, err := encodeSet(next)
		if err != nil {
			return err
		}
		if bind == nil {
			bind = func(*store.Batch) {}
		}
		_, err = s.vault.Replace(ctx, secret, b, bind)
		return err
	})
}

// encodeSet returns a JSON array of JWKs.
func encodeSet(set keySet) ([]byte, error) {
	var all []json.RawMessage
	for _, k := range set.all() {
		b, err := k.encode()
		if err != nil {
			return nil, err
		}
		all = append(all, b)
	}
	b, err := json.Marshal(all)
	return b, fhir.Wrap("keys.encode", err)
}

func decodeSet(b []byte) (keySet, error) {
	if b == nil {
		return nil, nil
	}
	refuse := func(rule string) (keySet, error) {
		return nil, fhir.Errorf(fhir.Internal, "keys.decode", "the signing keys of the cluster: %s", rule)
	}
	var list []json.RawMessage
	if err := json.Unmarshal(b, &list); err != nil {
		return refuse("not a list of keys")
	}
	var all []signing
	for _, one := range list {
		k, rule, err := decode(one)
		if err != nil {
			return nil, err
		}
		if rule != "" {
			return refuse(rule)
		}
		all = append(all, k)
	}
	return newKeySet(all), nil
}

// Import stores the keys of dir/keys in the vault if it has none yet, and reports
// whether it did. A single server that becomes a cluster calls it once, so that its
// tokens stay valid. The files remain, and are not used any more.
func Import(ctx context.Context, dir string, vault *sealed.Vault, clock func() time.Time) (imported bool, err error) {
	set, err := readFiles(keysDir(dir), clock().Unix(), false)
	if err != nil || len(set) == 0 {
		return false, err
	}
	b, err := encodeSet(set)
	if err != nil {
		return false, err
	}
	s, err := vault.Make(ctx, secretName, func() ([]byte, error) { return b, nil })
	return err == nil && bytes.Equal(s.Value, b), err
}

// Export writes the keys of a cluster to dir/keys, where Open finds them, and removes
// other keys there. A server that leaves its cluster calls it, so that the tokens that
// it has issued stay valid.
func Export(ctx context.Context, dir string, vault *sealed.Vault, clock func() time.Time) error {
	set, err := newVaultStorage(vault).keys(ctx)
	if err != nil {
		return err
	}
	files, err := openFiles(keysDir(dir), clock().Unix())
	if err != nil {
		return err
	}
	return files.change(ctx, nil, func(keySet) (keySet, error) { return set, nil })
}
