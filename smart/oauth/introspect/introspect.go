// Package introspect tells whether a token is good, and ends tokens: POST
// /oauth/introspect (RFC 7662) and POST /oauth/revoke (RFC 7009).
//
// It owns: these two endpoints. It does not own: what makes a token good
// (smart/policy, smart/authz) or how a client shows who it is (smart/client).
//
// A client may introspect its own tokens, and those of others when it is
// registered as a resource server. Besides the ways of the token endpoint, it
// may authenticate with an access token of its own (RFC 7662 2.1). About
// everything else the answer is {"active":false} and nothing more.
//
// A client may revoke its own tokens: an access token for itself, a refresh
// token with all that came of it. What is not known, or not the client's, is
// answered with 200 and left as it is.
//
// Source: SMART App Launch 2.2, "Token Introspection".
package introspect

import (
	"context"
	"log/slog"
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
	"pulsegate/smart/internal/limit"
	"pulsegate/smart/internal/oauth"
	"pulsegate/smart/oauth/token"
	"pulsegate/smart/policy"
)

// Paths of the endpoints below the base URL.
const (
	Path       = "/oauth/introspect"
	RevokePath = "/oauth/revoke"
)

// Options of a Handler; all are needed but Logger and Limits.
type Options struct {
	Policy     *policy.Engine
	Assertions *client.Assertions
	Tokens     *token.Endpoint
	Grants     *authz.Store
	Clients    *client.Registry
	Audit      audit.Trail
	Clock      func() time.Time
	Issuer     string
	Logger     *slog.Logger
	Limits     limit.Limits
}

// Handler is both endpoints.
type Handler struct {
	opts   Options
	limits *limit.Limiter
}

// New returns the endpoints.
func New(o Options) *Handler {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Limits.Global == 0 {
		o.Limits.Global = 20000
	}
	if o.Limits.Remote == 0 {
		o.Limits.Remote = 20000 // a resource server asks at every request of its own
	}
	return &Handler{opts: o, limits: limit.New(o.Limits)}
}

// Mount puts the endpoints at their paths.
func (h *Handler) Mount(m gin.IRouter) {
	m.Any(Path, gin.WrapF(h.Introspect))
	m.Any(RevokePath, gin.WrapF(h.Revoke))
}

// Answer is what RFC 7662 2.2 and SMART tell of a token.
type Answer struct {
	Active    bool              `json:"active"`
	Scope     string            `json:"scope,omitempty"`
	ClientID  string            `json:"client_id,omitempty"`
	Type      string            `json:"token_type,omitempty"`
	Exp       int64             `json:"exp,omitempty"`
	Iat       int64             `json:"iat,omitempty"`
	Iss       string            `json:"iss,omitempty"`
	Sub       string            `json:"sub,omitempty"`
	Aud       string            `json:"aud,omitempty"`
	JTI       string            `json:"jti,omitempty"`
	Patient   string            `json:"patient,omitempty"`
	Encounter string            `json:"encounter,omitempty"`
	Intent    string            `json:"intent,omitempty"`
	Context   any               `json:"fhirContext,omitempty"`
	FHIRUser  string            `json:"fhirUser,omitempty"`
	ACR       string            `json:"acr,omitempty"`
	AuthTime  int64             `json:"auth_time,omitempty"`
	Confirm   map[string]string `json:"cnf,omitempty"`
}

// enter does what both endpoints begin with: limits, form, the client.
func (h *Handler) enter(w http.ResponseWriter, r *http.Request, name string) (client.Proof, url.Values, *oauth.Error) {
	remote, now := oauth.Remote(r), h.opts.Clock()
	if wait, ok := h.limits.Admit(remote, now); !ok {
		return client.Proof{}, nil, oauth.TooMany(wait)
	}
	v, fail := oauth.Form(r, w, name)
	if fail != nil {
		return client.Proof{}, nil, fail
	}
	k := limit.Failing(remote, client.ClaimedBy(r, v))
	if wait, ok := h.limits.MayFail(k, now); !ok {
		return client.Proof{}, nil, oauth.TooMany(wait)
	}
	p, err := h.client(r, v)
	if err != nil {
		h.limits.Failed(k, now)
		return client.Proof{}, nil, oauth.Client(err)
	}
	if v.Get("token") == "" {
		return client.Proof{}, nil, oauth.Bad("invalid_request", "token is missing")
	}
	return p, v, nil
}

