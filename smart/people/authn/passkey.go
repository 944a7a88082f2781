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

// ceremonyLife is the time that a person has for the authenticator.
const ceremonyLife = 5 * time.Minute

// Ceremony is the state between the two requests of a WebAuthn ceremony. It is
// kept in a sealed cookie, which the browser cannot read.
type Ceremony struct {
	Session webauthn.SessionData `json:"session"`
	Expires time.Time            `json:"expires"`
}

// Passkeys runs WebAuthn ceremonies. User verification and resident keys are
// required; attestation is not requested.
type Passkeys struct {
	web   *webauthn.WebAuthn
	clock func() time.Time
}

// NewPasskeys returns Passkeys for the origin of base. WebAuthn needs a host
// name and, except for localhost, https. If base has neither, NewPasskeys
// returns nil and passkeys are not available.
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

// BeginEnroll returns the options for navigator.credentials.create as JSON.
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

// Enroll verifies the browser's response and returns the new credential.
func (p *Passkeys) Enroll(u *user.User, ceremony Ceremony, answer []byte) (webauthn.Credential, error) {
	const op = "authn.Enroll"
	if !p.clock().Before(ceremony.Expires) {
		return webauthn.Credential{}, failed(op, "the ceremony took too long")
	}
	parsed, err := protocol.ParseCredentialCreationResponseBytes(answer)
	if err != nil {
		return webauthn.Credential{}, failed(op, "the response cannot be read")
	}
	cred, err := p.web.CreateCredential(u, ceremony.Session, parsed)
	if err != nil {
		return webauthn.Credential{}, failed(op, "the response is not valid")
	}
	if !cred.Flags.UserVerified {
		return webauthn.Credential{}, failed(op, "the authenticator did not verify the user")
	}
	return *cred, nil
}

// BeginSignIn returns the options for navigator.credentials.get as JSON. If u
// is nil, any passkey of this server is accepted, otherwise only those of u.
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

// Users looks up the owner of a user handle. user.Registry implements it.
type Users interface {
	Get(ctx context.Context, id string) (user.User, error)
}

// SignIn verifies the browser's response and returns the user with an updated
// signature counter, which the caller stores in the commit of the sign-in.
// A refusal has kind Unauthorized.
func (p *Passkeys) SignIn(ctx context.Context, users Users, ceremony Ceremony, answer []byte) (user.User, error) {
	const op = "authn.SignIn"
	if !p.clock().Before(ceremony.Expires) {
		return user.User{}, failed(op, "the ceremony took too long")
	}
	parsed, err := protocol.ParseCredentialRequestResponseBytes(answer)
	if err != nil {
		return user.User{}, failed(op, "the response cannot be read")
	}
	owner := string(ceremony.Session.UserID)
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
	if len(ceremony.Session.UserID) > 0 {
		cred, err = p.web.ValidateLogin(&u, ceremony.Session, parsed)
	} else {
		_, cred, err = p.web.ValidatePasskeyLogin(func(_, _ []byte) (webauthn.User, error) { return &u, nil },
			ceremony.Session, parsed)
	}
	if err != nil {
		return u, failed(op, "the response is not valid")
	}
	switch i := u.Passkey(cred.ID); {
	case i < 0 || u.Disabled:
		return u, failed(op, "no such passkey")
	case cred.Authenticator.CloneWarning:
		return u, failed(op, "the signature counter did not increase; the passkey may have been copied")
	default:
		u.Passkeys[i].Record = *cred
		u.Passkeys[i].Used = p.clock().UTC().Truncate(time.Second)
	}
	return u, nil
}

// failed returns a refusal with a fixed reason, which is recorded in the audit
// trail.
func failed(op, reason string) error { return fhir.Errorf(fhir.Unauthorized, op, "%s", reason) }
