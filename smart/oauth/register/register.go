// Package register implements dynamic client registration: POST /oauth/register
// (RFC 7591) and GET, PUT and DELETE /oauth/register/<client_id> (RFC 7592).
//
// It owns these endpoints and the initial access tokens that registration
// requires. It does not own the validation of client metadata (smart/client).
//
// An operator creates an initial access token (PrepareToken). It is valid for a
// limited number of registrations until it expires, and limits the scopes of
// the registered clients. A registered client manages its registration with the
// registration access token of the response.
//
// # State
//
//	register/<SHA-256 of the initial access token, base64url>   InitialToken
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
	"pulsegate/fhir/limit"
	"pulsegate/fhir/store"
	"pulsegate/smart/client"
	"pulsegate/smart/internal/oauth"
	"pulsegate/smart/scope"
)

const (
	keyPrefix = "register/"
	// Path of the endpoint below the base URL.
	Path    = "/oauth/register"
	maxBody = 128 << 10 // bytes
)

// InitialToken holds the limits of an initial access token.
type InitialToken struct {
	Scope   string    `json:"scope"` // maximum scope of a registration
	Uses    int       `json:"uses"`  // registrations left
	By      string    `json:"by"`    // operator who created it
	Expires time.Time `json:"expires"`
}

// Handler implements the endpoints. Logger and Limits are optional. It is safe
// for concurrent use.
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

// NewLimits returns the limits of the endpoint. They are low because
// registrations are rare. shared may be nil.
func NewLimits(shared limit.Shared) *limit.Limiter {
	return limit.New(limit.Limits{Global: 50, Remote: 10, Shared: shared, Name: "register"})
}

// Mount registers the endpoints below Path.
func (h *Handler) Mount(m gin.IRouter) {
	m.Any(Path, gin.WrapF(func(w http.ResponseWriter, r *http.Request) { h.serve(w, r, "") }))
	m.Any(Path+"/:client", func(c *gin.Context) { h.serve(c.Writer, c.Request, c.Param("client")) })
}

func tokenKey(token string) string {
	sum := sha256.Sum256([]byte(token))
	return keyPrefix + base64.RawURLEncoding.EncodeToString(sum[:])
}

func (h *Handler) secret() (string, error) {
	var b [32]byte
	if _, err := io.ReadFull(h.Rand, b[:]); err != nil {
		return "", fhir.Wrap("register.secret", err)
	}
	return client.NewSecret(b), nil
}

