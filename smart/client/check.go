package client

import (
	"crypto/sha256"
	"encoding/base64"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"pulsegate/fhir"
	"pulsegate/smart/scope"
)

const (
	maxURL       = 2048
	maxRedirects = 16
)

func wrong(place, rule string) error {
	return fhir.Errorf(fhir.Invalid, "client.Add", "%s: %s", place, rule)
}

// check validates a registration and normalizes its scope.
func (r *Registry) check(c *Client) error {
	if c.Name == "" || len(c.Name) > maxName || !utf8.ValidString(c.Name) ||
		strings.ContainsFunc(c.Name, unicode.IsControl) {
		return fhir.Errorf(fhir.Invalid, "client.Add",
			"name: it must have 1 to %d bytes without control characters", maxName)
	}
	if err := r.checkAuth(c); err != nil {
		return err
	}
	if err := r.checkGrants(c); err != nil {
		return err
	}
	for _, u := range []struct{ place, url string }{{"launch_url", c.LaunchURL}, {"logo_uri", c.LogoURI},
		{"client_uri", c.ClientURI},
		{"policy_uri", c.PolicyURI}, {"tos_uri", c.TOSURI}} {
		if u.url != "" && !webURL(u.url) {
			return wrong(u.place, "it must be an https URL (or http on loopback) without user and fragment")
		}
	}
	set, err := r.Scopes.Parse(c.Scope)
	if err != nil {
		return err
	}
	if !c.May(Code) && (len(set.At(scope.Patient)) > 0 || len(set.At(scope.User)) > 0) {
		return wrong("scope", "patient/ and user/ scopes need the authorization_code grant")
	}
	if !c.May(Credentials) && c.Method != Receiver && len(set.At(scope.System)) > 0 {
		return wrong("scope", "system/ scopes need the client_credentials grant")
	}
	c.Scope = set.String()
	return nil
}

func (r *Registry) checkAuth(c *Client) error {
	keys := len(c.JWKS) > 0 || c.JWKSURL != ""
	switch c.Auth() {
	case Receiver:
		if keys || len(c.SecretHash) > 0 || len(c.GrantTypes) > 0 || len(c.RedirectURIs) > 0 {
			return wrong("token_endpoint_auth_method", "a receiver has no keys, secret, grant types or redirect URIs")
		}
		return nil
	case None:
		if keys || len(c.SecretHash) > 0 {
			return wrong("token_endpoint_auth_method", "a public client has neither keys nor a secret")
		}
		return nil
	case SecretBasic, SecretPost:
		if keys || len(c.SecretHash) != sha256.Size {
			return wrong("token_endpoint_auth_method", "a symmetric client has a secret and no keys")
		}
		return nil
	case PrivateKeyJWT:
	default:
		return wrong("token_endpoint_auth_method", "none, client_secret_basic, client_secret_post or private_key_jwt")
	}
	if len(c.SecretHash) > 0 {
		return wrong("token_endpoint_auth_method", "an asymmetric client has no secret")
	}
	if (len(c.JWKS) == 0) == (c.JWKSURL == "") {
		return fhir.Errorf(fhir.Invalid, "client.Add", "one of jwks and jwks_url is needed")
	}
	if len(c.JWKS) > 0 {
		_, err := parseSet(c.JWKS)
		return err
	}
	return r.checkURL(c.JWKSURL)
}

func (r *Registry) checkGrants(c *Client) error {
	for _, g := range c.GrantTypes {
		if g != Code && g != Refresh && g != Credentials {
			return wrong("grant_types", "authorization_code, refresh_token and client_credentials are offered")
		}
	}
	if c.May(Credentials) && c.Auth() != PrivateKeyJWT {
		return wrong("grant_types", "client_credentials needs private_key_jwt")
	}
	if !c.May(Code) && (c.May(Refresh) || len(c.RedirectURIs) > 0) || c.May(Code) && len(c.RedirectURIs) == 0 {
		return wrong("redirect_uris", "the authorization_code grant needs one, the others have none")
	}
	if len(c.RedirectURIs) > maxRedirects {
		return fhir.Errorf(fhir.Invalid, "client.Add", "redirect_uris: at most %d", maxRedirects)
	}
	for _, u := range c.RedirectURIs {
		if !redirectURI(u) {
			return wrong("redirect_uris",
				"it must use https, http on loopback, or a private-use scheme with a dot, without user and fragment")
		}
	}
	return nil
}

