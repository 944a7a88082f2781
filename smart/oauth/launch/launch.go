// Package launch implements the EHR launch of apps: POST /oauth/launch.
//
// It owns the launch handles, the context that they stand for, and the API with
// which a backend client with the scope launch creates them. It does not own the
// authorization request that the app sends next (smart/oauth/authorize), which
// uses the handle up.
//
// # API
//
// The request needs the access token of a backend with the scope launch. Its
// body is application/json:
//
//	{"client_id": "…",                   the app
//	 "patient": "…", "encounter": "…",   resource IDs, optional
//	 "fhirContext": [{"reference": "ImagingStudy/1"}, …],
//	 "intent": "reconcile-medications",
//	 "need_patient_banner": true,
//	 "smart_style_url": "https://…",
//	 "user": "Practitioner/1"}           the EHR's user, optional; only this person may approve
//
// The response is 201:
//
//	{"launch": "…", "iss": "<FHIR base>", "launch_url": "<where to send the browser>", "expires_in": 300}
//
// # State
//
//	launch/<SHA-256 of the handle, base64url>   Launch
//
// Source: SMART App Launch 2.2, "Launch App: EHR Launch" and "Launch context".
package launch

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/gin-gonic/gin"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/store"
	"pulsegate/smart/authz"
	"pulsegate/smart/client"
	"pulsegate/smart/internal/oauth"
	"pulsegate/smart/scope"
)

const (
	keyPrefix = "launch/"
	// Life is the lifetime of a handle.
	Life = 5 * time.Minute

	// Path of the endpoint below the base URL.
	Path = "/oauth/launch"

	maxBody    = 64 << 10 // bytes
	maxContext = 32       // entries of fhirContext
)

// Launch is the launch that a handle stands for.
type Launch struct {
	ClientID string        `json:"client"`
	By       string        `json:"by"` // client ID of the EHR, or the operator
	Context  authz.Context `json:"context"`
	User     string        `json:"user,omitempty"` // reference of the only person who may approve, or ""
	// Maker is the person who created the launch at the console. The launch
	// ends when the person's account changes. For launches by an EHR or the
	// operator it is zero.
	Maker   authz.Subject `json:"maker,omitzero"`
	Expires time.Time     `json:"expires"`
}

// Authenticator is implemented by policy.Engine.
type Authenticator interface {
	Authenticate(*http.Request) (*access.Principal, error)
}

// Service creates and reads launch handles. It is safe for concurrent use.
type Service struct {
	Store   store.State
	Audit   audit.Trail
	Clients *client.Registry
	Auth    Authenticator
	Scopes  scope.Parser
	Clock   func() time.Time
	// Roles has the meaning of policy.Engine.Roles and applies to the people
	// who create launches. If it is nil, people cannot create launches.
	Roles  func(ctx context.Context, s authz.Subject) (roles []string, ok bool, err error)
	Base   string // FHIR base URL
	Logger *slog.Logger
}

func key(handle string) string {
	sum := sha256.Sum256([]byte(handle))
	return keyPrefix + base64.RawURLEncoding.EncodeToString(sum[:])
}

// Mount registers the API at Path.
func (s *Service) Mount(m gin.IRouter) { m.Any(Path, gin.WrapH(s)) }

// Use returns the launch of a handle and the write that uses the handle up. If
// the handle is unknown, another client's, used or expired, the error is
// NotFound.
func (s *Service) Use(ctx context.Context, handle, clientID string) (Launch, store.StateWrite, error) {
	absent := fhir.Errorf(fhir.NotFound, "launch.Use",
		"launch is unknown, expired, already used or for another app; launch the app again from the EHR")
	if handle == "" || len(handle) > 128 {
		return Launch{}, store.StateWrite{}, absent
	}
	b, err := s.Store.Get(ctx, key(handle))
	if err != nil {
		return Launch{}, store.StateWrite{}, fhir.Wrap("launch.Use", err)
	}
	var l Launch
	if b == nil || json.Unmarshal(b, &l) != nil || l.ClientID != clientID || !s.Clock().Before(l.Expires) {
		return Launch{}, store.StateWrite{}, absent
	}
	if l.Maker.ID != "" {
		if s.Roles == nil {
			return Launch{}, store.StateWrite{}, absent
		}
		if _, ok, err := s.Roles(ctx, l.Maker); err != nil {
			return Launch{}, store.StateWrite{}, fhir.Wrap("launch.Use", err)
		} else if !ok {
			return Launch{}, store.StateWrite{}, absent
		}
	}
	return l, store.StateWrite{Key: key(handle), Expect: store.StateEquals, Old: b}, nil
}

