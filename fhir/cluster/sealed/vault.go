package sealed

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"pulsegate/fhir"
	"pulsegate/fhir/store"
)

const (
	prefix = "sealed/"
	// MaxSecret is the maximum length of a secret in bytes.
	MaxSecret = 256 << 10

	version   = 1
	head      = 1 + idSize
	maxName   = 128
	tries     = 16
	checkName = "cluster-key"
	checkText = "pulsegate"
)

// ErrKey is wrapped by the error for a value that is sealed under a key that the
// cluster key file does not have.
var ErrKey = errors.New("sealed under another cluster key")

// Store is the part of store.Store that a Vault uses.
type Store interface {
	store.State
	LastSeq() store.Seq
}

// Vault reads and writes sealed secrets. It is safe for concurrent use.
type Vault struct {
	store   Store
	keys    Keys
	ciphers []cipher.AEAD // parallel to keys.All()
}

// Secret is a secret of a Vault, and the value of small state that holds it.
type Secret struct {
	Name  string
	Value []byte
	// stored is the sealed value, nil if there is none.
	stored []byte
}

// Exists reports whether the vault holds the secret.
func (s Secret) Exists() bool { return s.stored != nil }

// Format implements fmt.Formatter. It writes the name only.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = fmt.Fprintf(f, "secret %s", s.Name) }

// Unchanged returns the precondition that the secret is still the one that was read.
func (s Secret) Unchanged() store.StateWrite {
	if !s.Exists() {
		return store.StateWrite{Key: prefix + s.Name, Expect: store.StateAbsent}
	}
	return store.StateWrite{Key: prefix + s.Name, Value: s.stored, Expect: store.StateEquals, Old: s.stored}
}

// Open returns the vault in st. It fails if the cluster of st has another cluster key.
// The first call of a cluster decides which one that is.
func Open(ctx context.Context, st Store, keys Keys) (*Vault, error) {
	v := &Vault{store: st, keys: keys}
	for _, k := range keys.All() {
		block, err := aes.NewCipher(Derive(k, "seal small state", keySize))
		if err != nil {
			return nil, fhir.Wrap("sealed.Open", err)
		}
		aead, err := cipher.NewGCMWithRandomNonce(block)
		if err != nil {
			return nil, fhir.Wrap("sealed.Open", err)
		}
		v.ciphers = append(v.ciphers, aead)
	}
	_, err := v.Make(ctx, checkName, func() ([]byte, error) { return []byte(checkText), nil })
	if err != nil {
		return nil, err
	}
	return v, nil
}

// Get returns a secret. Secret.Exists reports whether there is one.
func (v *Vault) Get(ctx context.Context, name string) (Secret, error) {
	stored, err := v.store.Get(ctx, prefix+name)
	if err != nil || stored == nil {
		return Secret{Name: name}, fhir.Wrap("sealed.Get", err)
	}
	return v.open(name, bytes.Clone(stored))
}

// List calls fn for the secrets with names that have the prefix, in order of their names,
// until fn returns false.
func (v *Vault) List(ctx context.Context, namePrefix string, fn func(Secret) bool) error {
	var failed error
	err := v.store.List(ctx, prefix+namePrefix, func(key string, stored []byte) bool {
		s, err := v.open(strings.TrimPrefix(strings.Clone(key), prefix), bytes.Clone(stored))
		if err != nil {
			failed = err
			return false
		}
		return fn(s)
	})
	return errors.Join(failed, fhir.Wrap("sealed.List", err))
}

// Make returns the secret. If there is none, it stores the result of generate. Of
// several processes that call Make at a time, all return the same secret.
func (v *Vault) Make(ctx context.Context, name string, generate func() ([]byte, error)) (Secret, error) {
	const op = "sealed.Make"
	var out Secret
	err := store.Retry(tries, op, "the secret "+name+" changes too often", func() error {
		old, err := v.Get(ctx, name)
		if err != nil || old.Exists() {
			out = old
			return err
		}
		value, err := generate()
		if err != nil {
			return fhir.Wrap(op, err)
		}
		out, err = v.Replace(ctx, old, value)
		return err
	})
	return out, err
}