func (r *Registry) checkURL(s string) error {
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || u.User != nil || u.Fragment != "" || len(s) > maxURL {
		return fhir.Errorf(fhir.Invalid, "client.Add", "jwks_url: an absolute URL without user and fragment")
	}
	if u.Scheme != "https" && (u.Scheme != "http" || !r.AllowHTTP) {
		return fhir.Errorf(fhir.Invalid, "client.Add", "jwks_url: https only")
	}
	return nil
}

// plain reports whether s has no byte that parsers interpret differently.
func plain(s string) bool {
	if len(s) > maxURL {
		return false
	}
	for i := 0; i < len(s); i++ {
		if c := s[i]; c <= 0x20 || c >= 0x7f || c == '\\' || c == '"' || c == '<' || c == '>' {
			return false
		}
	}
	return true
}

// webURL reports whether s is an https URL, or an http URL on the loopback
// interface.
func webURL(s string) bool {
	u, err := url.Parse(s)
	if err != nil || !plain(s) || u.Host == "" || u.User != nil || strings.Contains(s, "#") {
		return false
	}
	return u.Scheme == "https" || u.Scheme == "http" && loopback(u.Hostname())
}

func loopback(host string) bool {
	a, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && a.IsLoopback()
}

// redirectURI reports whether s is a web URL, or has a private-use scheme as in
// RFC 8252 7.1, which is a reversed domain name and so contains a dot.
func redirectURI(s string) bool {
	if webURL(s) {
		return true
	}
	u, err := url.Parse(s)
	return err == nil && plain(s) && strings.Contains(u.Scheme, ".") && u.User == nil && u.Opaque == "" &&
		u.Host == "" && u.Path != "" && !strings.Contains(s, "#")
}

// Redirects reports whether responses may be sent to uri, which must equal a
// registered URI byte for byte (RFC 9700 2.1). Only the port of a loopback
// address may differ (RFC 8252 7.3), because the app cannot know it in advance.
func (c *Client) Redirects(uri string) bool {
	if slices.Contains(c.RedirectURIs, uri) {
		return true
	}
	got, ok := withoutPort(uri)
	return ok && slices.ContainsFunc(c.RedirectURIs, func(have string) bool {
		want, ok := withoutPort(have)
		return ok && got == want
	})
}

// withoutPort removes the port from an http URL with a loopback IP address.
func withoutPort(s string) (string, bool) {
	for _, host := range []string{"http://127.0.0.1", "http://[::1]"} {
		rest, ok := strings.CutPrefix(s, host)
		if !ok || !plain(s) {
			continue
		}
		port := strings.TrimLeft(strings.TrimPrefix(rest, ":"), "0123456789")
		if n := len(rest) - len(port); rest == "" || rest[0] == '/' || rest[0] == '?' || rest[0] == ':' && n >= 2 &&
			n <= 6 && (port == "" || port[0] == '/' || port[0] == '?') {
			if rest != "" && rest[0] != ':' {
				port = rest
			}
			return host + port, true
		}
	}
	return "", false
}

// Hash returns the hash of a secret for storage. Secrets are long and random,
// so a slow hash would add nothing.
func Hash(secret string) []byte {
	sum := sha256.Sum256([]byte(secret))
	return sum[:]
}

// NewSecret encodes a secret of 256 random bits.
func NewSecret(random [32]byte) string { return base64.RawURLEncoding.EncodeToString(random[:]) }
