package signin

import (
	"context"

	"pulsegate/fhir"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/store"
	"pulsegate/smart/people/role"
	"pulsegate/smart/people/user"
)

// NewUser describes a person to invite.
type NewUser struct {
	Login, Name           string
	Roles                 []string
	Patient, Practitioner string // ids
}

// checkLinks checks that the resources of a user's links exist.
func (s *Service) checkLinks(ctx context.Context, patient, practitioner string) error {
	for _, ref := range []fhir.Ref{{Type: "Patient", ID: patient}, {Type: "Practitioner", ID: practitioner}} {
		if ref.ID == "" {
			continue
		}
		ok := fhir.ValidID(ref.ID)
		if ok {
			var err error
			if ok, err = s.ResourceExists(ctx, ref); err != nil {
				return err
			}
		}
		if !ok {
			return fhir.Errorf(fhir.Invalid, "signin.checkLinks", "There is no %s with that id.", ref.Type)
		}
	}
	return nil
}

// Invite creates a user and returns the secret of a one-time link for them.
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
	if err := s.checkLinks(ctx, n.Patient, n.Practitioner); err != nil {
		return user.User{}, "", err
	}
	token, err := s.linked(ctx, from, by, &u, false, nil)
	if err != nil && fhir.KindOf(err) == fhir.Conflict {
		err = fhir.Errorf(fhir.Conflict, "signin.Invite", "This login is already in use.")
	}
	return u, token, err
}

