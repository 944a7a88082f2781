package blackbox

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/lestrrat-go/jwx/v2/jwa"
	"github.com/lestrrat-go/jwx/v2/jwk"
	"github.com/lestrrat-go/jwx/v2/jws"
	"github.com/lestrrat-go/jwx/v2/jwt"
)

// Key is the signing key of a client.
type Key struct {
	private jwk.Key
	set     jwk.Set
}

// NewKey returns a new ES384 key.
func NewKey() (*Key, error) {
	raw, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		return nil, err
	}
	k, err := jwk.FromRaw(raw)
	if err != nil {
		return nil, err
	}
	for name, v := range map[string]any{jwk.KeyIDKey: "k1", jwk.AlgorithmKey: jwa.ES384, jwk.KeyUsageKey: "sig"} {
		if err := k.Set(name, v); err != nil {
			return nil, err
		}
	}
	pub, err := k.PublicKey()
	if err != nil {
		return nil, err
	}
	set := jwk.NewSet()
	return &Key{private: k, set: set}, set.AddKey(pub)
}

// Sign returns a raw ES384 signature, for tokens that a library would not create.
func (k *Key) Sign(payload []byte) ([]byte, error) {
	signer, err := jws.NewSigner(jwa.ES384)
	if err != nil {
		return nil, err
	}
	var raw ecdsa.PrivateKey
	if err := k.private.Raw(&raw); err != nil {
		return nil, err
	}
	return signer.Sign(payload, &raw)
}

// JWKS returns the public JWK Set.
func (k *Key) JWKS() ([]byte, error) { return json.Marshal(k.set) }

// Client is a backend client with a registered key.
type Client struct {
	Base, ID, Scope string
	Key             *Key
	HTTP            *http.Client
	// FHIR is the FHIR base URL without a trailing slash. If empty, it is
	// Base + "/fhir".
	FHIR string
	// Static, if not empty, is the bearer token. "-" sends none.
	Static string

	mu    sync.Mutex // guards the fields below
	token string
	until time.Time // when to request the next token
}

// Assertion returns a new client assertion for the token endpoint.
func (c *Client) Assertion(jti string) (string, error) {
	now := time.Now()
	t, err := jwt.NewBuilder().Issuer(c.ID).Subject(c.ID).Audience([]string{c.Base + "/oauth/token"}).
		JwtID(jti).IssuedAt(now).Expiration(now.Add(4 * time.Minute)).Build()
	if err != nil {
		return "", err
	}
	h := jws.NewHeaders()
	if err := h.Set(jws.TypeKey, "JWT"); err != nil {
		return "", err
	}
	b, err := jwt.Sign(t, jwt.WithKey(jwa.ES384, c.Key.private, jws.WithProtectedHeaders(h)))
	return string(b), err
}

// NewJTI returns a random token id.
func NewJTI() string {
	var b [16]byte
	rand.Read(b[:]) // never fails (crypto/rand since Go 1.24)
	return base64.RawURLEncoding.EncodeToString(b[:])
}

// TokenRequest posts an assertion to the token endpoint and returns status and body.
func (c *Client) TokenRequest(assertion, scope string) (int, map[string]any, error) {
	form := url.Values{
		"grant_type": {"client_credentials"}, "scope": {scope},
		"client_assertion_type": {"urn:ietf:params:oauth:client-assertion-type:jwt-bearer"},
		"client_assertion":      {assertion},
	}
	resp, err := c.HTTP.PostForm(c.Base+"/oauth/token", form)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	var out map[string]any
	err = json.NewDecoder(resp.Body).Decode(&out)
	return resp.StatusCode, out, err
}

