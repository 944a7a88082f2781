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
	"pulsegate/fhir/limit"
	"pulsegate/fhir/store"
	"pulsegate/smart/authz"
	"pulsegate/smart/client"
	"pulsegate/smart/oauth/launch"
	"pulsegate/smart/people/authn"
	"pulsegate/smart/policy"
	"pulsegate/smart/scope"
)

const (
	keyPrefix = "authorize/"
	// Life is the time that a request waits for a person's decision.
	Life = 10 * time.Minute
	// Path of the endpoint below the base URL.
	Path = "/oauth/authorize"
)

// Launches is implemented by launch.Service.
type Launches interface {
	Use(ctx context.Context, handle, clientID string) (launch.Launch, store.StateWrite, error)
}

// Options of a Service. Logger, Page, ShowError, RoleRules, MaySelect, Now and
// Limits are optional.
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
	// Page is the URL of the page on which a person decides. If it is empty,
	// the page is /auth/consent.
	Page string
	// ShowError shows a person an error that cannot be returned to an app. If
	// it is nil, the error is shown as plain text.
	ShowError func(w http.ResponseWriter, r *http.Request, status int, text string)
	// RoleRules returns the rules of a set of roles. A scope for which the
	// person's roles allow no access is not granted.
	RoleRules func(roles []string) []access.Rule
	// MaySelect checks whether a person may put the patient, and the encounter
	// if there is one, into context. An error of kind NotFound or Forbidden
	// means that the person may not. If MaySelect is nil, only patients may,
	// and only themselves.
	MaySelect func(ctx context.Context, s Subject, patient, encounter string) error
	// Now returns the time for the expiry of codes (token.Endpoint.Now). If it
	// is nil, Clock is used.
	Now    func(context.Context) time.Time
	Limits limit.Limits
}

// Service implements the endpoint, and Flow for its page. It is safe for
// concurrent use.
type Service struct {
	opts   Options
	limits *limit.Limiter
}

var _ Flow = (*Service)(nil)

// New returns a Service with the defaults set.
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
		o.Limits.Remote = 50 // each request is a durable write by an unauthenticated caller
	}
	if o.Limits.Global == 0 {
		o.Limits.Global = 500
	}
	o.Limits.Name = "authorize"
	return &Service{opts: o, limits: limit.New(o.Limits)}, nil
}

// storedRequest is the stored state of a Pending.
type storedRequest struct {
	ClientID  string         `json:"client"`
	Redirect  string         `json:"redirect_uri"`
	State     string         `json:"state"`
	Scope     string         `json:"scope"`
	V1        bool           `json:"v1,omitempty"` // scopes requested in the v1 syntax
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
	"the authorization request does not exist in this browser, was answered, or has expired; start again in the app")

// load returns a stored request if it belongs to the browser in ctx.
func (s *Service) load(ctx context.Context, id string) (storedRequest, error) {
	var req storedRequest
	if len(id) != 22 || strings.ContainsAny(id, "/") {
		return req, errAbsent
	}
	b, err := s.opts.Store.Get(ctx, keyPrefix+id)
	if err != nil {
		return req, fhir.Wrap("authorize.load", err)
	}
	if b == nil {
		return req, errAbsent
	}
	if err := json.Unmarshal(b, &req); err != nil {
		return req, fhir.Wrap("authorize.load", err)
	}
	cookie := s.cookie(ctx)
	if cookie == "" || subtle.ConstantTimeCompare(browserHash(cookie), req.Browser) != 1 ||
		!s.opts.Clock().Before(req.Expires) {
		return req, errAbsent
	}
	req.raw = b
	return req, nil
}

// Pending implements Flow.
func (s *Service) Pending(ctx context.Context, id string) (*Pending, error) {
	req, err := s.load(ctx, id)
	if err != nil {
		return nil, err
	}
	return s.pending(ctx, id, &req)
}

