package signin

import (
	"context"
	"net/url"
	"slices"
	"strings"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/store"
	"pulsegate/smart/people/authn"
	"pulsegate/smart/people/session"
	"pulsegate/smart/people/user"
)

// Who enrols: somebody with a one-time link, or somebody who is signed in.
type Who struct {
	User    user.User
	Invite  *user.Invite     // one of these two
	Session *session.Session // is set
}

// Fresh reports whether the person may change authenticators now: with a link
// always, else after a sign-in or step-up of the strength that the user has,
// within five minutes. A stolen cookie must not become an account.
func (w *Who) Fresh(now time.Time) bool {
	if w.Invite != nil {
		return true
	}
	wish := session.StepUp()
	if len(w.User.Passkeys) == 0 {
		wish.ACR = ""
	}
	return w.Session != nil && w.Session.Meets(wish, now)
}

// change commits new authenticators: every other session of the user ends, a
// link is spent, and the person goes on in a new session.
func (s *Service) change(ctx context.Context, from From, w Who, what string, p session.Proof,
	state ...store.StateWrite) (SignedIn, error) {
	u := w.User
	u.End()
	writes, err := s.Users.Writes(&u)
	if err != nil {
		return SignedIn{}, err
	}
	if w.Invite != nil {
		writes = append(writes, w.Invite.Redeem())
	} else {
		p = session.Proof{ACR: w.Session.ACR, AMR: w.Session.AMR, At: w.Session.Auth}
	}
	secret, x, sw, err := s.Sessions.Begin(&u, p, from.place(), w.Session)
	if err != nil {
		return SignedIn{}, err
	}
	ev := audit.Event{Type: audit.Security, Interaction: "attributes", Caller: from.As(s.Principal(&u)),
		Extra: [][2]string{{"change", what}}}
	err = s.commit(ctx, ev, append(append(writes, sw...), state...)...)
	if err != nil && fhir.KindOf(err) == fhir.Conflict {
		err = fhir.Errorf(fhir.Conflict, "signin.change",
			"The link was used, or the account was changed, meanwhile. Please begin again.")
	}
	return SignedIn{Secret: secret, Session: x, User: u}, err
}

func (s *Service) check(w *Who) error {
	if (w.Invite == nil) == (w.Session == nil) {
		return fhir.Errorf(fhir.Internal, "signin.check", "a link or a session")
	}
	if !w.Fresh(s.Clock()) {
		return ErrStepUp
	}
	if w.Invite != nil && w.Invite.Reset {
		w.User.Passkeys, w.User.TOTP, w.User.Password, w.User.Recovery, w.User.External = nil, nil, "", nil, nil
	}
	return nil
}

// BeginPasskeyEnrolment returns what the browser needs.
func (s *Service) BeginPasskeyEnrolment(w Who) ([]byte, authn.Ceremony, error) {
	if s.Passkeys == nil {
		return nil, authn.Ceremony{}, fhir.Errorf(fhir.NotAllowed, "signin.BeginPasskeyEnrolment",
			"there are no passkeys at a bare address: reach the server by its name")
	}
	if err := s.check(&w); err != nil {
		return nil, authn.Ceremony{}, err
	}
	if len(w.User.Passkeys) >= user.MaxPasskeys {
		return nil, authn.Ceremony{}, fhir.Errorf(fhir.Invalid, "signin.BeginPasskeyEnrolment",
			"passkeys: at most %d; remove one first", user.MaxPasskeys)
	}
	return s.Passkeys.BeginEnrol(&w.User)
}

// EnrolPasskey adds a passkey.
func (s *Service) EnrolPasskey(ctx context.Context, from From, w Who, c authn.Ceremony, answer []byte,
	label string) (SignedIn, error) {
	const op = "signin.EnrolPasskey"
	if s.Passkeys == nil {
		return SignedIn{}, fhir.Errorf(fhir.NotAllowed, op, "there are no passkeys")
	}
	if err := s.check(&w); err != nil {
		return SignedIn{}, err
	}
	cred, err := s.Passkeys.Enrol(&w.User, c, answer)
	if err != nil {
		return SignedIn{}, err
	}
	if w.User.Passkey(cred.ID) >= 0 {
		return SignedIn{}, fhir.Errorf(fhir.Conflict, op, "This passkey is enrolled already.")
	}
	now := s.Clock().UTC().Truncate(time.Second)
	w.User.Passkeys = append(w.User.Passkeys, user.Passkey{Label: trim(label, "Passkey"), Created: now, Record: cred})
	return s.change(ctx, from, w, "passkey-added",
		session.Proof{ACR: authn.PhishingResistant, AMR: []string{"hwk", "user", "mfa"}, At: now},
		once(c.Session.Challenge, c.Expires))
}

