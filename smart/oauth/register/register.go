// Package register is dynamic client registration: POST /oauth/register (RFC
// 7591) and GET, PUT, DELETE /oauth/register/<client_id> (RFC 7592).
//
// It owns: these endpoints, and the initial access tokens without which
// nobody registers. It does not own: what a registration must be
// (smart/client).
//
// An initial access token is made by an operator (PrepareToken). It is good for a
// number of registrations until it expires, and bounds the scopes that these
// may have. A client that has registered manages itself with the registration
// access token of the answer.
//
// # State
//
//	register/<SHA-256 of the initial access token, base64url>   Ticket
package register

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"strings"
	"time"

	"github.com/gin-gonic/gin"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/store"
	"pulsegate/smart/client"
	"pulsegate/smart/internal/limit"
	"pulsegate/smart/internal/oauth"
	"pulsegate/smart/scope"
)

const (
	room = "register/"
	// Path of the endpoint below the base URL.
	Path    = "/oauth/register"
	maxBody = 128 << 10
)

// Ticket is what an initial access token is good for.
type Ticket struct {
	Scope   string    `json:"scope"` // a registration may have no more
	Uses    int       `json:"uses"`  // left
	By      string    `json:"by"`    // who made it
	Expires time.Time `json:"expires"`
}

// Handler is the endpoint. All fields are needed but Logger and Limits.
type Handler struct {
	Store    store.State
	Audit    audit.Trail
	Registry *client.Registry
	Scopes   scope.Parser
	Clock    func() time.Time
	Rand     io.Reader
	Issuer   string // the server's base URL
	Logger   *slog.Logger
	Limits   *limit.Limiter
}

// NewLimits are the limits of the endpoint: registration is rare.
func NewLimits() *limit.Limiter { return limit.New(limit.Limits{Global: 50, Remote: 10}) }

// Mount puts the endpoint at Path.
func (h *Handler) Mount(m gin.IRouter) {
	m.Any(Path, gin.WrapF(func(w http.ResponseWriter, r *http.Request) { h.serve(w, r, "") }))
	m.Any(Path+"/:client", func(c *gin.Context) { h.serve(c.Writer, c.Request, c.Param("client")) })
}

func ticketKey(token string) string {
	sum := sha256.Sum256([]byte(token))
	return room + base64.RawURLEncoding.EncodeToString(sum[:])
}

func (h *Handler) secret() (string, error) {
	var b [32]byte
	if _, err := io.ReadFull(h.Rand, b[:]); err != nil {
		return "", fhir.Wrap("register.secret", err)
	}
	return client.NewSecret(b), nil
}

// PrepareToken makes an initial access token, which is shown once, and the write
// that makes it good, to be committed together with its AuditEvent.
func (h *Handler) PrepareToken(t Ticket) (string, store.StateWrite, error) {
	const op = "register.PrepareToken"
	none := store.StateWrite{}
	set, err := h.Scopes.Parse(t.Scope)
	if err != nil {
		return "", none, err
	}
	if t.Uses < 1 || t.Uses > 1000 || !t.Expires.After(h.Clock()) {
		return "", none, fhir.Errorf(fhir.Invalid, op, "1 to 1000 registrations, and an end in the future")
	}
	t.Scope = set.String()
	tok, err := h.secret()
	if err != nil {
		return "", none, err
	}
	b, err := json.Marshal(t)
	if err != nil {
		return "", none, fhir.Wrap(op, err)
	}
	return tok, store.StateWrite{Key: ticketKey(tok), Value: b, Expect: store.StateAbsent, Expires: t.Expires}, nil
}

