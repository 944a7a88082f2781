package authz

import (
	"encoding/json"
	"slices"
	"time"

	"pulsegate/fhir"
)

// Subject is the person who signed in.
type Subject struct {
	ID       string    `json:"id"`   // account ID, the sub claim of the tokens
	Name     string    `json:"name"` // display name, in no access token
	FHIRUser fhir.Ref  `json:"fhirUser"`
	Roles    []string  `json:"roles"`
	AuthTime time.Time `json:"authTime"`
	ACR      string    `json:"acr,omitempty"` // strength of the sign-in
	AMR      []string  `json:"amr,omitempty"` // authentication methods (RFC 8176)
	Session  string    `json:"session,omitempty"`
	// Access is user.User.Access at the sign-in. When the account's value
	// changes, everything that began with the sign-in ends.
	Access uint64 `json:"access,omitempty"`
}

// Context is the launch context that an EHR or the person set (SMART App Launch
// 2.2, "Launch context").
type Context struct {
	Patient     string          `json:"patient,omitempty"`   // resource ID
	Encounter   string          `json:"encounter,omitempty"` // resource ID
	FHIRContext json.RawMessage `json:"fhirContext,omitempty"`
	Intent      string          `json:"intent,omitempty"`
	Banner      *bool           `json:"need_patient_banner,omitempty"`
	StyleURL    string          `json:"smart_style_url,omitempty"`
}

// Authorization is the permission that one person gave to one app.
type Authorization struct {
	ID       string  `json:"id"`
	ClientID string  `json:"client"`
	Subject  Subject `json:"subject"`
	Scope    string  `json:"scope"` // granted scopes, as in the tokens
	// V1 is set if the app requested scopes in the v1 syntax, so that responses
	// write the scopes in that syntax (SMART App Launch 2.2, "Scopes for
	// requesting FHIR resources").
	V1      bool      `json:"v1,omitempty"`
	Context Context   `json:"context"`
	Created time.Time `json:"created"`
	// Used is the time of the latest token.
	Used time.Time `json:"used"`
	// Expires bounds the lifetime of the authorization and of all its tokens.
	Expires time.Time `json:"expires"`
	// Offline is set if the authorization stays valid after the person signs
	// out.
	Offline bool `json:"offline,omitempty"`
	Revoked bool `json:"revoked,omitempty"`
}

// HasRole reports whether the subject had the role at the sign-in.
func (s Subject) HasRole(role string) bool { return slices.Contains(s.Roles, role) }
