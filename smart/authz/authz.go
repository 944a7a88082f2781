package authz

import (
	"encoding/json"
	"slices"
	"time"

	"pulsegate/fhir"
)

// Subject is the person who signed in.
type Subject struct {
	ID       string    `json:"id"`   // of the account; sub of the tokens
	Name     string    `json:"name"` // for people to read; never in a token
	FHIRUser fhir.Ref  `json:"fhirUser"`
	Roles    []string  `json:"roles"`
	AuthTime time.Time `json:"authTime"`
	ACR      string    `json:"acr,omitempty"` // how strongly
	AMR      []string  `json:"amr,omitempty"` // by what (RFC 8176)
	Session  string    `json:"session,omitempty"`
	// Access is user.User.Access at the sign-in. What it began is dead once
	// the account has another.
	Access uint64 `json:"access,omitempty"`
}

// Context is what an EHR or the person put into context.
type Context struct {
	Patient     string          `json:"patient,omitempty"`   // id
	Encounter   string          `json:"encounter,omitempty"` // id
	FHIRContext json.RawMessage `json:"fhirContext,omitempty"`
	Intent      string          `json:"intent,omitempty"`
	Banner      *bool           `json:"need_patient_banner,omitempty"`
	StyleURL    string          `json:"smart_style_url,omitempty"`
}

// Authorization is one person's permission to one app.
type Authorization struct {
	ID       string  `json:"id"`
	ClientID string  `json:"client"`
	Subject  Subject `json:"subject"`
	Scope    string  `json:"scope"` // granted, as in the tokens
	// V1 is set when the app asked in the v1 form, so that answers name the
	// scopes in that form (SMART App Launch 2.2, "Scopes for requesting FHIR
	// resources").
	V1      bool      `json:"v1,omitempty"`
	Context Context   `json:"context"`
	Created time.Time `json:"created"`
	// Used is when a token was last issued.
	Used time.Time `json:"used"`
	// Expires is the absolute end; no token outlives it.
	Expires time.Time `json:"expires"`
	// Offline: it goes on when the person signs out.
	Offline bool `json:"offline,omitempty"`
	Revoked bool `json:"revoked,omitempty"`
}

// HasRole reports whether the subject had the role when it signed in.
func (s Subject) HasRole(role string) bool { return slices.Contains(s.Roles, role) }
