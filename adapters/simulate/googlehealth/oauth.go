package googlehealth

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"pulsegate/adapters/simulate"
)

// Lifetimes of the authorization server.
const (
	codeLife      = 10 * time.Minute
	accessLife    = 3599 * time.Second
	testingLife   = 604799 * time.Second // refresh tokens while the consent screen is in "Testing"
	unusedLife    = 6 * 30 * 24 * time.Hour
	assertionLife = time.Hour
)

// consent lists the scopes that a person has granted to a client.
type consent struct {
	account, client string
	since           time.Time       // simulated time of the first consent
	scopes          map[string]bool // everything that was ever granted
}

// code is an authorization code.
type code struct {
	consent   *consent
	scopes    []string
	redirect  string
	challenge string
	plain     bool // the challenge is the verifier itself
	offline   bool
	expires   time.Time
}

// token is an access or refresh token. Access tokens of service accounts have no consent.
type token struct {
	consent *consent
	scopes  []string
	refresh bool
	expires time.Time // zero if the token does not expire
	used    time.Time
}

// find returns a valid access token, or nil.
func (s *Server) find(text string) *token {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.tokens[text]
	if t == nil || t.refresh || !s.authNow().Before(t.expires) {
		return nil
	}
	return t
}

// request is a checked authorization request.
type request struct {
	client   Client
	redirect string
	scopes   []string
	values   url.Values
}

// authorization checks the parameters of the authorization endpoint. Errors are shown to
// the person, because the redirect URI cannot be trusted.
func (s *Server) authorization(v url.Values) (*request, string) {
	i := slices.IndexFunc(s.opts.Clients, func(c Client) bool { return c.ID == v.Get("client_id") })
	if i < 0 {
		return nil, "invalid_client"
	}
	out := &request{client: s.opts.Clients[i], redirect: v.Get("redirect_uri"), values: v}
	if !slices.Contains(out.client.RedirectURIs, out.redirect) {
		return nil, "redirect_uri_mismatch"
	}
	if v.Get("response_type") != "code" {
		return nil, "unsupported_response_type"
	}
	out.scopes = strings.Fields(v.Get("scope"))
	if len(out.scopes) == 0 {
		return nil, "invalid_request"
	}
	for _, scope := range out.scopes {
		if !knownScope(scope) {
			return nil, "invalid_scope"
		}
	}
	challenge, method := v.Get("code_challenge"), v.Get("code_challenge_method")
	switch {
	case challenge == "" && (method != "" || out.client.Secret == ""):
		return nil, "invalid_request"
	case method != "" && method != "S256" && method != "plain":
		return nil, "invalid_request"
	case challenge != "" && !unreserved.MatchString(challenge):
		return nil, "invalid_request"
	}
	if a := v.Get("access_type"); a != "" && a != "offline" && a != "online" {
		return nil, "invalid_request"
	}
	return out, ""
}

// unreserved matches verifiers and challenges (RFC 7636, section 4.1).
var unreserved = regexp.MustCompile(`^[A-Za-z0-9._~-]{43,128}$`)

func (s *Server) authorizePage(w http.ResponseWriter, r *http.Request) {
	req, bad := s.authorization(r.URL.Query())
	if bad != "" {
		errorPage(w, bad)
		return
	}
	s.consentPage(w, req)
}

// authorizeDecision takes the form of the consent page. A program can post the parameters
// of the authorization request with account and decision "allow" or "deny". The fields
// "grant" restrict the scopes if the field "granular" is present.
func (s *Server) authorizeDecision(w http.ResponseWriter, r *http.Request) {
	if err := r.ParseForm(); err != nil {
		errorPage(w, "invalid_request")
		return
	}
	req, bad := s.authorization(r.Form)
	if bad != "" {
		errorPage(w, bad)
		return
	}
	back, err := url.Parse(req.redirect)
	if err != nil {
		errorPage(w, "redirect_uri_mismatch")
		return
	}
	answer := back.Query()
	if state := r.Form.Get("state"); state != "" {
		answer.Set("state", state)
	}
	granted := req.scopes
	if r.Form.Has("granular") {
		granted = nil
		for _, scope := range req.scopes {
			if slices.Contains(r.Form["grant"], scope) {
				granted = append(granted, scope)
			}
		}
	}
	switch wearer := s.accounts[r.Form.Get("account")]; {
	case r.Form.Get("decision") != "allow" || len(granted) == 0:
		answer.Set("error", "access_denied")
	case wearer == nil:
		errorPage(w, "invalid_request")
		return
	default:
		answer.Set("code", s.grant(req, wearer.account, granted))
		answer.Set("scope", strings.Join(granted, " "))
	}
	back.RawQuery = answer.Encode()
	http.Redirect(w, r, back.String(), http.StatusFound)
}

