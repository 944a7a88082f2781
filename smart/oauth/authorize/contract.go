package authorize

import (
	"context"
	"time"

	"pulsegate/smart/authz"
	"pulsegate/smart/scope"
)

// Subject is the person who signed in.
type Subject = authz.Subject

// Pending is a valid request of an app that waits for a person.
type Pending struct {
	ID     string
	Client Client
	// Scopes are those that were asked for and that the client may have.
	Scopes scope.Set
	// Patient and Encounter are ids that an EHR launch has fixed; "" else.
	Patient, Encounter string
	// NeedsPatient and NeedsEncounter: the scopes need one in context, and no
	// launch has set it. The page asks, unless the person is the patient.
	NeedsPatient, NeedsEncounter bool
	// User is who the EHR says is using it ("Practitioner/1"); "" unknown.
	// Nobody else may approve.
	User string

	// What the app asked about signing in (OpenID Connect Core 3.1.2.1).
	Prompt    []string       // none is never here: it is answered at once
	MaxAge    *time.Duration // sign in again if it was longer ago; nil no wish
	LoginHint string
	ACRValues []string

	// Offline and Online: access goes on after the app was closed, beyond
	// the session (Offline) or as long as the session lasts (Online).
	Offline, Online bool
	StyleURL        string // smart_style_url of an EHR launch
	Intent          string // of an EHR launch
	Expires         time.Time
}

// Client is what a person should know of an app.
type Client struct {
	ID, Name                                      string
	LogoURI, ClientURI, PolicyURI, TermsOfService string // may be ""
	Redirect                                      string // where the answer goes
}

// Decision is what the person agreed to.
type Decision struct {
	Subject Subject
	// Patient and Encounter as chosen; a launch's own are kept and need not
	// be repeated.
	Patient, Encounter string
	// Scopes that were left ticked, possibly narrowed to granular ones. None
	// of them may go beyond Pending.Scopes.
	Scopes []string
}

// Flow is what the pages for people need. Each context must come from WithBrowser:
// a request is for the browser that began it, and for any other it is
// NotFound. A request is answered once; then it is NotFound too.
type Flow interface {
	// Pending returns the request; NotFound when there is none, or none any
	// more.
	Pending(ctx context.Context, id string) (*Pending, error)
	// Approve returns where to send the browser, with a code. An error of kind
	// Invalid says what is missing (a patient, a scope) and leaves the
	// request waiting; Forbidden is a person who may not approve this.
	Approve(ctx context.Context, id string, d Decision) (redirect string, err error)
	// Deny returns where to send the browser, with an error code of RFC 6749
	// 4.1.2.1 or OpenID Connect Core 3.1.2.6; "" is access_denied.
	Deny(ctx context.Context, id, reason string) (redirect string, err error)
}