// Replace stores a new value if the secret is still old, and fails with Conflict
// otherwise. A nil value deletes the secret. bind adds preconditions to the commit, such
// as that of a role (role.Term.Bind).
func (v *Vault) Replace(ctx context.Context, old Secret, value []byte, bind ...func(*store.Batch)) (Secret, error) {
	write, out, err := v.Write(old, value)
	if err != nil {
		return Secret{}, err
	}
	b := &store.Batch{State: []store.StateWrite{write}}
	for _, fn := range bind {
		fn(b)
	}
	_, err = v.store.Commit(ctx, b)
	return out, fhir.Wrap("sealed.Replace", err)
}

// Write returns the write of Replace, for a batch with other writes, and the secret as
// it is once that batch is committed.
func (v *Vault) Write(old Secret, value []byte) (store.StateWrite, Secret, error) {
	const op = "sealed.Write"
	switch {
	case old.Name == "" || len(old.Name) > maxName:
		return store.StateWrite{}, Secret{}, fhir.Errorf(fhir.Internal, op, "the name of a secret has 1 to %d bytes",
			maxName)
	case len(value) > MaxSecret:
		return store.StateWrite{}, Secret{}, fhir.Errorf(fhir.Internal, op, "the secret %s has more than %d bytes",
			old.Name, MaxSecret)
	}
	w := old.Unchanged()
	w.Value = nil
	out := Secret{Name: old.Name}
	if value != nil {
		out.Value, out.stored = bytes.Clone(value), v.seal(old.Name, value)
		w.Value = out.stored
	}
	return w, out, nil
}

func (v *Vault) seal(name string, value []byte) []byte {
	out := append([]byte{version}, v.keys.Current.id()...)
	return v.ciphers[0].Seal(out, nil, value, associated(out, name))
}

func associated(header []byte, name string) []byte {
	return append(bytes.Clone(header[:head]), name...)
}

// open opens a stored value, which it retains.
func (v *Vault) open(name string, stored []byte) (Secret, error) {
	const op = "sealed.open"
	if len(stored) < head || stored[0] != version {
		return Secret{}, fhir.Errorf(fhir.Internal, op, "%s%s is not a sealed value of this release", prefix, name)
	}
	for i, k := range v.keys.All() {
		if !bytes.Equal(stored[1:head], k.id()) {
			continue
		}
		value, err := v.ciphers[i].Open(nil, nil, stored[head:], associated(stored, name))
		if err != nil {
			return Secret{}, fhir.Errorf(fhir.Internal, op,
				"%s%s was changed, or is sealed under another cluster key: check that cluster-key-file is the same on "+
					"every server", prefix, name)
		}
		if value == nil {
			value = []byte{} // nil would mean that there is no secret
		}
		return Secret{Name: name, Value: value, stored: stored}, nil
	}
	return Secret{}, v.foreign(name, stored)
}

// foreign returns the error for a value that is sealed under a key that this vault
// does not have.
func (v *Vault) foreign(name string, stored []byte) error {
	has := v.keys.Current.ID()
	if v.keys.Other != nil {
		has += " and " + v.keys.Other.ID()
	}
	text := fmt.Sprintf("%s%s is sealed under the cluster key %s, and cluster-key-file of this server has %s: "+
		"check that it is the same on every server, and that a key that is being replaced is its second line",
		prefix, name, hex.EncodeToString(stored[1:head]), has)
	return &fhir.Error{Kind: fhir.Internal, Op: "sealed.open", Err: ErrKey,
		Issues: []fhir.Issue{{Severity: "error", Code: fhir.Internal.IssueCode(), Diagnostics: text}}}
}