// Mint creates a handle for a launch and records it in the audit trail. It
// returns the handle and the app's launch URL with its parameters. If the app
// has no launch URL, launchURL is empty.
func (s *Service) Mint(ctx context.Context, l Launch, ev audit.Event) (handle, launchURL string, err error) {
	const op = "launch.Mint"
	if err := s.validate(&l); err != nil {
		return "", "", err
	}
	c, err := s.Clients.Get(ctx, l.ClientID)
	if err != nil && fhir.KindOf(err) != fhir.NotFound {
		return "", "", err
	}
	if err != nil || c.Disabled || !c.May(client.Code) {
		return "", "", fhir.Errorf(fhir.Invalid, op,
			"client_id: must belong to an enabled app that uses authorization codes")
	}
	handle = rand.Text() + rand.Text()
	l.Expires = s.Clock().UTC().Add(Life)
	b, err := json.Marshal(l)
	if err != nil {
		return "", "", fhir.Wrap(op, err)
	}
	ev.Patient = l.Context.Patient
	change := store.Batch{State: []store.StateWrite{{Key: key(handle), Value: b, Expect: store.StateAbsent,
		Expires: l.Expires.Add(time.Minute)}}}
	if _, err := audit.Commit(ctx, s.Store, s.Audit, &change, ev); err != nil {
		return "", "", fhir.Wrap(op, err)
	}
	if c.LaunchURL == "" {
		return handle, "", nil
	}
	sep := "?"
	if strings.Contains(c.LaunchURL, "?") {
		sep = "&"
	}
	return handle, c.LaunchURL + sep + url.Values{"iss": {s.Base}, "launch": {handle}}.Encode(), nil
}

// validate checks the fields of a launch against SMART App Launch 2.2, "Launch
// context".
func (s *Service) validate(l *Launch) error {
	invalid := func(field, rule string) error {
		return fhir.Errorf(fhir.Invalid, "launch.Mint", "%s: %s", field, rule)
	}
	for field, id := range map[string]string{"patient": l.Context.Patient, "encounter": l.Context.Encounter} {
		if id != "" && !fhir.ValidID(id) {
			return invalid(field, "must be a FHIR id")
		}
	}
	if l.User != "" {
		if ref, ok := fhir.ParseRef(l.User); !ok || ref.String() != l.User {
			return invalid("user", "must be a relative reference such as Practitioner/1")
		}
	}
	if len(l.Context.Intent) > 256 {
		return invalid("intent", "must not exceed 256 bytes")
	}
	if u := l.Context.StyleURL; u != "" {
		// a demo serves its style document over http
		own := strings.HasPrefix(u, strings.TrimSuffix(s.Base, "/fhir")+"/")
		if p, err := url.Parse(u); err != nil || p.Scheme != "https" && !own || p.Host == "" || len(u) > 2048 {
			return invalid("smart_style_url", "must be an https URL")
		}
	}
	if len(l.Context.FHIRContext) == 0 || string(l.Context.FHIRContext) == "null" {
		l.Context.FHIRContext = nil
		return nil
	}
	var items []struct {
		Reference, Canonical, Role string
		Identifier                 json.RawMessage
	}
	if err := json.Unmarshal(l.Context.FHIRContext, &items); err != nil || len(items) > maxContext {
		return invalid("fhirContext", "must be an array of at most 32 objects with a reference, a canonical or an identifier")
	}
	for _, item := range items {
		ref, ok := fhir.ParseRef(item.Reference)
		switch {
		case item.Reference == "" && item.Canonical == "" && len(item.Identifier) == 0:
			return invalid("fhirContext", "each object must have a reference, a canonical or an identifier")
		case item.Reference != "" && (!ok || ref.String() != item.Reference):
			return invalid("fhirContext.reference", "must be a relative reference such as ImagingStudy/1")
		case (ref.Type == "Patient" || ref.Type == "Encounter") && item.Role == "":
			return invalid("fhirContext.reference",
				"name a Patient or Encounter without a role in patient or encounter instead")
		case item.Canonical != "" && !strings.HasPrefix(item.Canonical, "http"):
			return invalid("fhirContext.canonical", "must be an http or https URL")
		}
	}
	return nil
}

