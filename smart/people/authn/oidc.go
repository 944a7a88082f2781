package authn

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/lestrrat-go/jwx/v2/jwa"
	"github.com/lestrrat-go/jwx/v2/jwk"
	"github.com/lestrrat-go/jwx/v2/jws"
	"golang.org/x/oauth2"

	"pulsegate/fhir"
)

// Provider signs people in at the hospital's OpenID provider, with the
// authorization code flow, PKCE (S256), state and nonce (OpenID Connect Core
// 1.0, 3.1; RFC 9700).
//
// Discovery and the basic checks of the id_token come from go-oidc, the
// authorization request and the redemption of the code from x/oauth2. This
// package adds the checks that those libraries leave to their caller (state,
// nonce, azp, iat, auth_time), and the cache of keys; see keySet.
//
// The exported fields must not change after the first call. A Provider is safe
// for concurrent use.
type Provider struct {
	Issuer   string // must equal the iss claim of the provider's tokens
	ClientID string
	// Secret authenticates this client with HTTP Basic. If it is empty, the
	// client is public and only PKCE protects the code.
	Secret   string
	Redirect string // URL of our callback
	Name     string // shown on the sign-in button
	// MFA and PhishingResistant list the values of the provider's acr and amr
	// claims that mean several factors, or a phishing-resistant factor.
	MFA, PhishingResistant []string
	HTTP                   *http.Client // from fhir/egress
	Clock                  func() time.Time

	// mu guards the fields below. It is held while the metadata is fetched, so
	// that concurrent sign-ins share one fetch.
	mu       sync.Mutex
	endpoint oauth2.Endpoint
	keys     jwk.Set // nil before the first fetch
	expires  time.Time
}

// AuthRequest is the state of a sign-in that is pending at the provider. It is
// kept in a sealed cookie, which the browser cannot read.
type AuthRequest struct {
	State    string    `json:"state"`
	Nonce    string    `json:"nonce"`
	Verifier string    `json:"verifier"` // PKCE code verifier
	Expires  time.Time `json:"expires"`
	// Fresh demands that the person signs in at the provider anew, after
	// Started.
	Fresh   bool      `json:"fresh,omitempty"`
	Started time.Time `json:"asked"`
}

// Identity is the person whom the provider has signed in.
type Identity struct {
	Issuer, Subject string
	ACR             string // PhishingResistant, MultiFactor or SingleFactor
	AMR             []string
	AuthTime        time.Time
}

const (
	metadataLife    = 10 * time.Minute
	refetchInterval = 10 * time.Second
	authRequestLife = 10 * time.Minute
	clockSkew       = time.Minute
	maxIDToken      = 16 << 10  // bytes
	maxResponse     = 256 << 10 // bytes
)

// signingAlgorithms are the algorithms accepted for an id_token, all of them
// asymmetric.
var signingAlgorithms = []string{oidc.RS256, oidc.RS384, oidc.RS512, oidc.PS256, oidc.PS384, oidc.PS512,
	oidc.ES256, oidc.ES384, oidc.ES512}

// Begin returns the URL of the authentication request, to which the browser is
// sent. The request asks for acr as a preference; Finish reports what the
// provider did. If fresh is set, the person has to sign in anew.
func (p *Provider) Begin(ctx context.Context, acr string, fresh bool) (string, AuthRequest, error) {
	const op = "authn.Begin"
	config, _, err := p.metadata(ctx, false)
	if err != nil {
		return "", AuthRequest{}, err
	}
	now := p.Clock()
	req := AuthRequest{State: rand.Text(), Nonce: rand.Text(), Verifier: oauth2.GenerateVerifier(), Fresh: fresh,
		Started: now, Expires: now.Add(authRequestLife)}
	options := []oauth2.AuthCodeOption{oidc.Nonce(req.Nonce), oauth2.S256ChallengeOption(req.Verifier)}
	switch {
	case acr == PhishingResistant && len(p.PhishingResistant) > 0:
		options = append(options, oauth2.SetAuthURLParam("acr_values", strings.Join(p.PhishingResistant, " ")))
	case len(p.MFA)+len(p.PhishingResistant) > 0:
		values := append(slices.Clone(p.PhishingResistant), p.MFA...)
		options = append(options, oauth2.SetAuthURLParam("acr_values", strings.Join(values, " ")))
	}
	if fresh {
		options = append(options, oauth2.SetAuthURLParam("max_age", "0"), oauth2.SetAuthURLParam("prompt", "login"))
	}
	target := config.AuthCodeURL(req.State, options...)
	if _, err := url.Parse(target); err != nil {
		return "", AuthRequest{}, fhir.Wrap(op, err)
	}
	return target, req, nil
}