// Metadata is a client as RFC 7591 2 writes it, with SMART's launch URL.
type Metadata struct {
	ClientID      string   `json:"client_id,omitempty"`
	Secret        string   `json:"client_secret,omitempty"`
	SecretExpires *int64   `json:"client_secret_expires_at,omitempty"`
	Issued        int64    `json:"client_id_issued_at,omitempty"`
	Token         string   `json:"registration_access_token,omitempty"`
	URI           string   `json:"registration_client_uri,omitempty"`
	Name          string   `json:"client_name,omitempty"`
	RedirectURIs  []string `json:"redirect_uris,omitempty"`
	Method        string   `json:"token_endpoint_auth_method,omitempty"`
	Grants        []string `json:"grant_types,omitempty"`
	Responses     []string `json:"response_types,omitempty"`
	Scope         string   `json:"scope,omitempty"`
	// LeftOut are the scopes that were asked for and not registered as asked.
	LeftOut   string          `json:"scope_not_registered,omitempty"`
	ClientURI string          `json:"client_uri,omitempty"`
	LogoURI   string          `json:"logo_uri,omitempty"`
	TOSURI    string          `json:"tos_uri,omitempty"`
	PolicyURI string          `json:"policy_uri,omitempty"`
	JWKS      json.RawMessage `json:"jwks,omitempty"`
	JWKSURI   string          `json:"jwks_uri,omitempty"`
	LaunchURL string          `json:"initiate_login_uri,omitempty"`
	DPoPBound bool            `json:"dpop_bound_access_tokens,omitempty"`
	CertBound bool            `json:"tls_client_certificate_bound_access_tokens,omitempty"`
}

func badMetadata(rule string) *oauth.Error { return oauth.Bad("invalid_client_metadata", rule) }

// into writes the metadata over c. What it does not name takes its default:
// an update replaces (RFC 7592 2.2).
func (m *Metadata) into(c *client.Client) *oauth.Error {
	method := client.Method(m.Method)
	if method == "" {
		method = client.SecretBasic // RFC 7591 2
	}
	if len(m.Responses) > 0 && (len(m.Responses) > 1 || m.Responses[0] != "code") {
		return badMetadata("response_types: code only")
	}
	c.GrantTypes = nil
	for _, g := range m.Grants {
		c.GrantTypes = append(c.GrantTypes, client.GrantType(g))
	}
	c.Name, c.RedirectURIs, c.Method, c.Scope, c.ClientURI, c.LogoURI = m.Name, m.RedirectURIs, method, m.Scope,
		m.ClientURI, m.LogoURI
	c.TOSURI, c.PolicyURI, c.JWKS, c.JWKSURL, c.LaunchURL = m.TOSURI, m.PolicyURI, m.JWKS, m.JWKSURI, m.LaunchURL
	c.DPoPBound, c.CertBound = m.DPoPBound, m.CertBound
	if string(c.JWKS) == "null" {
		c.JWKS = nil
	}
	return nil
}

func (h *Handler) metadata(c client.Client) Metadata {
	m := Metadata{ClientID: c.ID, Issued: c.Created.Unix(), URI: h.Issuer + Path + "/" + c.ID, Name: c.Name,
		RedirectURIs: c.RedirectURIs,
		Method:       string(c.Auth()), Scope: c.Scope, ClientURI: c.ClientURI, LogoURI: c.LogoURI, TOSURI: c.TOSURI,
		PolicyURI: c.PolicyURI,
		JWKS:      c.JWKS, JWKSURI: c.JWKSURL, LaunchURL: c.LaunchURL, DPoPBound: c.DPoPBound, CertBound: c.CertBound}
	for _, g := range []client.GrantType{client.Code, client.Refresh, client.Credentials} {
		if c.May(g) {
			m.Grants = append(m.Grants, string(g))
		}
	}
	if c.May(client.Code) {
		m.Responses = []string{"code"}
	}
	if c.Symmetric() {
		m.SecretExpires = new(int64) // never
	}
	return m
}

func (h *Handler) serve(w http.ResponseWriter, r *http.Request, id string) {
	oauth.Headers(w.Header())
	now := h.Clock()
	remote := oauth.Remote(r)
	var status int
	var out any
	var f *oauth.Error
	if wait, ok := h.Limits.Admit(remote, now); !ok {
		f = oauth.TooMany(wait)
	} else if wait, ok := h.Limits.MayFail(limit.Failing(remote, ""), now); !ok {
		f = oauth.TooMany(wait)
	} else if status, out, f = h.dispatch(w, r, id); f != nil && f.Status < 500 {
		h.Limits.Failed(limit.Failing(remote, ""), now)
	}
	switch {
	case f != nil:
		h.Logger.InfoContext(r.Context(), "registration refused", "error", f.Code, "rule", f.Description, "request",
			w.Header().Get("X-Request-Id"), "cause", f.Cause)
		if f.Status == http.StatusMethodNotAllowed && id != "" {
			w.Header().Set("Allow", "GET, PUT, DELETE")
		}
		oauth.Refuse(w, f)
	case out == nil:
		w.WriteHeader(status)
	default:
		oauth.Write(w, status, out)
	}
}

