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
	room      = "grant/"
	codes     = room + "code/"
	records   = room + "authorization/"
	bySubject = room + "subject/"
	byPatient = room + "patient/"
	revoked   = room + "revoked/"

	// CodeLife is how long a code may be redeemed.
	CodeLife = time.Minute
	// keepCode is how long a code is remembered, used or not, so that its
	// second use is seen for what it is.
	keepCode = time.Hour
	// Idle is how long a refresh token lives when it is not used, Absolute
	// how long an authorization lives at all.
	Idle     = 90 * 24 * time.Hour
	Absolute = 180 * 24 * time.Hour
	// Session is the absolute end of an authorization that goes with a
	// session.
	Session = 12 * time.Hour
	// Grace is how long an identical retry of a refresh gets the same answer.
	Grace = 5 * time.Second
)

// Store keeps codes and authorizations.
type Store struct{ State store.State }

// Code is what a code stands for.
type Code struct {
	Authorization Authorization `json:"authorization"` // to be; Created is when the person approved
	App           string        `json:"app,omitempty"` // the client's name as the person saw it
	RedirectURI   string        `json:"redirect_uri"`
	Challenge     string        `json:"challenge"` // S256
	Nonce         string        `json:"nonce,omitempty"`
	JKT           string        `json:"jkt,omitempty"` // dpop_jkt, RFC 9449 10
	Expires       time.Time     `json:"expires"`
	Used          bool          `json:"used,omitempty"`
}

// Issued is a code with what the store holds for it.
type Issued struct {
	Code
	key string
	raw []byte
}

