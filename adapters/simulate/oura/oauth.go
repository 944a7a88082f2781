package oura

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"pulsegate/adapters/simulate"
)

// scopes lists all scopes without the prefix extapi:, first those of the legacy provider.
var scopes = []string{"email", "personal", "daily", "heartrate", "workout", "tag", "session", "spo2", "heart_health",
	"stress", "ring_configuration"}

// legacyScopes lists the eight scopes that the documents of the legacy provider name
// (cloud.ouraring.com/docs/authentication). They do not say which scope covers the types
// that were added later. It is taken to be "daily", as the values are those of days.
var legacyScopes = scopes[:8]

// scopesOf returns the scopes of a provider.
func scopesOf(p Provider) []string {
	if p == Legacy {
		return legacyScopes
	}
	return scopes
}

const scopePrefix = "extapi:"

// codeLife is the lifetime of an authorization code.
const codeLife = 10 * time.Minute

// code is an authorization code that has been issued.
type code struct {
	client    string
	provider  Provider
	redirect  string
	challenge string // PKCE challenge, or ""
	account   string
	scope     []string // as granted, with the prefix if it was requested so
	expires   time.Time
	grant     *grant // set when the code has been used
}

// grant is a wearer's permission to a client. Tokens name their grant and generation, so
// that old ones need not be stored. Its mutable fields are guarded by Server.mu.
type grant struct {
	id          string
	client      string
	provider    Provider
	account     string
	scope       []string
	revoked     bool
	refresh     int // generation of the only refresh token that is valid
	access      []accessToken
	requests    int // requests since windowStart
	windowStart time.Time
}

type accessToken struct {
	generation int
	expires    time.Time
}

// has reports whether the grant has a scope, given without prefix, or the one that covers
// it.
func (given *grant) has(scope string) bool {
	if !slices.Contains(scopesOf(given.provider), scope) {
		scope = "daily"
	}
	return slices.Contains(given.scope, scope) || slices.Contains(given.scope, scopePrefix+scope)
}

// tokenText returns the text of a token of a grant.
func (s *Server) tokenText(kind, id string, generation int) string {
	body := kind + "_" + id + "_" + strconv.Itoa(generation)
	return body + "_" + simulate.Key(s.opts.Seed).Named("token "+body).Hex(32)
}

// parseToken returns the grant and the generation of a token. The caller holds s.mu.
func (s *Server) parseToken(kind, text string) (*grant, int) {
	parts := strings.Split(text, "_")
	if len(parts) != 4 || parts[0] != kind {
		return nil, 0
	}
	generation, err := strconv.Atoi(parts[2])
	if err != nil || text != s.tokenText(kind, parts[1], generation) {
		return nil, 0
	}
	return s.grants[parts[1]], generation
}

// authorization is a checked authorization request.
type authorization struct {
	client    Client
	provider  Provider
	redirect  *url.URL
	state     string
	challenge string
	scope     []string // known scopes in the order of the request
	Query     url.Values
}

// clientOf returns a client of a provider.
func (s *Server) clientOf(p Provider, id string) (Client, bool) {
	for _, c := range s.opts.Clients {
		if c.Provider == "" {
			c.Provider = Legacy
		}
		if c.ID == id && c.Provider == p {
			return c, true
		}
	}
	return Client{}, false
}