// request is the body of a request to the API.
type request struct {
	ClientID    string          `json:"client_id"`
	Patient     string          `json:"patient"`
	Encounter   string          `json:"encounter"`
	FHIRContext json.RawMessage `json:"fhirContext"`
	Intent      string          `json:"intent"`
	Banner      *bool           `json:"need_patient_banner"`
	StyleURL    string          `json:"smart_style_url"`
	User        string          `json:"user"`
}

// ServeHTTP implements the API.
func (s *Service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	oauth.Headers(w.Header())
	if fail := s.serve(w, r); fail != nil {
		s.Logger.InfoContext(r.Context(), "launch refused", "error", fail.Code, "rule", fail.Description, "request_id",
			w.Header().Get("X-Request-Id"), "cause", fail.Cause)
		oauth.Refuse(w, fail)
	}
}

func (s *Service) serve(w http.ResponseWriter, r *http.Request) *oauth.Error {
	if r.Method != http.MethodPost {
		return &oauth.Error{Status: http.StatusMethodNotAllowed, Code: "invalid_request",
			Description: "the launch endpoint accepts POST only"}
	}
	p, err := s.Auth.Authenticate(r)
	if err != nil {
		if fhir.KindOf(err) == fhir.Unauthorized {
			return &oauth.Error{Status: http.StatusUnauthorized, Code: "invalid_token",
				Description: oauth.Text(err), Challenge: `Bearer error="invalid_token"`}
		}
		return oauth.Unavailable(err)
	}
	set, err := s.Scopes.Parse(p.Scope)
	if err != nil || !set.Has(scope.Launch) || p.Grant.Person {
		return &oauth.Error{Status: http.StatusForbidden, Code: "insufficient_scope",
			Description: "an access token of a backend with the scope launch is required",
			Challenge:   `Bearer error="insufficient_scope", scope="launch"`}
	}
	if mt, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || mt != "application/json" {
		return oauth.Bad("invalid_request", "Content-Type must be application/json")
	}
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		return oauth.Bad("invalid_request", "the body is larger than 64 KiB or incomplete")
	}
	var in request
	dec := json.NewDecoder(strings.NewReader(string(b)))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&in); err != nil || dec.More() {
		return oauth.Bad("invalid_request",
			"the body must be one JSON object with the members client_id, patient, encounter, fhirContext, intent, need_patient_banner, smart_style_url and user")
	}
	l := Launch{ClientID: in.ClientID, By: p.ClientID, User: in.User,
		Context: authz.Context{Patient: in.Patient, Encounter: in.Encounter,
			FHIRContext: in.FHIRContext, Intent: in.Intent, Banner: in.Banner, StyleURL: in.StyleURL}}
	handle, launchURL, err := s.Mint(r.Context(), l,
		audit.Event{Type: audit.Rest, Interaction: "operation", Caller: oauth.Caller(w, r).As(p),
			Query: "POST " + Path})
	switch {
	case err == nil:
	case fhir.KindOf(err) == fhir.Invalid:
		return oauth.Bad("invalid_request", oauth.Text(err))
	default:
		return oauth.Unavailable(err)
	}
	oauth.Write(w, http.StatusCreated, struct {
		Launch  string `json:"launch"`
		Iss     string `json:"iss"`
		URL     string `json:"launch_url,omitempty"`
		Expires int64  `json:"expires_in"`
	}{handle, s.Base, launchURL, int64(Life / time.Second)})
	return nil
}
