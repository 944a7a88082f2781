package sealed

import (
	"bytes"
	"context"
	"sync/atomic"

	"pulsegate/fhir/store"
)

// Value reads one secret and caches its decoded form until the secret changes. A
// change by another process is seen as soon as the store shows it, so that after
// store.Store.Sync every process uses the same secret. It is safe for concurrent use.
type Value[T any] struct {
	vault  *Vault
	name   string
	decode func([]byte) (T, error)
	cached atomic.Pointer[cached[T]]
}

type cached[T any] struct {
	// The secret was read after LastSeq had returned seq.
	seq    store.Seq
	secret Secret
	value  T
}

// NewValue returns the Value of a secret. decode must return the zero T for nil, which
// it gets if there is no secret. It must not retain its argument.
func NewValue[T any](v *Vault, name string, decode func([]byte) (T, error)) *Value[T] {
	return &Value[T]{vault: v, name: name, decode: decode}
}

// Get returns the decoded secret, and the secret for Vault.Replace or Vault.Write.
func (c *Value[T]) Get(ctx context.Context) (T, Secret, error) {
	old := c.cached.Load()
	seq := c.vault.store.LastSeq() // before the read, so that the read is not older
	if old != nil && old.seq == seq {
		return old.value, old.secret, nil
	}
	var zero T
	stored, err := c.vault.store.Get(ctx, prefix+c.name)
	if err != nil {
		return zero, Secret{}, err
	}
	next := &cached[T]{seq: seq}
	if old != nil && (stored == nil) == (old.secret.stored == nil) && bytes.Equal(stored, old.secret.stored) {
		next.secret, next.value = old.secret, old.value
		c.cached.Store(next)
		return next.value, next.secret, nil
	}
	next.secret = Secret{Name: c.name}
	if stored != nil {
		if next.secret, err = c.vault.open(c.name, bytes.Clone(stored)); err != nil {
			return zero, Secret{}, err
		}
	}
	if next.value, err = c.decode(next.secret.Value); err != nil {
		return zero, Secret{}, err
	}
	c.cached.Store(next)
	return next.value, next.secret, nil
}