func bearer(r *http.Request) string {
	scheme, tok, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") || len(tok) > 256 {
		return ""
	}
	return tok
}

var errToken = &oauth.Error{Status: http.StatusUnauthorized, Code: "invalid_token",
	Description: "the token is not known, or is used up",
	Challenge:   `Bearer error="invalid_token"`} // read only

func (h *Handler) dispatch(w http.ResponseWriter, r *http.Request, id string) (int, any, *oauth.Error) {
	if id == "" {
		if r.Method != http.MethodPost {
			return 0, nil, &oauth.Error{Status: http.StatusMethodNotAllowed, Code: "invalid_request",
				Description: "registration takes POST"}
		}
		return h.create(w, r)
	}
	c, err := h.Registry.Get(r.Context(), id)
	if err != nil && fhir.KindOf(err) != fhir.NotFound {
		return 0, nil, oauth.Unavailable(err)
	}
	// In constant time, and alike for a client that is not there.
	if subtle.ConstantTimeCompare(client.Hash(bearer(r)), c.RegistrationHash) != 1 || err != nil || c.Disabled {
		return 0, nil, errToken
	}
	switch r.Method {
	case http.MethodGet:
		return http.StatusOK, h.managed(r, c), nil
	case http.MethodPut:
		return h.update(w, r, c)
	case http.MethodDelete:
		cw, err := h.Registry.PrepareDisable(r.Context(), c.ID)
		if err == nil {
			err = h.commit(r, w, c, cw)
		}
		if err != nil {
			return 0, nil, oauth.Unavailable(err)
		}
		return http.StatusNoContent, nil, nil
	}
	return 0, nil, &oauth.Error{Status: http.StatusMethodNotAllowed, Code: "invalid_request",
		Description: "GET, PUT or DELETE"}
}

func (h *Handler) event(r *http.Request, w http.ResponseWriter, c client.Client, method string) audit.Event {
	return audit.Event{Type: audit.Rest, Interaction: "operation", Query: method + " " + Path,
		Caller: oauth.Caller(w, r).As(&access.Principal{ClientID: c.ID, ClientName: c.Name})}
}

// commit makes a change durable together with its event.
func (h *Handler) commit(r *http.Request, w http.ResponseWriter, c client.Client, also ...store.StateWrite) error {
	_, err := audit.Commit(r.Context(), h.Store, h.Audit, &store.Batch{State: also}, h.event(r, w, c, r.Method))
	return err
}

// managed is the client for who manages it: with the registration access token
// that was shown, for only its hash is kept (RFC 7592 3).
func (h *Handler) managed(r *http.Request, c client.Client) Metadata {
	m := h.metadata(c)
	m.Token = bearer(r)
	return m
}

func read(w http.ResponseWriter, r *http.Request) (Metadata, *oauth.Error) {
	var m Metadata
	if mt, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || mt != "application/json" {
		return m, badMetadata("Content-Type must be application/json")
	}
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		return m, badMetadata("the body is larger than 128 KiB or broke off")
	}
	if err := json.Unmarshal(b, &m); err != nil {
		return m, badMetadata("the body is not client metadata")
	}
	return m, nil
}

// narrow returns the part of asked that this server offers and bound allows,
// and the scopes that were left out in whole or in part. An app asks for what
// it can use anywhere and learns from the answer what it has here, as at the
// authorization endpoint (RFC 7591, section 2: the server may replace the
// client's metadata and returns what it registered).
func (h *Handler) narrow(asked, bound string) (registered string, leftOut []string, f *oauth.Error) {
	have, err := h.Scopes.Parse(bound)
	if err != nil {
		return "", nil, oauth.Unavailable(err)
	}
	want, err := h.Scopes.Offered(asked)
	if err != nil {
		return "", nil, badMetadata(oauth.Text(err))
	}
	got := scope.Narrow(want, have)
	if len(got) == 0 {
		return "", nil, badMetadata("scope: this server offers none of the scopes to the registration")
	}
	for _, word := range strings.Fields(asked) {
		if one, err := h.Scopes.Parse(word); err != nil || !got.Covers(one) {
			leftOut = append(leftOut, word)
		}
	}
	return got.String(), leftOut, nil
}

