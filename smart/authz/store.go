package authz

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"slices"
	"strconv"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/store"
)

const (
	keyPrefix = "grant/"
	codes     = keyPrefix + "code/"
	records   = keyPrefix + "authorization/"
	bySubject = keyPrefix + "subject/"
	byPatient = keyPrefix + "patient/"
	revoked   = keyPrefix + "revoked/"

	// CodeLife is the lifetime of an authorization code.
	CodeLife = time.Minute
	// keepCode is the time that a code is stored after its expiry, used or not,
	// so that a second use is recognized.
	keepCode = time.Hour
	// IdleLife is the lifetime of a refresh token that is not used.
	// AbsoluteLife bounds the lifetime of an authorization.
	IdleLife     = 90 * 24 * time.Hour
	AbsoluteLife = 180 * 24 * time.Hour
	// SessionLife bounds the lifetime of an authorization that ends with the
	// person's session.
	SessionLife = 12 * time.Hour
	// RetryGrace is the time during which an identical retry of a refresh gets
	// the same response.
	RetryGrace = 5 * time.Second
)

// Store stores codes and authorizations.
type Store struct{ State store.State }

// Code holds the data of an authorization code.
type Code struct {
	// Authorization starts when the code is redeemed. Until then, Created is the
	// time of the approval.
	Authorization Authorization `json:"authorization"`
	App           string        `json:"app,omitempty"` // client name shown to the person
	RedirectURI   string        `json:"redirect_uri"`
	Challenge     string        `json:"challenge"` // code_challenge, S256
	Nonce         string        `json:"nonce,omitempty"`
	JKT           string        `json:"jkt,omitempty"` // dpop_jkt (RFC 9449 10)
	Expires       time.Time     `json:"expires"`
	Used          bool          `json:"used,omitempty"`
}

// StoredCode is a Code with the bytes that were read, so that a write can
// replace exactly that version.
type StoredCode struct {
	Code
	key string
	raw []byte
}