func trim(s, fallback string) string {
	s = strings.Join(strings.Fields(strings.ToValidUTF8(s, "")), " ")
	if r := []rune(s); len(r) > 60 {
		s = string(r[:60])
	}
	if s == "" {
		return fallback
	}
	return s
}

// EnrolPassword sets a password together with a one-time code app, and
// returns the recovery codes, which are shown once.
func (s *Service) EnrolPassword(ctx context.Context, from From, w Who, password string, secret []byte,
	code string) (SignedIn, []string, error) {
	const op = "signin.EnrolPassword"
	if err := s.check(&w); err != nil {
		return SignedIn{}, nil, err
	}
	now := s.Clock()
	step, ok := authn.MatchTOTP(secret, code, now, 0)
	if !ok || len(secret) == 0 {
		return SignedIn{}, nil, fhir.Errorf(fhir.Invalid, op, "code: it is not the one that the app shows now")
	}
	stored, err := s.Passwords.Set(ctx, password, w.User.Login, w.User.Name)
	if err != nil {
		return SignedIn{}, nil, err
	}
	codes, hashes := authn.NewRecovery()
	w.User.Password, w.User.Recovery = stored, hashes
	w.User.TOTP = &user.TOTP{Sealed: s.Vault.Seal("totp "+w.User.ID, secret), Step: step}
	in, err := s.change(ctx, from, w, "password-set",
		session.Proof{ACR: authn.MultiFactor, AMR: []string{"pwd", "otp", "mfa"}, At: now})
	return in, codes, err
}

// NewRecovery replaces the recovery codes.
func (s *Service) NewRecovery(ctx context.Context, from From, w Who) (SignedIn, []string, error) {
	if err := s.check(&w); err != nil {
		return SignedIn{}, nil, err
	}
	if w.User.TOTP == nil {
		return SignedIn{}, nil, fhir.Errorf(fhir.Invalid, "signin.NewRecovery",
			"recovery codes go with a one-time code app")
	}
	codes, hashes := authn.NewRecovery()
	w.User.Recovery = hashes
	in, err := s.change(ctx, from, w, "recovery-codes-replaced", session.Proof{})
	return in, codes, err
}

// Remove takes an authenticator away: the passkey with that credential id, or
// the password with its code app and recovery codes ("password"), or the
// connection with the provider ("external"). The last way in stays.
func (s *Service) Remove(ctx context.Context, from From, w Who, what string, credential []byte) (SignedIn, error) {
	const op = "signin.Remove"
	if err := s.check(&w); err != nil {
		return SignedIn{}, err
	}
	switch what {
	case "passkey":
		i := w.User.Passkey(credential)
		if i < 0 {
			return SignedIn{}, fhir.Errorf(fhir.NotFound, op, "no such passkey")
		}
		w.User.Passkeys = slices.Delete(slices.Clone(w.User.Passkeys), i, i+1)
	case "password":
		w.User.Password, w.User.TOTP, w.User.Recovery = "", nil, nil
	case "external":
		w.User.External = nil
	default:
		return SignedIn{}, fhir.Errorf(fhir.Invalid, op, "no such authenticator")
	}
	if !w.User.CanSignIn() {
		return SignedIn{}, fhir.Errorf(fhir.Invalid, op,
			"This is the only way in that you have. Add another one first.")
	}
	return s.change(ctx, from, w, what+"-removed", session.Proof{})
}

// Connect links the identity that the provider answers with to the user.
func (s *Service) Connect(ctx context.Context, from From, w Who, o authn.Outward, answer url.Values) (SignedIn, error) {
	const op = "signin.Connect"
	if err := s.check(&w); err != nil {
		return SignedIn{}, err
	}
	id, err := s.identity(ctx, o, answer)
	if err != nil {
		return SignedIn{}, err
	}
	if w.User.Roles.Staff() && authn.Rank(id.ACR) < authn.Rank(authn.MultiFactor) {
		return SignedIn{}, fhir.Errorf(fhir.Forbidden, op,
			"The hospital’s sign-in has to ask staff for a second factor, and did not.")
	}
	x := user.External{Issuer: id.Issuer, Subject: id.Subject}
	if !slices.Contains(w.User.External, x) {
		w.User.External = append(slices.Clone(w.User.External), x)
	}
	return s.change(ctx, from, w, "external-connected", session.Proof{ACR: id.ACR, AMR: id.AMR, At: id.AuthTime},
		once(o.State, o.Expires))
}
