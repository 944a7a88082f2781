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

// A refresh token is <authorization>.<secret>.<mark>: the secret is 256 random
// bits, the mark shows that it is, or was, one of the family's.

const (
	secretLen = 43 // 32 bytes, base64url
	markLen   = 22 // 16 bytes
)

// RefreshToken is a refresh token as somebody sent it.
type RefreshToken struct {
	ID           string // of the authorization
	secret, mark string
}

// ParseRefresh reads a refresh token's form.
func ParseRefresh(s string) (RefreshToken, bool) {
	id, rest, _ := strings.Cut(s, ".")
	secret, mark, _ := strings.Cut(rest, ".")
	return RefreshToken{id, secret, mark}, len(id) == 26 && fhir.ValidID(id) && len(secret) == secretLen &&
		len(mark) == markLen
}

// Status is what a presented refresh token is to its authorization.
type Status uint8

const (
	// Unknown was never one of its tokens.
	Unknown Status = iota
	// Current is the current one.
	Current
	// Retry is the one before, within RetryGrace, from the same sender.
	Retry
	// Reused was replaced: somebody has a copy.
	Reused
	// Ended is one of an authorization that has ended.
	Ended
)

func random(r io.Reader, n int) ([]byte, error) {
	b := make([]byte, n)
	_, err := io.ReadFull(r, b)
	return b, fhir.Wrap("grant.random", err)
}

func (r *Record) markOf(secret string) string {
	m := hmac.New(sha256.New, r.Key)
	m.Write([]byte(secret))
	return base64.RawURLEncoding.EncodeToString(m.Sum(nil)[:16])
}

func equal(a, b string) bool { return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1 }

// Status judges a presented token at now; proof is what identifies its
// sender and request.
func (r *Record) Status(p RefreshToken, now time.Time, proof string) Status {
	if p.ID != r.ID || len(r.Key) == 0 || !equal(p.mark, r.markOf(p.secret)) {
		return Unknown
	}
	if !r.Live(now) {
		return Ended
	}
	switch h := hashed(p.secret); {
	case equal(h, r.Current):
		if !now.Before(r.Idle) {
			return Ended
		}
		return Current
	case equal(h, r.Previous) && now.Sub(r.Rotated) <= RetryGrace && !now.Before(r.Rotated) && equal(proof, r.Proof):
		return Retry
	}
	return Reused
}

// First makes the first refresh token.
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
	return r.ID + "." + secret + "." + r.markOf(secret), nil
}

// Rotate replaces a Current token by the one it returns. Seal must follow.
func (r *Record) Rotate(p RefreshToken, now time.Time, proof string, rand io.Reader) (string, error) {
	r.Previous, r.Rotated, r.Proof = hashed(p.secret), now, proof
	return r.next(now, rand)
}

// sealer is the cipher that only who holds the presented token can make.
func (p RefreshToken) sealer() (cipher.AEAD, error) {
	m := hmac.New(sha256.New, []byte("pulsegate refresh answer"))
	m.Write([]byte(p.secret))
	block, err := aes.NewCipher(m.Sum(nil))
	if err != nil {
		return nil, fhir.Wrap("grant.seal", err)
	}
	a, err := cipher.NewGCM(block)
	return a, fhir.Wrap("grant.seal", err)
}

// Seal keeps the answer to a rotation for an identical retry. The key is used
// for this one answer only, so the nonce may be fixed.
func (r *Record) Seal(p RefreshToken, answer []byte) error {
	a, err := p.sealer()
	if err != nil {
		return err
	}
	r.Answer = a.Seal(nil, make([]byte, a.NonceSize()), answer, []byte(r.ID))
	return nil
}

// Open returns the answer that a Retry gets again.
func (r *Record) Open(p RefreshToken) ([]byte, error) {
	a, err := p.sealer()
	if err != nil {
		return nil, err
	}
	b, err := a.Open(nil, make([]byte, a.NonceSize()), r.Answer, []byte(r.ID))
	return b, fhir.Wrap("authz.Open", err)
}
