package withings

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"fmt"
	"html/template"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"pulsegate/adapters/simulate"
)

const (
	codeLife    = 30 * time.Second
	accessLife  = 3 * time.Hour
	refreshLife = 365 * 24 * time.Hour
	// formerLife is the life of a refresh token that was replaced.
	formerLife = 8 * time.Hour
)

var scopes = []string{"user.info", "user.metrics", "user.activity", "user.sleepevents"}

// code is an authorization code.
type code struct {
	client   *Client
	redirect string
	account  int
	scopes   []string
	expires  time.Time
}

// grant is a wearer's permission to a client. Its maps are guarded by Server.mu.
type grant struct {
	client  *Client
	account int
	scopes  []string
	access  map[string]access
	refresh map[string]time.Time // end of each refresh token
}

// access is an access token. Its first use ends the refresh token that it replaced.
type access struct {
	ends   time.Time
	former string
}

// secret draws a token. The caller holds s.mu.
func (s *Server) secret(kind string) string {
	s.serial++
	return simulate.Key(s.opts.Seed).Named(kind).With(s.serial).Hex(40)
}

func (s *Server) client(id string) *Client {
	for i := range s.opts.Clients {
		if s.opts.Clients[i].ID == id {
			return &s.opts.Clients[i]
		}
	}
	return nil
}

// byAccess returns the grant of an access token, or nil. The caller holds s.mu.
func (s *Server) byAccess(token string) *grant {
	for _, g := range s.grants {
		a, ok := g.access[token]
		if !ok || !s.opts.Wall().Before(a.ends) {
			continue
		}
		delete(g.refresh, a.former)
		return g
	}
	return nil
}

// request is a checked request for authorization.
type request struct {
	client   *Client
	redirect *url.URL
	scopes   []string
}

// checked returns the request, or the text of the page that refuses it.
func (s *Server) checked(q url.Values) (request, string) {
	c := s.client(q.Get("client_id"))
	u, err := url.Parse(q.Get("redirect_uri"))
	switch {
	case c == nil:
		return request{}, "The client ID is not known."
	case err != nil || u.Scheme != "http" && u.Scheme != "https",
		len(c.RedirectURIs) > 0 && !slices.Contains(c.RedirectURIs, q.Get("redirect_uri")):
		return request{}, "The redirect URI is not registered."
	case q.Get("response_type") != "code" || q.Get("state") == "":
		return request{}, "response_type must be code, and state is required."
	}
	asked := strings.Split(q.Get("scope"), ",")
	if slices.ContainsFunc(asked, func(name string) bool { return !slices.Contains(scopes, name) }) {
		return request{}, "scope must be a list of scopes that are separated by commas."
	}
	return request{client: c, redirect: u, scopes: asked}, ""
}

// maxChoices is the number of wearers that the page lists. Others are entered as number.
const maxChoices = 100

var page = template.Must(template.New("consent").Parse(`<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Simulated Withings: sign in</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 30rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
button { font: inherit; padding: .5rem 1.5rem; margin-right: .5rem }
</style>
<h1>Simulated Withings</h1>
<p>This is not a service of Withings. All wearers are invented.</p>
<form method="post">
<p><label for="wearer">Sign in as</label>
{{if .Wearers}}<select id="wearer" name="wearer">{{range $i, $w := .Wearers}}
<option value="{{$i}}">{{$w.Name}} ({{$w.Zone}})</option>{{end}}
</select>{{else}}<input id="wearer" name="wearer" type="number" min="0" max="{{.Last}}" value="0">{{end}}</p>
<p><strong>{{.Client}}</strong> asks for access to:</p>
<ul>{{range .Scopes}}<li>{{.}}</li>{{end}}</ul>
{{range $name, $values := .Query}}{{range $values}}<input type="hidden" name="{{$name}}" value="{{.}}">
{{end}}{{end}}<button name="decision" value="approve">Allow this app</button>
<button name="decision" value="deny">Cancel</button>
</form>
`))