// hashed returns the SHA-256 hash of a secret in base64url.
func hashed(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// NewCode returns the write that stores the data of a new code.
func NewCode(code string, c Code) (store.StateWrite, error) {
	b, err := json.Marshal(c)
	return store.StateWrite{Key: codes + hashed(code), Value: b, Expect: store.StateAbsent,
		Expires: c.Expires.Add(keepCode)}, fhir.Wrap("authz.NewCode", err)
}

// Code returns the data of a code, even if the code has expired or was used;
// the caller must check both. If the code does not exist, the error is
// NotFound.
func (s *Store) Code(ctx context.Context, code string) (StoredCode, error) {
	stored := StoredCode{key: codes + hashed(code)}
	var err error
	if stored.raw, err = s.State.Get(ctx, stored.key); err != nil {
		return stored, fhir.Wrap("authz.Code", err)
	}
	if stored.raw == nil {
		return stored, fhir.Errorf(fhir.NotFound, "authz.Code", "the code does not exist")
	}
	return stored, fhir.Wrap("authz.Code", json.Unmarshal(stored.raw, &stored.Code))
}

// Redeem returns the writes that mark the code as used and store its
// authorization.
func (c *StoredCode) Redeem(r Record) ([]store.StateWrite, error) {
	used := c.Code
	used.Used = true
	b, err := json.Marshal(used)
	if err != nil {
		return nil, fhir.Wrap("authz.Redeem", err)
	}
	w, err := r.write(store.StateAbsent, nil)
	if err != nil {
		return nil, err
	}
	out := []store.StateWrite{{Key: c.key, Value: b, Expect: store.StateEquals, Old: c.raw,
		Expires: c.Expires.Add(keepCode)}, w}
	for _, k := range r.indexKeys() {
		out = append(out, store.StateWrite{Key: k, Value: []byte(r.ID), Expires: w.Expires})
	}
	return out, nil
}

func subjectKey(subject, id string) string { return bySubject + hashed(subject) + "/" + id }

func patientKey(patient, id string) string { return byPatient + patient + "/" + id }

// indexKeys returns the keys of the authorization's index entries: one for the
// person who gave it and one for the patient in context.
func (a *Authorization) indexKeys() []string {
	out := []string{subjectKey(a.Subject.ID, a.ID)}
	if a.Context.Patient != "" {
		out = append(out, patientKey(a.Context.Patient, a.ID))
	}
	return out
}

// Record is an authorization with its refresh tokens.
type Record struct {
	Authorization
	// Key is the MAC key of the authorization's refresh tokens. With it, a
	// token that was replaced long ago is told from a forged one.
	Key []byte `json:"key,omitempty"`
	// Current is the hash of the current refresh token, which is valid until
	// Idle.
	Current string    `json:"current,omitempty"`
	Idle    time.Time `json:"idle,omitzero"`
	// Previous is the hash of the previous refresh token. A request with the
	// fingerprint Proof replaced it at Rotated. Answer is the response to that
	// request, encrypted with a key that is derived from the previous token.
	Previous string    `json:"previous,omitempty"`
	Rotated  time.Time `json:"rotated,omitzero"`
	Proof    string    `json:"proof,omitempty"`
	Answer   []byte    `json:"answer,omitempty"`
	// JKT binds the refresh tokens of a public client (RFC 9449 5).
	JKT string `json:"jkt,omitempty"`

	raw []byte
}

func (r *Record) write(expect store.StateExpect, old []byte) (store.StateWrite, error) {
	b, err := json.Marshal(r)
	// The record is kept for a day after the authorization has expired, so that
	// the refusal of its tokens names the right reason.
	return store.StateWrite{Key: records + r.ID, Value: b, Expect: expect, Old: old,
		Expires: r.Expires.Add(24 * time.Hour)}, fhir.Wrap("authz.write", err)
}

// Update returns the write that replaces the version of the record that was
// read.
func (r *Record) Update() (store.StateWrite, error) { return r.write(store.StateEquals, r.raw) }

// Live reports whether the authorization is valid at now.
func (a *Authorization) Live(now time.Time) bool { return !a.Revoked && now.Before(a.Expires) }

// Get returns a record. If there is none with the ID, the error is NotFound.
func (s *Store) Get(ctx context.Context, id string) (Record, error) {
	var r Record
	if !fhir.ValidID(id) {
		return r, fhir.Errorf(fhir.NotFound, "authz.Get", "the authorization does not exist")
	}
	b, err := s.State.Get(ctx, records+id)
	if err != nil {
		return r, fhir.Wrap("authz.Get", err)
	}
	if b == nil {
		return r, fhir.Errorf(fhir.NotFound, "authz.Get", "the authorization does not exist")
	}
	r.raw = b
	return r, fhir.Wrap("authz.Get", json.Unmarshal(b, &r))
}

// Authorizations returns the live authorizations that a person gave, newest
// first.
func (s *Store) Authorizations(ctx context.Context, subject string, now time.Time) ([]Authorization, error) {
	return s.authorizations(ctx, subjectKey(subject, ""), now)
}

// About returns the live authorizations with a patient in context, given by
// anyone, newest first.
func (s *Store) About(ctx context.Context, patient string, now time.Time) ([]Authorization, error) {
	if !fhir.ValidID(patient) {
		return nil, fhir.Errorf(fhir.Invalid, "authz.About", "patient must be a FHIR id")
	}
	return s.authorizations(ctx, patientKey(patient, ""), now)
}

// Records returns the records of the live authorizations that a person gave,
// newest first.
func (s *Store) Records(ctx context.Context, subject string, now time.Time) ([]Record, error) {
	return s.records(ctx, subjectKey(subject, ""), now)
}

func (s *Store) authorizations(ctx context.Context, prefix string, now time.Time) ([]Authorization, error) {
	recs, err := s.records(ctx, prefix, now)
	if err != nil {
		return nil, err
	}
	var out []Authorization
	for i := range recs {
		out = append(out, recs[i].Authorization)
	}
	return out, nil
}

func (s *Store) records(ctx context.Context, prefix string, now time.Time) ([]Record, error) {
	var ids []string
	if err := s.State.List(ctx, prefix, func(_ string, v []byte) bool {
		ids = append(ids, string(v))
		return true
	}); err != nil {
		return nil, fhir.Wrap("authz.Authorizations", err)
	}
	var out []Record
	for _, id := range ids {
		r, err := s.Get(ctx, id)
		if err != nil && fhir.KindOf(err) == fhir.NotFound {
			continue
		}
		if err != nil {
			return nil, err
		}
		if r.Live(now) {
			out = append(out, r)
		}
	}
	slices.SortFunc(out, func(a, b Record) int { return b.Created.Compare(a.Created) })
	return out, nil
}

// End returns the writes that end the authorization with all its tokens. The
// tokens fail from the next request on. The writes succeed even if a refresh
// changes the record concurrently. Otherwise a client that refreshes without
// pause could postpone the end forever.
func (r *Record) End() ([]store.StateWrite, error) {
	r.Revoked, r.Answer = true, nil
	w, err := r.write(store.StateAny, nil)
	if err != nil {
		return nil, err
	}
	out := []store.StateWrite{w}
	for _, k := range r.indexKeys() {
		out = append(out, store.StateWrite{Key: k})
	}
	return out, nil
}

// Revoke ends an authorization with all its tokens. The tokens fail from the
// next request on. If subject is not empty and the authorization is another
// person's, the error is NotFound. To revoke an authorization again has no
// effect. The functions in also add to the commit.
func (s *Store) Revoke(ctx context.Context, subject, id string, also ...func(*store.Batch, Authorization) error) error {
	const attempts = 64 // an attempt fails only when another writer succeeds
	return store.Retry(attempts, "authz.Revoke", "the authorization is in heavy use; try again", func() error {
		r, err := s.Get(ctx, id)
		if err != nil {
			return err
		}
		if subject != "" && r.Subject.ID != subject {
			return fhir.Errorf(fhir.NotFound, "authz.Revoke", "the authorization does not exist")
		}
		if r.Revoked {
			return nil
		}
		state, err := r.End()
		if err != nil {
			return err
		}
		b := store.Batch{State: state}
		for _, f := range also {
			if err := f(&b, r.Authorization); err != nil {
				return err
			}
		}
		_, err = s.State.Commit(ctx, &b)
		return fhir.Wrap("authz.Revoke", err)
	})
}

// RevokeToken returns the write that revokes one access token before it
// expires.
func RevokeToken(jti string, expires time.Time) store.StateWrite {
	return store.StateWrite{Key: revoked + hashed(jti), Value: strconv.AppendInt(nil, expires.Unix(), 10),
		Expires: expires.Add(time.Hour)}
}

// TokenRevoked reports whether an access token was revoked before it expired.
func (s *Store) TokenRevoked(ctx context.Context, jti string) (bool, error) {
	b, err := s.State.Get(ctx, revoked+hashed(jti))
	return b != nil, fhir.Wrap("authz.TokenRevoked", err)
}

// SameVersion reports whether both records were read from the same bytes.
func (r *Record) SameVersion(other *Record) bool { return bytes.Equal(r.raw, other.raw) }

// Reload returns the current version of a record. If it has not changed since
// old was read, Reload returns old without parsing it again.
func (s *Store) Reload(ctx context.Context, id string, old *Record) (*Record, error) {
	if old.ID != id || old.raw == nil {
		r, err := s.Get(ctx, id)
		return &r, err
	}
	b, err := s.State.Get(ctx, records+id)
	if err != nil {
		return nil, fhir.Wrap("authz.Reload", err)
	}
	if bytes.Equal(b, old.raw) {
		return old, nil
	}
	r, err := s.Get(ctx, id)
	return &r, err
}
