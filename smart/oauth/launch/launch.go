// Package launch lets an EHR launch an app: POST /oauth/launch.
//
// It owns: the launch handle, what it stands for, and the API by which a
// backend client with the scope launch mints one. It does not own: the
// authorization that the app then asks for (smart/oauth/authorize), which uses the
// handle up.
//
// # API
//
// Request: Authorization: Bearer <token of a backend with the scope launch>,
// application/json
//
//	{"client_id": "…",                   the app
//	 "patient": "…", "encounter": "…",   ids; each may be left out
//	 "fhirContext": [{"reference": "ImagingStudy/1"}, …],
//	 "intent": "reconcile-medications",
//	 "need_patient_banner": true,
//	 "smart_style_url": "https://…",
//	 "user": "Practitioner/1"}           who is at the EHR; nobody else may approve
//
// Answer: 201
//
//	{"launch": "…", "iss": "<FHIR base>", "launch_url": "<where to send the browser>", "expires_in": 300}
//
// # State
//
//	launch/<SHA-256 of the handle, base64url>   Context and client
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
	room = "launch/"
	// Life is how long a handle may be used.
	Life = 5 * time.Minute

	// Path of the endpoint below the base URL.
	Path = "/oauth/launch"

	maxBody    = 64 << 10
	maxContext = 32
)

// Launch is what a handle stands for.
type Launch struct {
	ClientID string        `json:"client"`
	By       string        `json:"by"` // client id of the EHR, or the operator
	Context  authz.Context `json:"context"`
	User     string        `json:"user,omitempty"` // "Practitioner/1"; "" anybody
	// Maker is the person who made the launch at the console: it is dead once
	// their account has changed. The zero value is an EHR or the operator.
	Maker   authz.Subject `json:"maker,omitzero"`
	Expires time.Time     `json:"expires"`
}

// Authenticator is the policy.Engine.
type Authenticator interface {
	Authenticate(*http.Request) (*access.Principal, error)
}

// Service mints and reads handles.
type Service struct {
	Store   store.State
	Audit   audit.Trail
	Clients *client.Registry
	Auth    Authenticator
	Scopes  scope.Parser
	Clock   func() time.Time
	// Roles has the meaning of policy.Engine.Roles, for the people who make
	// launches. If it is nil, nobody can make any.
	Roles  func(ctx context.Context, s authz.Subject) (roles []string, ok bool, err error)
	Base   string // FHIR base URL
	Logger *slog.Logger
}

func key(handle string) string {
	sum := sha256.Sum256([]byte(handle))
	return room + base64.RawURLEncoding.EncodeToString(sum[:])
}

// Mount puts the API at Path.
func (s *Service) Mount(m gin.IRouter) { m.Any(Path, gin.WrapH(s)) }

// Use returns what a handle stands for, when it is the client's and still
// good, and the write that uses it up. Everything else is NotFound.
func (s *Service) Use(ctx context.Context, handle, clientID string) (Launch, store.StateWrite, error) {
	absent := fhir.Errorf(fhir.NotFound, "launch.Use", "launch: not known, of another app, used or expired")
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

// Mint makes a handle for a launch and records it. It returns the handle and
// the app's launch URL with its parameters, "" when the app has none.
func (s *Service) Mint(ctx context.Context, l Launch, ev audit.Event) (handle, launchURL string, err error) {
	const op = "launch.Mint"
	if err := s.check(&l); err != nil {
		return "", "", err
	}
	c, err := s.Clients.Get(ctx, l.ClientID)
	if err != nil && fhir.KindOf(err) != fhir.NotFound {
		return "", "", err
	}
	if err != nil || c.Disabled || !c.May(client.Code) {
		return "", "", fhir.Errorf(fhir.Invalid, op, "client_id: no app that can be launched")
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

// check holds what the EHR says to the guide's shapes.
func (s *Service) check(l *Launch) error {
	bad := func(place, rule string) error { return fhir.Errorf(fhir.Invalid, "launch.Mint", "%s: %s", place, rule) }
	for place, id := range map[string]string{"patient": l.Context.Patient, "encounter": l.Context.Encounter} {
		if id != "" && !fhir.ValidID(id) {
			return bad(place, "a FHIR id")
		}
	}
	if l.User != "" {
		if ref, ok := fhir.ParseRef(l.User); !ok || ref.String() != l.User {
			return bad("user", "a relative reference such as Practitioner/1")
		}
	}
	if len(l.Context.Intent) > 256 {
		return bad("intent", "at most 256 bytes")
	}
	if u := l.Context.StyleURL; u != "" {
		own := strings.HasPrefix(u, strings.TrimSuffix(s.Base, "/fhir")+"/") // a demo serves its own over http
		if p, err := url.Parse(u); err != nil || p.Scheme != "https" && !own || p.Host == "" || len(u) > 2048 {
			return bad("smart_style_url", "an https URL")
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
		return bad("fhirContext", "an array of objects with a reference, a canonical or an identifier")
	}
	for _, x := range items {
		ref, ok := fhir.ParseRef(x.Reference)
		switch {
		case x.Reference == "" && x.Canonical == "" && len(x.Identifier) == 0:
			return bad("fhirContext", "each object has a reference, a canonical or an identifier")
		case x.Reference != "" && (!ok || ref.String() != x.Reference):
			return bad("fhirContext.reference", "a relative reference such as ImagingStudy/1")
		case (ref.Type == "Patient" || ref.Type == "Encounter") && x.Role == "":
			return bad("fhirContext.reference",
				"a Patient or Encounter belongs into patient and encounter, unless it has a role")
		case x.Canonical != "" && !strings.HasPrefix(x.Canonical, "http"):
			return bad("fhirContext.canonical", "an http URL")
		}
	}
	return nil
}

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

// ServeHTTP is the API.
func (s *Service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	oauth.Headers(w.Header())
	if f := s.serve(w, r); f != nil {
		s.Logger.InfoContext(r.Context(), "launch refused", "error", f.Code, "rule", f.Description, "request",
			w.Header().Get("X-Request-Id"), "cause", f.Cause)
		oauth.Refuse(w, f)
	}
}

func (s *Service) serve(w http.ResponseWriter, r *http.Request) *oauth.Error {
	if r.Method != http.MethodPost {
		return &oauth.Error{Status: http.StatusMethodNotAllowed, Code: "invalid_request",
			Description: "the launch endpoint takes POST"}
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
			Description: "a backend's token with the scope launch is needed",
			Challenge:   `Bearer error="insufficient_scope", scope="launch"`}
	}
	if mt, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || mt != "application/json" {
		return oauth.Bad("invalid_request", "Content-Type must be application/json")
	}
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		return oauth.Bad("invalid_request", "the body is larger than 64 KiB or broke off")
	}
	var in request
	dec := json.NewDecoder(strings.NewReader(string(b)))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&in); err != nil || dec.More() {
		return oauth.Bad("invalid_request", "the body is not a launch: see the members that the documentation names")
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