// Finish checks the parameters of the authentication response, redeems the
// code and checks the id_token. A refusal has kind Unauthorized and a
// fixed reason, which never quotes the provider.
func (p *Provider) Finish(ctx context.Context, req AuthRequest, response url.Values) (Identity, error) {
	const op = "authn.Finish"
	now := p.Clock()
	state := []byte(response.Get("state"))
	switch {
	case !now.Before(req.Expires):
		return Identity{}, failed(op, "the sign-in took too long")
	case len(response["state"]) != 1 || subtle.ConstantTimeCompare(state, []byte(req.State)) != 1:
		return Identity{}, failed(op, "the response belongs to another browser")
	case response.Get("iss") != "" && response.Get("iss") != p.Issuer: // RFC 9207
		return Identity{}, failed(op, "the response comes from another provider")
	case response.Get("error") != "" || len(response["code"]) != 1:
		return Identity{}, failed(op, "the provider refused the sign-in")
	}
	config, _, err := p.metadata(ctx, false)
	if err != nil {
		return Identity{}, err
	}
	token, err := config.Exchange(oidc.ClientContext(ctx, p.client()), response.Get("code"),
		oauth2.VerifierOption(req.Verifier))
	if err != nil {
		// The error quotes the provider's response, so it is dropped.
		return Identity{}, failed(op, "the provider did not redeem the code")
	}
	raw, ok := token.Extra("id_token").(string)
	if !ok || raw == "" || len(raw) > maxIDToken {
		return Identity{}, failed(op, "the token response has no usable id_token")
	}
	return p.identify(ctx, raw, req, now)
}

// identify verifies an id_token (OpenID Connect Core 1.0, 3.1.3.7) and returns
// the identity that it asserts.
func (p *Provider) identify(ctx context.Context, raw string, req AuthRequest, now time.Time) (Identity, error) {
	const op = "authn.identify"
	keys := keySet{provider: p}
	token, err := oidc.NewVerifier(p.Issuer, &keys, &oidc.Config{ClientID: p.ClientID,
		SupportedSigningAlgs: signingAlgorithms,
		// The library allows no clock skew, so it sees a clock that is slow by
		// the skew.
		Now: func() time.Time { return now.Add(-clockSkew) }}).Verify(ctx, raw)
	var expired *oidc.TokenExpiredError
	switch {
	case err == nil:
	case keys.err != nil: // the library hides the kind of an error of its key set
		return Identity{}, keys.err
	case errors.As(err, &expired):
		return Identity{}, failed(op, "id_token: exp")
	default: // the library's text quotes the claims
		return Identity{}, failed(op, "id_token: syntax, alg, iss, aud or nbf")
	}
	var claims struct {
		Azp      string   `json:"azp"`
		ACR      string   `json:"acr"`
		AMR      []string `json:"amr"`
		AuthTime float64  `json:"auth_time"`
	}
	if err := token.Claims(&claims); err != nil {
		return Identity{}, failed(op, "id_token: the claims cannot be read")
	}
	authTime := token.IssuedAt
	if claims.AuthTime > 0 {
		authTime = time.Unix(int64(claims.AuthTime), 0)
	}
	switch {
	case token.Issuer != p.Issuer: // the library accepts a second spelling of Google's issuer
		return Identity{}, failed(op, "id_token: iss")
	case len(token.Audience) > 1 && claims.Azp != p.ClientID || claims.Azp != "" && claims.Azp != p.ClientID:
		return Identity{}, failed(op, "id_token: azp")
	case subtle.ConstantTimeCompare([]byte(token.Nonce), []byte(req.Nonce)) != 1:
		return Identity{}, failed(op, "id_token: nonce")
	case token.IssuedAt.After(now.Add(clockSkew)) || now.Sub(token.IssuedAt) > authRequestLife+clockSkew:
		return Identity{}, failed(op, "id_token: iat")
	case token.Subject == "" || len(token.Subject) > 255:
		return Identity{}, failed(op, "id_token: sub")
	case req.Fresh && (claims.AuthTime == 0 || authTime.Before(req.Started.Add(-clockSkew))):
		return Identity{}, failed(op, "id_token: auth_time is too old")
	}
	id := Identity{Issuer: token.Issuer, Subject: token.Subject, ACR: SingleFactor, AMR: []string{"ext"},
		AuthTime: authTime}
	asserts := func(values []string) bool {
		return slices.Contains(values, claims.ACR) ||
			slices.ContainsFunc(claims.AMR, func(method string) bool { return slices.Contains(values, method) })
	}
	switch {
	case asserts(p.PhishingResistant):
		id.ACR, id.AMR = PhishingResistant, append(id.AMR, "mfa")
	case asserts(p.MFA):
		id.ACR, id.AMR = MultiFactor, append(id.AMR, "mfa")
	}
	return id, nil
}

// keySet implements oidc.KeySet for one verification.
//
// It replaces the library's RemoteKeySet, which keeps a key until an unknown
// one appears, so that a key that the provider has withdrawn stays valid. It
// also fetches the keys again after every signature that fails, and accepts
// keys that are published for encryption. Here keys expire after metadataLife,
// are fetched at most every refetchInterval, and must be signing keys.
type keySet struct {
	provider *Provider
	err      error // of the last VerifySignature
}

