package authn

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"

	"pulsegate/fhir"
)

// Vault encrypts small secrets: TOTP secrets at rest, and state in cookies.
type Vault struct{ aead cipher.AEAD }

const vaultKey = 32

// OpenVault reads the key from DIR/keys/seal.key, which must have mode 0600. If
// the key is missing and fresh is set, OpenVault creates it. Otherwise it fails
// with kind Conflict, because a new key could not decrypt the stored TOTP
// secrets.
func OpenVault(dir string, fresh bool) (*Vault, error) {
	const op = "authn.OpenVault"
	path := filepath.Join(dir, "keys", "seal.key")
	key, err := os.ReadFile(path)
	switch {
	case errors.Is(err, os.ErrNotExist) && !fresh:
		return nil, fhir.Errorf(fhir.Conflict, op,
			"keys/seal.key, which encrypts the secrets of authenticator apps, is missing; "+
				"restore it, or accept a new key with `pulsegate recover seal-key`, which is recorded")
	case errors.Is(err, os.ErrNotExist):
		if key, err = makeKey(path); err != nil {
			return nil, fhir.Wrap(op, err)
		}
	case err != nil:
		return nil, fhir.Wrap(op, err)
	default:
		info, err := os.Stat(path)
		if err != nil {
			return nil, fhir.Wrap(op, err)
		}
		if info.Mode().Perm()&0o077 != 0 {
			return nil, fhir.Errorf(fhir.Internal, op, "keys/seal.key: other users may read it; set its mode to 0600")
		}
	}
	if len(key) != vaultKey {
		return nil, fhir.Errorf(fhir.Internal, op, "keys/seal.key: it must have %d bytes", vaultKey)
	}
	return newVault(key)
}

func makeKey(path string) ([]byte, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	key := make([]byte, vaultKey)
	_, _ = rand.Read(key) // crypto/rand never fails
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	_, err = f.Write(key)
	return key, errors.Join(err, f.Sync(), f.Close())
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