// grant records a consent and returns an authorization code.
func (s *Server) grant(req *request, account string, scopes []string) string {
	now := s.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	key := account + " " + req.client.ID
	c := s.consents[key]
	known := c != nil
	if !s.consented(account) { // what happened before the consent is not notified
		s.follows[account] = &follow{mark: now}
	}
	if c == nil {
		c = &consent{account: account, client: req.client.ID, since: now, scopes: map[string]bool{}}
		s.consents[key] = c
	}
	for _, scope := range scopes {
		c.scopes[scope] = true
	}
	v := req.values
	text := "4/0A" + s.draw("code", 60)
	s.codes[text] = &code{consent: c, scopes: scopes, redirect: req.redirect, challenge: v.Get("code_challenge"),
		plain: v.Get("code_challenge_method") != "S256", expires: s.authNow().Add(codeLife),
		// A repeated consent yields a refresh token only if the client asked for the prompt.
		offline: v.Get("access_type") == "offline" && (!known || strings.Contains(v.Get("prompt"), "consent"))}
	s.stats.Consents++
	return text
}

// oauthError is an error of the token endpoint (RFC 6749, section 5.2).
type oauthError struct {
	code              int
	name, description string
}

func grantError(description string) *oauthError {
	return &oauthError{http.StatusBadRequest, "invalid_grant", description}
}

// token answers the token endpoint.
func (s *Server) token(w http.ResponseWriter, r *http.Request) {
	var body object
	bad := &oauthError{http.StatusBadRequest, "unsupported_grant_type", "Invalid grant_type."}
	if err := r.ParseForm(); err != nil {
		bad = &oauthError{http.StatusBadRequest, "invalid_request", "Bad Request"}
	} else {
		switch r.PostForm.Get("grant_type") {
		case "authorization_code":
			body, bad = s.exchange(r)
		case "refresh_token":
			body, bad = s.refresh(r)
		case "urn:ietf:params:oauth:grant-type:jwt-bearer":
			body, bad = s.assertion(r)
		}
	}
	w.Header().Set("Pragma", "no-cache")
	if bad != nil {
		send(w, bad.code, object{"error": bad.name, "error_description": bad.description})
		return
	}
	if account := s.subjectOf(body); s.faults.Draw(simulate.LostToken, account) {
		panic(http.ErrAbortHandler)
	}
	send(w, http.StatusOK, body)
}

// subjectOf returns the account of a token answer.
func (s *Server) subjectOf(body object) string {
	text, _ := body["access_token"].(string)
	if t := s.find(text); t != nil && t.consent != nil {
		return t.consent.account
	}
	return "service"
}

// client authenticates the client of a token request.
func (s *Server) client(r *http.Request) (Client, *oauthError) {
	id, secret := r.PostForm.Get("client_id"), r.PostForm.Get("client_secret")
	if user, password, ok := r.BasicAuth(); ok {
		id, secret = user, password
	}
	i := slices.IndexFunc(s.opts.Clients, func(c Client) bool { return c.ID == id })
	if i < 0 {
		return Client{}, &oauthError{http.StatusUnauthorized, "invalid_client", "The OAuth client was not found."}
	}
	c := s.opts.Clients[i]
	if subtle.ConstantTimeCompare([]byte(secret), []byte(c.Secret)) != 1 {
		return Client{}, &oauthError{http.StatusUnauthorized, "invalid_client", "Unauthorized"}
	}
	return c, nil
}

// exchange answers the grant type authorization_code. A code works once, even if the
// request is refused for another reason afterwards.
func (s *Server) exchange(r *http.Request) (object, *oauthError) {
	client, bad := s.client(r)
	if bad != nil {
		return nil, bad
	}
	form := r.PostForm
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.codes[form.Get("code")]
	if c == nil || c.consent.client != client.ID || s.consents[c.consent.account+" "+client.ID] != c.consent {
		return nil, grantError("Malformed auth code.")
	}
	delete(s.codes, form.Get("code"))
	if !s.authNow().Before(c.expires) {
		return nil, grantError("Bad Request")
	}
	if form.Get("redirect_uri") != c.redirect {
		return nil, &oauthError{http.StatusBadRequest, "redirect_uri_mismatch", "Bad Request"}
	}
	if c.challenge != "" {
		verifier := form.Get("code_verifier")
		if verifier == "" {
			return nil, grantError("Missing code verifier.")
		}
		if !c.plain {
			sum := sha256.Sum256([]byte(verifier))
			verifier = base64.RawURLEncoding.EncodeToString(sum[:])
		}
		if subtle.ConstantTimeCompare([]byte(verifier), []byte(c.challenge)) != 1 {
			return nil, grantError("Invalid code verifier.")
		}
	}
	body := s.issue(c.consent, c.scopes)
	if c.offline {
		t := &token{consent: c.consent, scopes: c.scopes, refresh: true, used: s.authNow()}
		text := "1//0" + s.draw("refresh", 60)
		body["refresh_token"] = text
		if s.opts.Testing {
			t.expires = s.authNow().Add(testingLife)
			body["refresh_token_expires_in"] = int(testingLife / time.Second)
		}
		s.tokens[text] = t
	}
	return body, nil
}

