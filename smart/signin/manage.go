package signin

import (
	"context"

	"pulsegate/fhir"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/store"
	"pulsegate/smart/role"
	"pulsegate/smart/user"
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
	token, err := s.invite(ctx, from, by, &u, false)
	if err != nil && fhir.KindOf(err) == fhir.Conflict {
		err = fhir.Errorf(fhir.Conflict, "signin.Invite", "Somebody has that login already.")
	}
	return u, token, err
}

func (s *Service) invite(ctx context.Context, from From, by Actor, u *user.User, reset bool) (string, error) {
	writes, err := s.Users.Writes(u)
	if err != nil {
		return "", err
	}
	token, w, err := s.Users.Invite(u, reset)
	if err != nil {
		return "", err
	}
	return token, s.managed(ctx, from, by, u, "attributes", "invited", append(writes, w)...)
}

func (s *Service) managed(ctx context.Context, from From, by Actor, u *user.User, kind, what string, state ...store.StateWrite) error {
	extra := [][2]string{{"user", u.ID}, {"change", what}}
	for _, r := range u.Roles {
		extra = append(extra, [2]string{"role", string(r)})
	}
	return s.commit(ctx, audit.Event{Kind: audit.Security, Interaction: kind, Principal: s.actor(by), RemoteIP: from.RemoteIP, RequestID: from.RequestID, Extra: extra}, state...)
}

// Reinvite makes a new link for a user; former links are void. With reset the
// user's sessions end now, and former authenticators when the link is used.
func (s *Service) Reinvite(ctx context.Context, from From, by Actor, id string, reset bool) (user.User, string, error) {
	if err := s.allow(by, role.ManageUsers); err != nil {
		return user.User{}, "", err
	}
	u, err := s.Users.Get(ctx, id)
	if err != nil {
		return user.User{}, "", err
	}
	if u.Disabled {
		return user.User{}, "", fhir.Errorf(fhir.Invalid, "signin.Reinvite", "The user is disabled.")
	}
	if by.User != nil && by.User.ID == u.ID {
		return user.User{}, "", fhir.Errorf(fhir.Forbidden, "signin.Reinvite", "Nobody invites themselves.")
	}
	u.End()
	token, err := s.invite(ctx, from, by, &u, reset)
	return u, token, err
}

// SetRoles changes what a user may do. All sessions of the user end.
func (s *Service) SetRoles(ctx context.Context, from From, by Actor, id string, names []string, patient, practitioner string) error {
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

// SetDisabled ends a user's access at once, or gives it back.
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
	if by.User != nil && by.User.ID == id {
		return fhir.Errorf(fhir.Forbidden, "signin.edit", "Nobody changes their own roles or access.")
	}
	u, err := s.Users.Get(ctx, id)
	if err != nil {
		return err
	}
	change(&u)
	u.End()
	writes, err := s.Users.Writes(&u)
	if err != nil {
		return err
	}
	return s.managed(ctx, from, by, &u, kind, what, writes...)
}

// Bootstrap makes the first administrator's one-time link, as long as no
// administrator can sign in. It is for the admin socket.
func (s *Service) Bootstrap(ctx context.Context, operator, login, name string) (user.User, string, error) {
	const op = "signin.Bootstrap"
	us, err := s.Users.List(ctx)
	if err != nil {
		return user.User{}, "", err
	}
	if user.Administrators(us) > 0 {
		return user.User{}, "", fhir.Errorf(fhir.Conflict, op, "there is an administrator already: they invite others, or use `pulsegate user reinvite`")
	}
	by, from := Actor{Operator: operator}, From{}
	u, err := s.Users.ByLogin(ctx, login)
	switch {
	case err == nil && u.Roles.Has(role.Administrator):
		return s.Reinvite(ctx, from, by, u.ID, true)
	case err == nil:
		return user.User{}, "", fhir.Errorf(fhir.Conflict, op, "somebody who is no administrator has that login")
	case fhir.KindOf(err) != fhir.NotFound:
		return user.User{}, "", err
	}
	return s.Invite(ctx, from, by, NewUser{Login: login, Name: name, Roles: []string{string(role.Administrator)}})
}
