package user

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/go-webauthn/webauthn/webauthn"
	"golang.org/x/text/secure/precis"

	"pulsegate/fhir"
	"pulsegate/smart/people/role"
)

// User is one person.
type User struct {
	ID    string     `json:"id"`
	Login string     `json:"login"` // as it is typed, folded
	Name  string     `json:"name"`  // for the person and the administrators' pages
	Roles role.Roles `json:"roles"`
	// Patient and Practitioner are ids of the resources that this person is.
	Patient      string    `json:"patient,omitempty"`
	Practitioner string    `json:"practitioner,omitempty"`
	Disabled     bool      `json:"disabled,omitempty"`
	Created      time.Time `json:"created"`
	// Epoch counts what ends every session of this person, Access what ends
	// every authorization and launch of theirs as well.
	Epoch  uint64 `json:"epoch"`
	Access uint64 `json:"access,omitempty"`

	Passkeys []Passkey  `json:"passkeys,omitempty"`
	TOTP     *TOTP      `json:"totp,omitempty"`
	Password string     `json:"password,omitempty"` // Argon2id, PHC string
	Recovery []string   `json:"recovery,omitempty"` // hashes of unused codes
	External []External `json:"external,omitempty"`

	stored []byte // as read; nil for a new user
}

// Passkey is a WebAuthn credential.
type Passkey struct {
	Label   string              `json:"label"`
	Created time.Time           `json:"created"`
	Used    time.Time           `json:"used,omitzero"`
	Record  webauthn.Credential `json:"record"`
}

// TOTP is a time-based second factor.
type TOTP struct {
	Sealed []byte `json:"sealed"` // the secret, sealed for this user
	Step   int64  `json:"step"`   // last step that was used; it and those before are spent
}

// External is an identity at the hospital's OIDC provider.
type External struct {
	Issuer  string `json:"iss"`
	Subject string `json:"sub"`
}

var _ webauthn.User = (*User)(nil)

// WebAuthnID is the user handle: the random id, which says nothing.
func (u *User) WebAuthnID() []byte { return []byte(u.ID) }

// WebAuthnName is what the authenticator shows.
func (u *User) WebAuthnName() string { return u.Login }

// WebAuthnDisplayName is what the authenticator shows.
func (u *User) WebAuthnDisplayName() string { return u.Name }

// WebAuthnCredentials are all passkeys.
func (u *User) WebAuthnCredentials() []webauthn.Credential {
	out := make([]webauthn.Credential, len(u.Passkeys))
	for i, p := range u.Passkeys {
		out[i] = p.Record
	}
	return out
}

// Passkey returns the position of the credential, or -1.
func (u *User) Passkey(id []byte) int {
	return slices.IndexFunc(u.Passkeys, func(p Passkey) bool { return bytes.Equal(p.Record.ID, id) })
}

// CanSignIn reports whether the user has a whole way in: a passkey, a password
// together with a second factor, or an outside identity.
func (u *User) CanSignIn() bool {
	return !u.Disabled && (len(u.Passkeys) > 0 || u.Password != "" && u.TOTP != nil || len(u.External) > 0)
}

// End makes every session of the user end.
func (u *User) End() { u.Epoch++ }

// EndAll makes every session, authorization and launch of the user end.
func (u *User) EndAll() { u.Epoch++; u.Access++ }

// sameStanding reports whether u and o are the same person with the same
// roles, and both may sign in.
func (u *User) sameStanding(o *User) bool {
	return u.Patient == o.Patient && u.Practitioner == o.Practitioner && u.Disabled == o.Disabled &&
		slices.Equal(u.Roles, o.Roles)
}

// Reference is the FHIR resource that the user is, as a relative reference: the
// Practitioner for staff, else the Patient; "" when there is none.
func (u *User) Reference() string {
	switch {
	case u.Practitioner != "" && u.Roles.Staff():
		return "Practitioner/" + u.Practitioner
	case u.Patient != "":
		return "Patient/" + u.Patient
	case u.Practitioner != "":
		return "Practitioner/" + u.Practitioner
	}
	return ""
}

// Fold is the form of a login name that is compared: PRECIS UsernameCaseMapped
// (RFC 8265). An error is of kind Invalid.
func Fold(login string) (string, error) {
	s, err := precis.UsernameCaseMapped.String(strings.TrimSpace(login))
	if err != nil || s == "" || len(s) > maxLogin {
		return "", fhir.Errorf(fhir.Invalid, "user.Fold",
			"login: 1 to %d bytes of letters, digits and signs, without spaces", maxLogin)
	}
	return s, nil
}

const (
	maxLogin = 128
	maxName  = 200
	// MaxPasskeys is how many passkeys one user may have.
	MaxPasskeys = 10
)

// check holds the rules of a user record.
func (u *User) check() error {
	const op = "user.check"
	if _, err := Fold(u.Login); err != nil {
		return err
	}
	if u.Name == "" || len(u.Name) > maxName || !utf8.ValidString(u.Name) ||
		strings.ContainsFunc(u.Name, unicode.IsControl) {
		return fhir.Errorf(fhir.Invalid, op, "name: 1 to %d bytes without control characters", maxName)
	}
	if _, err := role.Parse(u.Roles.Strings()); err != nil {
		return err
	}
	if u.Patient != "" && !fhir.ValidID(u.Patient) || u.Practitioner != "" && !fhir.ValidID(u.Practitioner) {
		return fhir.Errorf(fhir.Invalid, op, "patient, practitioner: a resource id")
	}
	if u.Roles.Has(role.Patient) && u.Patient == "" {
		return fhir.Errorf(fhir.Invalid, op, "patient: a user with the role patient is one Patient resource")
	}
	if u.Roles.Has(role.Practitioner) && u.Practitioner == "" {
		return fhir.Errorf(fhir.Invalid, op,
			"practitioner: a user with the role practitioner is one Practitioner resource")
	}
	if len(u.Passkeys) > MaxPasskeys {
		return fhir.Errorf(fhir.Invalid, op, "passkeys: at most %d", MaxPasskeys)
	}
	return nil
}

func decode(b []byte) (User, error) {
	var u User
	if err := json.Unmarshal(b, &u); err != nil {
		return User{}, fhir.Wrap("user.decode", err)
	}
	u.stored = b
	return u, nil
}
