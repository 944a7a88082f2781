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
	"pulsegate/fhir/store"
	"pulsegate/smart/client"
	"pulsegate/smart/internal/limit"
	"pulsegate/smart/internal/oauth"
	"pulsegate/smart/scope"
)

const (
	maxRequest = 16 << 10
	maxState   = 2048
	maxText    = 512 // nonce, login_hint, acr_values
)

// Mount puts the endpoint at Path.
func (s *Service) Mount(m gin.IRouter) {
	m.GET(Path, gin.WrapH(s))
	m.POST(Path, gin.WrapH(s))
}

// ServeHTTP is the authorization endpoint. It sets no CORS header: a browser
// goes here, a script does not.
func (s *Service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("Pragma", "no-cache")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
	h.Set("X-Frame-Options", "DENY")
	if wait, ok := s.limits.Admit(oauth.Remote(r), s.opts.Clock()); !ok {
		h.Set("Retry-After", strconv.Itoa(limit.RetryAfter(wait)))
		s.show(w, r, http.StatusTooManyRequests, "Too many requests. Wait a moment, then start the app again.")
		return
	}
	v, fail := parameters(w, r)
	if fail != nil {
		s.show(w, r, fail.Status, fail.Description)
		return
	}
	c, redirect, fail := s.target(r, v)
	if fail != nil {
		s.opts.Logger.InfoContext(r.Context(), "authorization refused", "error", fail.Code, "rule", fail.Description,
			"request", h.Get("X-Request-Id"), "cause", fail.Cause)
		s.show(w, r, fail.Status, fail.Description)
		return
	}
	page, fail := s.begin(w, r, v, &c, redirect)
	if fail != nil {
		s.opts.Logger.InfoContext(r.Context(), "authorization refused", "error", fail.Code, "rule",
			fail.Description, "client", c.ID,
			"request", h.Get("X-Request-Id"), "cause", fail.Cause)
		back := url.Values{"error": {fail.Code}, "error_description": {fail.Description}}
		if st := v.Get("state"); st != "" && len(st) <= maxState {
			back.Set("state", st)
		}
		http.Redirect(w, r, s.back(redirect, back), http.StatusSeeOther)
		return
	}
	http.Redirect(w, r, page, http.StatusSeeOther)
}

// show tells the person, when there is no app to tell.
func (s *Service) show(w http.ResponseWriter, r *http.Request, status int, text string) {
	text = sentence(text)
	if s.opts.ShowError != nil {
		s.opts.ShowError(w, r, status, text)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	if _, err := io.WriteString(w, "This app cannot be connected.\n"+text+"\n"); err != nil {
		return // the caller has gone
	}
}

// sentence is a rule for people to read.
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

// parameters come from the query of a GET or the form of a POST, never both.
func parameters(w http.ResponseWriter, r *http.Request) (url.Values, *oauth.Error) {
	raw := r.URL.RawQuery
	if r.Method == http.MethodPost {
		if raw != "" {
			return nil, oauth.Bad("invalid_request", "parameters belong into the body")
		}
		mt, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
		if err != nil || mt != "application/x-www-form-urlencoded" {
			return nil, oauth.Bad("invalid_request", "Content-Type must be application/x-www-form-urlencoded")
		}
		b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxRequest))
		if err != nil {
			return nil, oauth.Bad("invalid_request", "the body is larger than 16 KiB or broke off")
		}
		raw = string(b)
	}
	v, err := url.ParseQuery(raw)
	if err != nil || len(raw) > maxRequest {
		return nil, oauth.Bad("invalid_request", "the parameters cannot be read")
	}
	return v, nil
}

// target finds the client and where its answers go.
func (s *Service) target(r *http.Request, v url.Values) (client.Client, string, *oauth.Error) {
	if len(v["client_id"]) != 1 || len(v["redirect_uri"]) != 1 {
		return client.Client{}, "", oauth.Bad("invalid_request", "client_id and redirect_uri are needed, once each.")
	}
	c, err := s.opts.Clients.Get(r.Context(), v.Get("client_id"))
	if err != nil && fhir.KindOf(err) != fhir.NotFound {
		return client.Client{}, "", oauth.Unavailable(err)
	}
	if err != nil || c.Disabled || !c.May(client.Code) {
		return client.Client{}, "", oauth.Bad("invalid_request",
			"The client_id is not that of an app which is registered here.")
	}
	if !c.Redirects(v.Get("redirect_uri")) {
		return client.Client{}, "", oauth.Bad("invalid_request",
			"The redirect_uri is not one that the app has registered.")
	}
	return c, v.Get("redirect_uri"), nil
}

// begin checks the request and keeps it. It returns where the person decides.
func (s *Service) begin(w http.ResponseWriter, r *http.Request, v url.Values, c *client.Client,
	redirect string) (string, *oauth.Error) {
	for name, vs := range v {
		if len(vs) > 1 && name != "resource" {
			return "", oauth.Bad("invalid_request", "a parameter is given twice")
		}
	}
	p := waiting{ClientID: c.ID, Redirect: redirect, State: v.Get("state"), Challenge: v.Get("code_challenge"),
		Nonce: v.Get("nonce"), LoginHint: v.Get("login_hint")}
	if fail := s.protocol(v, &p); fail != nil {
		return "", fail
	}
	if fail := session(v, &p); fail != nil {
		return "", fail
	}
	if fail := s.scopes(r, v, c, &p); fail != nil {
		return "", fail
	}
	return s.keep(w, r, p)
}

