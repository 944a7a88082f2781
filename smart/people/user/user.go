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

// User is a person who may sign in.
type User struct {
	ID    string     `json:"id"`
	Login string     `json:"login"` // normalized by Fold
	Name  string     `json:"name"`  // display name
	Roles role.Roles `json:"roles"`
	// Patient and Practitioner are the ids of the resources that represent the
	// person.
	Patient      string    `json:"patient,omitempty"`
	Practitioner string    `json:"practitioner,omitempty"`
	Disabled     bool      `json:"disabled,omitempty"`
	Created      time.Time `json:"created"`
	// Epoch counts the changes that end the sessions of this person. Access
	// counts those that also end their authorizations and launches.
	Epoch  uint64 `json:"epoch"`
	Access uint64 `json:"access,omitempty"`

	Passkeys []Passkey  `json:"passkeys,omitempty"`
	TOTP     *TOTP      `json:"totp,omitempty"`
	Password string     `json:"password,omitempty"` // Argon2id, PHC string
	Recovery []string   `json:"recovery,omitempty"` // hashes of unused codes
	External []External `json:"external,omitempty"`

	stored []byte // value as read; nil for a new user
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
	Sealed []byte `json:"sealed"` // secret, sealed for this user
	Step   int64  `json:"step"`   // last time step used; it and earlier steps are rejected
}

// External is an identity at the hospital's OIDC provider.
type External struct {
	Issuer  string `json:"iss"`
	Subject string `json:"sub"`
}

var _ webauthn.User = (*User)(nil)

// WebAuthnID returns the user handle, which is the random id.
func (user *User) WebAuthnID() []byte { return []byte(user.ID) }

// WebAuthnName returns the login, which the authenticator shows.
func (user *User) WebAuthnName() string { return user.Login }

// WebAuthnDisplayName returns the name, which the authenticator shows.
func (user *User) WebAuthnDisplayName() string { return user.Name }

// WebAuthnCredentials returns the credentials of all passkeys.
func (user *User) WebAuthnCredentials() []webauthn.Credential {
	out := make([]webauthn.Credential, len(user.Passkeys))
	for i, p := range user.Passkeys {
		out[i] = p.Record
	}
	return out
}

// Passkey returns the index of the passkey with a credential id, or -1.
func (user *User) Passkey(id []byte) int {
	return slices.IndexFunc(user.Passkeys, func(p Passkey) bool { return bytes.Equal(p.Record.ID, id) })
}

// CanSignIn reports whether the user is enabled and has a complete way to sign
// in: a passkey, a password with a second factor, or an external identity.
func (user *User) CanSignIn() bool {
	return !user.Disabled && (len(user.Passkeys) > 0 || user.Password != "" && user.TOTP != nil ||
		len(user.External) > 0)
}

// End ends every session of the user.
func (user *User) End() { user.Epoch++ }

// EndAll ends every session, authorization and launch of the user.
func (user *User) EndAll() { user.Epoch++; user.Access++ }

// sameStanding reports whether user and other have the same links, roles and
// status.
func (user *User) sameStanding(other *User) bool {
	return user.Patient == other.Patient && user.Practitioner == other.Practitioner &&
		user.Disabled == other.Disabled &&
		slices.Equal(user.Roles, other.Roles)
}

// Reference returns the FHIR resource of the user as a relative reference: the
// Practitioner for staff, otherwise the Patient; "" if there is none.
func (user *User) Reference() string {
	switch {
	case user.Practitioner != "" && user.Roles.Staff():
		return "Practitioner/" + user.Practitioner
	case user.Patient != "":
		return "Patient/" + user.Patient
	case user.Practitioner != "":
		return "Practitioner/" + user.Practitioner
	}
	return ""
}

// Fold normalizes a login name for comparison, with the PRECIS profile
// UsernameCaseMapped (RFC 8265). The error has kind Invalid.
func Fold(login string) (string, error) {
	s, err := precis.UsernameCaseMapped.String(strings.TrimSpace(login))
	if err != nil || s == "" || len(s) > maxLogin {
		return "", fhir.Errorf(fhir.Invalid, "user.Fold",
			"login: it must have 1 to %d bytes of letters, digits and symbols, without spaces", maxLogin)
	}
	return s, nil
}

const (
	maxLogin = 128
	maxName  = 200
	// MaxPasskeys is the maximum number of passkeys per user.
	MaxPasskeys = 10
)

// check validates a user record.
func (user *User) check() error {
	const op = "user.check"
	if _, err := Fold(user.Login); err != nil {
		return err
	}
	if user.Name == "" || len(user.Name) > maxName || !utf8.ValidString(user.Name) ||
		strings.ContainsFunc(user.Name, unicode.IsControl) {
		return fhir.Errorf(fhir.Invalid, op, "name: it must have 1 to %d bytes without control characters", maxName)
	}
	if _, err := role.Parse(user.Roles.Strings()); err != nil {
		return err
	}
	if user.Patient != "" && !fhir.ValidID(user.Patient) || user.Practitioner != "" &&
		!fhir.ValidID(user.Practitioner) {
		return fhir.Errorf(fhir.Invalid, op, "patient, practitioner: enter a resource ID")
	}
	if user.Roles.Has(role.Patient) && user.Patient == "" {
		return fhir.Errorf(fhir.Invalid, op, "patient: required for the role patient")
	}
	if user.Roles.Has(role.Practitioner) && user.Practitioner == "" {
		return fhir.Errorf(fhir.Invalid, op,
			"practitioner: required for the role practitioner")
	}
	if len(user.Passkeys) > MaxPasskeys {
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
