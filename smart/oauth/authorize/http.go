package authorize

import (
	"encoding/base64"
	"encoding/json"
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gin-gonic/gin"

	"pulsegate/fhir"
	"pulsegate/fhir/limit"
	"pulsegate/fhir/store"
	"pulsegate/smart/client"
	"pulsegate/smart/internal/oauth"
	"pulsegate/smart/scope"
)

const (
	// Limits in bytes.
	maxRequest = 16 << 10
	maxState   = 2048
	maxText    = 512 // nonce, login_hint, acr_values
)

// Mount registers the endpoint at Path.
func (s *Service) Mount(m gin.IRouter) {
	m.GET(Path, gin.WrapH(s))
	m.POST(Path, gin.WrapH(s))
}

// ServeHTTP implements the authorization endpoint. It sets no CORS headers
// because browsers navigate to it and scripts do not call it.
func (s *Service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("Pragma", "no-cache")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
	h.Set("X-Frame-Options", "DENY")
	if wait, ok := s.limits.Admit(oauth.Remote(r), s.opts.Clock()); !ok {
		h.Set("Retry-After", strconv.Itoa(limit.RetryAfter(wait)))
		s.showError(w, r, http.StatusTooManyRequests, "Too many requests. Wait a moment, then start the app again.")
		return
	}
	v, fail := parameters(w, r)
	if fail != nil {
		s.showError(w, r, fail.Status, fail.Description)
		return
	}
	c, redirect, fail := s.clientAndRedirect(r, v)
	if fail != nil {
		s.opts.Logger.InfoContext(r.Context(), "authorization refused", "error", fail.Code, "rule", fail.Description,
			"request_id", h.Get("X-Request-Id"), "cause", fail.Cause)
		s.showError(w, r, fail.Status, fail.Description)
		return
	}
	page, fail := s.accept(w, r, v, &c, redirect)
	if fail != nil {
		s.opts.Logger.InfoContext(r.Context(), "authorization refused", "error", fail.Code, "rule",
			fail.Description, "client", c.ID,
			"request_id", h.Get("X-Request-Id"), "cause", fail.Cause)
		params := url.Values{"error": {fail.Code}, "error_description": {fail.Description}}
		if state := v.Get("state"); state != "" && len(state) <= maxState {
			params.Set("state", state)
		}
		http.Redirect(w, r, s.redirectURL(redirect, params), http.StatusSeeOther)
		return
	}
	http.Redirect(w, r, page, http.StatusSeeOther)
}

// showError shows an error to the person if it cannot be returned to the app.
func (s *Service) showError(w http.ResponseWriter, r *http.Request, status int, text string) {
	text = sentence(text)
	if s.opts.ShowError != nil {
		s.opts.ShowError(w, r, status, text)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	if _, err := io.WriteString(w, "This app cannot be connected.\n"+text+"\n"); err != nil {
		return // the caller has disconnected
	}
}

// sentence formats an error description as a sentence.
func sentence(s string) string {
	if s == "" {
		return "The server cannot answer now. Try again in a moment."
	}
	s = strings.ToUpper(s[:1]) + s[1:]
	if !strings.HasSuffix(s, ".") {
		s += "."
	}
	return s
}

// parameters returns the parameters from the query of a GET request or the form
// of a POST request. A POST request must not have a query.
func parameters(w http.ResponseWriter, r *http.Request) (url.Values, *oauth.Error) {
	raw := r.URL.RawQuery
	if r.Method == http.MethodPost {
		if raw != "" {
			return nil, oauth.Bad("invalid_request",
				"the parameters of a POST request must be in the body, not in the query")
		}
		mt, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
		if err != nil || mt != "application/x-www-form-urlencoded" {
			return nil, oauth.Bad("invalid_request", "Content-Type must be application/x-www-form-urlencoded")
		}
		b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxRequest))
		if err != nil {
			return nil, oauth.Bad("invalid_request", "the body is larger than 16 KiB or incomplete")
		}
		raw = string(b)
	}
	v, err := url.ParseQuery(raw)
	if err != nil || len(raw) > maxRequest {
		return nil, oauth.Bad("invalid_request", "the parameters are malformed or longer than 16 KiB")
	}
	return v, nil
}

