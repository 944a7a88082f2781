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
	room    = "session/"
	roomSID = "session-sid/"
	// roomUser lists the sessions of a user.
	roomUser = "session-user/"
	touch    = time.Minute
	maxAgent = 60
	// StepUpLife is how long a phishing-resistant factor counts as fresh.
	StepUpLife = 5 * time.Minute
)

// Session is a person at a browser.
type Session struct {
	ID      string    `json:"-"`   // says nothing about the secret
	SID     string    `json:"sid"` // stays the same when the secret changes
	User    string    `json:"user"`
	Epoch   uint64    `json:"epoch"`
	Created time.Time `json:"created"` // of the first sign-in
	Seen    time.Time `json:"seen"`
	Auth    time.Time `json:"auth"` // of the latest sign-in or step-up
	// Strong is when a phishing-resistant factor was last shown; zero never.
	Strong time.Time `json:"strong,omitzero"`
	ACR    string    `json:"acr"`
	AMR    []string  `json:"amr"`
	CSRF   string    `json:"csrf"`
	// Browser tells the person which of their browsers this is.
	Browser Browser `json:"place,omitzero"`

	stored []byte
}

// Browser describes the browser and address of a sign-in, so that the person can
// recognize it.
type Browser struct {
	Agent string `json:"agent,omitempty"` // as "Firefox on Linux"
	IP    string `json:"ip,omitempty"`
}

// Users is a user.Registry.
type Users interface {
	Get(ctx context.Context, id string) (user.User, error)
}

// Sessions keeps them.
type Sessions struct {
	Store store.State
	Users Users
	Clock func() time.Time
}

func idOf(secret string) string {
	h := sha256.Sum256([]byte(secret))
	return base64.RawURLEncoding.EncodeToString(h[:])
}

// Proof is how somebody has just shown who they are.
type Proof struct {
	ACR string
	AMR []string
	At  time.Time
}

// Begin makes a session of u, for the commit of its sign-in. A session that
// was there before at this browser ends in the same commit; when it is of the
// same user, absolute time goes on.
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
	return secret, out, append(writes, store.StateWrite{Key: room + out.ID, Value: b, Expect: store.StateAbsent,
		Expires: ends},
		store.StateWrite{Key: roomSID + out.SID, Value: []byte(out.ID), Expires: ends},
		store.StateWrite{Key: roomUser + u.ID + "/" + out.SID, Value: []byte(out.ID), Expires: ends}), nil
}

// End is the write that ends the session.
func (s *Session) End() store.StateWrite { return store.StateWrite{Key: room + s.ID} }

// EndUnchanged ends the session as it was read: its batch fails with Conflict
// when the session was used or has moved since.
func (s *Session) EndUnchanged() store.StateWrite {
	return store.StateWrite{Key: room + s.ID, Expect: store.StateEquals, Old: s.stored}
}

// over is the one answer for a session that is none, whatever the reason.
func over() error { return fhir.Errorf(fhir.Unauthorized, "session.Find", "not signed in") }

// Find returns the session of a secret and its user, and marks it as seen.
// Unauthorized when there is none or it is over.
func (s *Sessions) Find(ctx context.Context, secret string) (Session, user.User, error) {
	if secret == "" || len(secret) > 128 {
		return Session{}, user.User{}, over()
	}
	x, u, err := s.get(ctx, idOf(secret))
	if err != nil {
		return Session{}, user.User{}, err
	}
	now := s.Clock().UTC()
	if now.Sub(x.Seen) < touch {
		return x, u, nil
	}
	seen := x
	seen.Seen = now
	b, err := json.Marshal(seen)
	if err != nil {
		return Session{}, user.User{}, fhir.Wrap("session.Find", err)
	}
	w := store.StateWrite{Key: room + x.ID, Value: b, Expect: store.StateEquals, Old: x.stored,
		Expires: x.Created.Add(role.Absolute)}
	switch _, err := s.Store.Commit(ctx, &store.Batch{State: []store.StateWrite{w}}); {
	case err == nil:
		seen.stored = b
		return seen, u, nil
	case fhir.KindOf(err) != fhir.Conflict:
		return Session{}, user.User{}, fhir.Wrap("session.Find", err)
	}
	// Another request was first: it marked the session, or ended it.
	return s.get(ctx, x.ID)
}

// Alive reports whether the session with that SID still is one. It does not
// count as use.
func (s *Sessions) Alive(ctx context.Context, sid string) (bool, error) {
	id, err := s.Store.Get(ctx, roomSID+sid)
	if err != nil || id == nil {
		return false, fhir.Wrap("session.Alive", err)
	}
	_, _, err = s.get(ctx, string(id))
	if err != nil && fhir.KindOf(err) == fhir.Unauthorized {
		return false, nil
	}
	return err == nil, err
}

// Of lists the sessions that a user has now, the latest used first. It does
// not count as use.
func (s *Sessions) Of(ctx context.Context, userID string) ([]Session, error) {
	const op = "session.Of"
	if !fhir.ValidID(userID) {
		return nil, fhir.Errorf(fhir.NotFound, op, "no such user")
	}
	var ids []string
	if err := s.Store.List(ctx, roomUser+userID+"/",
		func(_ string, v []byte) bool { ids = append(ids, string(v)); return true }); err != nil {
		return nil, fhir.Wrap(op, err)
	}
	var out []Session
	for _, id := range ids {
		x, _, err := s.get(ctx, id)
		switch {
		case err == nil:
			out = append(out, x)
		case fhir.KindOf(err) != fhir.Unauthorized:
			return nil, err
		}
	}
	slices.SortFunc(out, func(a, b Session) int { return b.Seen.Compare(a.Seen) })
	return out, nil
}

func (s *Sessions) get(ctx context.Context, id string) (Session, user.User, error) {
	const op = "session.get"
	b, err := s.Store.Get(ctx, room+id)
	if err != nil {
		return Session{}, user.User{}, fhir.Wrap(op, err)
	}
	if b == nil {
		return Session{}, user.User{}, over()
	}
	x := Session{ID: id, stored: b}
	if err := json.Unmarshal(b, &x); err != nil {
		return Session{}, user.User{}, fhir.Wrap(op, err)
	}
	u, err := s.Users.Get(ctx, x.User)
	if err != nil {
		if fhir.KindOf(err) == fhir.NotFound {
			return Session{}, user.User{}, over()
		}
		return Session{}, user.User{}, err
	}
	now := s.Clock()
	if u.Disabled || u.Epoch != x.Epoch || now.Sub(x.Created) >= role.Absolute || now.Sub(x.Seen) >= u.Roles.Idle() {
		return Session{}, user.User{}, over()
	}
	return x, u, nil
}

// Wish is what a request asks of the sign-in (RFC 9470: acr_values, max_age).
type Wish struct {
	ACR    string         // least; "" none
	MaxAge *time.Duration // nil none
}

// StepUp is the wish of what must not be done with a stolen cookie.
func StepUp() Wish {
	age := StepUpLife
	return Wish{ACR: authn.PhishingResistant, MaxAge: &age}
}

// Meets reports whether the session is as strong and as fresh as wished.
func (s *Session) Meets(w Wish, now time.Time) bool {
	at := s.Auth
	if w.ACR == authn.PhishingResistant {
		// A phishing-resistant factor counts from when it was shown, whatever
		// was shown after it.
		if s.Strong.IsZero() {
			return false
		}
		at = s.Strong
	} else if authn.Rank(s.ACR) < authn.Rank(w.ACR) && s.Strong.IsZero() {
		return false
	}
	return w.MaxAge == nil || now.Sub(at) <= *w.MaxAge
}
