package signin

import (
	"context"
	"errors"
	"net/url"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/store"
	"pulsegate/smart/people/authn"
	"pulsegate/smart/people/session"
	"pulsegate/smart/people/user"
)

// notRight is the answer to any wrong name, password or code.
func notRight() error {
	return fhir.Errorf(fhir.Unauthorized, "signin.Password", "The name, the password or the code is not right.")
}

// Password signs in with a password and a one-time or recovery code.
func (s *Service) Password(ctx context.Context, from From, login, password, code string,
	before *session.Session) (SignedIn, error) {
	var in SignedIn
	// The commit is lost when another attempt was counted, or the code used, at
	// the same time.
	err := store.Retry(attempts, "signin.Password", "try again", func() (err error) {
		in, err = s.password(ctx, from, login, password, code, before)
		return err
	})
	return in, err
}

func (s *Service) password(ctx context.Context, from From, login, password, code string,
	before *session.Session) (SignedIn, error) {
	account, err := user.Fold(login)
	if err != nil {
		account = "\x00" // no user has it; all such names are one account
	}
	u, err := s.Users.ByLogin(ctx, login)
	if err != nil && fhir.KindOf(err) != fhir.NotFound {
		return SignedIn{}, err
	}
	device := from.device(u.ID)
	try, wait, err := s.throttle.Begin(ctx, account, device, from.RemoteIP)
	if err != nil {
		return SignedIn{}, err
	}
	if wait > 0 {
		s.counted(ctx, "password", "throttled")
		return SignedIn{}, Wait(wait)
	}
	now := s.Clock()
	step, recovery, ok, err := s.factors(ctx, &u, password, code, now)
	if err != nil {
		return SignedIn{}, err
	}
	if !ok {
		first := true
		err := s.refused(ctx, from, "password", u.ID, "name, password or code", func() ([]store.StateWrite, error) {
			if !first {
				if try, _, err = s.throttle.Begin(ctx, account, device, from.RemoteIP); err != nil {
					return nil, err
				}
			}
			first = false
			return try.Failed()
		})
		if err != nil {
			return SignedIn{}, err
		}
		return SignedIn{}, notRight()
	}
	p := session.Proof{ACR: authn.MultiFactor, AMR: []string{"pwd", "otp", "mfa"}, At: now}
	if recovery >= 0 {
		u.Recovery = append(u.Recovery[:recovery:recovery], u.Recovery[recovery+1:]...)
	} else {
		u.TOTP.Step = step
	}
	return s.begin(ctx, from, "password", &u, p, before, try.Succeeded())
}

// factors looks at all of them whatever the first one says, also for a user
// who does not exist: the answer must not tell by its time.
func (s *Service) factors(ctx context.Context, u *user.User, password, code string,
	now time.Time) (step int64, recovery int, ok bool, err error) {
	known, err := s.Passwords.Match(ctx, u.Password, password)
	if err != nil {
		return 0, -1, false, err
	}
	secret, last, enrolled := make([]byte, 20), int64(0), u.TOTP != nil
	if enrolled {
		if secret, err = s.Vault.Open("totp "+u.ID, u.TOTP.Sealed); err != nil {
			return 0, -1, false, fhir.Wrap("signin.factors",
				errors.New("a TOTP secret cannot be opened: was keys/seal.key replaced?"))
		}
		last = u.TOTP.Step
	}
	step, right := authn.MatchTOTP(secret, code, now, last)
	recovery = authn.MatchRecovery(u.Recovery, code)
	return step, recovery, known && enrolled && !u.Disabled && (right || recovery >= 0), nil
}

// BeginPasskey begins a sign-in (u nil) or a step-up of u.
func (s *Service) BeginPasskey(u *user.User) ([]byte, authn.Ceremony, error) {
	if s.Passkeys == nil {
		return nil, authn.Ceremony{}, fhir.Errorf(fhir.NotAllowed, "signin.BeginPasskey",
			"there are no passkeys at a bare address: reach the server by its name")
	}
	return s.Passkeys.BeginSignIn(u)
}

// Passkey signs in with a passkey; with a session before, it steps up.
func (s *Service) Passkey(ctx context.Context, from From, c authn.Ceremony, answer []byte,
	before *session.Session) (SignedIn, error) {
	const op = "signin.Passkey"
	if s.Passkeys == nil {
		return SignedIn{}, fhir.Errorf(fhir.NotAllowed, op, "there are no passkeys")
	}
	u, err := s.Passkeys.SignIn(ctx, s.Users, c, answer)
	if err == nil {
		in, berr := s.begin(ctx, from, "passkey", &u,
			session.Proof{ACR: authn.PhishingResistant, AMR: []string{"hwk", "user", "mfa"}, At: s.Clock()}, before,
			once(c.Session.Challenge, c.Expires))
		if berr == nil || fhir.KindOf(berr) != fhir.Conflict {
			return in, berr
		}
		err = fhir.Errorf(fhir.Unauthorized, op, "the challenge was used before")
	}
	if fhir.KindOf(err) != fhir.Unauthorized {
		return SignedIn{}, err
	}
	if rerr := s.refused(ctx, from, "passkey", u.ID, rule(err), nil); rerr != nil {
		return SignedIn{}, rerr
	}
	return SignedIn{}, fhir.Errorf(fhir.Unauthorized, op, "The passkey was not accepted.")
}

// rule is the fixed text of a refusal.
func rule(err error) string {
	var e *fhir.Error
	if errors.As(err, &e) && len(e.Issues) > 0 {
		return e.Issues[0].Diagnostics
	}
	return "refused"
}

// External signs in with the hospital's provider.
func (s *Service) External(ctx context.Context, from From, o authn.Outward, answer url.Values,
	before *session.Session) (SignedIn, error) {
	const op = "signin.External"
	id, err := s.identity(ctx, o, answer)
	var u user.User
	if err == nil {
		if u, err = s.Users.ByExternal(ctx, id.Issuer, id.Subject); fhir.KindOf(err) == fhir.NotFound && err != nil {
			err = fhir.Errorf(fhir.Unauthorized, op, "the identity is nobody's here")
		}
	}
	switch {
	case err != nil:
	case u.Disabled:
		err = fhir.Errorf(fhir.Unauthorized, op, "the user is disabled")
	case u.Roles.Staff() && authn.Rank(id.ACR) < authn.Rank(authn.MultiFactor):
		err = fhir.Errorf(fhir.Unauthorized, op, "the provider did not ask for a second factor")
	default:
		in, berr := s.begin(ctx, from, "external", &u, session.Proof{ACR: id.ACR, AMR: id.AMR, At: id.AuthTime},
			before, once(o.State, o.Expires))
		if berr == nil || fhir.KindOf(berr) != fhir.Conflict {
			return in, berr
		}
		err = fhir.Errorf(fhir.Unauthorized, op, "the answer was used before")
	}
	if fhir.KindOf(err) != fhir.Unauthorized {
		return SignedIn{}, err
	}
	if rerr := s.refused(ctx, from, "external", u.ID, rule(err), nil); rerr != nil {
		return SignedIn{}, rerr
	}
	return SignedIn{}, fhir.Errorf(fhir.Unauthorized, op,
		"The hospital’s sign-in was not accepted here. Staff need a second factor there, and the account must be connected with one here.")
}

func (s *Service) identity(ctx context.Context, o authn.Outward, answer url.Values) (authn.Identity, error) {
	if s.Provider == nil {
		return authn.Identity{}, fhir.Errorf(fhir.NotFound, "signin.identity", "there is no provider")
	}
	return s.Provider.Finish(ctx, o, answer)
}