// protocol checks what OAuth wants.
func (s *Service) protocol(v url.Values, p *waiting) *oauth.Error {
	digest, err := base64.RawURLEncoding.Strict().DecodeString(p.Challenge)
	switch {
	case v.Has("request"):
		return oauth.Bad("request_not_supported", "request objects are not supported")
	case v.Has("request_uri"):
		return oauth.Bad("request_uri_not_supported", "request_uri is not supported")
	case v.Get("response_type") == "":
		return oauth.Bad("invalid_request", "response_type is missing")
	case v.Get("response_type") != "code":
		return oauth.Bad("unsupported_response_type", "response_type must be code")
	case v.Has("response_mode") && v.Get("response_mode") != "query":
		return oauth.Bad("invalid_request", "response_mode must be query")
	case p.State == "" || len(p.State) > maxState:
		return oauth.Bad("invalid_request", "state must have 1 to 2048 bytes")
	case p.Challenge == "":
		return oauth.Bad("invalid_request", "code_challenge is missing")
	case v.Get("code_challenge_method") != "S256":
		return oauth.Bad("invalid_request", "code_challenge_method must be S256")
	case err != nil || len(digest) != 32:
		return oauth.Bad("invalid_request", "code_challenge must be the base64url of a SHA-256")
	case v.Get("aud") != s.opts.Audience:
		return oauth.Bad("invalid_request", "aud must be the base URL of the FHIR server")
	case len(p.Nonce) > maxText || len(p.LoginHint) > maxText || len(v.Get("acr_values")) > maxText:
		return oauth.Bad("invalid_request", "nonce, login_hint and acr_values have at most 512 bytes")
	}
	if v.Has("dpop_jkt") {
		p.JKT = v.Get("dpop_jkt")
		if d, err := base64.RawURLEncoding.Strict().DecodeString(p.JKT); err != nil || len(d) != 32 {
			return oauth.Bad("invalid_request", "dpop_jkt must be a SHA-256 thumbprint")
		}
	}
	return nil
}

// session checks what OpenID Connect wants of the sign-in.
func session(v url.Values, p *waiting) *oauth.Error {
	p.Prompt, p.ACRValues = strings.Fields(v.Get("prompt")), strings.Fields(v.Get("acr_values"))
	for _, x := range p.Prompt {
		if !slices.Contains([]string{"none", "login", "consent", "select_account"}, x) {
			return oauth.Bad("invalid_request", "prompt must be none, login, consent or select_account")
		}
	}
	if slices.Contains(p.Prompt, "none") {
		if len(p.Prompt) > 1 {
			return oauth.Bad("invalid_request", "prompt none stands alone")
		}
		return oauth.Bad("interaction_required", "a person is always asked")
	}
	if v.Has("max_age") {
		n, err := strconv.ParseUint(v.Get("max_age"), 10, 31)
		if err != nil {
			return oauth.Bad("invalid_request", "max_age must be a number of seconds")
		}
		age := time.Duration(n) * time.Second
		p.MaxAge = &age
	}
	return nil
}

// scopes narrows what is asked to what the client may have, and reads the
// launch.
func (s *Service) scopes(r *http.Request, v url.Values, c *client.Client, p *waiting) *oauth.Error {
	asked, err := s.opts.Scopes.Offered(v.Get("scope"))
	if err != nil {
		return oauth.Bad("invalid_scope", oauth.Text(err))
	}
	allowed, err := s.opts.Scopes.Parse(c.Scope)
	if err != nil {
		return oauth.Unavailable(err)
	}
	set := scope.Narrow(asked, allowed)
	set = slices.DeleteFunc(set, func(x scope.Scope) bool { return x.Level == scope.System })
	if !set.Has(scope.OpenID) { // who the person is, is told in an id_token
		set = slices.DeleteFunc(set, func(x scope.Scope) bool {
			return x.Name == scope.FHIRUser ||
				x.Name == scope.Profile
		})
	}
	handle := v.Get("launch")
	if handle == "" {
		set = slices.DeleteFunc(set, func(x scope.Scope) bool { return x.Name == scope.Launch })
	}
	if !slices.ContainsFunc(set, func(x scope.Scope) bool { return x.Name == "" || x.Name == scope.OpenID }) {
		return oauth.Bad("invalid_scope", "none of the scopes can be granted to this app")
	}
	p.V1 = asked.AskedV1()
	if p.Scope = set.String(); len(p.Scope) > scope.MaxLength {
		return oauth.Bad("invalid_scope", "the scopes are too long")
	}
	if handle == "" {
		return nil
	}
	if !set.Has(scope.Launch) {
		return oauth.Bad("invalid_scope", "a launch from an EHR needs the scope launch")
	}
	l, _, err := s.opts.Launches.Use(r.Context(), handle, c.ID)
	if err != nil && fhir.KindOf(err) == fhir.NotFound {
		return oauth.Bad("invalid_request", oauth.Text(err))
	}
	if err != nil {
		return oauth.Unavailable(err)
	}
	p.Handle, p.Context, p.User = handle, l.Context, l.User
	return nil
}

// keep makes the request wait for a person, bound to this browser.
func (s *Service) keep(w http.ResponseWriter, r *http.Request, p waiting) (string, *oauth.Error) {
	id, err := s.random(16)
	if err != nil {
		return "", oauth.Unavailable(err)
	}
	cookie := ""
	if have := s.cookie(WithBrowser(r)); len(have) == 43 {
		cookie = have // several apps may wait in one browser
	} else if cookie, err = s.random(32); err != nil {
		return "", oauth.Unavailable(err)
	}
	p.Browser, p.Expires = browserHash(cookie), s.opts.Clock().UTC().Add(Life)
	b, err := json.Marshal(p)
	if err != nil {
		return "", oauth.Unavailable(err)
	}
	_, err = s.opts.Store.Commit(r.Context(),
		&store.Batch{State: []store.StateWrite{{Key: room + id, Value: b, Expect: store.StateAbsent,
			Expires: p.Expires.Add(time.Minute)}}})
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
