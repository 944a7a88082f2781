// Package credentials obtains access tokens for the endpoints of subscriptions by the
// client credentials grant (RFC 6749 4.4), as the operator has configured.
//
// A token goes only to the endpoint for which it is configured, and only for the
// Subscriptions of the client for which it is configured. Otherwise another client could
// have it sent to an endpoint of its own.
package credentials

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"pulsegate/fhir"
)

// Entry configures the token for the endpoints of one client.
type Entry struct {
	// Client is the id of the client whose Subscriptions have the endpoint.
	Client string
	// Endpoint is the URL below which the endpoints are.
	Endpoint string
	// TokenURL is the token endpoint. ClientID and Secret authenticate this server there
	// (client_secret_basic).
	TokenURL, ClientID, Secret, Scope string
}

type source struct {
	entry    Entry
	endpoint *url.URL

	mu      sync.Mutex // held during a request, so that there is one at a time
	header  string     // value of the Authorization header, guarded by mu
	expires time.Time  // guarded by mu
}

// Credentials holds the configured tokens. It is safe for concurrent use.
type Credentials struct {
	client  *http.Client
	clock   func() time.Time
	sources []*source
}

// New checks the entries. client enforces the policy for outgoing requests.
func New(client *http.Client, clock func() time.Time, entries []Entry) (*Credentials, error) {
	c := &Credentials{client: client, clock: clock}
	for _, e := range entries {
		u, err := url.Parse(e.Endpoint)
		t, terr := url.Parse(e.TokenURL)
		if err != nil || terr != nil || u.Host == "" || t.Host == "" || u.RawQuery != "" || u.User != nil ||
			e.Client == "" || e.ClientID == "" || e.Secret == "" {
			return nil, fhir.Errorf(fhir.Invalid, "credentials.New",
				"each entry needs client, endpoint, token-url, client-id and client-secret-file; the URLs must be absolute")
		}
		c.sources = append(c.sources, &source{entry: e, endpoint: u})
	}
	return c, nil
}

// covers reports whether an endpoint is below the configured one.
func (s *source) covers(client string, u *url.URL) bool {
	base := strings.TrimSuffix(s.endpoint.EscapedPath(), "/")
	path := u.EscapedPath()
	return s.entry.Client == client && s.endpoint.Scheme == u.Scheme && strings.EqualFold(s.endpoint.Host, u.Host) &&
		(path == base || strings.HasPrefix(path, base+"/")) && !strings.Contains(path, "..") &&
		!strings.Contains(strings.ToLower(path), "%2e")
}

// Authorize returns the value of the Authorization header for an endpoint of a client, or
// "" if none is configured.
func (c *Credentials) Authorize(ctx context.Context, client string, endpoint *url.URL) (string, error) {
	for _, s := range c.sources {
		if s.covers(client, endpoint) {
			return c.token(ctx, s)
		}
	}
	return "", nil
}

var errToken = errors.New("the token endpoint did not answer with a bearer token")

func (c *Credentials) token(ctx context.Context, s *source) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.header != "" && c.clock().Before(s.expires) {
		return s.header, nil
	}
	form := url.Values{"grant_type": {"client_credentials"}}
	if s.entry.Scope != "" {
		form.Set("scope", s.entry.Scope)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.entry.TokenURL, strings.NewReader(form.Encode()))
	if err != nil {
		return "", errToken
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Accept", "application/json")
	// RFC 6749 2.3.1: both parts are encoded as in a form.
	req.SetBasicAuth(url.QueryEscape(s.entry.ClientID), url.QueryEscape(s.entry.Secret))
	resp, err := c.client.Do(req)
	if err != nil {
		return "", errToken // the cause may hold the URL
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if cerr := resp.Body.Close(); err != nil || cerr != nil || resp.StatusCode != http.StatusOK {
		return "", errToken
	}
	var t struct {
		AccessToken string `json:"access_token"`
		TokenType   string `json:"token_type"`
		ExpiresIn   int64  `json:"expires_in"`
	}
	if json.Unmarshal(body, &t) != nil || !strings.EqualFold(t.TokenType, "Bearer") || t.AccessToken == "" ||
		strings.ContainsFunc(t.AccessToken, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return "", errToken
	}
	// A token is replaced well before it expires. Without a stated time it is used once.
	life := time.Duration(min(t.ExpiresIn, 86400)) * time.Second
	s.header, s.expires = "Bearer "+t.AccessToken, c.clock().Add(life*4/5)
	return s.header, nil
}
