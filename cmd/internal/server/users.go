package server

import (
	"context"
	"time"

	"pulsegate/cmd/internal/admin"
	"pulsegate/smart/people/signin"
	"pulsegate/smart/people/user"
)

// link returns the one-time link of an invited user.
func (ops operations) link(u *user.User, token string) admin.UserLink {
	return admin.UserLink{ID: u.ID, Login: u.Login, Link: ops.base + "/auth/invite?token=" + token,
		Expires: ops.now().Add(user.InviteLife).UTC().Truncate(time.Second)}
}

// BootstrapUser creates the first administrator and returns the one-time link.
func (ops operations) BootstrapUser(ctx context.Context, op admin.Operator, in admin.NewUser) (admin.UserLink, error) {
	u, token, err := ops.people.signs.Bootstrap(ctx, op.Name, in.Login, in.Name)
	if err != nil {
		return admin.UserLink{}, err
	}
	return ops.link(&u, token), nil
}

// InviteUser creates a user and returns the one-time link.
func (ops operations) InviteUser(ctx context.Context, op admin.Operator, in admin.NewUser) (admin.UserLink, error) {
	u, token, err := ops.people.signs.Invite(ctx, signin.From{}, signin.Actor{Operator: op.Name},
		signin.NewUser{Login: in.Login, Name: in.Name, Roles: in.Roles, Patient: in.Patient,
			Practitioner: in.Practitioner})
	if err != nil {
		return admin.UserLink{}, err
	}
	return ops.link(&u, token), nil
}

// ReinviteUser returns a new one-time link. Using it replaces the former means of
// signing in.
func (ops operations) ReinviteUser(ctx context.Context, op admin.Operator, login string) (admin.UserLink, error) {
	u, err := ops.people.users.ByLogin(ctx, login)
	if err != nil {
		return admin.UserLink{}, err
	}
	u, token, err := ops.people.signs.Reinvite(ctx, signin.From{}, signin.Actor{Operator: op.Name}, u.ID, true)
	if err != nil {
		return admin.UserLink{}, err
	}
	return ops.link(&u, token), nil
}

// DisableUser ends the access of a user immediately.
func (ops operations) DisableUser(ctx context.Context, op admin.Operator, login string) (admin.UserInfo, error) {
	return ops.switchUser(ctx, op, login, true)
}

// EnableUser restores the access of a disabled user.
func (ops operations) EnableUser(ctx context.Context, op admin.Operator, login string) (admin.UserInfo, error) {
	return ops.switchUser(ctx, op, login, false)
}

func (ops operations) switchUser(ctx context.Context, op admin.Operator, login string,
	disabled bool) (admin.UserInfo, error) {
	u, err := ops.people.users.ByLogin(ctx, login)
	if err != nil {
		return admin.UserInfo{}, err
	}
	err = ops.people.signs.SetDisabled(ctx, signin.From{}, signin.Actor{Operator: op.Name}, u.ID, disabled)
	if err != nil {
		return admin.UserInfo{}, err
	}
	u.Disabled = disabled
	return userInfo(&u), nil
}

func userInfo(u *user.User) admin.UserInfo {
	return admin.UserInfo{ID: u.ID, Login: u.Login, Name: u.Name, Roles: u.Roles.Strings(), Disabled: u.Disabled,
		Enrolled: u.CanSignIn()}
}

// ListUsers lists all users, disabled ones included.
func (ops operations) ListUsers(ctx context.Context, op admin.Operator) (admin.Users, error) {
	out := admin.Users{Users: []admin.UserInfo{}}
	users, err := ops.people.users.List(ctx)
	if err != nil {
		return out, err
	}
	for i := range users {
		out.Users = append(out.Users, userInfo(&users[i]))
	}
	return out, ops.record(ctx, ops.request(op), "user list", "")
}
