package backend

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"pulsegate/fhir"
)

const (
	maxAnswer = 64 << 10
	maxToken  = 8 << 10
	// assertionLife is the lifetime of an assertion, at most 5 minutes.
	assertionLife = 4 * time.Minute
	// maxCache bounds the use of a token whose server states a longer lifetime.
	maxCache = time.Hour
	// unstated is the lifetime of a token whose server states none.
	unstated = time.Minute
	// margin is the time before its expiry from which a token is not used.
	margin = 30 * time.Second
	// timeout bounds one acquisition of a token, discovery included.
	timeout = 30 * time.Second
)

// Config names a client at a server.
type Config struct {
	Base     string // FHIR base URL of the server, without a trailing slash
	ClientID string // of this server there
	Scope    string // requested scopes
	// TokenURL is the token endpoint. If it is empty, it is discovered and must have
	// the scheme and host of Base.
	TokenURL string
}

// Options holds what all clients share.
type Options struct {
	HTTP  *http.Client // must restrict addresses, redirects and times (fhir/egress)
	Sign  func(claims any) (string, error)
	Clock func() time.Time
	// NewID returns a random id for each assertion.
	NewID func() string
}

// Class is a kind of failure. It is safe to log and to show.
type Class string

// Classes of failures. Refused stands for error codes that RFC 6749 does not define.
const (
	Unreachable   Class = "token-unreachable"
	Discovery     Class = "token-discovery"
	Elsewhere     Class = "token-endpoint-elsewhere"
	Malformed     Class = "token-malformed"
	Busy          Class = "token-busy"
	Refused       Class = "token-refused"
	InvalidClient Class = "invalid_client"
	InvalidScope  Class = "invalid_scope"
	Unauthorized  Class = "unauthorized_client"
	InvalidGrant  Class = "invalid_grant"
	BadRequest    Class = "invalid_request"
	Unsupported   Class = "unsupported_grant_type"
)

// Error is a failure to get a token.
type Error struct {
	Kind Class
	err  error // may contain a URL; for errors.Is only
}

// Class returns the kind of the failure as a word.
func (e *Error) Class() string { return string(e.Kind) }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.err }

func (e *Error) Error() string {
	text := "the server refused the token request"
	switch e.Kind {
	case Unreachable:
		text = "the server cannot be reached"
	case Discovery:
		text = "the server publishes no smart-configuration with a token endpoint; name the endpoint in the configuration"
	case Elsewhere:
		text = "the smart-configuration names a token endpoint on another host; if that is right, configure its URL"
	case Malformed:
		text = "the answer of the token endpoint is not a token response"
	case Busy:
		text = "the token endpoint cannot answer at the moment"
	case InvalidClient:
		text = "the server does not accept this client: check the client id and the registered JWK Set URL"
	case InvalidScope:
		text = "the server does not grant the requested scopes"
	case Unauthorized, Unsupported:
		text = "the client is not registered for client_credentials"
	}
	return "backend: " + text + " (" + string(e.Kind) + ")"
}

func failed(kind Class, err error) error { return &Error{Kind: kind, err: err} }

// Client gets access tokens for one server. It is safe for concurrent use.
type Client struct {
	conf Config
	opts Options

	mu     sync.Mutex
	token  string    // guarded by mu; empty if there is none
	until  time.Time // guarded by mu; when token must not be used any more
	flight *flight   // guarded by mu; the request in progress, or nil
}

// flight is one acquisition that all callers wait for. token and err are set before
// done is closed.
type flight struct {
	done  chan struct{}
	token string
	err   error
}

// New returns a Client. The error names the setting that is wrong.
func New(c Config, o Options) (*Client, error) {
	const op = "backend.New"
	if o.HTTP == nil || o.Sign == nil || o.Clock == nil || o.NewID == nil {
		return nil, fhir.Errorf(fhir.Internal, op, "HTTP, Sign, Clock and NewID are required")
	}
	if u, err := url.Parse(c.Base); err != nil || u.Host == "" || u.RawQuery != "" || u.Fragment != "" {
		return nil, fhir.Errorf(fhir.Invalid, op, "base: must be an absolute URL without query")
	}
	if c.ClientID == "" || len(c.ClientID) > 255 {
		return nil, fhir.Errorf(fhir.Invalid, op, "client id: must have 1 to 255 bytes")
	}
	if c.TokenURL != "" {
		if u, err := url.Parse(c.TokenURL); err != nil || u.Host == "" || u.Fragment != "" {
			return nil, fhir.Errorf(fhir.Invalid, op, "token URL: must be an absolute URL without fragment")
		}
	}
	c.Base = strings.TrimSuffix(c.Base, "/")
	return &Client{conf: c, opts: o}, nil
}