// hashed is how a secret becomes a key.
func hashed(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// NewCode is the write that makes code stand for c.
func NewCode(code string, c Code) (store.StateWrite, error) {
	b, err := json.Marshal(c)
	return store.StateWrite{Key: codes + hashed(code), Value: b, Expect: store.StateAbsent,
		Expires: c.Expires.Add(keepCode)}, fhir.Wrap("authz.NewCode", err)
}

// Code returns what a code stands for, also when it has expired or was used:
// that is for the caller to check. NotFound when there is none.
func (s *Store) Code(ctx context.Context, code string) (Issued, error) {
	i := Issued{key: codes + hashed(code)}
	var err error
	if i.raw, err = s.State.Get(ctx, i.key); err != nil {
		return i, fhir.Wrap("authz.Code", err)
	}
	if i.raw == nil {
		return i, fhir.Errorf(fhir.NotFound, "authz.Code", "no such code")
	}
	return i, fhir.Wrap("authz.Code", json.Unmarshal(i.raw, &i.Code))
}

// Redeem is the writes that use the code up and begin its authorization.
func (i *Issued) Redeem(r Record) ([]store.StateWrite, error) {
	used := i.Code
	used.Used = true
	b, err := json.Marshal(used)
	if err != nil {
		return nil, fhir.Wrap("authz.Redeem", err)
	}
	w, err := r.write(store.StateAbsent, nil)
	if err != nil {
		return nil, err
	}
	out := []store.StateWrite{{Key: i.key, Value: b, Expect: store.StateEquals, Old: i.raw,
		Expires: i.Expires.Add(keepCode)}, w}
	for _, k := range r.indexes() {
		out = append(out, store.StateWrite{Key: k, Value: []byte(r.ID), Expires: w.Expires})
	}
	return out, nil
}

func subjectKey(subject, id string) string { return bySubject + hashed(subject) + "/" + id }

func patientKey(patient, id string) string { return byPatient + patient + "/" + id }

// indexes are the keys by which an authorization is found: who allowed it, and
// whose data it is about.
func (a *Authorization) indexes() []string {
	out := []string{subjectKey(a.Subject.ID, a.ID)}
	if a.Context.Patient != "" {
		out = append(out, patientKey(a.Context.Patient, a.ID))
	}
	return out
}

// Record is an authorization with its refresh tokens.
type Record struct {
	Authorization
	// Key marks the family's refresh tokens, so that one that was replaced
	// long ago is told from one that never was.
	Key []byte `json:"key,omitempty"`
	// Current is the hash of the refresh token that is good, until Idle.
	Current string    `json:"current,omitempty"`
	Idle    time.Time `json:"idle,omitzero"`
	// Previous is the one before, replaced at Rotated by a request with that
	// Proof, and Answer what that request got, sealed by that token itself.
	Previous string    `json:"previous,omitempty"`
	Rotated  time.Time `json:"rotated,omitzero"`
	Proof    string    `json:"proof,omitempty"`
	Answer   []byte    `json:"answer,omitempty"`
	// JKT binds the refresh tokens of a public client (RFC 9449 5).
	JKT string `json:"jkt,omitempty"`

	raw []byte
}

func (r *Record) write(e store.StateExpect, old []byte) (store.StateWrite, error) {
	b, err := json.Marshal(r)
	// Kept a while beyond its end: a token that is refused should be refused
	// for the right reason.
	return store.StateWrite{Key: records + r.ID, Value: b, Expect: e, Old: old,
		Expires: r.Expires.Add(24 * time.Hour)}, fhir.Wrap("grant.write", err)
}

// Update is the write that replaces the record as it was read.
func (r *Record) Update() (store.StateWrite, error) { return r.write(store.StateEquals, r.raw) }

// Live reports whether tokens of the authorization are good at now.
func (a *Authorization) Live(now time.Time) bool { return !a.Revoked && now.Before(a.Expires) }

// Get returns a record; NotFound when there is none.
func (s *Store) Get(ctx context.Context, id string) (Record, error) {
	var r Record
	if !fhir.ValidID(id) {
		return r, fhir.Errorf(fhir.NotFound, "authz.Get", "no such authorization")
	}
	b, err := s.State.Get(ctx, records+id)
	if err != nil {
		return r, fhir.Wrap("authz.Get", err)
	}
	if b == nil {
		return r, fhir.Errorf(fhir.NotFound, "authz.Get", "no such authorization")
	}
	r.raw = b
	return r, fhir.Wrap("authz.Get", json.Unmarshal(b, &r))
}

// Authorizations lists what a person allows at now, newest first.
func (s *Store) Authorizations(ctx context.Context, subject string, now time.Time) ([]Authorization, error) {
	return s.under(ctx, subjectKey(subject, ""), now)
}

// About lists what anybody allows at now with a patient in context, newest
// first.
func (s *Store) About(ctx context.Context, patient string, now time.Time) ([]Authorization, error) {
	if !fhir.ValidID(patient) {
		return nil, fhir.Errorf(fhir.Invalid, "authz.About", "patient is not an id")
	}
	return s.under(ctx, patientKey(patient, ""), now)
}

// Of lists the records of what a person allows at now, newest first.
func (s *Store) Of(ctx context.Context, subject string, now time.Time) ([]Record, error) {
	return s.records(ctx, subjectKey(subject, ""), now)
}

func (s *Store) under(ctx context.Context, prefix string, now time.Time) ([]Authorization, error) {
	rs, err := s.records(ctx, prefix, now)
	if err != nil {
		return nil, err
	}
	var out []Authorization
	for i := range rs {
		out = append(out, rs[i].Authorization)
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

// End returns the writes that end the authorization with all its tokens, from
// the next request on. They win over a refresh at the same time, which would
// otherwise let whoever refreshes without pause put the end off for ever.
func (r *Record) End() ([]store.StateWrite, error) {
	r.Revoked, r.Answer = true, nil
	w, err := r.write(store.StateAny, nil)
	if err != nil {
		return nil, err
	}
	out := []store.StateWrite{w}
	for _, k := range r.indexes() {
		out = append(out, store.StateWrite{Key: k})
	}
	return out, nil
}

// Revoke ends an authorization of anybody (subject "") or of one person, with
// all its tokens, from the next request on. To revoke twice is no error.
func (s *Store) Revoke(ctx context.Context, subject, id string, also ...func(*store.Batch, Authorization) error) error {
	const attempts = 64 // each lost race is another writer's progress
	return store.Retry(attempts, "authz.Revoke", "the authorization is in heavy use; try again", func() error {
		r, err := s.Get(ctx, id)
		if err != nil {
			return err
		}
		if subject != "" && r.Subject.ID != subject {
			return fhir.Errorf(fhir.NotFound, "authz.Revoke", "no such authorization")
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

// RevokeToken is the write that ends one access token before its time.
func RevokeToken(jti string, expires time.Time) store.StateWrite {
	return store.StateWrite{Key: revoked + hashed(jti), Value: strconv.AppendInt(nil, expires.Unix(), 10),
		Expires: expires.Add(time.Hour)}
}

// TokenRevoked reports whether an access token was ended before its time.
func (s *Store) TokenRevoked(ctx context.Context, jti string) (bool, error) {
	b, err := s.State.Get(ctx, revoked+hashed(jti))
	return b != nil, fhir.Wrap("authz.TokenRevoked", err)
}

// Same reports whether both were read as the same bytes.
func (r *Record) Same(o *Record) bool { return bytes.Equal(r.raw, o.raw) }

// Changed returns the record as it is now: old itself when nothing changed
// since it was read, which costs no parsing.
func (s *Store) Changed(ctx context.Context, id string, old *Record) (*Record, error) {
	if old.ID != id || old.raw == nil {
		r, err := s.Get(ctx, id)
		return &r, err
	}
	b, err := s.State.Get(ctx, records+id)
	if err != nil {
		return nil, fhir.Wrap("authz.Changed", err)
	}
	if bytes.Equal(b, old.raw) {
		return old, nil
	}
	r, err := s.Get(ctx, id)
	return &r, err
}