func (s *Service) pending(ctx context.Context, id string, req *storedRequest) (*Pending, error) {
	c, err := s.opts.Clients.Get(ctx, req.ClientID)
	if err != nil && fhir.KindOf(err) != fhir.NotFound {
		return nil, err
	}
	// The client may have changed since the request was accepted. Ask only for
	// scopes that it is still registered for.
	if err != nil || c.Disabled || !c.May(client.Code) || !c.Redirects(req.Redirect) {
		return nil, errAbsent
	}
	set, err := s.opts.Scopes.Parse(req.Scope)
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
			TermsOfService: c.TOSURI, Redirect: req.Redirect},
		Scopes: set, Patient: req.Context.Patient, Encounter: req.Context.Encounter,
		NeedsPatient:   req.Context.Patient == "" && (set.Has(scope.LaunchPatient) || len(set.At(scope.Patient)) > 0),
		NeedsEncounter: req.Context.Encounter == "" && set.Has(scope.LaunchEncounter),
		User:           req.User, Prompt: req.Prompt, MaxAge: req.MaxAge, LoginHint: req.LoginHint,
		ACRValues: req.ACRValues,
		Offline:   set.Has(scope.Offline), Online: set.Has(scope.Online), StyleURL: req.Context.StyleURL,
		Intent: req.Context.Intent, Expires: req.Expires,
	}, nil
}

// Approve implements Flow.
func (s *Service) Approve(ctx context.Context, id string, d Decision) (string, error) {
	const op = "authorize.Approve"
	req, err := s.load(ctx, id)
	if err != nil {
		return "", err
	}
	p, err := s.pending(ctx, id, &req)
	if err != nil {
		return "", err
	}
	now := s.opts.Now(ctx)
	if err := mayApprove(p, d.Subject, now); err != nil {
		return "", err
	}
	granted, err := s.grantScopes(p, d)
	if err != nil {
		return "", err
	}
	launchCtx := req.Context
	if err := s.setContext(ctx, p, d, granted, &launchCtx); err != nil {
		return "", err
	}
	code, err := s.random(32)
	if err != nil {
		return "", err
	}
	seed, err := s.random(16)
	if err != nil {
		return "", err
	}
	if launchCtx.Encounter == "" { // the person chose no encounter
		granted = slices.DeleteFunc(granted, func(g scope.Scope) bool { return g.Name == scope.LaunchEncounter })
	}
	a := authz.Authorization{ID: authorizationID(seed), ClientID: req.ClientID, Subject: d.Subject,
		Scope: granted.String(), V1: req.V1, Context: launchCtx,
		Created: now, Expires: now.Add(authz.AbsoluteLife), Offline: granted.Has(scope.Offline)}
	cw, err := authz.NewCode(code, authz.Code{Authorization: a, App: p.Client.Name, RedirectURI: req.Redirect,
		Challenge: req.Challenge, Nonce: req.Nonce, JKT: req.JKT, Expires: now.Add(authz.CodeLife)})
	if err != nil {
		return "", err
	}
	b := &store.Batch{State: []store.StateWrite{cw, {Key: keyPrefix + id, Expect: store.StateEquals, Old: req.raw}}}
	if req.Handle != "" {
		_, use, err := s.opts.Launches.Use(ctx, req.Handle, req.ClientID)
		if err != nil {
			if fhir.KindOf(err) == fhir.NotFound {
				return "", errAbsent // the launch was used or has expired since
			}
			return "", err
		}
		b.State = append(b.State, use)
	}
	_, err = audit.Commit(ctx, s.opts.Store, s.opts.Audit, b, audit.Event{Type: audit.Rest, Interaction: "operation",
		Outcome: audit.Success, Query: "approve " + Path + "?" + url.Values{"scope": {a.Scope}}.Encode(),
		Caller: audit.Caller{Principal: &access.Principal{ClientID: req.ClientID, ClientName: p.Client.Name,
			Subject: d.Subject.ID, Issuer: s.opts.Issuer}}})
	if err != nil {
		if fhir.KindOf(err) == fhir.Conflict {
			return "", errAbsent // another request answered it concurrently
		}
		return "", fhir.Wrap(op, err)
	}
	return s.redirectURL(req.Redirect, url.Values{"code": {code}, "state": {req.State}}), nil
}

// authorizationID returns a FHIR ID of 26 lowercase letters and digits that is
// derived from a random string.
func authorizationID(random string) string {
	sum := sha256.Sum256([]byte(random))
	const digits = "abcdefghijklmnopqrstuvwxyz234567"
	out := make([]byte, 26)
	for i := range out {
		out[i] = digits[sum[i]&31]
	}
	return string(out)
}