// Token returns an access token that is valid for at least half a minute, unless
// the server's tokens live for less. Concurrent calls share one request.
func (c *Client) Token(ctx context.Context) (string, error) {
	c.mu.Lock()
	if c.token != "" && c.opts.Clock().Before(c.until) {
		defer c.mu.Unlock()
		return c.token, nil
	}
	f := c.flight
	if f == nil {
		f = &flight{done: make(chan struct{})}
		c.flight = f
		// The request outlives the caller that happens to be the first.
		go c.run(context.WithoutCancel(ctx), f)
	}
	c.mu.Unlock()
	select {
	case <-f.done:
		return f.token, f.err
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

// Reject drops a token that the server answered with 401, so that the next call of
// Token requests another one.
func (c *Client) Reject(token string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.token == token {
		c.token = ""
	}
}

func (c *Client) run(ctx context.Context, f *flight) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	token, life, err := c.request(ctx)
	c.mu.Lock()
	defer c.mu.Unlock()
	f.token, f.err = token, err
	c.flight, c.token = nil, token
	c.until = c.opts.Clock().Add(min(life, maxCache) - min(margin, life/2))
	close(f.done)
}

// request gets a new token and its lifetime.
func (c *Client) request(ctx context.Context) (string, time.Duration, error) {
	endpoint, err := c.endpoint(ctx)
	if err != nil {
		return "", 0, err
	}
	now := c.opts.Clock()
	assertion, err := c.opts.Sign(map[string]any{"iss": c.conf.ClientID, "sub": c.conf.ClientID, "aud": endpoint,
		"jti": c.opts.NewID(), "iat": now.Unix(), "exp": now.Add(assertionLife).Unix()})
	if err != nil {
		return "", 0, fhir.Wrap("backend.request", err)
	}
	form := url.Values{"grant_type": {"client_credentials"}, "scope": {c.conf.Scope},
		"client_assertion_type": {"urn:ietf:params:oauth:client-assertion-type:jwt-bearer"},
		"client_assertion":      {assertion}}
	rq, err := http.NewRequestWithContext(ctx, http.MethodPost, endpoint, strings.NewReader(form.Encode()))
	if err != nil {
		return "", 0, failed(Malformed, nil)
	}
	rq.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	status, body, err := c.do(rq)
	if err != nil {
		return "", 0, err
	}
	if status != http.StatusOK {
		return "", 0, refusal(status, body)
	}
	return parse(body)
}

// refusal converts an error response (RFC 6749 5.2). It keeps only defined codes,
// because a description may echo the request.
func refusal(status int, body []byte) error {
	if status == http.StatusTooManyRequests || status >= 500 {
		return failed(Busy, nil)
	}
	var e struct {
		Code string `json:"error"`
	}
	if json.Unmarshal(body, &e) == nil {
		switch k := Class(e.Code); k {
		case InvalidClient, InvalidScope, Unauthorized, InvalidGrant, BadRequest, Unsupported:
			return failed(k, nil)
		}
	}
	return failed(Refused, nil)
}

// parse reads a token response (RFC 6749 5.1).
func parse(body []byte) (string, time.Duration, error) {
	var t struct {
		Token   string   `json:"access_token"`
		Type    string   `json:"token_type"`
		Expires *float64 `json:"expires_in"`
	}
	if err := json.Unmarshal(body, &t); err != nil || !strings.EqualFold(t.Type, "Bearer") || !visible(t.Token) {
		return "", 0, failed(Malformed, nil)
	}
	life := unstated
	if t.Expires != nil {
		if !(*t.Expires > 0) {
			return "", 0, failed(Malformed, nil)
		}
		life = time.Duration(min(*t.Expires, maxCache.Seconds()) * float64(time.Second))
	}
	return t.Token, life, nil
}

// visible reports whether s can be sent in a header (RFC 6750 2.1).
func visible(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return false
		}
	}
	return s != "" && len(s) <= maxToken
}

// endpoint returns the URL of the token endpoint. It is discovered for every
// request, because a token lives longer than a cache of the document should.
func (c *Client) endpoint(ctx context.Context) (string, error) {
	if c.conf.TokenURL != "" {
		return c.conf.TokenURL, nil
	}
	rq, err := http.NewRequestWithContext(ctx, http.MethodGet, c.conf.Base+"/.well-known/smart-configuration", nil)
	if err != nil {
		return "", failed(Discovery, nil)
	}
	rq.Header.Set("Accept", "application/json")
	status, body, err := c.do(rq)
	if err != nil {
		return "", err
	}
	if status == http.StatusTooManyRequests || status >= 500 {
		return "", failed(Busy, nil)
	}
	var doc struct {
		Token string `json:"token_endpoint"`
	}
	if status != http.StatusOK || json.Unmarshal(body, &doc) != nil || doc.Token == "" {
		return "", failed(Discovery, nil)
	}
	base, err := url.Parse(c.conf.Base)
	if err != nil {
		return "", failed(Discovery, nil)
	}
	u, err := url.Parse(doc.Token)
	if err != nil || u.Fragment != "" || u.User != nil {
		return "", failed(Discovery, nil)
	}
	if u.Scheme != base.Scheme || !strings.EqualFold(u.Host, base.Host) {
		return "", failed(Elsewhere, nil)
	}
	return doc.Token, nil
}

// do sends a request and reads the JSON of the answer.
func (c *Client) do(rq *http.Request) (status int, body []byte, err error) {
	resp, err := c.opts.HTTP.Do(rq)
	if err != nil {
		return 0, nil, failed(Unreachable, cause(err))
	}
	body, err = io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if cerr := resp.Body.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return 0, nil, failed(Unreachable, cause(err))
	}
	if media, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type")); len(body) > maxAnswer ||
		err != nil || media != "application/json" {
		body = nil // only the status counts
	}
	return resp.StatusCode, body, nil
}

// cause removes the URL from an error of the HTTP client.
func cause(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}
