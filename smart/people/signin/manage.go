package signin

import (
	"context"

	"pulsegate/fhir"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/store"
	"pulsegate/smart/people/role"
	"pulsegate/smart/people/user"
)

// NewUser is a person to be invited.
type NewUser struct {
	Login, Name           string
	Roles                 []string
	Patient, Practitioner string // ids
}

// known holds the links against the store.
func (s *Service) known(ctx context.Context, patient, practitioner string) error {
	for _, ref := range []fhir.Ref{{Type: "Patient", ID: patient}, {Type: "Practitioner", ID: practitioner}} {
		if ref.ID == "" {
			continue
		}
		ok := fhir.ValidID(ref.ID)
		if ok {
			var err error
			if ok, err = s.Known(ctx, ref); err != nil {
				return err
			}
		}
		if !ok {
			return fhir.Errorf(fhir.Invalid, "signin.known", "There is no %s with that id.", ref.Type)
		}
	}
	return nil
}

// Invite makes a user and a one-time link for them; the answer is its secret.
func (s *Service) Invite(ctx context.Context, from From, by Actor, n NewUser) (user.User, string, error) {
	if err := s.allow(by, role.ManageUsers); err != nil {
		return user.User{}, "", err
	}
	roles, err := role.Parse(n.Roles)
	if err != nil {
		return user.User{}, "", err
	}
	u, err := s.Users.New(n.Login, n.Name, roles, n.Patient, n.Practitioner)
	if err != nil {
		return user.User{}, "", err
	}
	if err := s.known(ctx, n.Patient, n.Practitioner); err != nil {
		return user.User{}, "", err
	}
	token, err := s.linked(ctx, from, by, &u, false)
	if err != nil && fhir.KindOf(err) == fhir.Conflict {
		err = fhir.Errorf(fhir.Conflict, "signin.Invite", "Somebody has that login already.")
	}
	return u, token, err
}

// linked commits u with a new one-time link and the end of everything that u
// could do before, and with those of others whose links end.
func (s *Service) linked(ctx context.Context, from From, by Actor, u *user.User, reset bool,
	others ...user.User) (string, error) {
	writes, err := s.Users.Writes(u)
	if err != nil {
		return "", err
	}
	for i := range others {
		others[i].EndAll()
		w, err := s.Users.Writes(&others[i])
		if err != nil {
			return "", err
		}
		writes = append(writes, w...)
	}
	token, w, err := s.Users.Invite(u, reset)
	if err != nil {
		return "", err
	}
	return token, s.managed(ctx, from, by, u, "attributes", "invited", append(writes, w)...)
}

// managed commits a change of u by somebody else, with the end of everything
// that u was allowed before.
func (s *Service) managed(ctx context.Context, from From, by Actor, u *user.User, kind, what string,
	state ...store.StateWrite) error {
	extra := [][2]string{{"user", u.ID}, {"change", what}}
	for _, r := range u.Roles {
		extra = append(extra, [2]string{"role", string(r)})
	}
	return s.ending(ctx, u.ID, audit.Event{Type: audit.Security, Interaction: kind, Caller: from.As(s.actor(by)),
		Extra: extra}, state...)
}

// ending commits the change of an account that ends everything beside its
// sessions, with its events. What began between the reading and the commit is
// dead from the commit on, for the account has changed; it is put on record
// right after. Nothing can begin any more then.
func (s *Service) ending(ctx context.Context, userID string, ev audit.Event, state ...store.StateWrite) error {
	b := store.Batch{State: state}
	if err := s.Ends(ctx, &b, userID, "", ev.Caller); err != nil {
		return err
	}
	if err := s.commitBatch(ctx, &b, ev); err != nil {
		return err
	}
	ctx = context.WithoutCancel(ctx)
	return raced("signin.ending", func() error {
		var late store.Batch
		if err := s.Ends(ctx, &late, userID, "", ev.Caller); err != nil || len(late.Writes) == 0 {
			return err
		}
		_, err := s.Store.Commit(ctx, &late)
		return fhir.Wrap("signin.ending", err)
	})
}

// raced runs a change of an account again for as long as it loses to other
// writers, such as a sign-in.
func raced(op string, change func() error) error {
	return store.Retry(changes, op, "The account is in heavy use. Try again.", change)
}