func metadataError(err error) *oauth.Error {
	if fhir.KindOf(err) != fhir.Invalid {
		return oauth.Unavailable(err)
	}
	if text := oauth.Text(err); strings.HasPrefix(text, "redirect_uris") {
		return oauth.Bad("invalid_redirect_uri", text)
	}
	return badMetadata(oauth.Text(err))
}

func (h *Handler) create(w http.ResponseWriter, r *http.Request) (int, any, *oauth.Error) {
	ctx := r.Context()
	tok := bearer(r)
	raw, err := h.Store.Get(ctx, ticketKey(tok))
	if err != nil {
		return 0, nil, oauth.Unavailable(err)
	}
	var t Ticket
	if tok == "" || raw == nil || json.Unmarshal(raw, &t) != nil || t.Uses < 1 || !h.Clock().Before(t.Expires) {
		return 0, nil, errToken
	}
	m, f := read(w, r)
	if f != nil {
		return 0, nil, f
	}
	if m.Scope == "" {
		m.Scope = t.Scope
	}
	var leftOut []string
	if m.Scope, leftOut, f = h.narrow(m.Scope, t.Scope); f != nil {
		return 0, nil, f
	}
	var c client.Client
	if f := m.into(&c); f != nil {
		return 0, nil, f
	}
	secret, manage, f := h.secrets(&c)
	if f != nil {
		return 0, nil, f
	}
	c, cw, err := h.Registry.Prepare(c)
	if err != nil {
		return 0, nil, metadataError(err)
	}
	t.Uses--
	left, err := json.Marshal(t)
	if err != nil {
		return 0, nil, oauth.Unavailable(err)
	}
	// The client and the use of the token are one commit: a token for one
	// registration makes one.
	if err := h.commit(r, w, c, cw, store.StateWrite{Key: ticketKey(tok), Value: left, Expect: store.StateEquals,
		Old: raw, Expires: t.Expires}); err != nil {
		return 0, nil, oauth.Unavailable(err)
	}
	out := h.metadata(c)
	out.Secret, out.Token, out.LeftOut = secret, manage, strings.Join(leftOut, " ")
	return http.StatusCreated, out, nil
}

// secrets makes what a new client needs, and puts the hashes into c.
func (h *Handler) secrets(c *client.Client) (secret, manage string, f *oauth.Error) {
	var err, serr error
	manage, err = h.secret()
	c.RegistrationHash = client.Hash(manage)
	if c.Symmetric() {
		secret, serr = h.secret()
		c.SecretHash = client.Hash(secret)
	}
	if err = errors.Join(err, serr); err != nil {
		return "", "", oauth.Unavailable(err)
	}
	return secret, manage, nil
}

func (h *Handler) update(w http.ResponseWriter, r *http.Request, have client.Client) (int, any, *oauth.Error) {
	m, f := read(w, r)
	if f != nil {
		return 0, nil, f
	}
	if m.ClientID != have.ID {
		return 0, nil, badMetadata("client_id must be that of the registration")
	}
	var leftOut []string
	c, cw, err := h.Registry.PrepareChange(r.Context(), have.ID, func(c *client.Client) error {
		have := *c // as it is now
		// RFC 7592 2.2: sent along it is the current one, never a new one.
		if m.Secret != "" && subtle.ConstantTimeCompare(client.Hash(m.Secret), c.SecretHash) != 1 {
			f = badMetadata("client_secret must be the current one, or left out")
			return f
		}
		// What a client was given it may give up; more is for an operator.
		if m.Scope == "" {
			m.Scope = c.Scope
		}
		if m.Scope, leftOut, f = h.narrow(m.Scope, c.Scope); f != nil {
			return f
		}
		if f = m.into(c); f != nil {
			return f
		}
		if c.Auth() != have.Auth() && !(c.Symmetric() && have.Symmetric()) {
			return fhir.Errorf(fhir.Invalid, "register.update",
				"token_endpoint_auth_method cannot be changed; register anew")
		}
		return nil
	})
	if f != nil {
		return 0, nil, f
	}
	if err != nil {
		return 0, nil, metadataError(err)
	}
	if err := h.commit(r, w, c, cw); err != nil {
		return 0, nil, oauth.Unavailable(err)
	}
	out := h.managed(r, c)
	out.LeftOut = strings.Join(leftOut, " ")
	return http.StatusOK, out, nil
}