// issue makes an access token. The caller holds mu.
func (s *Server) issue(c *consent, scopes []string) object {
	text := "ya29.a0" + s.draw("access", 60)
	// A token with the fault Expire dies before the time that the answer states.
	stated := s.faults.StatedLife(accessLife)
	life := s.faults.TokenLife(accessLife, c.account)
	s.tokens[text] = &token{consent: c, scopes: scopes, expires: s.authNow().Add(life)}
	s.stats.Tokens++
	s.dropExpired()
	return object{"access_token": text, "expires_in": int(stated / time.Second), "token_type": "Bearer",
		"scope": strings.Join(scopes, " ")}
}

// dropExpired removes expired tokens and codes once there are many. The caller holds mu.
func (s *Server) dropExpired() {
	if s.stats.Tokens%1000 != 0 {
		return
	}
	now := s.authNow()
	for text, t := range s.tokens {
		if !t.expires.IsZero() && t.expires.Before(now) {
			delete(s.tokens, text)
		}
	}
	for text, c := range s.codes {
		if c.expires.Before(now) {
			delete(s.codes, text)
		}
	}
}

// refresh answers the grant type refresh_token. The refresh token stays the same.
func (s *Server) refresh(r *http.Request) (object, *oauthError) {
	client, bad := s.client(r)
	if bad != nil {
		return nil, bad
	}
	now := s.authNow()
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.tokens[r.PostForm.Get("refresh_token")]
	if t == nil || !t.refresh || t.consent.client != client.ID {
		return nil, grantError("Bad Request")
	}
	if !t.expires.IsZero() && !now.Before(t.expires) || now.Sub(t.used) > unusedLife {
		return nil, grantError("Token has been expired or revoked.")
	}
	scopes := t.scopes
	if asked := strings.Fields(r.PostForm.Get("scope")); len(asked) > 0 {
		for _, scope := range asked {
			if !slices.Contains(t.scopes, scope) {
				return nil, &oauthError{http.StatusBadRequest, "invalid_scope", "Bad Request"}
			}
		}
		scopes = asked
	}
	t.used = now
	body := s.issue(t.consent, scopes)
	if !t.expires.IsZero() {
		body["refresh_token_expires_in"] = int(t.expires.Sub(now) / time.Second)
	}
	s.stats.Refreshes++
	return body, nil
}

// revoke answers the revocation endpoint. Revoking any token withdraws the consent.
func (s *Server) revoke(w http.ResponseWriter, r *http.Request) {
	if err := r.ParseForm(); err != nil {
		send(w, http.StatusBadRequest, object{"error": "invalid_request", "error_description": "Bad Request"})
		return
	}
	s.mu.Lock()
	t := s.tokens[r.Form.Get("token")]
	s.mu.Unlock()
	if t == nil || t.consent == nil {
		send(w, http.StatusBadRequest, object{"error": "invalid_token",
			"error_description": "Token expired or revoked"})
		return
	}
	s.withdraw(t.consent)
	send(w, http.StatusOK, object{})
}

// RevokeGrant withdraws the consents of an account, as the person does on the page of the
// Google account. It reports whether there was one.
func (s *Server) RevokeGrant(account string) bool {
	s.mu.Lock()
	var found []*consent
	for _, c := range s.consents {
		if c.account == account {
			found = append(found, c)
		}
	}
	s.mu.Unlock()
	for _, c := range found {
		s.withdraw(c)
	}
	return len(found) > 0
}

// withdraw removes a consent with its tokens, and notifies the subscribers.
func (s *Server) withdraw(c *consent) {
	now := s.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.consents[c.account+" "+c.client] != c {
		return
	}
	s.collect(c.account, now)
	s.notifyWithdrawn(c, now)
	delete(s.consents, c.account+" "+c.client)
	for text, t := range s.tokens {
		if t.consent == c {
			delete(s.tokens, text)
		}
	}
}
