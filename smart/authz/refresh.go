package authz

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"io"
	"strings"
	"time"

	"pulsegate/fhir"
)

// A refresh token is <authorization id>.<secret>.<mac>. The secret has 256
// random bits. The MAC proves that the token was issued for the authorization, so
// that a replaced token can be told from a forged one.

const (
	secretLen = 43 // 32 bytes, base64url
	macLen    = 22 // 16 bytes
)

// RefreshToken is a refresh token that a client presented.
type RefreshToken struct {
	ID          string // authorization ID
	secret, mac string
}

// ParseRefresh parses a refresh token. If the syntax is invalid, ok is false.
func ParseRefresh(s string) (t RefreshToken, ok bool) {
	id, rest, _ := strings.Cut(s, ".")
	secret, mac, _ := strings.Cut(rest, ".")
	return RefreshToken{id, secret, mac}, len(id) == 26 && fhir.ValidID(id) && len(secret) == secretLen &&
		len(mac) == macLen
}

// Status is the state of a presented refresh token.
type Status uint8

const (
	// Unknown is the status of a token that was never issued for the
	// authorization.
	Unknown Status = iota
	// Current is the status of the valid token.
	Current
	// Retry is the status of the previous token if the same sender repeats the
	// request that replaced it within RetryGrace.
	Retry
	// Reused is the status of a token that was replaced before. A copy of it
	// may be in the hands of an attacker.
	Reused
	// Ended is the status of every token of an authorization that has ended,
	// and of a token that was not used for IdleLife.
	Ended
)

func random(r io.Reader, n int) ([]byte, error) {
	b := make([]byte, n)
	_, err := io.ReadFull(r, b)
	return b, fhir.Wrap("authz.random", err)
}

func (r *Record) mac(secret string) string {
	m := hmac.New(sha256.New, r.Key)
	m.Write([]byte(secret))
	return base64.RawURLEncoding.EncodeToString(m.Sum(nil)[:16])
}

func equal(a, b string) bool { return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1 }

// Status returns the status of a token at now. The fingerprint identifies the
// sender and the parameters of the request that presents the token.
func (r *Record) Status(t RefreshToken, now time.Time, fingerprint string) Status {
	if t.ID != r.ID || len(r.Key) == 0 || !equal(t.mac, r.mac(t.secret)) {
		return Unknown
	}
	if !r.Live(now) {
		return Ended
	}
	switch h := hashed(t.secret); {
	case equal(h, r.Current):
		if !now.Before(r.Idle) {
			return Ended
		}
		return Current
	case equal(h, r.Previous) && now.Sub(r.Rotated) <= RetryGrace && !now.Before(r.Rotated) &&
		equal(fingerprint, r.Proof):
		return Retry
	}
	return Reused
}

// First returns the first refresh token and draws the MAC key of the record.
func (r *Record) First(now time.Time, rand io.Reader) (string, error) {
	key, err := random(rand, 32)
	if err != nil {
		return "", err
	}
	r.Key = key
	return r.next(now, rand)
}

func (r *Record) next(now time.Time, rand io.Reader) (string, error) {
	b, err := random(rand, 32)
	if err != nil {
		return "", err
	}
	secret := base64.RawURLEncoding.EncodeToString(b)
	r.Current, r.Idle, r.Used = hashed(secret), now.Add(IdleLife), now
	return r.ID + "." + secret + "." + r.mac(secret), nil
}

// Rotate replaces a Current token and returns the new one. The caller must pass
// the response to Seal.
func (r *Record) Rotate(t RefreshToken, now time.Time, fingerprint string, rand io.Reader) (string, error) {
	r.Previous, r.Rotated, r.Proof = hashed(t.secret), now, fingerprint
	return r.next(now, rand)
}

// sealer returns the cipher that protects the response to a rotation. Its key
// is derived from the token's secret, of which the store holds only the hash.
func (t RefreshToken) sealer() (cipher.AEAD, error) {
	m := hmac.New(sha256.New, []byte("pulsegate refresh answer"))
	m.Write([]byte(t.secret))
	block, err := aes.NewCipher(m.Sum(nil))
	if err != nil {
		return nil, fhir.Wrap("authz.seal", err)
	}
	a, err := cipher.NewGCM(block)
	return a, fhir.Wrap("authz.seal", err)
}

// Seal stores the encrypted response to a rotation for an identical retry. Each
// key encrypts one response only, so a constant nonce is safe.
func (r *Record) Seal(t RefreshToken, answer []byte) error {
	a, err := t.sealer()
	if err != nil {
		return err
	}
	r.Answer = a.Seal(nil, make([]byte, a.NonceSize()), answer, []byte(r.ID))
	return nil
}

// Open returns the response to repeat for a token with the status Retry.
func (r *Record) Open(t RefreshToken) ([]byte, error) {
	a, err := t.sealer()
	if err != nil {
		return nil, err
	}
	b, err := a.Open(nil, make([]byte, a.NonceSize()), r.Answer, []byte(r.ID))
	return b, fhir.Wrap("authz.Open", err)
}