// clientAndRedirect returns the client and the redirect URI of a request after
// it has validated both.
func (s *Service) clientAndRedirect(r *http.Request, v url.Values) (client.Client, string, *oauth.Error) {
	if len(v["client_id"]) != 1 || len(v["redirect_uri"]) != 1 {
		return client.Client{}, "", oauth.Bad("invalid_request",
			"client_id and redirect_uri are required, exactly once each.")
	}
	c, err := s.opts.Clients.Get(r.Context(), v.Get("client_id"))
	if err != nil && fhir.KindOf(err) != fhir.NotFound {
		return client.Client{}, "", oauth.Unavailable(err)
	}
	if err != nil || c.Disabled || !c.May(client.Code) {
		return client.Client{}, "", oauth.Bad("invalid_request",
			"The client_id does not belong to an app that is registered with this server.")
	}
	if !c.Redirects(v.Get("redirect_uri")) {
		return client.Client{}, "", oauth.Bad("invalid_request",
			"The redirect_uri is not registered for this app.")
	}
	return c, v.Get("redirect_uri"), nil
}

// accept validates and stores a request. It returns the URL of the page on
// which the person decides.
func (s *Service) accept(w http.ResponseWriter, r *http.Request, v url.Values, c *client.Client,
	redirect string) (string, *oauth.Error) {
	for name, vs := range v {
		if len(vs) > 1 && name != "resource" {
			return "", oauth.Bad("invalid_request", "a parameter is repeated; send each parameter once")
		}
	}
	req := storedRequest{ClientID: c.ID, Redirect: redirect, State: v.Get("state"), Challenge: v.Get("code_challenge"),
		Nonce: v.Get("nonce"), LoginHint: v.Get("login_hint")}
	if fail := s.checkOAuth(v, &req); fail != nil {
		return "", fail
	}
	if fail := checkSignIn(v, &req); fail != nil {
		return "", fail
	}
	if fail := s.checkScopes(r, v, c, &req); fail != nil {
		return "", fail
	}
	return s.save(w, r, req)
}

// checkOAuth validates the parameters of OAuth, PKCE and DPoP.
func (s *Service) checkOAuth(v url.Values, req *storedRequest) *oauth.Error {
	digest, err := base64.RawURLEncoding.Strict().DecodeString(req.Challenge)
	switch {
	case v.Has("request"):
		return oauth.Bad("request_not_supported",
			"request objects are not supported; send the parameters in the request itself")
	case v.Has("request_uri"):
		return oauth.Bad("request_uri_not_supported",
			"request_uri is not supported; send the parameters in the request itself")
	case v.Get("response_type") == "":
		return oauth.Bad("invalid_request", "response_type is missing; it must be code")
	case v.Get("response_type") != "code":
		return oauth.Bad("unsupported_response_type", "response_type must be code")
	case v.Has("response_mode") && v.Get("response_mode") != "query":
		return oauth.Bad("invalid_request", "response_mode must be query")
	case req.State == "" || len(req.State) > maxState:
		return oauth.Bad("invalid_request", "state is required, with at most 2048 bytes")
	case req.Challenge == "":
		return oauth.Bad("invalid_request", "code_challenge is missing; PKCE with S256 is required")
	case v.Get("code_challenge_method") != "S256":
		return oauth.Bad("invalid_request", "code_challenge_method must be S256")
	case err != nil || len(digest) != 32:
		return oauth.Bad("invalid_request", "code_challenge must be a SHA-256 hash in base64url")
	case v.Get("aud") != s.opts.Audience:
		return oauth.Bad("invalid_request", "aud must be the base URL of the FHIR server")
	case len(req.Nonce) > maxText || len(req.LoginHint) > maxText || len(v.Get("acr_values")) > maxText:
		return oauth.Bad("invalid_request", "nonce, login_hint and acr_values must not exceed 512 bytes")
	}
	if v.Has("dpop_jkt") {
		req.JKT = v.Get("dpop_jkt")
		if d, err := base64.RawURLEncoding.Strict().DecodeString(req.JKT); err != nil || len(d) != 32 {
			return oauth.Bad("invalid_request", "dpop_jkt must be a SHA-256 key thumbprint in base64url")
		}
	}
	return nil
}

