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
	keyPrefix      = "user/"
	prefixLogin    = "user-login/"
	prefixExternal = "user-external/"
	prefixInvite   = "user-invite/"
)

// InviteLife is the lifetime of a one-time link.
const InviteLife = 48 * time.Hour

// Registry stores the users. It is safe for concurrent use.
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

// Get returns a user, which may be disabled. It returns NotFound if there is
// none.
func (r *Registry) Get(ctx context.Context, id string) (User, error) {
	const op = "user.Get"
	if !fhir.ValidID(id) {
		return User{}, absent(op)
	}
	b, err := r.Store.Get(ctx, keyPrefix+id)
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
	return r.by(ctx, prefixLogin+hash(folded))
}

// ByExternal finds a user by an identity at the hospital's provider.
func (r *Registry) ByExternal(ctx context.Context, iss, sub string) (User, error) {
	return r.by(ctx, prefixExternal+hash(iss, sub))
}

// List returns all users, ordered by id.
func (r *Registry) List(ctx context.Context) ([]User, error) {
	var out []User
	var bad error
	err := r.Store.List(ctx, keyPrefix, func(_ string, v []byte) bool {
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

// New returns a user without authenticators. The user is not stored yet.
func (r *Registry) New(login, name string, roles role.Roles, patient, practitioner string) (User, error) {
	folded, err := Fold(login)
	if err != nil {
		return User{}, err
	}
	u := User{ID: fhir.RandomID(), Login: folded, Name: strings.TrimSpace(name), Roles: roles,
		Patient: patient, Practitioner: practitioner, Created: r.Clock().UTC().Truncate(time.Second)}
	return u, u.check()
}

// Writes returns the change of u since it was read, or since New, for a batch.
// The batch fails with Conflict if the user has changed in the meantime, or if
// the login or an external identity belongs to another user.
//
// If links, roles or Disabled have changed, Writes calls EndAll unless the
// caller has done so. Access that was granted under the old values therefore
// always ends.
func (r *Registry) Writes(user *User) ([]store.StateWrite, error) {
	const op = "user.Writes"
	if err := user.check(); err != nil {
		return nil, err
	}
	var old User
	if user.stored != nil {
		var err error
		if old, err = decode(user.stored); err != nil {
			return nil, err
		}
		if user.Access == old.Access && !user.sameStanding(&old) {
			user.EndAll()
		}
	}
	b, err := json.Marshal(user)
	if err != nil {
		return nil, fhir.Wrap(op, err)
	}
	w := store.StateWrite{Key: keyPrefix + user.ID, Value: b, Expect: store.StateAbsent}
	if user.stored != nil {
		w.Expect, w.Old = store.StateEquals, user.stored
	}
	out := []store.StateWrite{w}
	if old.Login != user.Login {
		if old.Login != "" {
			return nil, fhir.Errorf(fhir.Invalid, op, "login: it cannot be changed")
		}
		out = append(out, store.StateWrite{Key: prefixLogin + hash(user.Login), Value: []byte(user.ID),
			Expect: store.StateAbsent})
	}
	have := map[External]bool{}
	for _, x := range old.External {
		have[x] = true
	}
	for _, x := range user.External {
		if !have[x] {
			out = append(out, store.StateWrite{Key: prefixExternal + hash(x.Issuer, x.Subject), Value: []byte(user.ID),
				Expect: store.StateAbsent})
		}
		delete(have, x)
	}
	for x := range have {
		out = append(out, store.StateWrite{Key: prefixExternal + hash(x.Issuer, x.Subject), Expect: store.StateEquals,
			Old: []byte(user.ID)})
	}
	return out, nil
}

// Unchanged returns a write that fails its batch with Conflict if u has changed
// since it was read.
func (user *User) Unchanged() store.StateWrite {
	return store.StateWrite{Key: keyPrefix + user.ID, Value: user.stored, Expect: store.StateEquals, Old: user.stored}
}

// Invite is the record of a one-time link.
type Invite struct {
	User    string    `json:"user"`
	Expires time.Time `json:"expires"`
	// Epoch is the user's epoch at the time of creation. Any later change of
	// the user, such as the use of another link, makes this one void.
	Epoch uint64 `json:"epoch"`
	// Reset removes the previous authenticators when the link is used.
	Reset bool `json:"reset,omitempty"`

	key    string
	stored []byte
}

// Invite returns the secret of a new one-time link for u and the write that
// activates it. The secret is not stored.
func (r *Registry) Invite(user *User, reset bool) (token string, w store.StateWrite, err error) {
	token = rand.Text() + rand.Text()
	inv := Invite{User: user.ID, Expires: r.Clock().Add(InviteLife).UTC().Truncate(time.Second), Epoch: user.Epoch,
		Reset: reset}
	b, err := json.Marshal(inv)
	return token, store.StateWrite{Key: prefixInvite + hash(token), Value: b, Expect: store.StateAbsent,
		Expires: inv.Expires}, fhir.Wrap("user.Invite", err)
}

// Invited returns the record and the user of a valid link. It returns NotFound
// for every other token.
func (r *Registry) Invited(ctx context.Context, token string) (Invite, User, error) {
	const op = "user.Invited"
	void := fhir.Errorf(fhir.NotFound, op, "the link is invalid, was used, or is older than %d hours",
		int(InviteLife.Hours()))
	if token == "" || len(token) > 128 {
		return Invite{}, User{}, void
	}
	key := prefixInvite + hash(token)
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

// Redeem returns the write that uses the link up. Of two batches with it only
// one succeeds.
func (i Invite) Redeem() store.StateWrite {
	return store.StateWrite{Key: i.key, Expect: store.StateEquals, Old: i.stored}
}

// Administrators returns the number of administrators who can sign in.
func Administrators(us []User) int {
	n := 0
	for i := range us {
		if us[i].Roles.Has(role.Administrator) && us[i].CanSignIn() {
			n++
		}
	}
	return n
}
