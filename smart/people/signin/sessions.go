package signin

import (
	"context"
	"slices"

	"pulsegate/fhir"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/store"
	"pulsegate/smart/people/session"
	"pulsegate/smart/people/user"
)

// SignOut ends a session.
func (s *Service) SignOut(ctx context.Context, from From, u *user.User, x *session.Session) error {
	return s.commit(ctx, audit.Event{Type: audit.SignOut, Interaction: "logout", Caller: from.As(s.Principal(u))},
		x.End())
}

// Own lists the sessions of a user, the latest used first.
func (s *Service) Own(ctx context.Context, u *user.User) ([]session.Session, error) {
	return s.Sessions.Of(ctx, u.ID)
}

// EndSession ends one of u's own sessions by its SID, together with the
// authorizations that last as long as that session. A session that has ended
// already is NotFound.
func (s *Service) EndSession(ctx context.Context, from From, u *user.User, sid string) error {
	const op = "signin.EndSession"
	return store.Retry(changes, op, "try again", func() error {
		xs, err := s.Sessions.Of(ctx, u.ID)
		if err != nil {
			return err
		}
		i := slices.IndexFunc(xs, func(x session.Session) bool { return x.SID == sid })
		if i < 0 {
			return fhir.Errorf(fhir.NotFound, op, "The session has ended already.")
		}
		ev := audit.Event{Type: audit.SignOut, Interaction: "logout", Caller: from.As(s.Principal(u)),
			Extra: [][2]string{{"change", "session-ended"}}}
		b := store.Batch{State: []store.StateWrite{xs[i].EndUnchanged()}}
		if err := s.Ends(ctx, &b, u.ID, sid, ev.Caller); err != nil {
			return err
		}
		return s.commitBatch(ctx, &b, ev)
	})
}

// EndEverything ends every session and every authorization of u's own, and
// their emergency accesses. The person goes on in a new session at this
// browser.
func (s *Service) EndEverything(ctx context.Context, from From, u user.User, x *session.Session) (SignedIn, error) {
	const op = "signin.EndEverything"
	var in SignedIn
	err := store.Retry(changes, op, "try again", func() error {
		u, err := s.Users.Get(ctx, u.ID)
		if err != nil {
			return err
		}
		if u.Epoch != x.Epoch || u.Disabled {
			return fhir.Errorf(fhir.Unauthorized, op, "The session has ended.")
		}
		u.EndAll()
		writes, err := s.Users.Writes(&u)
		if err != nil {
			return err
		}
		secret, now, sw, err := s.Sessions.Begin(&u, session.Proof{ACR: x.ACR, AMR: x.AMR, At: x.Auth}, from.place(), x)
		if err != nil {
			return err
		}
		ev := audit.Event{Type: audit.Security, Interaction: "attributes", Caller: from.As(s.Principal(&u)),
			Extra: [][2]string{{"change", "everything-ended"}}}
		in = SignedIn{Secret: secret, Session: now, User: u}
		return s.ending(ctx, u.ID, ev, append(writes, sw...)...)
	})
	return in, err
}
