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
func (s *Service) SignOut(ctx context.Context, from From, u *user.User, sess *session.Session) error {
	return s.commit(ctx, audit.Event{Type: audit.SignOut, Interaction: "logout", Caller: from.As(s.Principal(u))},
		sess.End())
}

// ListSessions lists the sessions of a user, most recently used first.
func (s *Service) ListSessions(ctx context.Context, u *user.User) ([]session.Session, error) {
	return s.Sessions.ByUser(ctx, u.ID)
}

// EndSession ends one of u's sessions by its SID, together with the
// authorizations that are bound to that session. It returns NotFound if the
// session has already ended.
func (s *Service) EndSession(ctx context.Context, from From, u *user.User, sid string) error {
	const op = "signin.EndSession"
	return store.Retry(changes, op, "try again", func() error {
		sessions, err := s.Sessions.ByUser(ctx, u.ID)
		if err != nil {
			return err
		}
		i := slices.IndexFunc(sessions, func(sess session.Session) bool { return sess.SID == sid })
		if i < 0 {
			return fhir.Errorf(fhir.NotFound, op, "The session has already ended.")
		}
		ev := audit.Event{Type: audit.SignOut, Interaction: "logout", Caller: from.As(s.Principal(u)),
			Extra: [][2]string{{"change", "session-ended"}}}
		b := store.Batch{State: []store.StateWrite{sessions[i].EndUnchanged()}}
		if err := s.EndAccess(ctx, &b, u.ID, sid, ev.Caller); err != nil {
			return err
		}
		return s.commitBatch(ctx, &b, ev)
	})
}

// EndEverything ends every session, authorization and emergency access of u,
// and starts a new session at this browser.
func (s *Service) EndEverything(ctx context.Context, from From, u user.User, sess *session.Session) (SignedIn, error) {
	const op = "signin.EndEverything"
	var in SignedIn
	err := store.Retry(changes, op, "try again", func() error {
		u, err := s.Users.Get(ctx, u.ID)
		if err != nil {
			return err
		}
		if u.Epoch != sess.Epoch || u.Disabled {
			return fhir.Errorf(fhir.Unauthorized, op, "The session has ended.")
		}
		u.EndAll()
		writes, err := s.Users.Writes(&u)
		if err != nil {
			return err
		}
		secret, now, sw, err := s.Sessions.Begin(&u, session.Proof{ACR: sess.ACR, AMR: sess.AMR, At: sess.Auth},
			from.place(), sess)
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
