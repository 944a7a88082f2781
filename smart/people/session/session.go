package session

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"slices"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/store"
	"pulsegate/smart/people/authn"
	"pulsegate/smart/people/role"
	"pulsegate/smart/people/user"
)

const (
	keyPrefix = "session/"
	prefixSID = "session-sid/"
	// prefixUser lists the sessions of a user.
	prefixUser = "session-user/"
	touch      = time.Minute
	maxAgent   = 60
	// StepUpLife is the time during which a phishing-resistant factor counts as
	// recent.
	StepUpLife = 5 * time.Minute
)

// Session is a signed-in person at a browser.
type Session struct {
	ID      string    `json:"-"`   // hash of the secret, which it does not reveal
	SID     string    `json:"sid"` // constant while the secret changes
	User    string    `json:"user"`
	Epoch   uint64    `json:"epoch"`
	Created time.Time `json:"created"` // time of the first sign-in
	Seen    time.Time `json:"seen"`
	Auth    time.Time `json:"auth"` // time of the latest sign-in or step-up
	// Strong is the time when a phishing-resistant factor was last used. It is
	// zero if none was.
	Strong time.Time `json:"strong,omitzero"`
	ACR    string    `json:"acr"`
	AMR    []string  `json:"amr"`
	CSRF   string    `json:"csrf"`
	// Browser lets the person recognize the session.
	Browser Browser `json:"place,omitzero"`

	stored []byte
}

// Browser describes the browser and address of a sign-in, so that the person can
// recognize it.
type Browser struct {
	Agent string `json:"agent,omitempty"` // for example "Firefox on Linux"
	IP    string `json:"ip,omitempty"`
}

// Users looks up users. user.Registry implements it.
type Users interface {
	Get(ctx context.Context, id string) (user.User, error)
}

// Sessions starts and finds sessions. It is safe for concurrent use.
type Sessions struct {
	Store store.State
	Users Users
	Clock func() time.Time
}

func idOf(secret string) string {
	h := sha256.Sum256([]byte(secret))
	return base64.RawURLEncoding.EncodeToString(h[:])
}

// Proof describes the authentication that a person has just completed.
type Proof struct {
	ACR string
	AMR []string
	At  time.Time
}

// Begin starts a session of u and returns its secret and the writes for the
// commit of the sign-in. The writes also end the previous session at this
// browser. If that session belongs to the same user, the new one keeps its
// absolute end.
func (s *Sessions) Begin(u *user.User, p Proof, at Browser,
	before *Session) (secret string, out Session, writes []store.StateWrite, err error) {
	now := s.Clock().UTC()
	secret = rand.Text() + rand.Text()
	if len(at.Agent) > maxAgent || len(at.IP) > maxAgent {
		at = Browser{}
	}
	out = Session{ID: idOf(secret), Browser: at, SID: rand.Text(), User: u.ID, Epoch: u.Epoch, Created: now,
		Seen: now, Auth: p.At.UTC(), ACR: p.ACR, AMR: p.AMR, CSRF: rand.Text()}
	if p.ACR == authn.PhishingResistant {
		out.Strong = p.At.UTC()
	}
	if before != nil {
		if before.User == u.ID {
			out.Created, out.SID = before.Created, before.SID
			if before.Strong.After(out.Strong) {
				out.Strong = before.Strong
			}
		}
		writes = append(writes, before.End())
	}
	b, err := json.Marshal(out)
	if err != nil {
		return "", Session{}, nil, fhir.Wrap("session.Begin", err)
	}
	out.stored = b
	ends := out.Created.Add(role.Absolute)
	return secret, out, append(writes, store.StateWrite{Key: keyPrefix + out.ID, Value: b, Expect: store.StateAbsent,
		Expires: ends},
		store.StateWrite{Key: prefixSID + out.SID, Value: []byte(out.ID), Expires: ends},
		store.StateWrite{Key: prefixUser + u.ID + "/" + out.SID, Value: []byte(out.ID), Expires: ends}), nil
}

// End returns the write that ends the session.
func (s *Session) End() store.StateWrite { return store.StateWrite{Key: keyPrefix + s.ID} }

// EndUnchanged returns the write that ends the session as it was read. The
// batch fails with Conflict if the session was used or replaced in the
// meantime.
func (s *Session) EndUnchanged() store.StateWrite {
	return store.StateWrite{Key: keyPrefix + s.ID, Expect: store.StateEquals, Old: s.stored}
}

// notSignedIn returns the one error for all invalid sessions.
func notSignedIn() error { return fhir.Errorf(fhir.Unauthorized, "session.Find", "not signed in") }

