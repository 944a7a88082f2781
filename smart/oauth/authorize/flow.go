package authorize

import (
	"context"
	"time"

	"pulsegate/smart/authz"
	"pulsegate/smart/scope"
)

// Subject is the person who signed in.
type Subject = authz.Subject

// Pending is a valid authorization request that waits for a person's decision.
type Pending struct {
	ID     string
	Client Client
	// Scopes holds the requested scopes that the client is registered for.
	Scopes scope.Set
	// Patient and Encounter are the resource IDs that an EHR launch set, or "".
	Patient, Encounter string
	// NeedsPatient and NeedsEncounter are set if the scopes require a patient or
	// encounter in context and no launch set it. The page then asks the person,
	// unless the person is the patient.
	NeedsPatient, NeedsEncounter bool
	// User is the reference of the EHR's user, such as "Practitioner/1". If it is
	// set, only that person may approve.
	User string

	// The following fields are the app's requirements for the sign-in (OpenID
	// Connect Core 3.1.2.1).
	Prompt    []string       // without "none", which is refused immediately
	MaxAge    *time.Duration // maximum age of the sign-in; nil if there is none
	LoginHint string
	ACRValues []string

	// Offline and Online are set if the app may refresh its access: after the
	// person's session has ended (Offline) or until then (Online).
	Offline, Online bool
	StyleURL        string // smart_style_url of an EHR launch
	Intent          string // of an EHR launch
	Expires         time.Time
}

// Client describes an app to the person.
type Client struct {
	ID, Name                                      string
	LogoURI, ClientURI, PolicyURI, TermsOfService string // optional
	Redirect                                      string // redirect URI of the request
}

// Decision is a person's approval.
type Decision struct {
	Subject Subject
	// Patient and Encounter are the IDs that the person chose. They may be empty
	// if the launch set them.
	Patient, Encounter string
	// Scopes are the scopes that the person approved, possibly narrowed to
	// granular ones. Pending.Scopes must cover them.
	Scopes []string
}

// Flow is the interface between the endpoint and the pages that ask the person.
// Each context must come from WithBrowser. A request belongs to the browser
// that began it; for any other browser the error is NotFound. A request can be
// answered once; after that the error is NotFound too.
type Flow interface {
	// Pending returns a request that waits for a decision.
	Pending(ctx context.Context, id string) (*Pending, error)
	// Approve returns the URL to send the browser to, which contains the code. If
	// a patient or a scope is missing, the error is Invalid; if the person may
	// not approve the request, it is Forbidden. In both cases the request
	// continues to wait.
	Approve(ctx context.Context, id string, d Decision) (redirect string, err error)
	// Deny returns the URL to send the browser to, which contains the reason: an
	// error code of RFC 6749 4.1.2.1 or OpenID Connect Core 3.1.2.6. If reason is
	// empty, the code is access_denied.
	Deny(ctx context.Context, id, reason string) (redirect string, err error)
}