// PrepareToken returns a new initial access token, to be shown once, and the
// write that activates it. The caller commits the write together with the
// AuditEvent.
func (h *Handler) PrepareToken(t InitialToken) (string, store.StateWrite, error) {
	const op = "register.PrepareToken"
	none := store.StateWrite{}
	set, err := h.Scopes.Parse(t.Scope)
	if err != nil {
		return "", none, err
	}
	if t.Uses < 1 || t.Uses > 1000 || !t.Expires.After(h.Clock()) {
		return "", none, fhir.Errorf(fhir.Invalid, op,
			"a registration token needs 1 to 1000 uses and an expiry in the future")
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
	return tok, store.StateWrite{Key: tokenKey(tok), Value: b, Expect: store.StateAbsent, Expires: t.Expires}, nil
}

// metadata is the metadata of a client (RFC 7591 2), with SMART's launch URL.
type metadata struct {
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
	// NotRegistered lists the requested scopes that were not registered, or not
	// in full.
	NotRegistered string          `json:"scope_not_registered,omitempty"`
	ClientURI     string          `json:"client_uri,omitempty"`
	LogoURI       string          `json:"logo_uri,omitempty"`
	TOSURI        string          `json:"tos_uri,omitempty"`
	PolicyURI     string          `json:"policy_uri,omitempty"`
	JWKS          json.RawMessage `json:"jwks,omitempty"`
	JWKSURI       string          `json:"jwks_uri,omitempty"`
	LaunchURL     string          `json:"initiate_login_uri,omitempty"`
	DPoPBound     bool            `json:"dpop_bound_access_tokens,omitempty"`
	CertBound     bool            `json:"tls_client_certificate_bound_access_tokens,omitempty"`
}

func badMetadata(rule string) *oauth.Error { return oauth.Bad("invalid_client_metadata", rule) }

// applyTo replaces the metadata of c. Members that m does not name take their
// defaults (RFC 7592 2.2).
func (m *metadata) applyTo(c *client.Client) *oauth.Error {
	method := client.Method(m.Method)
	if method == "" {
		method = client.SecretBasic // RFC 7591 2
	}
	if method == client.Receiver {
		return badMetadata("token_endpoint_auth_method: a client cannot register as a receiver")
	}
	if len(m.Responses) > 0 && (len(m.Responses) > 1 || m.Responses[0] != "code") {
		return badMetadata("response_types: only code is supported")
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

// describe returns the metadata of a client without its secrets.
func (h *Handler) describe(c client.Client) metadata {
	m := metadata{ClientID: c.ID, Issued: c.Created.Unix(), URI: h.Issuer + Path + "/" + c.ID, Name: c.Name,
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
		m.SecretExpires = new(int64) // 0, the secret does not expire
	}
	return m
}

func (h *Handler) serve(w http.ResponseWriter, r *http.Request, id string) {
	oauth.Headers(w.Header())
	now := h.Clock()
	remote := oauth.Remote(r)
	var status int
	var out any
	var fail *oauth.Error
	if wait, ok := h.Limits.Admit(remote, now); !ok {
		fail = oauth.TooMany(wait)
	} else if wait, ok := h.Limits.MayFail(limit.Failing(remote, ""), now); !ok {
		fail = oauth.TooMany(wait)
	} else if status, out, fail = h.dispatch(w, r, id); fail != nil && fail.Status < 500 {
		h.Limits.Failed(limit.Failing(remote, ""), now)
	}
	switch {
	case fail != nil:
		h.Logger.InfoContext(r.Context(), "registration refused", "error", fail.Code, "rule", fail.Description,
			"request_id",
			w.Header().Get("X-Request-Id"), "cause", fail.Cause)
		if fail.Status == http.StatusMethodNotAllowed && id != "" {
			w.Header().Set("Allow", "GET, PUT, DELETE")
		}
		oauth.Refuse(w, fail)
	case out == nil:
		w.WriteHeader(status)
	default:
		oauth.Write(w, status, out)
	}
}

// bearer returns the token of the Authorization header, or "".
func bearer(r *http.Request) string {
	scheme, tok, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") || len(tok) > 256 {
		return ""
	}
	return tok
}

// errToken is the error for a missing or invalid token. It is read only.
var errToken = &oauth.Error{Status: http.StatusUnauthorized, Code: "invalid_token",
	Description: "the registration token is missing, unknown, expired or used up; ask the operator for a new one",
	Challenge:   `Bearer error="invalid_token"`}

func (h *Handler) dispatch(w http.ResponseWriter, r *http.Request, id string) (int, any, *oauth.Error) {
	if id == "" {
		if r.Method != http.MethodPost {
			return 0, nil, &oauth.Error{Status: http.StatusMethodNotAllowed, Code: "invalid_request",
				Description: "register a client with POST"}
		}
		return h.create(w, r)
	}
	c, err := h.Registry.Get(r.Context(), id)
	if err != nil && fhir.KindOf(err) != fhir.NotFound {
		return 0, nil, oauth.Unavailable(err)
	}
	// The comparison takes constant time and also runs for an unknown client.
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
		Description: "a registration accepts GET, PUT and DELETE only"}
}

func (h *Handler) event(r *http.Request, w http.ResponseWriter, c client.Client, method string) audit.Event {
	return audit.Event{Type: audit.Rest, Interaction: "operation", Query: method + " " + Path,
		Caller: oauth.Caller(w, r).As(&access.Principal{ClientID: c.ID, ClientName: c.Name})}
}

// commit writes a change together with its AuditEvent.
func (h *Handler) commit(r *http.Request, w http.ResponseWriter, c client.Client, also ...store.StateWrite) error {
	_, err := audit.Commit(r.Context(), h.Store, h.Audit, &store.Batch{State: also}, h.event(r, w, c, r.Method))
	return err
}

// managed returns the metadata of a client that manages itself. It repeats the
// registration access token of the request, because only the hash of that token
// is stored (RFC 7592 3).
func (h *Handler) managed(r *http.Request, c client.Client) metadata {
	m := h.describe(c)
	m.Token = bearer(r)
	return m
}

func read(w http.ResponseWriter, r *http.Request) (metadata, *oauth.Error) {
	var m metadata
	if mt, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || mt != "application/json" {
		return m, badMetadata("Content-Type must be application/json")
	}
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		return m, badMetadata("the body is larger than 128 KiB or incomplete")
	}
	if err := json.Unmarshal(b, &m); err != nil {
		return m, badMetadata("the body must be a JSON object of client metadata (RFC 7591)")
	}
	return m, nil
}