// linked commits u with a new one-time link and ends all access of u. It also
// ends the access of others, which voids their links, and commits also.
func (s *Service) linked(ctx context.Context, from From, by Actor, u *user.User, reset bool,
	others []user.User, also ...store.StateWrite) (string, error) {
	writes, err := s.Users.Writes(u)
	if err != nil {
		return "", err
	}
	writes = append(writes, also...)
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

// managed commits a change of u by an administrator and ends all access that u
// had.
func (s *Service) managed(ctx context.Context, from From, by Actor, u *user.User, kind, what string,
	state ...store.StateWrite) error {
	extra := [][2]string{{"user", u.ID}, {"change", what}}
	for _, r := range u.Roles {
		extra = append(extra, [2]string{"role", string(r)})
	}
	return s.ending(ctx, u.ID, audit.Event{Type: audit.Security, Interaction: kind, Caller: from.As(s.actor(by)),
		Extra: extra}, state...)
}

// ending commits a change of an account together with the end of its
// authorizations and emergency accesses, with their events. Access that began
// between the read and the commit is void from the commit on, because the
// account has changed. ending records its end in a second commit; by then no
// more access can begin.
func (s *Service) ending(ctx context.Context, userID string, ev audit.Event, state ...store.StateWrite) error {
	b := store.Batch{State: state}
	if err := s.EndAccess(ctx, &b, userID, "", ev.Caller); err != nil {
		return err
	}
	if err := s.commitBatch(ctx, &b, ev); err != nil {
		return err
	}
	ctx = context.WithoutCancel(ctx)
	return retry("signin.ending", func() error {
		var late store.Batch
		if err := s.EndAccess(ctx, &late, userID, "", ev.Caller); err != nil || len(late.Writes) == 0 {
			return err
		}
		_, err := s.Store.Commit(ctx, &late)
		return fhir.Wrap("signin.ending", err)
	})
}

// retry runs a change of an account again for as long as it conflicts with
// other writers, such as a sign-in.
func retry(op string, change func() error) error {
	return store.Retry(changes, op, "The account is being changed by other requests. Try again.", change)
}

// Reinvite creates a new one-time link for a user and voids earlier ones. The
// user's sessions and the access of all their apps end now. If reset is set,
// the previous authenticators are removed when the link is used, so that an
// attacker who took over the account keeps no access (RFC 9700 4.14.2).
func (s *Service) Reinvite(ctx context.Context, from From, by Actor, id string,
	reset bool) (u user.User, token string, err error) {
	const op = "signin.Reinvite"
	if err := s.allow(by, role.ManageUsers); err != nil {
		return user.User{}, "", err
	}
	if by.User != nil && by.User.ID == id {
		return user.User{}, "", fhir.Errorf(fhir.Forbidden, op, "You cannot reset your own sign-in.")
	}
	err = retry(op, func() error {
		u, token, err = s.reinvite(ctx, from, by, id, reset, nil)
		return err
	})
	return u, token, err
}

func (s *Service) reinvite(ctx context.Context, from From, by Actor, id string, reset bool,
	others []user.User, also ...store.StateWrite) (user.User, string, error) {
	u, err := s.Users.Get(ctx, id)
	if err != nil {
		return user.User{}, "", err
	}
	if u.Disabled {
		return user.User{}, "", fhir.Errorf(fhir.Invalid, "signin.Reinvite", "The user is disabled.")
	}
	u.EndAll()
	token, err := s.linked(ctx, from, by, &u, reset, others, also...)
	return u, token, err
}

// SetRoles changes the roles and the linked resources of a user. All sessions
// and authorizations of the user end.
func (s *Service) SetRoles(ctx context.Context, from From, by Actor, id string, names []string, patient,
	practitioner string) error {
	if err := s.allow(by, role.ManageUsers); err != nil {
		return err
	}
	roles, err := role.Parse(names)
	if err != nil {
		return err
	}
	if err := s.checkLinks(ctx, patient, practitioner); err != nil {
		return err
	}
	return s.edit(ctx, from, by, id, "roles", "roles-set", func(u *user.User) {
		u.Roles, u.Patient, u.Practitioner = roles, patient, practitioner
	})
}

// SetDisabled disables a user, which ends all access immediately, or enables
// the user again. The authorizations of apps are not restored.
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

// edit changes another user. Administrators cannot change their own account, so
// that at least one can always sign in.
func (s *Service) edit(ctx context.Context, from From, by Actor, id, kind, what string, change func(*user.User)) error {
	const op = "signin.edit"
	if by.User != nil && by.User.ID == id {
		return fhir.Errorf(fhir.Forbidden, op, "You cannot change your own roles or access.")
	}
	return retry(op, func() error {
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

// Bootstrap creates the one-time link of the first administrator, as long as no
// administrator can sign in. It is called through the admin socket. Only one
// such link is valid at a time: a new one voids the link of any other login.
func (s *Service) Bootstrap(ctx context.Context, operator, login, name string) (u user.User, token string, err error) {
	err = retry("signin.Bootstrap", func() error {
		u, token, err = s.bootstrap(ctx, operator, login, name)
		return err
	})
	return u, token, err
}

func (s *Service) bootstrap(ctx context.Context, operator, login, name string) (user.User, string, error) {
	const op = "signin.Bootstrap"
	last, err := s.Store.Get(ctx, keyBootstrap)
	if err != nil {
		return user.User{}, "", fhir.Wrap(op, err)
	}
	// One of two that create a link at the same time fails and reads again, so that it
	// voids the link of the other.
	turn := store.StateWrite{Key: keyBootstrap, Value: []byte(fhir.RandomID()), Expect: store.StateAbsent}
	if last != nil {
		turn.Expect, turn.Old = store.StateEquals, last
	}
	us, err := s.Users.List(ctx)
	if err != nil {
		return user.User{}, "", err
	}
	if user.Administrators(us) > 0 {
		return user.User{}, "", fhir.Errorf(fhir.Invalid, op,
			"an administrator already exists: ask them for an invitation, or run `pulsegate user reinvite`")
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
			return user.User{}, "", fhir.Errorf(fhir.Invalid, op, "a user who is not an administrator has this login")
		}
		return s.reinvite(ctx, from, by, mine.ID, true, others, turn)
	}
	u, err := s.Users.New(login, name, role.Roles{role.Administrator}, "", "")
	if err != nil {
		return user.User{}, "", err
	}
	token, err := s.linked(ctx, from, by, &u, false, others, turn)
	return u, token, err
}
