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

// Enrollee is a person who enrolls an authenticator. Exactly one of Invite and
// Session is set.
type Enrollee struct {
	User    user.User
	Invite  *user.Invite     // one-time link
	Session *session.Session // or current session
}

// Fresh reports whether the person may change authenticators now. A one-time
// link always allows it. Otherwise the person must have signed in or stepped up
// within five minutes, with a passkey if they have one, so that a stolen cookie
// is not enough to take over the account.
func (w *Enrollee) Fresh(now time.Time) bool {
	if w.Invite != nil {
		return true
	}
	wish := session.StepUp()
	if len(w.User.Passkeys) == 0 {
		wish.ACR = ""
	}
	return w.Session != nil && w.Session.Meets(wish, now)
}

// change commits new authenticators. It ends all other sessions of the user,
// uses up the one-time link, and starts a new session.
func (s *Service) change(ctx context.Context, from From, w Enrollee, action string, proof session.Proof,
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
		proof = session.Proof{ACR: w.Session.ACR, AMR: w.Session.AMR, At: w.Session.Auth}
	}
	secret, sess, sw, err := s.Sessions.Begin(&u, proof, from.place(), w.Session)
	if err != nil {
		return SignedIn{}, err
	}
	ev := audit.Event{Type: audit.Security, Interaction: "attributes", Caller: from.As(s.Principal(&u)),
		Extra: [][2]string{{"change", action}}}
	err = s.commit(ctx, ev, append(append(writes, sw...), state...)...)
	if err != nil && fhir.KindOf(err) == fhir.Conflict {
		err = fhir.Errorf(fhir.Conflict, "signin.change",
			"The link was used or the account was changed in the meantime. Please start again.")
	}
	return SignedIn{Secret: secret, Session: sess, User: u}, err
}

func (s *Service) check(w *Enrollee) error {
	if (w.Invite == nil) == (w.Session == nil) {
		return fhir.Errorf(fhir.Internal, "signin.check", "exactly one of link and session must be set")
	}
	if !w.Fresh(s.Clock()) {
		return ErrStepUp
	}
	if w.Invite != nil && w.Invite.Reset {
		w.User.Passkeys, w.User.TOTP, w.User.Password, w.User.Recovery, w.User.External = nil, nil, "", nil, nil
	}
	return nil
}

// BeginPasskeyEnrollment returns the options for the browser as JSON.
func (s *Service) BeginPasskeyEnrollment(w Enrollee) ([]byte, authn.Ceremony, error) {
	if s.Passkeys == nil {
		return nil, authn.Ceremony{}, fhir.Errorf(fhir.NotAllowed, "signin.BeginPasskeyEnrollment",
			"passkeys are not available, because this server is configured without a host name or without HTTPS")
	}
	if err := s.check(&w); err != nil {
		return nil, authn.Ceremony{}, err
	}
	if len(w.User.Passkeys) >= user.MaxPasskeys {
		return nil, authn.Ceremony{}, fhir.Errorf(fhir.Invalid, "signin.BeginPasskeyEnrollment",
			"passkeys: at most %d; remove one first", user.MaxPasskeys)
	}
	return s.Passkeys.BeginEnroll(&w.User)
}