// authorization checks a request. An error text is for the page: the client or the
// redirect address is not known, so that nothing can be redirected.
func (s *Server) authorization(p Provider, q url.Values) (a authorization, problem string) {
	a = authorization{provider: p, state: q.Get("state"), challenge: q.Get("code_challenge"), Query: q}
	var ok bool
	if a.client, ok = s.clientOf(p, q.Get("client_id")); !ok {
		return a, "Invalid client"
	}
	redirect, err := url.Parse(q.Get("redirect_uri"))
	switch {
	case err != nil, redirect.Host == "", redirect.Scheme != "http" && redirect.Scheme != "https",
		redirect.Fragment != "":
		return a, "Invalid redirect URI"
	case len(a.client.RedirectURIs) > 0 && !slices.Contains(a.client.RedirectURIs, q.Get("redirect_uri")):
		return a, "Redirect URI mismatch"
	}
	a.redirect = redirect
	requested := strings.Fields(q.Get("scope"))
	if len(requested) == 0 {
		for _, name := range scopesOf(p) {
			requested = append(requested, scopePrefix+name)
		}
	}
	for _, name := range requested {
		bare, prefixed := strings.CutPrefix(name, scopePrefix)
		if bare == "spo2Daily" { // the name in the description of the API
			bare, name = "spo2", strings.Replace(name, bare, "spo2", 1)
		}
		// The provider of 2026 drops names without a prefix silently.
		if slices.Contains(scopesOf(p), bare) && (prefixed || p == Legacy) && !slices.Contains(a.scope, name) {
			a.scope = append(a.scope, name)
		}
	}
	return a, ""
}

// invalid returns the OAuth error of a request with a known redirect address.
func (a *authorization) invalid() (errorCode, text string) {
	switch {
	case a.Query.Get("response_type") != "code":
		return "unsupported_response_type", "response_type must be code"
	case a.challenge != "" && a.Query.Get("code_challenge_method") != "S256":
		return "invalid_request", "code_challenge_method must be S256"
	case len(a.scope) == 0:
		return "invalid_scope", "no scope is known"
	}
	return "", ""
}

// answer redirects to the client with parameters added to its address.
func (a *authorization) answer(w http.ResponseWriter, r *http.Request, add url.Values) {
	to := *a.redirect
	q := to.Query()
	for name, v := range add {
		q[name] = v
	}
	if a.state != "" {
		q.Set("state", a.state)
	}
	to.RawQuery = q.Encode()
	http.Redirect(w, r, to.String(), http.StatusFound)
}

func (s *Server) authorizePage(p Provider) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if s.faults.Before(w, r, "authorize", s.opts.Clock.Now()) {
			return
		}
		a, problem := s.authorization(p, r.URL.Query())
		if problem != "" {
			errorPage(w, problem)
			return
		}
		if errorCode, text := a.invalid(); errorCode != "" {
			a.answer(w, r, url.Values{"error": {errorCode}, "error_description": {text}})
			return
		}
		s.consentPage(w, a)
	}
}

// decide handles the form of the consent page. A client without a browser posts the
// parameters of the authorization request with wearer (a number or an account), decision
// (approve or deny) and granted, once per scope; without granted, all scopes are granted.
func (s *Server) decide(p Provider) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, 1<<16)
		if err := r.ParseForm(); err != nil {
			errorPage(w, "The form cannot be read")
			return
		}
		a, problem := s.authorization(p, r.Form)
		if problem != "" {
			errorPage(w, problem)
			return
		}
		errorCode, text := a.invalid()
		if r.Form.Get("decision") != "approve" && errorCode == "" {
			errorCode, text = "access_denied", "the user denied access"
		}
		if errorCode != "" {
			a.answer(w, r, url.Values{"error": {errorCode}, "error_description": {text}})
			return
		}
		account, ok := s.accountOf(r.Form.Get("wearer"))
		if !ok {
			errorPage(w, "There is no such wearer")
			return
		}
		scope := a.scope
		if granted, chosen := r.Form["granted"]; chosen {
			scope = slices.DeleteFunc(slices.Clone(scope), func(n string) bool { return !slices.Contains(granted, n) })
		}
		s.mu.Lock()
		text = "oc_" + s.draw().Hex(40)
		s.codes[text] = &code{client: a.client.ID, provider: p, redirect: r.Form.Get("redirect_uri"),
			challenge: a.challenge, account: account, scope: scope, expires: s.opts.Wall().Add(codeLife)}
		s.mu.Unlock()
		a.answer(w, r, url.Values{"code": {text}, "scope": {strings.Join(scope, " ")}})
	}
}