// VerifySignature implements oidc.KeySet. It also refuses the JSON
// serialization of a signature, which the library reads.
func (s *keySet) VerifySignature(ctx context.Context, token string) ([]byte, error) {
	payload, err := s.provider.verifySignature(ctx, []byte(token))
	s.err = err
	return payload, err
}

func (p *Provider) verifySignature(ctx context.Context, token []byte) ([]byte, error) {
	const op = "authn.verifySignature"
	msg, err := jws.Parse(token, jws.WithCompact())
	if err != nil || len(msg.Signatures()) != 1 {
		return nil, failed(op, "id_token: syntax")
	}
	header := msg.Signatures()[0].ProtectedHeaders()
	if !slices.Contains(signingAlgorithms, string(header.Algorithm())) {
		return nil, failed(op, "id_token: alg")
	}
	for _, refetch := range []bool{false, true} {
		_, keys, err := p.metadata(ctx, refetch)
		if err != nil {
			return nil, err
		}
		for i := range keys.Len() {
			key, _ := keys.Key(i)
			if header.KeyID() != "" && key.KeyID() != header.KeyID() ||
				key.KeyUsage() != "" && key.KeyUsage() != "sig" || key.KeyType() == jwa.OctetSeq {
				continue
			}
			if payload, err := jws.Verify(token, jws.WithKey(header.Algorithm(), key)); err == nil {
				return payload, nil
			}
		}
	}
	return nil, failed(op, "id_token: signature")
}

// metadata returns the client configuration and the keys of the provider, from
// the cache if it is not older than metadataLife. If refetch is set, because no
// cached key fits, the cache may not be older than refetchInterval.
func (p *Provider) metadata(ctx context.Context, refetch bool) (*oauth2.Config, jwk.Set, error) {
	const op = "authn.metadata"
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.Clock()
	if p.keys == nil || !now.Before(p.expires) || refetch && p.expires.Sub(now) <= metadataLife-refetchInterval {
		endpoint, keys, err := p.discover(ctx)
		if err != nil {
			// The error may quote the provider's response, so it is dropped.
			return nil, nil, fhir.Errorf(fhir.Unavailable, op,
				"The hospital's sign-in service is not available. Try again later.")
		}
		p.endpoint, p.keys, p.expires = endpoint, keys, now.Add(metadataLife)
	}
	config := &oauth2.Config{ClientID: p.ClientID, ClientSecret: p.Secret, Endpoint: p.endpoint,
		RedirectURL: p.Redirect, Scopes: []string{oidc.ScopeOpenID}}
	config.Endpoint.AuthStyle = oauth2.AuthStyleInHeader
	if p.Secret == "" {
		config.Endpoint.AuthStyle = oauth2.AuthStyleInParams
	}
	return config, p.keys, nil
}

// discover fetches the provider's metadata (OpenID Connect Discovery 1.0, 4)
// and its keys.
func (p *Provider) discover(ctx context.Context) (oauth2.Endpoint, jwk.Set, error) {
	client := p.client()
	provider, err := oidc.NewProvider(oidc.ClientContext(ctx, client), p.Issuer)
	if err != nil {
		return oauth2.Endpoint{}, nil, err
	}
	var claims struct {
		JWKS string `json:"jwks_uri"`
	}
	if err := provider.Claims(&claims); err != nil {
		return oauth2.Endpoint{}, nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, claims.JWKS, nil)
	if err != nil {
		return oauth2.Endpoint{}, nil, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return oauth2.Endpoint{}, nil, err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		return oauth2.Endpoint{}, nil, err
	}
	keys, err := jwk.Parse(raw)
	return provider.Endpoint(), keys, err
}

// client returns the HTTP client for the libraries: p.HTTP with jsonTransport.
func (p *Provider) client() *http.Client {
	client := *p.HTTP
	client.Transport = jsonTransport{client.Transport}
	return &client
}

// jsonTransport requests JSON, fails unless the status is 200, and bounds the
// body to maxResponse bytes, none of which the libraries do for every request.
type jsonTransport struct{ base http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (t jsonTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	base := t.base
	if base == nil {
		base = http.DefaultTransport
	}
	req = req.Clone(req.Context())
	req.Header.Set("Accept", "application/json")
	resp, err := base.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, errors.Join(fhir.Errorf(fhir.Unavailable, "authn.RoundTrip", "status %d", resp.StatusCode),
			resp.Body.Close())
	}
	// x/oauth2 reads text/plain as a form. Some providers label JSON so.
	resp.Header.Set("Content-Type", "application/json")
	resp.Body = http.MaxBytesReader(nil, resp.Body, maxResponse)
	return resp, nil
}