// narrow returns the part of the requested scope that this server supports and
// that allowed covers, and the requested scopes that were left out in whole or
// in part. An app requests everything that it can use with any server and
// learns from the response which scopes it has here. The server may replace
// metadata and returns what it registered (RFC 7591 2).
func (h *Handler) narrow(requested, allowed string) (registered string, leftOut []string, fail *oauth.Error) {
	have, err := h.Scopes.Parse(allowed)
	if err != nil {
		return "", nil, oauth.Unavailable(err)
	}
	want, err := h.Scopes.Offered(requested)
	if err != nil {
		return "", nil, badMetadata(oauth.Text(err))
	}
	got := scope.Narrow(want, have)
	if len(got) == 0 {
		return "", nil, badMetadata("scope: this registration allows none of the requested scopes")
	}
	for _, name := range strings.Fields(requested) {
		if set, err := h.Scopes.Parse(name); err != nil || !got.Covers(set) {
			leftOut = append(leftOut, name)
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
	raw, err := h.Store.Get(ctx, tokenKey(tok))
	if err != nil {
		return 0, nil, oauth.Unavailable(err)
	}
	var t InitialToken
	if tok == "" || raw == nil || json.Unmarshal(raw, &t) != nil || t.Uses < 1 || !h.Clock().Before(t.Expires) {
		return 0, nil, errToken
	}
	m, fail := read(w, r)
	if fail != nil {
		return 0, nil, fail
	}
	if m.Scope == "" {
		m.Scope = t.Scope
	}
	var leftOut []string
	if m.Scope, leftOut, fail = h.narrow(m.Scope, t.Scope); fail != nil {
		return 0, nil, fail
	}
	var c client.Client
	if fail := m.applyTo(&c); fail != nil {
		return 0, nil, fail
	}
	secret, manage, fail := h.secrets(&c)
	if fail != nil {
		return 0, nil, fail
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
	// One commit stores the client and uses up the token, so that a token for one
	// registration creates one client.
	if err := h.commit(r, w, c, cw, store.StateWrite{Key: tokenKey(tok), Value: left, Expect: store.StateEquals,
		Old: raw, Expires: t.Expires}); err != nil {
		return 0, nil, oauth.Unavailable(err)
	}
	out := h.describe(c)
	out.Secret, out.Token, out.NotRegistered = secret, manage, strings.Join(leftOut, " ")
	return http.StatusCreated, out, nil
}

// secrets draws the secrets of a new client and stores their hashes in c.
func (h *Handler) secrets(c *client.Client) (secret, manage string, fail *oauth.Error) {
	var err, secretErr error
	manage, err = h.secret()
	c.RegistrationHash = client.Hash(manage)
	if c.Symmetric() {
		secret, secretErr = h.secret()
		c.SecretHash = client.Hash(secret)
	}
	if err = errors.Join(err, secretErr); err != nil {
		return "", "", oauth.Unavailable(err)
	}
	return secret, manage, nil
}

func (h *Handler) update(w http.ResponseWriter, r *http.Request, have client.Client) (int, any, *oauth.Error) {
	m, fail := read(w, r)
	if fail != nil {
		return 0, nil, fail
	}
	if m.ClientID != have.ID {
		return 0, nil, badMetadata("client_id must be the client_id of the registration")
	}
	var leftOut []string
	c, cw, err := h.Registry.PrepareChange(r.Context(), have.ID, func(c *client.Client) error {
		have := *c // current version
		// A client_secret in the request must be the current one; it cannot be
		// changed here (RFC 7592 2.2).
		if m.Secret != "" && subtle.ConstantTimeCompare(client.Hash(m.Secret), c.SecretHash) != 1 {
			fail = badMetadata("client_secret must be the current secret or left out")
			return fail
		}
		// A client may reduce its scope. Only an operator can extend it.
		if m.Scope == "" {
			m.Scope = c.Scope
		}
		if m.Scope, leftOut, fail = h.narrow(m.Scope, c.Scope); fail != nil {
			return fail
		}
		if fail = m.applyTo(c); fail != nil {
			return fail
		}
		if c.Auth() != have.Auth() && !(c.Symmetric() && have.Symmetric()) {
			return fhir.Errorf(fhir.Invalid, "register.update",
				"token_endpoint_auth_method cannot be changed; register a new client")
		}
		return nil
	})
	if fail != nil {
		return 0, nil, fail
	}
	if err != nil {
		return 0, nil, metadataError(err)
	}
	if err := h.commit(r, w, c, cw); err != nil {
		return 0, nil, oauth.Unavailable(err)
	}
	out := h.managed(r, c)
	out.NotRegistered = strings.Join(leftOut, " ")
	return http.StatusOK, out, nil
}