// accountOf returns the account of a wearer's number or account id.
func (s *Server) accountOf(name string) (string, bool) {
	if s.accounts[name] != nil {
		return name, true
	}
	i, err := strconv.Atoi(name)
	if err != nil || i < 0 || i >= len(s.opts.Wearers) {
		return "", false
	}
	return s.opts.Wearers[i].Account(vendor), true
}

// oauthError writes an error of the token endpoint (RFC 6749, section 5.2).
func oauthError(w http.ResponseWriter, status int, errorCode, text string) {
	w.Header().Set("Cache-Control", "no-store")
	reply(w, status, map[string]string{"error": errorCode, "error_description": text})
}

// authenticate checks the client of a request to the token endpoint, in the form or in
// the header Authorization.
func (s *Server) authenticate(w http.ResponseWriter, r *http.Request, p Provider) (Client, bool) {
	r.Body = http.MaxBytesReader(w, r.Body, 1<<16)
	if err := r.ParseForm(); err != nil {
		oauthError(w, http.StatusBadRequest, "invalid_request", "the form cannot be read")
		return Client{}, false
	}
	id, secret := r.PostForm.Get("client_id"), r.PostForm.Get("client_secret")
	if user, password, ok := r.BasicAuth(); ok {
		// RFC 6749, section 2.3.1: both are form-encoded first.
		id, secret = unescape(user), unescape(password)
	}
	c, ok := s.clientOf(p, id)
	if !ok || subtle.ConstantTimeCompare([]byte(c.Secret), []byte(secret)) != 1 {
		oauthError(w, http.StatusUnauthorized, "invalid_client", "Invalid client")
		return Client{}, false
	}
	return c, true
}

func unescape(s string) string {
	if out, err := url.QueryUnescape(s); err == nil {
		return out
	}
	return s
}

func (s *Server) token(p Provider) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if s.faults.Before(w, r, "token", s.opts.Clock.Now()) {
			return
		}
		c, ok := s.authenticate(w, r, p)
		if !ok {
			return
		}
		s.mu.Lock()
		var g *grant
		errorCode, problem := "invalid_grant", "the grant type is unknown"
		switch r.PostForm.Get("grant_type") {
		case "authorization_code":
			g, problem = s.exchange(c, p, r.PostForm)
		case "refresh_token":
			g, problem = s.rotate(c, r.PostForm.Get("refresh_token"))
		default:
			errorCode = "unsupported_grant_type"
		}
		if problem != "" {
			s.mu.Unlock()
			oauthError(w, http.StatusBadRequest, errorCode, problem)
			return
		}
		account := g.account
		body := s.issue(g)
		s.mu.Unlock()
		if s.faults.Draw(simulate.LostToken, account) {
			panic(http.ErrAbortHandler) // the client cannot know that the tokens were issued
		}
		w.Header().Set("Cache-Control", "no-store")
		reply(w, http.StatusOK, body)
	}
}

// exchange redeems an authorization code. A code that is presented twice ends the grant
// it led to (RFC 6749, section 4.1.2). The caller holds s.mu.
func (s *Server) exchange(c Client, p Provider, form url.Values) (*grant, string) {
	text := form.Get("code")
	issued := s.codes[text]
	now := s.opts.Wall()
	for old, other := range s.codes {
		if other.expires.Before(now.Add(-codeLife)) {
			delete(s.codes, old)
		}
	}
	if issued == nil || issued.client != c.ID || issued.provider != p {
		return nil, "the code is unknown"
	}
	if issued.grant != nil {
		issued.grant.revoked = true
		return nil, "the code has been used"
	}
	g := &grant{id: s.draw().Hex(24), client: c.ID, provider: c.Provider, account: issued.account,
		scope: issued.scope}
	issued.grant = g // a failed exchange uses the code up, too
	sum := sha256.Sum256([]byte(form.Get("code_verifier")))
	switch {
	case !now.Before(issued.expires):
		return nil, "the code has expired"
	case form.Get("redirect_uri") != issued.redirect:
		return nil, "redirect_uri does not match"
	case issued.challenge == "" && form.Has("code_verifier"),
		issued.challenge != "" && base64.RawURLEncoding.EncodeToString(sum[:]) != issued.challenge:
		return nil, "code_verifier does not match"
	}
	s.grants[g.id], s.granted[g.account] = g, append(s.granted[g.account], g)
	return g, ""
}

