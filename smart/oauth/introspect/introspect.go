// Package introspect implements token introspection, POST /oauth/introspect
// (RFC 7662), and token revocation, POST /oauth/revoke (RFC 7009).
//
// It owns these two endpoints. It does not own the validation of tokens
// (smart/policy, smart/authz) or the authentication of clients (smart/client).
//
// A client may introspect its own tokens, and the tokens of other clients if it
// is registered as a resource server. It authenticates as at the token endpoint
// or with one of its access tokens (RFC 7662 2.1). For all other tokens the
// response is {"active":false} and nothing more.
//
// A client may revoke its own tokens. Revoking an access token ends that token
// only; revoking a refresh token ends its authorization with all tokens. For an
// unknown token, or a token of another client, the response is 200 and nothing
// changes (RFC 7009 2.2).
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
	"pulsegate/fhir/limit"
	"pulsegate/fhir/store"
	"pulsegate/smart/authz"
	"pulsegate/smart/client"
	"pulsegate/smart/internal/oauth"
	"pulsegate/smart/oauth/token"
	"pulsegate/smart/policy"
)

// Paths of the endpoints below the base URL.
const (
	Path       = "/oauth/introspect"
	RevokePath = "/oauth/revoke"
)

// Options of a Handler. Logger and Limits are optional.
type Options struct {
	Policy         *policy.Engine
	Assertions     *client.Assertions
	Tokens         *token.Endpoint
	Authorizations *authz.Store
	Clients        *client.Registry
	Audit          audit.Trail
	Clock          func() time.Time
	Issuer         string
	Logger         *slog.Logger
	Limits         limit.Limits
}

// Handler implements both endpoints. It is safe for concurrent use.
type Handler struct {
	opts   Options
	limits *limit.Limiter
}

// New returns a Handler with the defaults set.
func New(o Options) *Handler {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Limits.Global == 0 {
		o.Limits.Global = 20000
	}
	if o.Limits.Remote == 0 {
		o.Limits.Remote = 20000 // a resource server introspects once per request that it serves
	}
	o.Limits.Name = "introspect"
	return &Handler{opts: o, limits: limit.New(o.Limits)}
}

// Mount registers the endpoints at their paths.
func (h *Handler) Mount(m gin.IRouter) {
	m.Any(Path, gin.WrapF(h.introspect))
	m.Any(RevokePath, gin.WrapF(h.serveRevocation))
}

// response is the response to an introspection request (RFC 7662 2.2; SMART App
// Launch 2.2, "Token Introspection").
type response struct {
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

// authenticate applies the limits, parses the form and authenticates the
// client. Both endpoints begin with it.
func (h *Handler) authenticate(w http.ResponseWriter, r *http.Request, name string) (client.Proof, url.Values,
	*oauth.Error) {
	remote, now := oauth.Remote(r), h.opts.Clock()
	if wait, ok := h.limits.Admit(remote, now); !ok {
		return client.Proof{}, nil, oauth.TooMany(wait)
	}
	v, fail := oauth.Form(r, w, name)
	if fail != nil {
		return client.Proof{}, nil, fail
	}
	failing := limit.Failing(remote, client.ClaimedBy(r, v))
	if wait, ok := h.limits.MayFail(failing, now); !ok {
		return client.Proof{}, nil, oauth.TooMany(wait)
	}
	p, err := h.client(r, v)
	if err != nil {
		h.limits.Failed(failing, now)
		return client.Proof{}, nil, oauth.Client(err)
	}
	if v.Get("token") == "" {
		return client.Proof{}, nil, oauth.Bad("invalid_request",
			"token is missing; send the token to examine or revoke")
	}
	return p, v, nil
}

// client authenticates the client of a request.
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
		"request_id", w.Header().Get("X-Request-Id"), "cause", f.Cause)
	if f.Status == http.StatusUnauthorized && f.Challenge == "" {
		f.Challenge = `Basic realm="token"` // a 401 response requires a challenge (RFC 9110 15.5.2)
	}
	oauth.Refuse(w, f)
}

// introspect implements the introspection endpoint.
func (h *Handler) introspect(w http.ResponseWriter, r *http.Request) {
	oauth.Headers(w.Header())
	p, v, fail := h.authenticate(w, r, "introspection")
	if fail == nil && p.Method == client.None {
		fail = &oauth.Error{Status: http.StatusUnauthorized, Code: "invalid_client",
			Description: "a public client cannot introspect tokens; authenticate as a confidential client"}
	}
	if fail != nil {
		h.refuse(w, r, fail)
		return
	}
	// Use up the assertion before anything is disclosed.
	if use := token.UseAssertion(&p); use != nil {
		if _, err := h.opts.Authorizations.State.Commit(r.Context(), &store.Batch{State: use}); err != nil {
			if fhir.KindOf(err) == fhir.Conflict {
				err = fhir.Errorf(fhir.Unauthorized, "introspect.Introspect", "client_assertion: jti was used before")
			}
			h.refuse(w, r, oauth.Client(err))
			return
		}
	}
	res, err := h.answer(r.Context(), &p.Client, v.Get("token"))
	if err != nil {
		h.refuse(w, r, oauth.Unavailable(err))
		return
	}
	oauth.Write(w, http.StatusOK, res)
}

