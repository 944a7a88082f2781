package googlehealth_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"pulsegate/adapters/simulate"
	"pulsegate/adapters/simulate/googlehealth"
)

const (
	project  = "123456789012"
	redirect = "https://pulsegate.example/callback"
	verifier = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFG"
)

var client = googlehealth.Client{ID: "client-1", Secret: "secret-1", RedirectURIs: []string{redirect}}

// start is the first day with data. The clock begins thirty days later.
var start = time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)

// cloud is a simulated cloud under test. Every exchange with the API is checked against
// the discovery document if it is present.
type cloud struct {
	*testing.T
	*googlehealth.Server
	clock *simulate.Clock
}

func newCloud(t *testing.T, o googlehealth.Options) *cloud {
	t.Helper()
	clock := simulate.NewClock(nil, start.AddDate(0, 0, 30).Add(15*time.Hour), 0)
	o.Seed, o.Start, o.Clock, o.Project = 42, start, clock, project
	o.Clients = append(o.Clients, client)
	if o.PerMinute == 0 {
		o.PerMinute = -1
	}
	s, err := googlehealth.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return &cloud{T: t, Server: s, clock: clock}
}

// answer is the answer to a request.
type answer struct {
	code   int
	header http.Header
	raw    []byte
}

// json decodes the answer.
func (a *answer) json(t *testing.T) map[string]any {
	t.Helper()
	var v map[string]any
	if err := json.Unmarshal(a.raw, &v); err != nil {
		t.Fatalf("%v in %.200s", err, a.raw)
	}
	return v
}

// reason returns the reason of an error, or else its status.
func (a *answer) reason(t *testing.T) string {
	t.Helper()
	e, _ := a.json(t)["error"].(map[string]any)
	if details, ok := e["details"].([]any); ok {
		if r, ok := details[0].(map[string]any)["reason"].(string); ok {
			return r
		}
	}
	s, _ := e["status"].(string)
	return s
}

// do sends a request. A body that is not a string is sent as JSON.
func (c *cloud) do(method, target, token string, body any) *answer {
	c.Helper()
	var sent []byte
	switch b := body.(type) {
	case nil:
	case string:
		sent = []byte(b)
	default:
		var err error
		if sent, err = json.Marshal(b); err != nil {
			c.Fatal(err)
		}
	}
	r := httptest.NewRequest(method, target, bytes.NewReader(sent))
	r.Header.Set("Content-Type", "application/json")
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	return c.serve(r, sent)
}

func (c *cloud) serve(r *http.Request, sent []byte) *answer {
	c.Helper()
	rec := httptest.NewRecorder()
	path := *r.URL
	c.ServeHTTP(rec, r)
	a := &answer{rec.Code, rec.Header(), rec.Body.Bytes()}
	d, err := loadDiscovery()
	if err != nil {
		c.Fatal(err)
	}
	if d != nil && strings.HasPrefix(path.Path, "/v4/") {
		r.URL = &path
		if err := d.check(r, sent, a.code, a.raw); err != nil {
			c.Fatalf("%s %s: %v", r.Method, path.RequestURI(), err)
		}
	}
	return a
}

// form posts a form.
func (c *cloud) form(target string, v url.Values) *answer {
	c.Helper()
	r := httptest.NewRequest(http.MethodPost, target, strings.NewReader(v.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return c.serve(r, nil)
}

func challenge() string {
	sum := sha256.Sum256([]byte(verifier))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// request returns an authorization request.
func request(scopes ...string) url.Values {
	return url.Values{"client_id": {client.ID}, "redirect_uri": {redirect}, "response_type": {"code"},
		"scope": {strings.Join(scopes, " ")}, "state": {"st"}, "access_type": {"offline"}, "prompt": {"consent"},
		"code_challenge": {challenge()}, "code_challenge_method": {"S256"}}
}

// decide posts a decision and returns the parameters of the redirect.
func (c *cloud) decide(v url.Values) url.Values {
	c.Helper()
	a := c.form("/o/oauth2/v2/auth", v)
	if a.code != http.StatusFound || !strings.HasPrefix(a.header.Get("Location"), redirect+"?") {
		c.Fatalf("decision: %d, %s", a.code, a.raw)
	}
	u, err := url.Parse(a.header.Get("Location"))
	if err != nil {
		c.Fatal(err)
	}
	return u.Query()
}

// exchange returns the parameters of a code exchange.
func exchange(code string) url.Values {
	return url.Values{"grant_type": {"authorization_code"}, "code": {code}, "redirect_uri": {redirect},
		"client_id": {client.ID}, "client_secret": {client.Secret}, "code_verifier": {verifier}}
}

func refresh(token string) url.Values {
	return url.Values{"grant_type": {"refresh_token"}, "refresh_token": {token}, "client_id": {client.ID},
		"client_secret": {client.Secret}}
}

// link gives consent and returns the answer of the token endpoint.
func (c *cloud) link(account string, scopes ...string) map[string]any {
	c.Helper()
	if scopes == nil {
		scopes = googlehealth.Scopes()
	}
	v := request(scopes...)
	v.Set("account", account)
	v.Set("decision", "allow")
	a := c.form("/token", exchange(c.decide(v).Get("code")))
	if a.code != http.StatusOK {
		c.Fatalf("token: %d, %s", a.code, a.raw)
	}
	return a.json(c.T)
}

// access links an account and returns the access token.
func (c *cloud) access(account string, scopes ...string) string {
	c.Helper()
	return c.link(account, scopes...)["access_token"].(string)
}

// pages reads all pages of list or reconcile and returns the points.
func (c *cloud) pages(token, path string, params url.Values) (points []map[string]any, bodies [][]byte) {
	c.Helper()
	v := url.Values{}
	for name, values := range params {
		v[name] = values
	}
	for range 2000 {
		a := c.do(http.MethodGet, path+"?"+v.Encode(), token, nil)
		if a.code != http.StatusOK {
			c.Fatalf("%s: %d, %s", path, a.code, a.raw)
		}
		bodies = append(bodies, a.raw)
		page := a.json(c.T)
		list, _ := page["dataPoints"].([]any)
		for _, p := range list {
			points = append(points, p.(map[string]any))
		}
		next, _ := page["nextPageToken"].(string)
		if next == "" {
			return points, bodies
		}
		v.Set("pageToken", next)
	}
	c.Fatal("paging does not end")
	return nil, nil
}

// points returns the path of the points of a type.
func points(typ string) string { return "/v4/users/me/dataTypes/" + typ + "/dataPoints" }

// canonical returns v as JSON with sorted members.
func canonical(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