// mayApprove checks whether the person may approve the request.
func mayApprove(p *Pending, s Subject, now time.Time) error {
	const op = "authorize.Approve"
	switch {
	case s.ID == "" || len(s.ID) > 255:
		return fhir.Errorf(fhir.Forbidden, op, "sign in to answer the app's request")
	case p.User != "" && p.User != s.FHIRUser.String():
		return fhir.Errorf(fhir.Forbidden, op,
			"this launch is for another person; sign in as that person or launch the app again")
	case p.MaxAge != nil && s.AuthTime.Add(*p.MaxAge).Before(now) && s.AuthTime.Before(p.Expires.Add(-Life)):
		return fhir.Errorf(fhir.Forbidden, op, "the app requires a more recent sign-in; sign in again")
	case !strongEnough(p.ACRValues, s.ACR):
		return fhir.Errorf(fhir.Forbidden, op,
			"the app requires a stronger sign-in; sign in again with a stronger factor")
	case slices.Contains(p.Prompt, "login") && s.AuthTime.Before(p.Expires.Add(-Life)):
		return fhir.Errorf(fhir.Forbidden, op, "the app requires a new sign-in; sign in again")
	}
	return nil
}

// strongEnough reports whether a sign-in with acr reaches one of the requested
// values. Unknown values are ignored, because acr_values is a voluntary claim
// (OpenID Connect Core 3.1.2.1).
func strongEnough(requested []string, acr string) bool {
	recognized := false
	for _, want := range requested {
		if want != authn.SingleFactor && authn.Rank(want) == 0 {
			continue
		}
		recognized = true
		if authn.Rank(acr) >= authn.Rank(want) {
			return true
		}
	}
	return !recognized
}

// grantScopes returns the approved scopes, narrowed to what the person's roles
// allow. The scopes must be covered by the request. The scopes of the launch
// context are kept, because they grant no access by themselves.
func (s *Service) grantScopes(p *Pending, d Decision) (scope.Set, error) {
	const op = "authorize.Approve"
	if len(d.Scopes) == 0 {
		return nil, fhir.Errorf(fhir.Invalid, op, "select at least one scope")
	}
	approved, err := s.opts.Scopes.Parse(strings.Join(d.Scopes, " "))
	if err != nil {
		return nil, err
	}
	if !p.Scopes.Covers(approved) {
		return nil, fhir.Errorf(fhir.Forbidden, op, "a selected scope exceeds the scopes that the app requested")
	}
	var rules []access.Rule
	if s.opts.RoleRules != nil {
		rules = s.opts.RoleRules(policy.EffectiveRoles(d.Subject.Roles, d.Subject.FHIRUser))
	}
	var out scope.Set
	for _, sc := range approved {
		if sc.Name == "" {
			if sc.May &= allowedInteractions(rules, sc.Type); sc.May == 0 {
				continue
			}
			// A v1 scope that the roles narrow may have no v1 syntax any more.
			sc.V1 = sc.V1 && (sc.May == access.Read|access.Search ||
				sc.May == access.Create|access.Update|access.Delete ||
				sc.May == access.Create|access.Update|access.Delete|access.Read|access.Search)
		}
		out = append(out, sc)
	}
	for _, name := range []string{scope.Launch, scope.LaunchPatient, scope.LaunchEncounter} {
		if p.Scopes.Has(name) && !out.Has(name) {
			out = append(out, scope.Scope{Name: name})
		}
	}
	if out.Has(scope.Offline) { // offline access includes online access
		out = slices.DeleteFunc(out, func(sc scope.Scope) bool { return sc.Name == scope.Online })
	}
	if !accessible(out) {
		return nil, fhir.Errorf(fhir.Invalid, op, "your roles allow none of the selected scopes; select others")
	}
	if len(out.String()) > scope.MaxLength {
		return nil, fhir.Errorf(fhir.Invalid, op, "the scopes are longer than %d bytes; select fewer", scope.MaxLength)
	}
	return out, nil
}

// accessible reports whether a set has a scope that grants access to resources
// or identifies the person.
func accessible(set scope.Set) bool {
	return slices.ContainsFunc(set, func(sc scope.Scope) bool { return sc.Name == "" || sc.Name == scope.OpenID })
}