// checkSignIn validates the requirements for the sign-in (OpenID Connect Core
// 3.1.2.1).
func checkSignIn(v url.Values, req *storedRequest) *oauth.Error {
	req.Prompt, req.ACRValues = strings.Fields(v.Get("prompt")), strings.Fields(v.Get("acr_values"))
	for _, prompt := range req.Prompt {
		if !slices.Contains([]string{"none", "login", "consent", "select_account"}, prompt) {
			return oauth.Bad("invalid_request", "prompt must be none, login, consent or select_account")
		}
	}
	if slices.Contains(req.Prompt, "none") {
		if len(req.Prompt) > 1 {
			return oauth.Bad("invalid_request", "prompt none cannot be combined with other values")
		}
		return oauth.Bad("interaction_required", "this server always asks the person; leave out prompt none")
	}
	if v.Has("max_age") {
		n, err := strconv.ParseUint(v.Get("max_age"), 10, 31)
		if err != nil {
			return oauth.Bad("invalid_request", "max_age must be a whole number of seconds")
		}
		age := time.Duration(n) * time.Second
		req.MaxAge = &age
	}
	return nil
}

// checkScopes narrows the requested scopes to those of the client and reads the
// launch.
func (s *Service) checkScopes(r *http.Request, v url.Values, c *client.Client, req *storedRequest) *oauth.Error {
	requested, err := s.opts.Scopes.Offered(v.Get("scope"))
	if err != nil {
		return oauth.Bad("invalid_scope", oauth.Text(err))
	}
	allowed, err := s.opts.Scopes.Parse(c.Scope)
	if err != nil {
		return oauth.Unavailable(err)
	}
	set := scope.Narrow(requested, allowed)
	set = slices.DeleteFunc(set, func(sc scope.Scope) bool { return sc.Level == scope.System })
	if !set.Has(scope.OpenID) { // the id_token, which identifies the person, requires openid
		set = slices.DeleteFunc(set, func(sc scope.Scope) bool {
			return sc.Name == scope.FHIRUser || sc.Name == scope.Profile
		})
	}
	handle := v.Get("launch")
	if handle == "" {
		set = slices.DeleteFunc(set, func(sc scope.Scope) bool { return sc.Name == scope.Launch })
	}
	if !accessible(set) {
		return oauth.Bad("invalid_scope", "the app is registered for none of the requested scopes")
	}
	req.V1 = requested.AskedV1()
	if req.Scope = set.String(); len(req.Scope) > scope.MaxLength {
		return oauth.Bad("invalid_scope", "the scopes are too long; request fewer scopes")
	}
	if handle == "" {
		return nil
	}
	if !set.Has(scope.Launch) {
		return oauth.Bad("invalid_scope", "the parameter launch requires the scope launch")
	}
	l, _, err := s.opts.Launches.Use(r.Context(), handle, c.ID)
	if err != nil && fhir.KindOf(err) == fhir.NotFound {
		return oauth.Bad("invalid_request", oauth.Text(err))
	}
	if err != nil {
		return oauth.Unavailable(err)
	}
	req.Handle, req.Context, req.User = handle, l.Context, l.User
	return nil
}

// save stores the request, bound to this browser, until a person decides.
func (s *Service) save(w http.ResponseWriter, r *http.Request, req storedRequest) (string, *oauth.Error) {
	id, err := s.random(16)
	if err != nil {
		return "", oauth.Unavailable(err)
	}
	cookie := ""
	if have := s.cookie(WithBrowser(r)); len(have) == 43 {
		cookie = have // one browser can have several pending requests
	} else if cookie, err = s.random(32); err != nil {
		return "", oauth.Unavailable(err)
	}
	req.Browser, req.Expires = browserHash(cookie), s.opts.Clock().UTC().Add(Life)
	b, err := json.Marshal(req)
	if err != nil {
		return "", oauth.Unavailable(err)
	}
	_, err = s.opts.Store.Commit(r.Context(),
		&store.Batch{State: []store.StateWrite{{Key: keyPrefix + id, Value: b, Expect: store.StateAbsent,
			Expires: req.Expires.Add(time.Minute)}}})
	if err != nil {
		return "", oauth.Unavailable(err)
	}
	http.SetCookie(w, &http.Cookie{Name: s.cookieName(), Value: cookie, Path: "/", MaxAge: int(Life / time.Second),
		HttpOnly: true,
		Secure:   s.secure(), SameSite: http.SameSiteLaxMode})
	sep := "?"
	if strings.Contains(s.opts.Page, "?") {
		sep = "&"
	}
	return s.opts.Page + sep + "request=" + id, nil
}
