package interaction

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"io"
	"sync"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/store"
)

// Page links contain a snapshot and a position, which may contain a sort key such
// as a measured value. They are sealed, so that only this server can read or make
// them, and are bound to the client, the authorization and the search. The key is
// in the store, so that links survive a restart and work in every process that
// uses the store.
const (
	pageKey     = "page/key"
	pageSecret  = 32
	pageVersion = 1
	pageNonce   = 12
)

// pageSealer seals page links. It is safe for concurrent use.
type pageSealer struct {
	mu     sync.Mutex
	aead   cipher.AEAD
	secret []byte // for nonces
}

// pagePoint holds the content of a page link: the snapshot, and the position
// after which the next page begins.
type pagePoint struct {
	at    store.Seq
	after string
}

// sealer returns the sealer of page links. It creates the key on first use.
func (s *Service) sealer(ctx context.Context) (*pageSealer, error) {
	const op = "interaction.sealer"
	s.pages.mu.Lock()
	defer s.pages.mu.Unlock()
	if s.pages.aead != nil {
		return &s.pages, nil
	}
	key, err := s.Store.Get(ctx, pageKey)
	if err != nil {
		return nil, err
	}
	if key == nil {
		if key, err = s.newPageKey(ctx); err != nil {
			return nil, err
		}
	}
	if len(key) != pageSecret {
		return nil, fhir.Errorf(fhir.Internal, op, "the key of page links is malformed")
	}
	enc, err := hkdf.Key(sha256.New, key, nil, "pulsegate page link encryption", 32)
	if err != nil {
		return nil, fhir.Wrap(op, err)
	}
	secret, err := hkdf.Key(sha256.New, key, nil, "pulsegate page link nonce", 32)
	if err != nil {
		return nil, fhir.Wrap(op, err)
	}
	block, err := aes.NewCipher(enc)
	if err != nil {
		return nil, fhir.Wrap(op, err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, fhir.Wrap(op, err)
	}
	s.pages.aead, s.pages.secret = aead, secret
	return &s.pages, nil
}

// newPageKey stores a new key. If another process has stored one first, it returns
// that key.
func (s *Service) newPageKey(ctx context.Context) ([]byte, error) {
	key := make([]byte, pageSecret)
	s.randMu.Lock()
	_, err := io.ReadFull(s.Rand, key)
	s.randMu.Unlock()
	if err != nil {
		return nil, fhir.Wrap("interaction.newPageKey", err)
	}
	_, err = s.Store.Commit(ctx, &store.Batch{State: []store.StateWrite{{Key: pageKey, Value: key,
		Expect: store.StateAbsent}}})
	if fhir.KindOf(err) == fhir.Conflict && err != nil {
		return s.Store.Get(ctx, pageKey)
	}
	return key, err
}

// seal returns the parameter of a page link. The nonce is derived from the
// content, so that a page always has the same link and no nonce is used for two
// contents.
func (p *pageSealer) seal(bound []byte, at pagePoint) string {
	text := append(binary.AppendUvarint(nil, uint64(at.at)), at.after...)
	mac := hmac.New(sha256.New, p.secret)
	mac.Write(binary.AppendUvarint(nil, uint64(len(bound))))
	mac.Write(bound)
	mac.Write(text)
	nonce := mac.Sum(nil)[:pageNonce]
	out := append([]byte{pageVersion}, nonce...)
	return base64.RawURLEncoding.EncodeToString(p.aead.Seal(out, nonce, text, bound))
}

// open opens a parameter that seal made for the same bound.
func (p *pageSealer) open(op string, bound []byte, sealed string) (at pagePoint, err error) {
	foreign := fhir.Errorf(fhir.Invalid, op,
		"the page link was not issued to this client for this search; use links unchanged, or repeat the search")
	b, err := base64.RawURLEncoding.Strict().DecodeString(sealed)
	if err != nil || len(b) < 1+pageNonce || b[0] != pageVersion {
		return at, foreign
	}
	text, err := p.aead.Open(nil, b[1:1+pageNonce], b[1+pageNonce:], bound)
	if err != nil {
		return at, foreign
	}
	t, n := binary.Uvarint(text)
	if n <= 0 || t == 0 {
		return at, foreign
	}
	return pagePoint{store.Seq(t), string(text[n:])}, nil
}

// caller identifies the caller: the client, and the person and authorization for
// which it acts. Refreshed tokens of an authorization are the same caller.
func (rq *Request) caller() string {
	p := rq.Principal
	if p == nil {
		p = &access.Principal{}
	}
	return string(joined(p.ClientID, p.Operator, p.Issuer, p.Subject, p.Authorization))
}

// joined returns an unambiguous encoding of texts.
func joined(texts ...string) (b []byte) {
	for _, t := range texts {
		b = append(binary.AppendUvarint(b, uint64(len(t))), t...)
	}
	return b
}

// openPage opens the page link of a request. It returns the zero point if there is
// none.
func (s *Service) openPage(ctx context.Context, op string, bound []byte, sealed string) (at pagePoint, err error) {
	if sealed == "" {
		return at, nil
	}
	p, err := s.sealer(ctx)
	if err != nil {
		return at, err
	}
	if at, err = p.open(op, bound, sealed); err != nil {
		return at, err
	}
	if at.at <= s.Store.LastSeq() {
		return at, nil
	}
	// Another process may have made the link with commits that this one does not
	// show yet.
	if err := s.Store.Sync(ctx); err != nil {
		return at, err
	}
	if at.at > s.Store.LastSeq() {
		return at, fhir.Errorf(fhir.Gone, op,
			"the page link refers to a state that this server does not have; repeat the search")
	}
	return at, nil
}
