package authn

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"os"
	"path/filepath"

	"pulsegate/fhir/cluster/sealed"

	"pulsegate/fhir"
)

// Vault encrypts small secrets: TOTP secrets at rest, and state in cookies.
type Vault struct{ aead cipher.AEAD }

const (
	vaultKey = 32
	// secretName is the name of the key in the secrets of a cluster.
	secretName = "seal-key"
)

// OpenVault reads the key from DIR/keys/seal.key, which must have mode 0600. If
// the key is missing and fresh is set, OpenVault creates it. Otherwise it fails
// with kind Conflict, because a new key could not decrypt the stored TOTP
// secrets.
func OpenVault(dir string, fresh bool) (*Vault, error) {
	const op = "authn.OpenVault"
	path := keyPath(dir)
	key, err := readKey(path)
	if errors.Is(err, os.ErrNotExist) {
		if !fresh {
			return nil, fhir.Errorf(fhir.Conflict, op,
				"keys/seal.key, which encrypts the secrets of authenticator apps, is missing; "+
					"restore it, or accept a new key with `pulsegate recover seal-key`, which is recorded")
		}
		key, err = makeKey(path)
	}
	if err != nil {
		return nil, fhir.Wrap(op, err)
	}
	return newVault(key)
}

// OpenSharedVault is OpenVault for a server of a cluster, which has the key in its
// secrets. If the key is missing and fresh is set, all servers that start at a time
// create one key.
func OpenSharedVault(ctx context.Context, secrets *sealed.Vault, fresh bool) (*Vault, error) {
	const op = "authn.OpenSharedVault"
	s, err := secrets.Get(ctx, secretName)
	switch {
	case err != nil:
		return nil, err
	case !s.Exists() && !fresh:
		return nil, fhir.Errorf(fhir.Conflict, op,
			"the cluster's secret seal-key, which encrypts the secrets of authenticator apps, is missing; "+
				"restore the cluster, or accept a new key with `pulsegate recover seal-key`, which is recorded")
	case !s.Exists():
		if s, err = secrets.Make(ctx, secretName, func() ([]byte, error) { return drawKey(), nil }); err != nil {
			return nil, err
		}
	}
	if len(s.Value) != vaultKey {
		return nil, fhir.Errorf(fhir.Internal, op, "the cluster's secret seal-key must have %d bytes", vaultKey)
	}
	return newVault(s.Value)
}

// ImportKey stores the key of OpenVault in the secrets of a cluster if they have none
// yet, and reports whether it did. A single server that becomes a cluster calls it once.
func ImportKey(ctx context.Context, dir string, secrets *sealed.Vault) (imported bool, err error) {
	key, err := readKey(keyPath(dir))
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fhir.Wrap("authn.ImportKey", err)
	}
	s, err := secrets.Make(ctx, secretName, func() ([]byte, error) { return key, nil })
	return err == nil && subtle.ConstantTimeCompare(s.Value, key) == 1, err
}

// ExportKey writes the key of a cluster to the file of OpenVault. A server that leaves its
// cluster calls it.
func ExportKey(ctx context.Context, dir string, secrets *sealed.Vault) error {
	const op = "authn.ExportKey"
	s, err := secrets.Get(ctx, secretName)
	if err != nil {
		return err
	}
	if len(s.Value) != vaultKey {
		return fhir.Errorf(fhir.Conflict, op, "the cluster's secret seal-key is missing or does not have %d bytes", vaultKey)
	}
	path := keyPath(dir)
	if now, err := readKey(path); err == nil && subtle.ConstantTimeCompare(now, s.Value) == 1 {
		return nil
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fhir.Wrap(op, err)
	}
	return fhir.Wrap(op, writeKey(path, s.Value))
}

func keyPath(dir string) string { return filepath.Join(dir, "keys", "seal.key") }

// readKey reads a key file. The error wraps os.ErrNotExist if there is none.
func readKey(path string) ([]byte, error) {
	const op = "authn.readKey"
	key, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fhir.Errorf(fhir.Internal, op, "keys/seal.key: other users may read it; set its mode to 0600")
	}
	if len(key) != vaultKey {
		return nil, fhir.Errorf(fhir.Internal, op, "keys/seal.key: it must have %d bytes", vaultKey)
	}
	return key, nil
}

func drawKey() []byte {
	key := make([]byte, vaultKey)
	_, _ = rand.Read(key) // crypto/rand never fails
	return key
}

func makeKey(path string) ([]byte, error) {
	key := drawKey()
	return key, writeKey(path, key)
}

// writeKey writes a key file, which must not exist.
func writeKey(path string, key []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(key)
	return errors.Join(err, f.Sync(), f.Close())
}

// newVault returns a Vault with a key of 32 bytes.
func newVault(key []byte) (*Vault, error) {
	b, err := aes.NewCipher(key)
	if err != nil {
		return nil, fhir.Wrap("authn.NewVault", err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(b)
	return &Vault{aead}, fhir.Wrap("authn.NewVault", err)
}

// Seal encrypts plain. Open needs the same purpose.
func (v *Vault) Seal(purpose string, plain []byte) []byte {
	return v.aead.Seal(nil, nil, plain, []byte(purpose))
}

// Open decrypts the result of Seal. Its error has kind Unauthorized.
func (v *Vault) Open(purpose string, sealed []byte) ([]byte, error) {
	b, err := v.aead.Open(nil, nil, sealed, []byte(purpose))
	if err != nil {
		return nil, fhir.Errorf(fhir.Unauthorized, "authn.Open", "the value was not sealed by this server")
	}
	return b, nil
}
