package authorize

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/store"
	"pulsegate/smart/authz"
	"pulsegate/smart/client"
	"pulsegate/smart/internal/limit"
	"pulsegate/smart/oauth/launch"
	"pulsegate/smart/people/authn"
	"pulsegate/smart/policy"
	"pulsegate/smart/scope"
)

const (
	room = "authorize/"
	// Life is how long a request waits for a person.
	Life = 10 * time.Minute
	// Path of the endpoint below the base URL.
	Path = "/oauth/authorize"
)

// Launches is the launch.Service.
type Launches interface {
	Use(ctx context.Context, handle, clientID string) (launch.Launch, store.StateWrite, error)
}

// Options of a Service. All but Page, MaySelect, Now and Limits are needed.
type Options struct {
	Store    store.State
	Audit    audit.Trail
	Clients  *client.Registry
	Launches Launches
	Scopes   scope.Parser
	Clock    func() time.Time
	Rand     io.Reader
	Issuer   string // the server's base URL
	Audience string // the FHIR base URL
	Logger   *slog.Logger
	// Page is where a person decides; empty: /auth/consent.
	Page string
	// Refused shows a person an error that no app can be told. Nil: as text.
	Refused func(w http.ResponseWriter, r *http.Request, status int, text string)
	// RoleRules is what roles allow. Scopes of which a person's roles allow
	// nothing are not granted.
	RoleRules func(roles []string) []access.Rule
	// MaySelect is asked whether a person may put the patient, and the
	// encounter when there is one, into context; an error of kind NotFound or
	// Forbidden means no. Nil: nobody but a patient for herself.
	MaySelect func(ctx context.Context, s Subject, patient, encounter string) error
	// Now is the time that codes are held against (token.Endpoint.Now); nil:
	// Clock.
	Now    func(context.Context) time.Time
	Limits limit.Limits
}

// Service is the endpoint, and the Flow for its page. It is safe for
// concurrent use.
type Service struct {
	opts   Options
	limits *limit.Limiter
}

var _ Flow = (*Service)(nil)