// Reinvite makes a new link for a user; former links are void. The user's
// sessions, and everything that apps were allowed, end now; with reset, former
// authenticators when the link is used. Whoever took the account over has then
// nothing left of it (RFC 9700 4.14.2).
func (s *Service) Reinvite(ctx context.Context, from From, by Actor, id string,
	reset bool) (u user.User, token string, err error) {
	const op = "signin.Reinvite"
	if err := s.allow(by, role.ManageUsers); err != nil {
		return user.User{}, "", err
	}
	if by.User != nil && by.User.ID == id {
		return user.User{}, "", fhir.Errorf(fhir.Forbidden, op, "You cannot send yourself a link to begin anew.")
	}
	err = raced(op, func() error {
		u, token, err = s.reinvite(ctx, from, by, id, reset)
		return err
	})
	return u, token, err
}

func (s *Service) reinvite(ctx context.Context, from From, by Actor, id string, reset bool,
	others ...user.User) (user.User, string, error) {
	u, err := s.Users.Get(ctx, id)
	if err != nil {
		return user.User{}, "", err
	}
	if u.Disabled {
		return user.User{}, "", fhir.Errorf(fhir.Invalid, "signin.Reinvite", "The user is disabled.")
	}
	u.EndAll()
	token, err := s.linked(ctx, from, by, &u, reset, others...)
	return u, token, err
}

// SetRoles changes what a user may do and who they are. All sessions and
// authorizations of the user end.
func (s *Service) SetRoles(ctx context.Context, from From, by Actor, id string, names []string, patient,
	practitioner string) error {
	if err := s.allow(by, role.ManageUsers); err != nil {
		return err
	}
	roles, err := role.Parse(names)
	if err != nil {
		return err
	}
	if err := s.known(ctx, patient, practitioner); err != nil {
		return err
	}
	return s.edit(ctx, from, by, id, "roles", "roles-set", func(u *user.User) {
		u.Roles, u.Patient, u.Practitioner = roles, patient, practitioner
	})
}

// SetDisabled ends a user's access at once, or gives it back. What apps were
// allowed does not come back.
func (s *Service) SetDisabled(ctx context.Context, from From, by Actor, id string, disabled bool) error {
	if err := s.allow(by, role.ManageUsers); err != nil {
		return err
	}
	what := "enabled"
	if disabled {
		what = "disabled"
	}
	return s.edit(ctx, from, by, id, "attributes", what, func(u *user.User) { u.Disabled = disabled })
}

// edit changes another user. An administrator does not change themselves, so
// one who can sign in always remains.
func (s *Service) edit(ctx context.Context, from From, by Actor, id, kind, what string, change func(*user.User)) error {
	const op = "signin.edit"
	if by.User != nil && by.User.ID == id {
		return fhir.Errorf(fhir.Forbidden, op, "You cannot change your own roles or access.")
	}
	return raced(op, func() error {
		u, err := s.Users.Get(ctx, id)
		if err != nil {
			return err
		}
		change(&u)
		u.EndAll()
		writes, err := s.Users.Writes(&u)
		if err != nil {
			return err
		}
		return s.managed(ctx, from, by, &u, kind, what, writes...)
	})
}

// Bootstrap makes the first administrator's one-time link, as long as no
// administrator can sign in. It is for the admin socket. At most one such link
// is good at a time: a new one voids that of any other login.
func (s *Service) Bootstrap(ctx context.Context, operator, login, name string) (u user.User, token string, err error) {
	err = raced("signin.Bootstrap", func() error {
		u, token, err = s.bootstrap(ctx, operator, login, name)
		return err
	})
	return u, token, err
}

func (s *Service) bootstrap(ctx context.Context, operator, login, name string) (user.User, string, error) {
	const op = "signin.Bootstrap"
	us, err := s.Users.List(ctx)
	if err != nil {
		return user.User{}, "", err
	}
	if user.Administrators(us) > 0 {
		return user.User{}, "", fhir.Errorf(fhir.Invalid, op,
			"there is an administrator already: they invite others, or use `pulsegate user reinvite`")
	}
	folded, err := user.Fold(login)
	if err != nil {
		return user.User{}, "", err
	}
	by, from := Actor{Operator: operator}, From{}
	var mine *user.User
	var others []user.User
	for i := range us {
		switch {
		case us[i].Login == folded:
			mine = &us[i]
		case us[i].Roles.Has(role.Administrator) && !us[i].Disabled:
			others = append(others, us[i])
		}
	}
	if mine != nil {
		if !mine.Roles.Has(role.Administrator) {
			return user.User{}, "", fhir.Errorf(fhir.Invalid, op, "somebody who is no administrator has that login")
		}
		return s.reinvite(ctx, from, by, mine.ID, true, others...)
	}
	u, err := s.Users.New(login, name, role.Roles{role.Administrator}, "", "")
	if err != nil {
		return user.User{}, "", err
	}
	token, err := s.linked(ctx, from, by, &u, false, others...)
	return u, token, err
}