// client is who asks.
func (h *Handler) client(r *http.Request, v url.Values) (client.Proof, error) {
	scheme, _, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") && !strings.EqualFold(scheme, "DPoP") {
		return h.opts.Assertions.Authenticate(r.Context(), r, v, h.opts.Tokens.Now(r.Context()))
	}
	p, err := h.opts.Policy.Authenticate(r)
	if err != nil {
		return client.Proof{}, err
	}
	c, err := h.opts.Clients.Get(r.Context(), p.ClientID)
	return client.Proof{Client: c, Method: client.PrivateKeyJWT}, err
}

func (h *Handler) refuse(w http.ResponseWriter, r *http.Request, f *oauth.Error) {
	h.opts.Logger.InfoContext(r.Context(), "introspection or revocation refused", "error", f.Code, "rule",
		f.Description,
		"request", w.Header().Get("X-Request-Id"), "cause", f.Cause)
	if f.Status == http.StatusUnauthorized && f.Challenge == "" {
		f.Challenge = `Basic realm="token"` // RFC 9110 15.5.2: a 401 has one
	}
	oauth.Refuse(w, f)
}

// Introspect is the introspection endpoint.
func (h *Handler) Introspect(w http.ResponseWriter, r *http.Request) {
	oauth.Headers(w.Header())
	p, v, fail := h.enter(w, r, "introspection")
	if fail == nil && p.Method == client.None {
		fail = &oauth.Error{Status: http.StatusUnauthorized, Code: "invalid_client",
			Description: "a public client cannot introspect"}
	}
	if fail != nil {
		h.refuse(w, r, fail)
		return
	}
	// The assertion is used up before anything is told.
	if use := token.UseAssertion(&p); use != nil {
		if _, err := h.opts.Grants.State.Commit(r.Context(), &store.Batch{State: use}); err != nil {
			if fhir.KindOf(err) == fhir.Conflict {
				err = fhir.Errorf(fhir.Unauthorized, "introspect.Introspect", "client_assertion: jti was used before")
			}
			h.refuse(w, r, oauth.Client(err))
			return
		}
	}
	a, err := h.answer(r.Context(), &p.Client, v.Get("token"))
	if err != nil {
		h.refuse(w, r, oauth.Unavailable(err))
		return
	}
	oauth.Write(w, http.StatusOK, a)
}

func (h *Handler) answer(ctx context.Context, c *client.Client, tok string) (Answer, error) {
	if p, ok := authz.ParseRefresh(tok); ok {
		return h.refreshToken(ctx, c, p)
	}
	p, claims, err := h.opts.Policy.Inspect(ctx, tok)
	if err != nil && fhir.KindOf(err) == fhir.Unauthorized {
		return Answer{}, nil
	}
	if err != nil {
		return Answer{}, err
	}
	if p.ClientID != c.ID && !c.Inspects {
		return Answer{}, nil
	}
	a := Answer{Active: true, Scope: p.Scope, ClientID: p.ClientID, Type: "Bearer", Exp: p.Expires.Unix(),
		Iss: p.Issuer, Sub: p.Subject,
		Aud: h.opts.Policy.Audience, JTI: p.TokenID, Patient: claims.Patient, Encounter: claims.Encounter,
		FHIRUser: claims.FHIRUser, ACR: p.ACR}
	if !claims.Issued.IsZero() {
		a.Iat = claims.Issued.Unix()
	}
	if !p.AuthTime.IsZero() {
		a.AuthTime = p.AuthTime.Unix()
	}
	if a.Confirm = confirm(claims); claims.JKT != "" {
		a.Type = "DPoP"
	}
	a.Intent = claims.Launch.Intent
	if len(claims.Launch.FHIRContext) > 0 {
		a.Context = claims.Launch.FHIRContext
	}
	return a, nil
}