// allowedInteractions returns the interactions with resources of a type that at
// least one rule allows.
func allowedInteractions(rules []access.Rule, typ string) (may access.Interaction) {
	for _, r := range rules {
		if typ == "*" || r.Type == "*" || r.Type == typ {
			may |= r.May
		}
	}
	return may
}

// setContext sets the patient and the encounter in the launch context.
func (s *Service) setContext(ctx context.Context, p *Pending, d Decision, granted scope.Set,
	launchCtx *authz.Context) error {
	const op = "authorize.Approve"
	own := ""
	if d.Subject.FHIRUser.Type == "Patient" {
		own = d.Subject.FHIRUser.ID
	}
	needsPatient := granted.Has(scope.LaunchPatient) || len(granted.At(scope.Patient)) > 0
	if launchCtx.Patient == "" && needsPatient {
		launchCtx.Patient = d.Patient
		if launchCtx.Patient == "" {
			launchCtx.Patient = own
		}
		if launchCtx.Patient == "" {
			return fhir.Errorf(fhir.Invalid, op, "choose a patient")
		}
	}
	if d.Patient != "" && launchCtx.Patient != d.Patient {
		return fhir.Errorf(fhir.Forbidden, op,
			"the launch is for another patient; launch the app again for this patient")
	}
	if launchCtx.Encounter == "" && granted.Has(scope.LaunchEncounter) {
		launchCtx.Encounter = d.Encounter
	}
	if launchCtx.Patient == "" && launchCtx.Encounter == "" {
		return nil
	}
	for _, id := range []string{launchCtx.Patient, launchCtx.Encounter} {
		if id != "" && !fhir.ValidID(id) {
			return fhir.Errorf(fhir.Invalid, op, "patient and encounter must be FHIR ids")
		}
	}
	if own != "" && launchCtx.Patient != own && s.opts.MaySelect == nil {
		return fhir.Errorf(fhir.Forbidden, op, "patients can give access to their own data only")
	}
	if launchCtx.Patient == own && launchCtx.Encounter == "" {
		return nil
	}
	if s.opts.MaySelect == nil {
		return fhir.Errorf(fhir.Forbidden, op, "you may not choose this patient")
	}
	err := s.opts.MaySelect(ctx, d.Subject, launchCtx.Patient, launchCtx.Encounter)
	if k := fhir.KindOf(err); err != nil && (k == fhir.NotFound || k == fhir.Forbidden || k == fhir.Gone) {
		return fhir.Errorf(fhir.Forbidden, op, "you may not choose this patient")
	}
	return err
}

// Deny implements Flow.
func (s *Service) Deny(ctx context.Context, id, reason string) (string, error) {
	const op = "authorize.Deny"
	req, err := s.load(ctx, id)
	if err != nil {
		return "", err
	}
	switch reason {
	case "":
		reason = "access_denied"
	case "access_denied", "login_required", "consent_required", "interaction_required",
		"unmet_authentication_requirements", "account_selection_required", "server_error", "temporarily_unavailable":
	default:
		return "", fhir.Errorf(fhir.Internal, op, "the reason is not an OAuth error code")
	}
	_, err = audit.Commit(ctx, s.opts.Store, s.opts.Audit,
		&store.Batch{State: []store.StateWrite{{Key: keyPrefix + id, Expect: store.StateEquals, Old: req.raw}}},
		audit.Event{Type: audit.Rest, Interaction: "operation", Outcome: audit.Serious, Reason: reason,
			Query: "deny " + Path, Caller: audit.Caller{Principal: &access.Principal{ClientID: req.ClientID}}})
	if err != nil {
		if fhir.KindOf(err) == fhir.Conflict {
			return "", errAbsent
		}
		return "", fhir.Wrap(op, err)
	}
	return s.redirectURL(req.Redirect, url.Values{"error": {reason}, "state": {req.State}}), nil
}

// redirectURL returns the redirect URI with the parameters of the response and
// the issuer (RFC 9207).
func (s *Service) redirectURL(redirect string, v url.Values) string {
	v.Set("iss", s.opts.Issuer)
	sep := "?"
	if strings.Contains(redirect, "?") {
		sep = "&"
	}
	return redirect + sep + v.Encode()
}