// New returns the endpoint.
func New(o Options) (*Service, error) {
	if o.Store == nil || o.Audit == nil || o.Clients == nil || o.Launches == nil || o.Clock == nil ||
		o.Rand == nil || o.Issuer == "" || o.Audience == "" {
		return nil, fhir.Errorf(fhir.Internal, "authorize.New", "an option is missing")
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Page == "" {
		o.Page = "/auth/consent"
	}
	if o.Now == nil {
		o.Now = func(context.Context) time.Time { return o.Clock() }
	}
	if o.Limits.Remote == 0 {
		o.Limits.Remote = 50 // each is a durable write by nobody in particular
	}
	if o.Limits.Global == 0 {
		o.Limits.Global = 500
	}
	return &Service{opts: o, limits: limit.New(o.Limits)}, nil
}

// waiting is a Pending as it is kept.
type waiting struct {
	ClientID  string         `json:"client"`
	Redirect  string         `json:"redirect_uri"`
	State     string         `json:"state"`
	Scope     string         `json:"scope"`
	V1        bool           `json:"v1,omitempty"` // asked in the v1 form
	Challenge string         `json:"challenge"`
	Nonce     string         `json:"nonce,omitempty"`
	JKT       string         `json:"jkt,omitempty"`
	Handle    string         `json:"launch,omitempty"`
	Context   authz.Context  `json:"context"`
	User      string         `json:"user,omitempty"`
	Prompt    []string       `json:"prompt,omitempty"`
	MaxAge    *time.Duration `json:"max_age,omitempty"`
	LoginHint string         `json:"login_hint,omitempty"`
	ACRValues []string       `json:"acr_values,omitempty"`
	Browser   []byte         `json:"browser"` // SHA-256 of the cookie
	Expires   time.Time      `json:"expires"`

	raw []byte
}

func browserHash(cookie string) []byte {
	sum := sha256.Sum256([]byte(cookie))
	return sum[:]
}

func (s *Service) random(n int) (string, error) {
	b := make([]byte, n)
	_, err := io.ReadFull(s.opts.Rand, b)
	return base64.RawURLEncoding.EncodeToString(b), fhir.Wrap("authorize.random", err)
}

var errAbsent = fhir.Errorf(fhir.NotFound, "authorize.Pending",
	"there is no such request; it was answered, or waited too long, or began in another browser")

// load reads a request for the browser in ctx.
func (s *Service) load(ctx context.Context, id string) (waiting, error) {
	var w waiting
	if len(id) != 22 || strings.ContainsAny(id, "/") {
		return w, errAbsent
	}
	b, err := s.opts.Store.Get(ctx, room+id)
	if err != nil {
		return w, fhir.Wrap("authorize.load", err)
	}
	if b == nil {
		return w, errAbsent
	}
	if err := json.Unmarshal(b, &w); err != nil {
		return w, fhir.Wrap("authorize.load", err)
	}
	cookie := s.cookie(ctx)
	if cookie == "" || subtle.ConstantTimeCompare(browserHash(cookie), w.Browser) != 1 ||
		!s.opts.Clock().Before(w.Expires) {
		return w, errAbsent
	}
	w.raw = b
	return w, nil
}

// Pending implements Flow.
func (s *Service) Pending(ctx context.Context, id string) (*Pending, error) {
	w, err := s.load(ctx, id)
	if err != nil {
		return nil, err
	}
	return s.pending(ctx, id, &w)
}

func (s *Service) pending(ctx context.Context, id string, w *waiting) (*Pending, error) {
	c, err := s.opts.Clients.Get(ctx, w.ClientID)
	if err != nil && fhir.KindOf(err) != fhir.NotFound {
		return nil, err
	}
	// The client may have been changed meanwhile; what it lost is not asked.
	if err != nil || c.Disabled || !c.May(client.Code) || !c.Redirects(w.Redirect) {
		return nil, errAbsent
	}
	set, err := s.opts.Scopes.Parse(w.Scope)
	if err != nil {
		return nil, fhir.Wrap("authorize.pending", err)
	}
	allowed, err := s.opts.Scopes.Parse(c.Scope)
	if err != nil {
		return nil, fhir.Wrap("authorize.pending", err)
	}
	set = scope.Narrow(set, allowed)
	return &Pending{
		ID: id,
		Client: Client{ID: c.ID, Name: c.Name, LogoURI: c.LogoURI, ClientURI: c.ClientURI, PolicyURI: c.PolicyURI,
			TermsOfService: c.TOSURI, Redirect: w.Redirect},
		Scopes: set, Patient: w.Context.Patient, Encounter: w.Context.Encounter,
		NeedsPatient:   w.Context.Patient == "" && (set.Has(scope.LaunchPatient) || len(set.At(scope.Patient)) > 0),
		NeedsEncounter: w.Context.Encounter == "" && set.Has(scope.LaunchEncounter),
		User:           w.User, Prompt: w.Prompt, MaxAge: w.MaxAge, LoginHint: w.LoginHint, ACRValues: w.ACRValues,
		Offline: set.Has(scope.Offline), Online: set.Has(scope.Online), StyleURL: w.Context.StyleURL,
		Intent: w.Context.Intent, Expires: w.Expires,
	}, nil
}

// Approve implements Flow.
func (s *Service) Approve(ctx context.Context, id string, d Decision) (string, error) {
	const op = "authorize.Approve"
	w, err := s.load(ctx, id)
	if err != nil {
		return "", err
	}
	p, err := s.pending(ctx, id, &w)
	if err != nil {
		return "", err
	}
	now := s.opts.Now(ctx)
	if err := mayApprove(p, d.Subject, now); err != nil {
		return "", err
	}
	granted, err := s.granted(p, d)
	if err != nil {
		return "", err
	}
	x := w.Context
	if err := s.choose(ctx, p, d, granted, &x); err != nil {
		return "", err
	}
	code, err := s.random(32)
	if err != nil {
		return "", err
	}
	aid, err := s.random(16)
	if err != nil {
		return "", err
	}
	if x.Encounter == "" { // none was chosen, so none is promised
		granted = slices.DeleteFunc(granted, func(g scope.Scope) bool { return g.Name == scope.LaunchEncounter })
	}
	a := authz.Authorization{ID: authorizationID(aid), ClientID: w.ClientID, Subject: d.Subject,
		Scope: granted.String(), V1: w.V1, Context: x,
		Created: now, Expires: now.Add(authz.Absolute), Offline: granted.Has(scope.Offline)}
	cw, err := authz.NewCode(code, authz.Code{Authorization: a, App: p.Client.Name, RedirectURI: w.Redirect,
		Challenge: w.Challenge, Nonce: w.Nonce, JKT: w.JKT, Expires: now.Add(authz.CodeLife)})
	if err != nil {
		return "", err
	}
	b := &store.Batch{State: []store.StateWrite{cw, {Key: room + id, Expect: store.StateEquals, Old: w.raw}}}
	if w.Handle != "" {
		_, use, err := s.opts.Launches.Use(ctx, w.Handle, w.ClientID)
		if err != nil {
			if fhir.KindOf(err) == fhir.NotFound {
				return "", errAbsent // the launch was used or has expired meanwhile
			}
			return "", err
		}
		b.State = append(b.State, use)
	}
	_, err = audit.Commit(ctx, s.opts.Store, s.opts.Audit, b, audit.Event{Type: audit.Rest, Interaction: "operation",
		Outcome: audit.Success, Query: "approve " + Path + "?" + url.Values{"scope": {a.Scope}}.Encode(),
		Caller: audit.Caller{Principal: &access.Principal{ClientID: w.ClientID, ClientName: p.Client.Name,
			Subject: d.Subject.ID, Issuer: s.opts.Issuer}}})
	if err != nil {
		if fhir.KindOf(err) == fhir.Conflict {
			return "", errAbsent // answered at the same time
		}
		return "", fhir.Wrap(op, err)
	}
	return s.back(w.Redirect, url.Values{"code": {code}, "state": {w.State}}), nil
}

// authorizationID makes 26 letters and digits, all that a FHIR id may hold, of
// 22 of base64url.
func authorizationID(random string) string {
	sum := sha256.Sum256([]byte(random))
	const digits = "abcdefghijklmnopqrstuvwxyz234567"
	out := make([]byte, 26)
	for i := range out {
		out[i] = digits[sum[i]&31]
	}
	return string(out)
}

// mayApprove checks who answers.
func mayApprove(p *Pending, s Subject, now time.Time) error {
	const op = "authorize.Approve"
	switch {
	case s.ID == "" || len(s.ID) > 255:
		return fhir.Errorf(fhir.Forbidden, op, "nobody is signed in")
	case p.User != "" && p.User != s.FHIRUser.String():
		return fhir.Errorf(fhir.Forbidden, op, "the launch is for another person")
	case p.MaxAge != nil && s.AuthTime.Add(*p.MaxAge).Before(now) && s.AuthTime.Before(p.Expires.Add(-Life)):
		return fhir.Errorf(fhir.Forbidden, op, "the app asks for a sign-in that is more recent")
	case !strongEnough(p.ACRValues, s.ACR):
		return fhir.Errorf(fhir.Forbidden, op, "the app asks for a sign-in that is stronger")
	case slices.Contains(p.Prompt, "login") && s.AuthTime.Before(p.Expires.Add(-Life)):
		return fhir.Errorf(fhir.Forbidden, op, "the app asks for a new sign-in")
	}
	return nil
}

// strongEnough holds a sign-in to the weakest of the asked strengths that are
// known here. Others are no more than a wish (OpenID Connect Core 3.1.2.1).
func strongEnough(asked []string, acr string) bool {
	known := false
	for _, want := range asked {
		if want != authn.SingleFactor && authn.Rank(want) == 0 {
			continue
		}
		known = true
		if authn.Rank(acr) >= authn.Rank(want) {
			return true
		}
	}
	return !known
}

// granted is what was left ticked, held to what was asked and to the person's
// roles. The scopes that only carry the launch are kept as they are: they
// open nothing by themselves.
func (s *Service) granted(p *Pending, d Decision) (scope.Set, error) {
	const op = "authorize.Approve"
	if len(d.Scopes) == 0 {
		return nil, fhir.Errorf(fhir.Invalid, op, "no scope was left")
	}
	ticked, err := s.opts.Scopes.Parse(strings.Join(d.Scopes, " "))
	if err != nil {
		return nil, err
	}
	if !p.Scopes.Covers(ticked) {
		return nil, fhir.Errorf(fhir.Forbidden, op, "a scope goes beyond what was asked for")
	}
	var rules []access.Rule
	if s.opts.RoleRules != nil {
		rules = s.opts.RoleRules(policy.Counting(d.Subject.Roles, d.Subject.FHIRUser))
	}
	var out scope.Set
	for _, x := range ticked {
		if x.Name == "" {
			if x.May &= allowed(rules, x.Type); x.May == 0 {
				continue
			}
			// A v1 word that a role has cut is written as what is left.
			x.V1 = x.V1 && (x.May == access.Read|access.Search ||
				x.May == access.Create|access.Update|access.Delete ||
				x.May == access.Create|access.Update|access.Delete|access.Read|access.Search)
		}
		out = append(out, x)
	}
	for _, name := range []string{scope.Launch, scope.LaunchPatient, scope.LaunchEncounter} {
		if p.Scopes.Has(name) && !out.Has(name) {
			out = append(out, scope.Scope{Name: name})
		}
	}
	if out.Has(scope.Offline) { // one or the other
		out = slices.DeleteFunc(out, func(x scope.Scope) bool { return x.Name == scope.Online })
	}
	if !slices.ContainsFunc(out, func(x scope.Scope) bool { return x.Name == "" || x.Name == scope.OpenID }) {
		return nil, fhir.Errorf(fhir.Invalid, op, "no scope was left that the person's roles allow")
	}
	if len(out.String()) > scope.MaxLength {
		return nil, fhir.Errorf(fhir.Invalid, op, "the scopes are longer than %d bytes", scope.MaxLength)
	}
	return out, nil
}

// allowed is what any of the rules lets be done with resources of a type.
func allowed(rules []access.Rule, typ string) (may access.Interaction) {
	for _, r := range rules {
		if typ == "*" || r.Type == "*" || r.Type == typ {
			may |= r.May
		}
	}
	return may
}

// choose puts patient and encounter into context.
func (s *Service) choose(ctx context.Context, p *Pending, d Decision, granted scope.Set, x *authz.Context) error {
	const op = "authorize.Approve"
	own := ""
	if d.Subject.FHIRUser.Type == "Patient" {
		own = d.Subject.FHIRUser.ID
	}
	needs := granted.Has(scope.LaunchPatient) || len(granted.At(scope.Patient)) > 0
	if x.Patient == "" && needs {
		x.Patient = d.Patient
		if x.Patient == "" {
			x.Patient = own
		}
		if x.Patient == "" {
			return fhir.Errorf(fhir.Invalid, op, "a patient has to be chosen")
		}
	}
	if d.Patient != "" && x.Patient != d.Patient {
		return fhir.Errorf(fhir.Forbidden, op, "the launch is about another patient")
	}
	if x.Encounter == "" && granted.Has(scope.LaunchEncounter) {
		x.Encounter = d.Encounter
	}
	if x.Patient == "" && x.Encounter == "" {
		return nil
	}
	for _, id := range []string{x.Patient, x.Encounter} {
		if id != "" && !fhir.ValidID(id) {
			return fhir.Errorf(fhir.Invalid, op, "patient and encounter are FHIR ids")
		}
	}
	if own != "" && x.Patient != own && s.opts.MaySelect == nil {
		return fhir.Errorf(fhir.Forbidden, op, "a patient chooses herself only")
	}
	if x.Patient == own && x.Encounter == "" {
		return nil
	}
	if s.opts.MaySelect == nil {
		return fhir.Errorf(fhir.Forbidden, op, "the person may not choose this patient")
	}
	err := s.opts.MaySelect(ctx, d.Subject, x.Patient, x.Encounter)
	if k := fhir.KindOf(err); err != nil && (k == fhir.NotFound || k == fhir.Forbidden || k == fhir.Gone) {
		return fhir.Errorf(fhir.Forbidden, op, "the person may not choose this patient")
	}
	return err
}

// Deny implements Flow.
func (s *Service) Deny(ctx context.Context, id, reason string) (string, error) {
	const op = "authorize.Deny"
	w, err := s.load(ctx, id)
	if err != nil {
		return "", err
	}
	switch reason {
	case "":
		reason = "access_denied"
	case "access_denied", "login_required", "consent_required", "interaction_required",
		"unmet_authentication_requirements", "account_selection_required", "server_error", "temporarily_unavailable":
	default:
		return "", fhir.Errorf(fhir.Internal, op, "no reason that an app understands")
	}
	_, err = audit.Commit(ctx, s.opts.Store, s.opts.Audit,
		&store.Batch{State: []store.StateWrite{{Key: room + id, Expect: store.StateEquals, Old: w.raw}}},
		audit.Event{Type: audit.Rest, Interaction: "operation", Outcome: audit.Serious, Reason: reason,
			Query: "deny " + Path, Caller: audit.Caller{Principal: &access.Principal{ClientID: w.ClientID}}})
	if err != nil {
		if fhir.KindOf(err) == fhir.Conflict {
			return "", errAbsent
		}
		return "", fhir.Wrap(op, err)
	}
	return s.back(w.Redirect, url.Values{"error": {reason}, "state": {w.State}}), nil
}

// back is the redirect URI with what it is to carry, and who says so.
func (s *Service) back(redirect string, v url.Values) string {
	v.Set("iss", s.opts.Issuer)
	sep := "?"
	if strings.Contains(redirect, "?") {
		sep = "&"
	}
	return redirect + sep + v.Encode()
}