// Find returns the session with a secret and its user, and records the
// activity. It returns Unauthorized if there is no session or it has ended.
func (s *Sessions) Find(ctx context.Context, secret string) (Session, user.User, error) {
	if secret == "" || len(secret) > 128 {
		return Session{}, user.User{}, notSignedIn()
	}
	sess, u, err := s.get(ctx, idOf(secret))
	if err != nil {
		return Session{}, user.User{}, err
	}
	now := s.Clock().UTC()
	if now.Sub(sess.Seen) < touch {
		return sess, u, nil
	}
	seen := sess
	seen.Seen = now
	b, err := json.Marshal(seen)
	if err != nil {
		return Session{}, user.User{}, fhir.Wrap("session.Find", err)
	}
	w := store.StateWrite{Key: keyPrefix + sess.ID, Value: b, Expect: store.StateEquals, Old: sess.stored,
		Expires: sess.Created.Add(role.Absolute)}
	switch _, err := s.Store.Commit(ctx, &store.Batch{State: []store.StateWrite{w}}); {
	case err == nil:
		seen.stored = b
		return seen, u, nil
	case fhir.KindOf(err) != fhir.Conflict:
		return Session{}, user.User{}, fhir.Wrap("session.Find", err)
	}
	// Another request updated or ended the session first.
	return s.get(ctx, sess.ID)
}

// Alive reports whether the session with that SID is valid. The call does not
// count as activity.
func (s *Sessions) Alive(ctx context.Context, sid string) (bool, error) {
	id, err := s.Store.Get(ctx, prefixSID+sid)
	if err != nil || id == nil {
		return false, fhir.Wrap("session.Alive", err)
	}
	_, _, err = s.get(ctx, string(id))
	if err != nil && fhir.KindOf(err) == fhir.Unauthorized {
		return false, nil
	}
	return err == nil, err
}

// ByUser lists the current sessions of a user, most recently used first. The
// call does not count as activity.
func (s *Sessions) ByUser(ctx context.Context, userID string) ([]Session, error) {
	const op = "session.Of"
	if !fhir.ValidID(userID) {
		return nil, fhir.Errorf(fhir.NotFound, op, "no such user")
	}
	var ids []string
	if err := s.Store.List(ctx, prefixUser+userID+"/",
		func(_ string, v []byte) bool { ids = append(ids, string(v)); return true }); err != nil {
		return nil, fhir.Wrap(op, err)
	}
	var out []Session
	for _, id := range ids {
		sess, _, err := s.get(ctx, id)
		switch {
		case err == nil:
			out = append(out, sess)
		case fhir.KindOf(err) != fhir.Unauthorized:
			return nil, err
		}
	}
	slices.SortFunc(out, func(a, b Session) int { return b.Seen.Compare(a.Seen) })
	return out, nil
}

func (s *Sessions) get(ctx context.Context, id string) (Session, user.User, error) {
	const op = "session.get"
	b, err := s.Store.Get(ctx, keyPrefix+id)
	if err != nil {
		return Session{}, user.User{}, fhir.Wrap(op, err)
	}
	if b == nil {
		return Session{}, user.User{}, notSignedIn()
	}
	sess := Session{ID: id, stored: b}
	if err := json.Unmarshal(b, &sess); err != nil {
		return Session{}, user.User{}, fhir.Wrap(op, err)
	}
	u, err := s.Users.Get(ctx, sess.User)
	if err != nil {
		if fhir.KindOf(err) == fhir.NotFound {
			return Session{}, user.User{}, notSignedIn()
		}
		return Session{}, user.User{}, err
	}
	now := s.Clock()
	if u.Disabled || u.Epoch != sess.Epoch || now.Sub(sess.Created) >= role.Absolute ||
		now.Sub(sess.Seen) >= u.Roles.Idle() {
		return Session{}, user.User{}, notSignedIn()
	}
	return sess, u, nil
}

// Requirement states how strong and how recent a sign-in must be (RFC 9470:
// acr_values, max_age).
type Requirement struct {
	ACR    string         // minimum; "" for none
	MaxAge *time.Duration // nil for no limit
}

// StepUp returns the requirement for actions that must not be possible with a
// stolen cookie.
func StepUp() Requirement {
	age := StepUpLife
	return Requirement{ACR: authn.PhishingResistant, MaxAge: &age}
}

// Meets reports whether the session meets a requirement at the time now.
func (s *Session) Meets(w Requirement, now time.Time) bool {
	at := s.Auth
	if w.ACR == authn.PhishingResistant {
		// The age of a phishing-resistant factor counts from its own use,
		// regardless of later sign-ins with other factors.
		if s.Strong.IsZero() {
			return false
		}
		at = s.Strong
	} else if authn.Rank(s.ACR) < authn.Rank(w.ACR) && s.Strong.IsZero() {
		return false
	}
	return w.MaxAge == nil || now.Sub(at) <= *w.MaxAge
}