// Token returns a valid access token. It requests a new one if necessary.
func (c *Client) Token() (string, error) {
	if c.Static != "" {
		return c.Static, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.token != "" && time.Now().Before(c.until) {
		return c.token, nil
	}
	a, err := c.Assertion(NewJTI())
	if err != nil {
		return "", err
	}
	status, out, err := c.TokenRequest(a, c.Scope)
	if err != nil {
		return "", err
	}
	tok, ok := out["access_token"].(string)
	if status != 200 || !ok {
		return "", fmt.Errorf("token endpoint: %d %v", status, out)
	}
	secs, _ := out["expires_in"].(float64)
	c.token, c.until = tok, time.Now().Add(time.Duration(secs)*time.Second/2)
	return tok, nil
}

// FHIRBase returns the FHIR base URL without a trailing slash.
func (c *Client) FHIRBase() string {
	if c.FHIR != "" {
		return c.FHIR
	}
	return c.Base + "/fhir"
}

// Do sends a request with the token. A path without a scheme is below the FHIR base.
// header holds names and values in turn.
func (c *Client) Do(method, path string, body []byte, header ...string) (*http.Response, error) {
	u := path
	if !strings.HasPrefix(path, "http") {
		u = strings.TrimSuffix(c.FHIRBase()+"/"+strings.TrimPrefix(path, "/"), "/")
	}
	var rd io.Reader
	if body != nil {
		rd = bytes.NewReader(body)
	}
	req, err := http.NewRequest(method, u, rd)
	if err != nil {
		return nil, err
	}
	tok, err := c.Token()
	if err != nil {
		return nil, err
	}
	if tok != "-" {
		req.Header.Set("Authorization", "Bearer "+tok)
	}
	req.Header.Set("Accept", "application/fhir+json")
	if body != nil {
		req.Header.Set("Content-Type", "application/fhir+json")
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	return c.HTTP.Do(req)
}

// JSON sends a request and decodes the answer.
func (c *Client) JSON(method, path string, body []byte, header ...string) (int, map[string]any, error) {
	resp, err := c.Do(method, path, body, header...)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil || len(b) == 0 {
		return resp.StatusCode, nil, err
	}
	var out map[string]any
	if err := json.Unmarshal(b, &out); err != nil {
		return resp.StatusCode, nil, fmt.Errorf("%s %s: the answer is not JSON: %w", method, path, err)
	}
	return resp.StatusCode, out, nil
}

// Search follows a search to its last page and returns the matches.
func (c *Client) Search(path string) ([]map[string]any, error) {
	var out []map[string]any
	for page := 0; path != ""; page++ {
		if page > 100000 {
			return nil, fmt.Errorf("more than 100000 pages")
		}
		status, b, err := c.JSON("GET", path, nil)
		if err != nil {
			return nil, err
		}
		if status != 200 {
			return nil, fmt.Errorf("search: %d %v", status, b)
		}
		entries, _ := b["entry"].([]any)
		for _, e := range entries {
			m, _ := e.(map[string]any)
			r, _ := m["resource"].(map[string]any)
			out = append(out, r)
		}
		path = link(b, "next")
	}
	return out, nil
}

// link returns the URL of a link of a Bundle.
func link(bundle map[string]any, rel string) string {
	links, _ := bundle["link"].([]any)
	for _, l := range links {
		m, _ := l.(map[string]any)
		if m["relation"] == rel {
			u, _ := m["url"].(string)
			return u
		}
	}
	return ""
}

// Export starts an export at path, waits for it, and returns the resources by type
// and the manifest.
func (c *Client) Export(path string) (map[string][]json.RawMessage, map[string]any, error) {
	resp, err := c.Do("GET", path, nil, "Prefer", "respond-async")
	if err != nil {
		return nil, nil, err
	}
	body, err := io.ReadAll(resp.Body)
	if cerr := resp.Body.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return nil, nil, err
	}
	if resp.StatusCode != 202 {
		return nil, nil, fmt.Errorf("kick-off: %d %s", resp.StatusCode, body)
	}
	status := resp.Header.Get("Content-Location")
	for end := time.Now().Add(patience); time.Now().Before(end); {
		code, manifest, err := c.JSON("GET", status, nil, "Accept", "application/json")
		if err != nil {
			return nil, nil, err
		}
		if code == 202 {
			time.Sleep(50 * time.Millisecond)
			continue
		}
		if code != 200 {
			return nil, nil, fmt.Errorf("export status: %d %v", code, manifest)
		}
		out := map[string][]json.RawMessage{}
		files, _ := manifest["output"].([]any)
		for _, f := range files {
			m, _ := f.(map[string]any)
			lines, err := c.ndjson(m["url"].(string))
			if err != nil {
				return nil, nil, err
			}
			typ := m["type"].(string)
			out[typ] = append(out[typ], lines...)
		}
		return out, manifest, nil
	}
	return nil, nil, fmt.Errorf("the export was not complete after %v", patience)
}

// ndjson downloads a file of an export.
func (c *Client) ndjson(u string) ([]json.RawMessage, error) {
	resp, err := c.Do("GET", u, nil, "Accept", "application/fhir+ndjson")
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != 200 {
		return nil, fmt.Errorf("export file: %d", resp.StatusCode)
	}
	var out []json.RawMessage
	dec := json.NewDecoder(resp.Body)
	for {
		var line json.RawMessage
		if err := dec.Decode(&line); err == io.EOF {
			return out, nil
		} else if err != nil {
			return nil, err
		}
		out = append(out, line)
	}
}