func confirm(c policy.Claims) map[string]string {
	out := map[string]string{}
	if c.JKT != "" {
		out["jkt"] = c.JKT
	}
	if c.X5T != "" {
		out["x5t#S256"] = c.X5T
	}
	if len(out) == 0 {
		return nil
	}
	return out
}

func (h *Handler) refreshToken(ctx context.Context, c *client.Client, p authz.Presented) (Answer, error) {
	rec, err := h.opts.Grants.Get(ctx, p.ID)
	if err != nil && fhir.KindOf(err) == fhir.NotFound {
		return Answer{}, nil
	}
	if err != nil {
		return Answer{}, err
	}
	if rec.ClientID != c.ID && !c.Inspects || rec.Standing(p, h.opts.Tokens.Now(ctx), "") != authz.Good {
		return Answer{}, nil
	}
	// It is worth nothing when it would not be taken.
	owner, err := h.opts.Clients.Get(ctx, rec.ClientID)
	if err != nil && fhir.KindOf(err) != fhir.NotFound {
		return Answer{}, err
	}
	if err != nil || owner.Disabled {
		return Answer{}, nil
	}
	alive, err := h.opts.Tokens.Alive(ctx, &rec.Authorization)
	if err != nil || !alive {
		return Answer{}, err
	}
	end := rec.Idle
	if rec.Expires.Before(end) {
		end = rec.Expires
	}
	return Answer{Active: true, Scope: rec.Scope, ClientID: rec.ClientID, Exp: end.Unix(), Iss: h.opts.Issuer,
		Sub:     rec.Subject.ID,
		Patient: rec.Context.Patient, Encounter: rec.Context.Encounter}, nil
}

// Revoke is the revocation endpoint.
func (h *Handler) Revoke(w http.ResponseWriter, r *http.Request) {
	oauth.Headers(w.Header())
	if oauth.CORS(w, r, http.MethodPost) {
		return
	}
	p, v, fail := h.enter(w, r, "revocation")
	if fail == nil {
		fail = h.revoke(r, w, &p, v.Get("token"))
	}
	if fail != nil {
		h.refuse(w, r, fail)
		return
	}
	w.WriteHeader(http.StatusOK)
}

func (h *Handler) revoke(r *http.Request, w http.ResponseWriter, p *client.Proof, tok string) *oauth.Error {
	ctx := r.Context()
	b := store.Batch{State: token.UseAssertion(p)}
	end := ""
	if rt, ok := authz.ParseRefresh(tok); ok {
		rec, err := h.opts.Grants.Get(ctx, rt.ID)
		if err != nil && fhir.KindOf(err) != fhir.NotFound {
			return oauth.Unavailable(err)
		}
		// An old token of the family is as good a sign as the current one.
		if err == nil && rec.ClientID == p.Client.ID && rec.Standing(rt, h.opts.Tokens.Now(ctx), "") != authz.Foreign {
			end = rec.ID
		}
	} else if pr, _, err := h.opts.Policy.Inspect(ctx, tok); err == nil && pr.ClientID == p.Client.ID &&
		pr.TokenID != "" {
		b.State = append(b.State, authz.RevokeToken(pr.TokenID, pr.Expires))
	} else if err != nil && fhir.KindOf(err) != fhir.Unauthorized {
		return oauth.Unavailable(err)
	}
	_, err := audit.Commit(ctx, h.opts.Grants.State, h.opts.Audit, &b, audit.Event{Type: audit.Rest,
		Interaction: "operation", Query: "POST " + RevokePath,
		Caller: oauth.Caller(w, r).As(&access.Principal{ClientID: p.Client.ID, ClientName: p.Client.Name})})
	if err != nil {
		if fhir.KindOf(err) == fhir.Conflict {
			return oauth.Client(fhir.Errorf(fhir.Unauthorized, "introspect.Revoke",
				"client_assertion: jti was used before"))
		}
		return oauth.Unavailable(err)
	}
	if end == "" {
		return nil
	}
	if err := h.opts.Tokens.End(ctx, end); err != nil {
		return oauth.Unavailable(err)
	}
	return nil
}
