package authn

import (
	"context"
	"encoding/json"
	"net"
	"net/url"
	"time"

	"github.com/go-webauthn/webauthn/protocol"
	"github.com/go-webauthn/webauthn/webauthn"

	"pulsegate/fhir"
	"pulsegate/smart/people/user"
)

// ceremonyLife is how long a person may take at the authenticator.
const ceremonyLife = 5 * time.Minute

// Ceremony is what has to be kept, unseen by the browser, between the two
// halves of a ceremony.
type Ceremony struct {
	Session webauthn.SessionData `json:"session"`
	Expires time.Time            `json:"expires"`
}

// Passkeys runs WebAuthn ceremonies: user verification required, resident key
// required, no attestation asked for.
type Passkeys struct {
	web   *webauthn.WebAuthn
	clock func() time.Time
}

// NewPasskeys serves the origin of base. WebAuthn needs a host name and, but
// for localhost, https: for a server that is reached by a bare address it
// returns nil, and there are no passkeys.
func NewPasskeys(base string, clock func() time.Time) (*Passkeys, error) {
	const op = "authn.NewPasskeys"
	u, err := url.Parse(base)
	if err != nil {
		return nil, fhir.Wrap(op, err)
	}
	host := u.Hostname()
	if net.ParseIP(host) != nil || u.Scheme != "https" && host != "localhost" {
		return nil, nil
	}
	resident := true
	web, err := webauthn.New(&webauthn.Config{
		RPID: host, RPDisplayName: "Pulsegate", RPOrigins: []string{u.Scheme + "://" + u.Host},
		AttestationPreference: protocol.PreferNoAttestation,
		AuthenticatorSelection: protocol.AuthenticatorSelection{
			ResidentKey: protocol.ResidentKeyRequirementRequired, RequireResidentKey: &resident,
			UserVerification: protocol.VerificationRequired,
		},
	})
	if err != nil {
		return nil, fhir.Wrap(op, err)
	}
	return &Passkeys{web: web, clock: clock}, nil
}

func (p *Passkeys) ceremony(options any, s *webauthn.SessionData) ([]byte, Ceremony, error) {
	b, err := json.Marshal(options)
	return b, Ceremony{Session: *s, Expires: p.clock().Add(ceremonyLife)}, fhir.Wrap("authn.ceremony", err)
}

// BeginEnroll returns the options for navigator.credentials.create, as JSON.
func (p *Passkeys) BeginEnroll(u *user.User) ([]byte, Ceremony, error) {
	var known []protocol.CredentialDescriptor
	for _, c := range u.WebAuthnCredentials() {
		known = append(known, c.Descriptor())
	}
	c, s, err := p.web.BeginRegistration(u, webauthn.WithExclusions(known))
	if err != nil {
		return nil, Ceremony{}, fhir.Wrap("authn.BeginEnroll", err)
	}
	return p.ceremony(c.Response, s)
}

// Enroll checks the browser's answer and returns the new credential.
func (p *Passkeys) Enroll(u *user.User, c Ceremony, answer []byte) (webauthn.Credential, error) {
	const op = "authn.Enroll"
	if !p.clock().Before(c.Expires) {
		return webauthn.Credential{}, failed(op, "it took too long")
	}
	parsed, err := protocol.ParseCredentialCreationResponseBytes(answer)
	if err != nil {
		return webauthn.Credential{}, failed(op, "the answer cannot be read")
	}
	cred, err := p.web.CreateCredential(u, c.Session, parsed)
	if err != nil {
		return webauthn.Credential{}, failed(op, "the answer does not hold")
	}
	if !cred.Flags.UserVerified {
		return webauthn.Credential{}, failed(op, "the authenticator did not verify the user")
	}
	return *cred, nil
}

// BeginSignIn returns the options for navigator.credentials.get, as JSON: of
// whoever holds a passkey of this server, or, with u, of that user only.
func (p *Passkeys) BeginSignIn(u *user.User) ([]byte, Ceremony, error) {
	const op = "authn.BeginSignIn"
	var a *protocol.CredentialAssertion
	var s *webauthn.SessionData
	var err error
	if u == nil {
		a, s, err = p.web.BeginDiscoverableLogin(webauthn.WithUserVerification(protocol.VerificationRequired))
	} else {
		a, s, err = p.web.BeginLogin(u, webauthn.WithUserVerification(protocol.VerificationRequired))
	}
	if err != nil {
		return nil, Ceremony{}, fhir.Wrap(op, err)
	}
	return p.ceremony(a.Response, s)
}

// Users finds the owner of a user handle.
type Users interface {
	Get(ctx context.Context, id string) (user.User, error)
}

// SignIn checks the browser's answer and returns the user with the counter of
// the passkey brought forward, to be stored in the commit of the sign-in. A
// failure is Unauthorized, whatever it was.
func (p *Passkeys) SignIn(ctx context.Context, users Users, c Ceremony, answer []byte) (user.User, error) {
	const op = "authn.SignIn"
	if !p.clock().Before(c.Expires) {
		return user.User{}, failed(op, "it took too long")
	}
	parsed, err := protocol.ParseCredentialRequestResponseBytes(answer)
	if err != nil {
		return user.User{}, failed(op, "the answer cannot be read")
	}
	owner := string(c.Session.UserID)
	if owner == "" {
		owner = string(parsed.Response.UserHandle)
	}
	u, err := users.Get(ctx, owner)
	if err != nil {
		if fhir.KindOf(err) != fhir.NotFound {
			return user.User{}, err
		}
		return user.User{}, failed(op, "no such passkey")
	}
	var cred *webauthn.Credential
	if len(c.Session.UserID) > 0 {
		cred, err = p.web.ValidateLogin(&u, c.Session, parsed)
	} else {
		_, cred, err = p.web.ValidatePasskeyLogin(func(_, _ []byte) (webauthn.User, error) { return &u, nil },
			c.Session, parsed)
	}
	if err != nil {
		return u, failed(op, "the answer does not hold")
	}
	switch i := u.Passkey(cred.ID); {
	case i < 0 || u.Disabled:
		return u, failed(op, "no such passkey")
	case cred.Authenticator.CloneWarning:
		return u, failed(op, "the passkey's counter went back: it may have been copied")
	default:
		u.Passkeys[i].Record = *cred
		u.Passkeys[i].Used = p.clock().UTC().Truncate(time.Second)
	}
	return u, nil
}

// failed is a failure of the person or of the browser, with a fixed reason for
// the trail.
func failed(op, reason string) error { return fhir.Errorf(fhir.Unauthorized, op, "%s", reason) }
