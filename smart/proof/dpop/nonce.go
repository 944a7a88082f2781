package dpop

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"io"
	"net/http"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/store"
)

const (
	nonceKey = "dpop-nonce/key"
	// nonceLife is the lifetime of a nonce.
	nonceLife = 5 * time.Minute
	nonceMAC  = 16
)

// ErrNonce is returned for a proof without a nonce of this server or with one
// that has expired (RFC 9449 8, use_dpop_nonce).
var ErrNonce = errors.New("dpop: the proof needs a nonce of this server")

// Nonces issues and checks the server's nonces (RFC 9449 8 and 9). They prevent
// the use of proofs that were made in advance, for example on a device that the
// owner has since lost. A nonce is a time and its MAC, so nonces are not
// stored. The key is stored, so that all processes accept each other's nonces,
// also after a restart.
type Nonces struct {
	key   []byte
	clock func() time.Time
}

// OpenNonces reads the key and creates it if it is missing.
func OpenNonces(ctx context.Context, s store.State, rand io.Reader, clock func() time.Time) (*Nonces, error) {
	const op = "dpop.OpenNonces"
	for {
		b, err := s.Get(ctx, nonceKey)
		if err != nil {
			return nil, fhir.Wrap(op, err)
		}
		if len(b) == sha256.Size {
			return &Nonces{key: b, clock: clock}, nil
		}
		if b != nil {
			return nil, fhir.Errorf(fhir.Internal, op, "the stored key has a wrong length")
		}
		fresh := make([]byte, sha256.Size)
		if _, err := io.ReadFull(rand, fresh); err != nil {
			return nil, fhir.Wrap(op, err)
		}
		_, err = s.Commit(ctx, &store.Batch{State: []store.StateWrite{{Key: nonceKey, Value: fresh,
			Expect: store.StateAbsent}}})
		if err != nil && fhir.KindOf(err) != fhir.Conflict { // another process created the key first
			return nil, fhir.Wrap(op, err)
		}
	}
}

func (n *Nonces) mac(at []byte) []byte {
	h := hmac.New(sha256.New, n.key)
	h.Write(at)
	return h.Sum(nil)[:nonceMAC]
}

// generate returns a nonce for the current time.
func (n *Nonces) generate() string {
	b := binary.BigEndian.AppendUint64(nil, uint64(n.clock().Unix()))
	return base64.RawURLEncoding.EncodeToString(append(b, n.mac(b)...))
}

// good reports whether nonce was issued by this server and has not expired.
func (n *Nonces) good(nonce string) bool {
	b, err := base64.RawURLEncoding.Strict().DecodeString(nonce)
	if err != nil || len(b) != 8+nonceMAC || !hmac.Equal(b[8:], n.mac(b[:8])) {
		return false
	}
	age := n.clock().Sub(time.Unix(int64(binary.BigEndian.Uint64(b)), 0))
	return age >= -skew && age <= nonceLife
}

// check checks the nonce of a proof. A nil Nonces accepts every proof.
func (n *Nonces) check(nonce string) error {
	if n == nil || n.good(nonce) {
		return nil
	}
	return &fhir.Error{Kind: fhir.Unauthorized, Op: "dpop.Verify", Err: ErrNonce,
		Issues: []fhir.Issue{{Code: "login", Diagnostics: "DPoP: use the nonce of the header DPoP-Nonce"}}}
}

// Offer sends a new nonce with the response to every request that has a proof.
func (n *Nonces) Offer(next http.Handler) http.Handler {
	if n == nil {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if len(r.Header.Values("DPoP")) > 0 {
			w.Header().Set("DPoP-Nonce", n.generate())
		}
		next.ServeHTTP(w, r)
	})
}
