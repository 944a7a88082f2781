package user

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"strings"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/store"
	"pulsegate/smart/people/role"
)

const (
	room         = "user/"
	roomLogin    = "user-login/"
	roomExternal = "user-external/"
	roomInvite   = "user-invite/"
)

// InviteLife is how long a one-time link is good.
const InviteLife = 48 * time.Hour

// Registry is the list of users.
type Registry struct {
	Store store.State
	Clock func() time.Time
}

func hash(parts ...string) string {
	h := sha256.New()
	for _, p := range parts {
		h.Write([]byte(p))
		h.Write([]byte{0})
	}
	return base64.RawURLEncoding.EncodeToString(h.Sum(nil))
}

func absent(op string) error { return fhir.Errorf(fhir.NotFound, op, "no such user") }

// Get returns a user, also a disabled one; NotFound when there is none.
func (r *Registry) Get(ctx context.Context, id string) (User, error) {
	const op = "user.Get"
	if !fhir.ValidID(id) {
		return User{}, absent(op)
	}
	b, err := r.Store.Get(ctx, room+id)
	if err != nil {
		return User{}, fhir.Wrap(op, err)
	}
	if b == nil {
		return User{}, absent(op)
	}
	return decode(b)
}

func (r *Registry) by(ctx context.Context, key string) (User, error) {
	id, err := r.Store.Get(ctx, key)
	if err != nil {
		return User{}, fhir.Wrap("user.by", err)
	}
	if id == nil {
		return User{}, absent("user.by")
	}
	return r.Get(ctx, string(id))
}

// ByLogin finds a user by login name.
func (r *Registry) ByLogin(ctx context.Context, login string) (User, error) {
	folded, err := Fold(login)
	if err != nil {
		return User{}, absent("user.ByLogin")
	}
	return r.by(ctx, roomLogin+hash(folded))
}

// ByExternal finds a user by an outside identity.
func (r *Registry) ByExternal(ctx context.Context, iss, sub string) (User, error) {
	return r.by(ctx, roomExternal+hash(iss, sub))
}

// List returns all users in the order of their ids.
func (r *Registry) List(ctx context.Context) ([]User, error) {
	var out []User
	var bad error
	err := r.Store.List(ctx, room, func(_ string, v []byte) bool {
		var u User
		if u, bad = decode(append([]byte(nil), v...)); bad == nil {
			out = append(out, u)
		}
		return bad == nil
	})
	if err == nil {
		err = bad
	}
	return out, fhir.Wrap("user.List", err)
}

// New makes a user without any authenticator. It is not stored yet.
func (r *Registry) New(login, name string, roles role.Roles, patient, practitioner string) (User, error) {
	folded, err := Fold(login)
	if err != nil {
		return User{}, err
	}
	u := User{ID: fhir.RandomID(), Login: folded, Name: strings.TrimSpace(name), Roles: roles,
		Patient: patient, Practitioner: practitioner, Created: r.Clock().UTC().Truncate(time.Second)}
	return u, u.check()
}

// Writes is the change of u since it was read (or New), for a batch. When
// somebody else changed it meanwhile, or the login name or an outside identity
// is another user's, the batch fails with Conflict.
//
// A change of links, roles or Disabled calls EndAll, unless the caller has: no
// caller can forget that what was allowed under the old ones has ended.
func (r *Registry) Writes(u *User) ([]store.StateWrite, error) {
	const op = "user.Writes"
	if err := u.check(); err != nil {
		return nil, err
	}
	var old User
	if u.stored != nil {
		var err error
		if old, err = decode(u.stored); err != nil {
			return nil, err
		}
		if u.Access == old.Access && !u.sameStanding(&old) {
			u.EndAll()
		}
	}
	b, err := json.Marshal(u)
	if err != nil {
		return nil, fhir.Wrap(op, err)
	}
	w := store.StateWrite{Key: room + u.ID, Value: b, Expect: store.StateAbsent}
	if u.stored != nil {
		w.Expect, w.Old = store.StateEquals, u.stored
	}
	out := []store.StateWrite{w}
	if old.Login != u.Login {
		if old.Login != "" {
			return nil, fhir.Errorf(fhir.Invalid, op, "login: it stays as it is")
		}
		out = append(out, store.StateWrite{Key: roomLogin + hash(u.Login), Value: []byte(u.ID),
			Expect: store.StateAbsent})
	}
	have := map[External]bool{}
	for _, x := range old.External {
		have[x] = true
	}
	for _, x := range u.External {
		if !have[x] {
			out = append(out, store.StateWrite{Key: roomExternal + hash(x.Issuer, x.Subject), Value: []byte(u.ID),
				Expect: store.StateAbsent})
		}
		delete(have, x)
	}
	for x := range have {
		out = append(out, store.StateWrite{Key: roomExternal + hash(x.Issuer, x.Subject), Expect: store.StateEquals,
			Old: []byte(u.ID)})
	}
	return out, nil
}

