// Package sealedtest has devices for tests of packages that keep secrets in a
// sealed.Vault, or make something once in small state.
package sealedtest

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pulsegate/fhir/cluster/sealed"
	"pulsegate/fhir/store"
)

// Keys returns the keys of a cluster key file with one key per name.
func Keys(t testing.TB, names ...string) sealed.Keys {
	t.Helper()
	var lines []string
	for _, name := range names {
		sum := sha256.Sum256([]byte(name))
		lines = append(lines, base64.StdEncoding.EncodeToString(sum[:]))
	}
	file := filepath.Join(t.TempDir(), "cluster.key")
	if err := os.WriteFile(file, []byte(strings.Join(lines, "\n")), 0o600); err != nil {
		t.Fatal(err)
	}
	keys, err := sealed.ReadKeys(file)
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

// Open returns the vault in st of a process with the Keys of the names.
func Open(t testing.TB, st sealed.Store, names ...string) *sealed.Vault {
	t.Helper()
	v, err := sealed.Open(t.Context(), st, Keys(t, names...))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// Interrupted is the store of a process that is interrupted once, by what another
// process does, just before it writes a key of small state.
type Interrupted struct {
	store.Store
	Key string
	// By is called before the commit, and set to nil.
	By func()
	// Careless removes the preconditions of the commit. Tests use it as a control.
	Careless bool
}

// Commit implements store.Store.
func (s *Interrupted) Commit(ctx context.Context, b *store.Batch) (store.Result, error) {
	at := slices.IndexFunc(b.State, func(w store.StateWrite) bool { return w.Key == s.Key })
	if s.By != nil && at >= 0 {
		fn := s.By
		s.By = nil
		fn()
		for i := range b.State {
			if s.Careless {
				b.State[i].Expect = store.StateAny
			}
		}
	}
	return s.Store.Commit(ctx, b)
}