// rotate redeems a refresh token. A token that is presented twice ends the grant. The
// caller holds s.mu.
func (s *Server) rotate(c Client, text string) (*grant, string) {
	g, generation := s.parseToken("or", text)
	switch {
	case g == nil, g.client != c.ID:
		return nil, "the refresh token is unknown"
	case g.revoked:
		return nil, "access has been revoked"
	case generation != g.refresh:
		g.revoked = true
		s.stats.Reused++
		return nil, "the refresh token has been used"
	}
	return g, ""
}

// issue gives a grant its next pair of tokens. The caller holds s.mu.
func (s *Server) issue(g *grant) map[string]any {
	now := s.opts.Wall()
	stated, actual := s.faults.StatedLife(s.opts.TokenLife), s.faults.TokenLife(s.opts.TokenLife, g.account)
	g.refresh++
	g.access = slices.DeleteFunc(g.access, func(t accessToken) bool { return !now.Before(t.expires) })
	g.access = append(g.access, accessToken{g.refresh, now.Add(actual)})
	s.stats.Tokens++
	return map[string]any{"token_type": "bearer", "access_token": s.tokenText("oa", g.id, g.refresh),
		"refresh_token": s.tokenText("or", g.id, g.refresh), "expires_in": int(stated.Seconds()),
		"scope": strings.Join(g.scope, " ")}
}

// live returns the grant of an access token that is valid. The caller holds s.mu.
func (s *Server) live(text string) *grant {
	g, generation := s.parseToken("oa", text)
	if g == nil || g.revoked {
		return nil
	}
	for _, t := range g.access {
		if t.generation == generation && s.opts.Wall().Before(t.expires) {
			return g
		}
	}
	return nil
}

// revoke ends the grant of a token, which is a parameter or the bearer token. 401 means
// that it is not valid any more.
func (s *Server) revoke(p Provider) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if s.faults.Before(w, r, "revoke", s.opts.Clock.Now()) {
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, 1<<16)
		if err := r.ParseForm(); err != nil {
			oauthError(w, http.StatusBadRequest, "invalid_request", "the form cannot be read")
			return
		}
		text := r.Form.Get("access_token")
		if text == "" {
			text = r.Form.Get("token")
		}
		if bearer, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer "); ok && text == "" {
			text = bearer
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		g, _ := s.parseToken("oa", text)
		if g == nil {
			g, _ = s.parseToken("or", text)
		}
		if g == nil || g.revoked {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		if _, ok := s.clientOf(p, g.client); !ok {
			oauthError(w, http.StatusUnauthorized, "invalid_client", "Invalid client")
			return
		}
		g.revoked = true
		w.WriteHeader(http.StatusOK)
	}
}

// introspect reports the state of a token (RFC 7662).
func (s *Server) introspect(w http.ResponseWriter, r *http.Request) {
	c, ok := s.authenticate(w, r, Moi)
	if !ok {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	g := s.live(r.PostForm.Get("token"))
	if g == nil || g.client != c.ID {
		reply(w, http.StatusOK, map[string]any{"active": false})
		return
	}
	reply(w, http.StatusOK, map[string]any{"active": true, "client_id": g.client, "sub": g.account,
		"scope": strings.Join(g.scope, " "), "token_type": "bearer"})
}

// errorPage writes an error that cannot be redirected.
func errorPage(w http.ResponseWriter, text string) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(http.StatusBadRequest)
	_, _ = fmt.Fprintf(w, "<!DOCTYPE html>\n<title>Error</title>\n<h1>Error</h1>\n<p>%s</p>\n", text) // constant texts
}