// Unchanged is a write that fails its batch with Conflict when somebody has
// changed u since it was read.
func (u *User) Unchanged() store.StateWrite {
	return store.StateWrite{Key: room + u.ID, Value: u.stored, Expect: store.StateEquals, Old: u.stored}
}

// Invite is a one-time link's record.
type Invite struct {
	User    string    `json:"user"`
	Expires time.Time `json:"expires"`
	// Epoch is that of the user when the link was made: a later change, the
	// use of another link among them, makes it void.
	Epoch uint64 `json:"epoch"`
	// Reset takes the former authenticators away when the link is used.
	Reset bool `json:"reset,omitempty"`

	key    string
	stored []byte
}

// Invite makes a one-time link for u: its secret, and the write that makes it
// good. The secret is not stored.
func (r *Registry) Invite(u *User, reset bool) (token string, w store.StateWrite, err error) {
	token = rand.Text() + rand.Text()
	inv := Invite{User: u.ID, Expires: r.Clock().Add(InviteLife).UTC().Truncate(time.Second), Epoch: u.Epoch,
		Reset: reset}
	b, err := json.Marshal(inv)
	return token, store.StateWrite{Key: roomInvite + hash(token), Value: b, Expect: store.StateAbsent,
		Expires: inv.Expires}, fhir.Wrap("user.Invite", err)
}

// Invited returns the link's record and its user, when it is still good:
// NotFound otherwise, whatever the reason.
func (r *Registry) Invited(ctx context.Context, token string) (Invite, User, error) {
	const op = "user.Invited"
	void := fhir.Errorf(fhir.NotFound, op, "the link is not good, was used, or is older than %d hours",
		int(InviteLife.Hours()))
	if token == "" || len(token) > 128 {
		return Invite{}, User{}, void
	}
	key := roomInvite + hash(token)
	b, err := r.Store.Get(ctx, key)
	if err != nil {
		return Invite{}, User{}, fhir.Wrap(op, err)
	}
	if b == nil {
		return Invite{}, User{}, void
	}
	inv := Invite{key: key, stored: b}
	if err := json.Unmarshal(b, &inv); err != nil {
		return Invite{}, User{}, fhir.Wrap(op, err)
	}
	u, err := r.Get(ctx, inv.User)
	if err != nil && fhir.KindOf(err) != fhir.NotFound {
		return Invite{}, User{}, err
	}
	if err != nil || u.Disabled || u.Epoch != inv.Epoch || !r.Clock().Before(inv.Expires) {
		return Invite{}, User{}, void
	}
	return inv, u, nil
}

// Redeem spends the link; two batches with it cannot both succeed.
func (i Invite) Redeem() store.StateWrite {
	return store.StateWrite{Key: i.key, Expect: store.StateEquals, Old: i.stored}
}

// Administrators counts the administrators who can sign in.
func Administrators(us []User) int {
	n := 0
	for i := range us {
		if us[i].Roles.Has(role.Administrator) && us[i].CanSignIn() {
			n++
		}
	}
	return n
}
