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

// wrongCredentials returns the error for any wrong name, password or code.
func wrongCredentials() error {
	return fhir.Errorf(fhir.Unauthorized, "signin.Password", "The name, password or code is wrong.")
}

// Password signs in with a password and a one-time code or recovery code.
func (s *Service) Password(ctx context.Context, from From, login, password, code string,
	before *session.Session) (SignedIn, error) {
	var in SignedIn
	// The commit conflicts if another attempt was counted, or the code was used,
	// at the same time.
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
		account = "\x00" // cannot be a login; all invalid names count as one account
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
		return SignedIn{}, tooMany(wait)
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
		return SignedIn{}, wrongCredentials()
	}
	p := session.Proof{ACR: authn.MultiFactor, AMR: []string{"pwd", "otp", "mfa"}, At: now}
	if recovery >= 0 {
		u.Recovery = append(u.Recovery[:recovery:recovery], u.Recovery[recovery+1:]...)
	} else {
		u.TOTP.Step = step
	}
	return s.begin(ctx, from, "password", &u, p, before, try.Succeeded())
}

// factors verifies all factors even if the first one fails or the user does not
// exist, so that the duration reveals nothing.
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
				errors.New("a TOTP secret cannot be decrypted; was keys/seal.key replaced?"))
		}
		last = u.TOTP.Step
	}
	step, right := authn.MatchTOTP(secret, code, now, last)
	recovery = authn.MatchRecovery(u.Recovery, code)
	return step, recovery, known && enrolled && !u.Disabled && (right || recovery >= 0), nil
}

// BeginPasskey starts a sign-in if u is nil, otherwise a step-up of u.
func (s *Service) BeginPasskey(u *user.User) ([]byte, authn.Ceremony, error) {
	if s.Passkeys == nil {
		return nil, authn.Ceremony{}, fhir.Errorf(fhir.NotAllowed, "signin.BeginPasskey",
			"passkeys are not available, because this server is configured without a host name or without HTTPS")
	}
	return s.Passkeys.BeginSignIn(u)
}

// Passkey signs in with a passkey. If before is set, it is a step-up.
func (s *Service) Passkey(ctx context.Context, from From, ceremony authn.Ceremony, answer []byte,
	before *session.Session) (SignedIn, error) {
	const op = "signin.Passkey"
	if s.Passkeys == nil {
		return SignedIn{}, fhir.Errorf(fhir.NotAllowed, op, "passkeys are not available")
	}
	u, err := s.Passkeys.SignIn(ctx, s.Users, ceremony, answer)
	if err == nil {
		in, berr := s.begin(ctx, from, "passkey", &u,
			session.Proof{ACR: authn.PhishingResistant, AMR: []string{"hwk", "user", "mfa"}, At: s.Clock()}, before,
			once(ceremony.Session.Challenge, ceremony.Expires))
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

// rule returns the fixed text of a refusal.
func rule(err error) string {
	var e *fhir.Error
	if errors.As(err, &e) && len(e.Issues) > 0 {
		return e.Issues[0].Diagnostics
	}
	return "refused"
}

// External signs in with the hospital's provider.
func (s *Service) External(ctx context.Context, from From, req authn.AuthRequest, response url.Values,
	before *session.Session) (SignedIn, error) {
	const op = "signin.External"
	id, err := s.identity(ctx, req, response)
	var u user.User
	if err == nil {
		if u, err = s.Users.ByExternal(ctx, id.Issuer, id.Subject); fhir.KindOf(err) == fhir.NotFound && err != nil {
			err = fhir.Errorf(fhir.Unauthorized, op, "the identity is not connected with a user")
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
			before, once(req.State, req.Expires))
		if berr == nil || fhir.KindOf(berr) != fhir.Conflict {
			return in, berr
		}
		err = fhir.Errorf(fhir.Unauthorized, op, "the response was used before")
	}
	if fhir.KindOf(err) != fhir.Unauthorized {
		return SignedIn{}, err
	}
	if rerr := s.refused(ctx, from, "external", u.ID, rule(err), nil); rerr != nil {
		return SignedIn{}, rerr
	}
	return SignedIn{}, fhir.Errorf(fhir.Unauthorized, op,
		"The hospital’s sign-in was not accepted here. Staff need a second factor there, and the hospital’s account must be connected with an account here.")
}

func (s *Service) identity(ctx context.Context, req authn.AuthRequest, response url.Values) (authn.Identity, error) {
	if s.Provider == nil {
		return authn.Identity{}, fhir.Errorf(fhir.NotFound, "signin.identity", "no OpenID provider is configured")
	}
	return s.Provider.Finish(ctx, req, response)
}