// EnrollPasskey verifies the browser's response and adds the passkey.
func (s *Service) EnrollPasskey(ctx context.Context, from From, w Enrollee, ceremony authn.Ceremony, answer []byte,
	label string) (SignedIn, error) {
	const op = "signin.EnrollPasskey"
	if s.Passkeys == nil {
		return SignedIn{}, fhir.Errorf(fhir.NotAllowed, op, "passkeys are not available")
	}
	if err := s.check(&w); err != nil {
		return SignedIn{}, err
	}
	cred, err := s.Passkeys.Enroll(&w.User, ceremony, answer)
	if err != nil {
		return SignedIn{}, err
	}
	if w.User.Passkey(cred.ID) >= 0 {
		return SignedIn{}, fhir.Errorf(fhir.Conflict, op, "This passkey is already enrolled.")
	}
	now := s.Clock().UTC().Truncate(time.Second)
	w.User.Passkeys = append(w.User.Passkeys, user.Passkey{Label: trim(label, "Passkey"), Created: now, Record: cred})
	return s.change(ctx, from, w, "passkey-added",
		session.Proof{ACR: authn.PhishingResistant, AMR: []string{"hwk", "user", "mfa"}, At: now},
		once(ceremony.Session.Challenge, ceremony.Expires))
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

// EnrollPassword sets a password together with a one-time code app. It returns
// the recovery codes, which are shown only once.
func (s *Service) EnrollPassword(ctx context.Context, from From, w Enrollee, password string, secret []byte,
	code string) (SignedIn, []string, error) {
	const op = "signin.EnrollPassword"
	if err := s.check(&w); err != nil {
		return SignedIn{}, nil, err
	}
	now := s.Clock()
	step, ok := authn.MatchTOTP(secret, code, now, 0)
	if !ok || len(secret) == 0 {
		return SignedIn{}, nil, fhir.Errorf(fhir.Invalid, op,
			"code: it is wrong or expired; enter the code that your app shows now")
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
func (s *Service) NewRecovery(ctx context.Context, from From, w Enrollee) (SignedIn, []string, error) {
	if err := s.check(&w); err != nil {
		return SignedIn{}, nil, err
	}
	if w.User.TOTP == nil {
		return SignedIn{}, nil, fhir.Errorf(fhir.Invalid, "signin.NewRecovery",
			"recovery codes need a one-time code app")
	}
	codes, hashes := authn.NewRecovery()
	w.User.Recovery = hashes
	in, err := s.change(ctx, from, w, "recovery-codes-replaced", session.Proof{})
	return in, codes, err
}

// Remove removes an authenticator: the passkey with a credential id
// ("passkey"), the password with its code app and recovery codes ("password"),
// or the connection with the provider ("external"). It refuses to remove the
// last way to sign in.
func (s *Service) Remove(ctx context.Context, from From, w Enrollee, what string, credential []byte) (SignedIn, error) {
	const op = "signin.Remove"
	if err := s.check(&w); err != nil {
		return SignedIn{}, err
	}
	switch what {
	case "passkey":
		i := w.User.Passkey(credential)
		if i < 0 {
			return SignedIn{}, fhir.Errorf(fhir.NotFound, op, "there is no such passkey")
		}
		w.User.Passkeys = slices.Delete(slices.Clone(w.User.Passkeys), i, i+1)
	case "password":
		w.User.Password, w.User.TOTP, w.User.Recovery = "", nil, nil
	case "external":
		w.User.External = nil
	default:
		return SignedIn{}, fhir.Errorf(fhir.Invalid, op, "there is no such authenticator")
	}
	if !w.User.CanSignIn() {
		return SignedIn{}, fhir.Errorf(fhir.Invalid, op,
			"This is your only way to sign in. Add another one first.")
	}
	return s.change(ctx, from, w, what+"-removed", session.Proof{})
}

// Connect links the identity that the provider asserts to the user.
func (s *Service) Connect(ctx context.Context, from From, w Enrollee, req authn.AuthRequest,
	response url.Values) (SignedIn, error) {
	const op = "signin.Connect"
	if err := s.check(&w); err != nil {
		return SignedIn{}, err
	}
	id, err := s.identity(ctx, req, response)
	if err != nil {
		return SignedIn{}, err
	}
	if w.User.Roles.Staff() && authn.Rank(id.ACR) < authn.Rank(authn.MultiFactor) {
		return SignedIn{}, fhir.Errorf(fhir.Forbidden, op,
			"Staff need a second factor at the hospital’s sign-in, and it was not used.")
	}
	external := user.External{Issuer: id.Issuer, Subject: id.Subject}
	if !slices.Contains(w.User.External, external) {
		w.User.External = append(slices.Clone(w.User.External), external)
	}
	return s.change(ctx, from, w, "external-connected", session.Proof{ACR: id.ACR, AMR: id.AMR, At: id.AuthTime},
		once(req.State, req.Expires))
}