// authorize shows the consent page.
func (s *Server) authorize(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	rq, refusal := s.checked(q)
	if refusal != "" {
		http.Error(w, refusal, http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	hidden := url.Values{}
	for _, name := range []string{"response_type", "client_id", "redirect_uri", "scope", "state"} {
		hidden.Set(name, q.Get(name))
	}
	data := map[string]any{"Client": rq.client.ID, "Last": len(s.opts.Wearers) - 1, "Scopes": rq.scopes, "Query": hidden}
	if len(s.opts.Wearers) <= maxChoices {
		data["Wearers"] = s.opts.Wearers
	}
	_ = page.Execute(w, data) // the client may be gone
}

// decide takes the answer to the consent page.
func (s *Server) decide(w http.ResponseWriter, r *http.Request) {
	if err := r.ParseForm(); err != nil {
		http.Error(w, "The form is malformed.", http.StatusBadRequest)
		return
	}
	rq, refusal := s.checked(r.PostForm)
	if refusal != "" {
		http.Error(w, refusal, http.StatusBadRequest)
		return
	}
	back := rq.redirect.Query()
	back.Set("state", r.PostForm.Get("state"))
	if r.PostForm.Get("decision") != "approve" {
		back.Set("error", "access_denied")
	} else {
		i, err := strconv.Atoi(r.PostForm.Get("wearer"))
		if err != nil || i < 0 || i >= len(s.opts.Wearers) {
			http.Error(w, "There is no such wearer.", http.StatusBadRequest)
			return
		}
		s.mu.Lock()
		text := s.secret("code")
		s.codes[text] = &code{client: rq.client, redirect: r.PostForm.Get("redirect_uri"), scopes: rq.scopes,
			account: Account(&s.opts.Wearers[i]), expires: s.opts.Wall().Add(codeLife)}
		s.mu.Unlock()
		back.Set("code", text)
	}
	to := *rq.redirect
	to.RawQuery = back.Encode()
	http.Redirect(w, r, to.String(), http.StatusFound)
}

// oauth answers a request to the token endpoint.
func (s *Server) oauth(w http.ResponseWriter, r *http.Request) {
	if s.faults.Before(w, r, "oauth", s.opts.Clock.Now()) {
		return
	}
	c := s.client(r.PostFormValue("client_id"))
	if c == nil {
		refuse(w, statusInvalid, "Invalid Params: invalid client_id")
		return
	}
	switch r.PostFormValue("action") {
	case "requesttoken":
		s.requestToken(w, r, c)
	case "revoke":
		s.revoke(w, r, c)
	default:
		refuse(w, statusInvalid, "Invalid Params: invalid action")
	}
}

// requestToken answers with a pair of tokens.
func (s *Server) requestToken(w http.ResponseWriter, r *http.Request, c *Client) {
	f := r.PostFormValue
	if subtle.ConstantTimeCompare([]byte(f("client_secret")), []byte(c.Secret)) != 1 {
		refuse(w, statusInvalid, "Invalid Params: invalid client_secret")
		return
	}
	s.mu.Lock()
	g, former, refusal := s.granted(f, c)
	if refusal != "" {
		s.mu.Unlock()
		refuse(w, statusInvalid, "Invalid Params: "+refusal)
		return
	}
	now := s.opts.Wall()
	if former != "" {
		g.refresh[former] = earlier(g.refresh[former], now.Add(formerLife))
	}
	token, refresh := s.secret("access"), s.secret("refresh")
	subject := fmt.Sprint(g.account)
	g.access[token] = access{ends: now.Add(s.faults.TokenLife(accessLife, subject)), former: former}
	g.refresh[refresh] = now.Add(refreshLife)
	for text, a := range g.access {
		if !now.Before(a.ends) {
			delete(g.access, text)
		}
	}
	s.mu.Unlock()
	if s.faults.Draw(simulate.LostToken, subject) {
		panic(http.ErrAbortHandler) // net/http closes the connection
	}
	answer(w, 0, map[string]any{"userid": g.account, "access_token": token, "refresh_token": refresh,
		"scope": strings.Join(g.scopes, ","), "expires_in": int(s.faults.StatedLife(accessLife).Seconds()),
		"token_type": "Bearer"}, "")
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// granted returns the grant of a code or a refresh token, and that refresh token. The
// caller holds s.mu.
func (s *Server) granted(f func(string) string, c *Client) (g *grant, former, refusal string) {
	now := s.opts.Wall()
	switch f("grant_type") {
	case "authorization_code":
		a := s.codes[f("code")]
		delete(s.codes, f("code"))
		if a == nil || a.client != c || a.redirect != f("redirect_uri") || !now.Before(a.expires) {
			return nil, "", "invalid code"
		}
		g = &grant{client: c, account: a.account, scopes: a.scopes, access: map[string]access{},
			refresh: map[string]time.Time{}}
		s.grants = append(s.grants, g)
		return g, "", ""
	case "refresh_token":
		former = f("refresh_token")
		for _, g := range s.grants {
			if ends, ok := g.refresh[former]; ok && g.client == c && now.Before(ends) {
				return g, former, ""
			}
		}
		return nil, "", "invalid refresh_token"
	}
	return nil, "", "invalid grant_type"
}

// signed reports whether a request has the signature over its values.
func signed(r *http.Request, c *Client, values ...string) bool {
	return hmac.Equal([]byte(r.PostFormValue("signature")), []byte(sign(c.Secret, values...)))
}

// sign returns the signature over values: the HMAC-SHA256 of the values, separated by
// commas, in hexadecimal digits.
func sign(secret string, values ...string) string {
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(strings.Join(values, ","))) // never fails
	return hex.EncodeToString(mac.Sum(nil))
}

// signature answers a request for a nonce.
func (s *Server) signature(w http.ResponseWriter, r *http.Request) {
	c := s.client(r.PostFormValue("client_id"))
	timestamp := r.PostFormValue("timestamp")
	at, err := strconv.ParseInt(timestamp, 10, 64)
	age := s.opts.Wall().Sub(time.Unix(at, 0)).Abs()
	switch {
	case c == nil || r.PostFormValue("action") != "getnonce" || err != nil || age > 5*time.Minute:
		refuse(w, statusInvalid, "Invalid Params")
	case !signed(r, c, "getnonce", c.ID, timestamp):
		refuse(w, statusToken, "Invalid signature")
	default:
		s.mu.Lock()
		nonce := s.secret("nonce")
		s.nonces[nonce] = true
		s.mu.Unlock()
		answer(w, 0, map[string]string{"nonce": nonce}, "")
	}
}

// revoke ends the grants and the subscriptions of a user for a client.
func (s *Server) revoke(w http.ResponseWriter, r *http.Request, c *Client) {
	nonce := r.PostFormValue("nonce")
	account, err := strconv.Atoi(r.PostFormValue("userid"))
	s.mu.Lock()
	defer s.mu.Unlock()
	fresh := s.nonces[nonce]
	delete(s.nonces, nonce)
	switch {
	case err != nil:
		refuse(w, statusInvalid, "Invalid Params: invalid userid")
	case !fresh || !signed(r, c, "revoke", c.ID, nonce):
		refuse(w, statusToken, "Invalid signature")
	default:
		s.grants = slices.DeleteFunc(s.grants, func(g *grant) bool { return g.client == c && g.account == account })
		for sub := range s.subs {
			if sub.client == c.ID && sub.account == account {
				delete(s.subs, sub)
			}
		}
		answer(w, 0, struct{}{}, "")
	}
}
