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
	// NonceLife is how long a nonce may be used.
	NonceLife = 5 * time.Minute
	nonceMAC  = 16
)

// ErrNonce marks the error of a proof that lacks a nonce of this server or has
// one that is too old (RFC 9449 8, use_dpop_nonce).
var ErrNonce = errors.New("dpop: a nonce of this server is needed")

// Nonces are the server's nonces (RFC 9449 8 and 9): a proof that was made
// ahead, on a device that somebody has left, is worth nothing later. A nonce is
// its time and a MAC of it, so none is stored; the key is, so that every
// process and every restart knows the nonces of the others.
type Nonces struct {
	key   []byte
	clock func() time.Time
}

// OpenNonces reads the key, making it where there is none.
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
		if err != nil && fhir.KindOf(err) != fhir.Conflict { // Conflict: another process was first
			return nil, fhir.Wrap(op, err)
		}
	}
}

func (n *Nonces) mac(at []byte) []byte {
	h := hmac.New(sha256.New, n.key)
	h.Write(at)
	return h.Sum(nil)[:nonceMAC]
}

// New is a nonce of now.
func (n *Nonces) New() string {
	b := binary.BigEndian.AppendUint64(nil, uint64(n.clock().Unix()))
	return base64.RawURLEncoding.EncodeToString(append(b, n.mac(b)...))
}

// good reports whether nonce is ours and not too old.
func (n *Nonces) good(nonce string) bool {
	b, err := base64.RawURLEncoding.Strict().DecodeString(nonce)
	if err != nil || len(b) != 8+nonceMAC || !hmac.Equal(b[8:], n.mac(b[:8])) {
		return false
	}
	age := n.clock().Sub(time.Unix(int64(binary.BigEndian.Uint64(b)), 0))
	return age >= -Skew && age <= NonceLife
}

// check holds a proof to the nonces; nil demands none.
func (n *Nonces) check(nonce string) error {
	if n == nil || n.good(nonce) {
		return nil
	}
	return &fhir.Error{Kind: fhir.Unauthorized, Op: "dpop.Verify", Err: ErrNonce,
		Issues: []fhir.Issue{{Code: "login", Diagnostics: "DPoP: use the nonce of the header DPoP-Nonce"}}}
}

// Offer gives a new nonce with every answer to a request that has a proof.
func (n *Nonces) Offer(next http.Handler) http.Handler {
	if n == nil {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if len(r.Header.Values("DPoP")) > 0 {
			w.Header().Set("DPoP-Nonce", n.New())
		}
		next.ServeHTTP(w, r)
	})
}