// answer returns the response that a client gets for a token.
func (h *Handler) answer(ctx context.Context, c *client.Client, tok string) (response, error) {
	if p, ok := authz.ParseRefresh(tok); ok {
		return h.refreshToken(ctx, c, p)
	}
	p, claims, err := h.opts.Policy.Inspect(ctx, tok)
	if err != nil && fhir.KindOf(err) == fhir.Unauthorized {
		return response{}, nil
	}
	if err != nil {
		return response{}, err
	}
	if p.ClientID != c.ID && !c.Inspects {
		return response{}, nil
	}
	res := response{Active: true, Scope: p.Scope, ClientID: p.ClientID, Type: "Bearer", Exp: p.Expires.Unix(),
		Iss: p.Issuer, Sub: p.Subject,
		Aud: h.opts.Policy.Audience, JTI: p.TokenID, Patient: claims.Patient, Encounter: claims.Encounter,
		FHIRUser: claims.FHIRUser, ACR: p.ACR}
	if !claims.Issued.IsZero() {
		res.Iat = claims.Issued.Unix()
	}
	if !p.AuthTime.IsZero() {
		res.AuthTime = p.AuthTime.Unix()
	}
	if res.Confirm = confirm(claims); claims.JKT != "" {
		res.Type = "DPoP"
	}
	res.Intent = claims.Launch.Intent
	if len(claims.Launch.FHIRContext) > 0 {
		res.Context = claims.Launch.FHIRContext
	}
	return res, nil
}

// confirm returns the cnf claim, or nil if the token is not bound.
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

// refreshToken returns the response that a client gets for a refresh token.
func (h *Handler) refreshToken(ctx context.Context, c *client.Client, p authz.RefreshToken) (response, error) {
	rec, err := h.opts.Authorizations.Get(ctx, p.ID)
	if err != nil && fhir.KindOf(err) == fhir.NotFound {
		return response{}, nil
	}
	if err != nil {
		return response{}, err
	}
	if rec.ClientID != c.ID && !c.Inspects || rec.Status(p, h.opts.Tokens.Now(ctx), "") != authz.Current {
		return response{}, nil
	}
	// The token is active only if the token endpoint would accept it.
	owner, err := h.opts.Clients.Get(ctx, rec.ClientID)
	if err != nil && fhir.KindOf(err) != fhir.NotFound {
		return response{}, err
	}
	if err != nil || owner.Disabled {
		return response{}, nil
	}
	alive, err := h.opts.Tokens.Alive(ctx, &rec.Authorization)
	if err != nil || !alive {
		return response{}, err
	}
	end := rec.Idle
	if rec.Expires.Before(end) {
		end = rec.Expires
	}
	return response{Active: true, Scope: rec.Scope, ClientID: rec.ClientID, Exp: end.Unix(), Iss: h.opts.Issuer,
		Sub:     rec.Subject.ID,
		Patient: rec.Context.Patient, Encounter: rec.Context.Encounter}, nil
}

// serveRevocation implements the revocation endpoint.
func (h *Handler) serveRevocation(w http.ResponseWriter, r *http.Request) {
	oauth.Headers(w.Header())
	if oauth.CORS(w, r, http.MethodPost) {
		return
	}
	p, v, fail := h.authenticate(w, r, "revocation")
	if fail == nil {
		fail = h.revoke(r, w, &p, v.Get("token"))
	}
	if fail != nil {
		h.refuse(w, r, fail)
		return
	}
	w.WriteHeader(http.StatusOK)
}

// revoke ends a token of the client in one commit with the AuditEvent.
func (h *Handler) revoke(r *http.Request, w http.ResponseWriter, p *client.Proof, tok string) *oauth.Error {
	ctx := r.Context()
	b := store.Batch{State: token.UseAssertion(p)}
	authorizationID := ""
	if refresh, ok := authz.ParseRefresh(tok); ok {
		rec, err := h.opts.Authorizations.Get(ctx, refresh.ID)
		if err != nil && fhir.KindOf(err) != fhir.NotFound {
			return oauth.Unavailable(err)
		}
		// Any token that was issued for the authorization may end it, even if it
		// was replaced.
		if err == nil && rec.ClientID == p.Client.ID &&
			rec.Status(refresh, h.opts.Tokens.Now(ctx), "") != authz.Unknown {
			authorizationID = rec.ID
		}
	} else if owner, _, err := h.opts.Policy.Inspect(ctx, tok); err == nil && owner.ClientID == p.Client.ID &&
		owner.TokenID != "" {
		b.State = append(b.State, authz.RevokeToken(owner.TokenID, owner.Expires))
	} else if err != nil && fhir.KindOf(err) != fhir.Unauthorized {
		return oauth.Unavailable(err)
	}
	_, err := audit.Commit(ctx, h.opts.Authorizations.State, h.opts.Audit, &b, audit.Event{Type: audit.Rest,
		Interaction: "operation", Query: "POST " + RevokePath,
		Caller: oauth.Caller(w, r).As(&access.Principal{ClientID: p.Client.ID, ClientName: p.Client.Name})})
	if err != nil {
		if fhir.KindOf(err) == fhir.Conflict {
			return oauth.Client(fhir.Errorf(fhir.Unauthorized, "introspect.Revoke",
				"client_assertion: jti was used before"))
		}
		return oauth.Unavailable(err)
	}
	if authorizationID == "" {
		return nil
	}
	if err := h.opts.Tokens.End(ctx, authorizationID); err != nil {
		return oauth.Unavailable(err)
	}
	return nil
}
