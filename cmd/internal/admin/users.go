package admin

import (
	"context"
	"net/http"
	"time"
)

// NewUser is the input of `pulsegate user bootstrap` and `user invite`.
type NewUser struct {
	Login        string   `json:"login"`
	Name         string   `json:"name"`
	Roles        []string `json:"roles,omitempty"`
	Patient      string   `json:"patient,omitempty"`      // resource id
	Practitioner string   `json:"practitioner,omitempty"` // resource id
}

// Login names a user.
type Login struct {
	Login string `json:"login"`
}

// UserLink is a one-time link. It is shown only once.
type UserLink struct {
	ID      string    `json:"id"`
	Login   string    `json:"login"`
	Link    string    `json:"link"`
	Expires time.Time `json:"expires"`
}

// UserInfo is one line of `user list`.
type UserInfo struct {
	ID       string   `json:"id"`
	Login    string   `json:"login"`
	Name     string   `json:"name"`
	Roles    []string `json:"roles"`
	Disabled bool     `json:"disabled"`
	Enrolled bool     `json:"enrolled"` // has a way to sign in
}

// Users is the answer of `user list`.
type Users struct {
	Users []UserInfo `json:"users"`
}

// People are the operations on users.
type People interface {
	BootstrapUser(ctx context.Context, op Operator, in NewUser) (UserLink, error)
	InviteUser(ctx context.Context, op Operator, in NewUser) (UserLink, error)
	ReinviteUser(ctx context.Context, op Operator, login string) (UserLink, error)
	DisableUser(ctx context.Context, op Operator, login string) (UserInfo, error)
	EnableUser(ctx context.Context, op Operator, login string) (UserInfo, error)
	ListUsers(ctx context.Context, op Operator) (Users, error)
}

func people(m *mux, s *Server, o People) {
	post(m, s, "user/bootstrap", o.BootstrapUser)
	post(m, s, "user", o.InviteUser)
	post(m, s, "user/reinvite", func(ctx context.Context, op Operator, in Login) (UserLink, error) {
		return o.ReinviteUser(ctx, op, in.Login)
	})
	post(m, s, "user/disable", func(ctx context.Context, op Operator, in Login) (UserInfo, error) {
		return o.DisableUser(ctx, op, in.Login)
	})
	post(m, s, "user/enable", func(ctx context.Context, op Operator, in Login) (UserInfo, error) {
		return o.EnableUser(ctx, op, in.Login)
	})
	get(m, s, "user", func(ctx context.Context, op Operator, _ *http.Request) (Users, error) {
		return o.ListUsers(ctx, op)
	})
}
