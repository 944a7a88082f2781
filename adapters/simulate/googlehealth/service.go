package googlehealth

import (
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"time"
)

// assertion answers the grant type jwt-bearer (RFC 7523) for a service account.
func (s *Server) assertion(r *http.Request) (object, *oauthError) {
	signed, signature, ok := cutLast(r.PostForm.Get("assertion"), ".")
	encodedHeader, encodedClaims, ok2 := strings.Cut(signed, ".")
	var header struct {
		Algorithm string `json:"alg"`
		KeyID     string `json:"kid"`
	}
	var claims struct {
		Issuer   string `json:"iss"`
		Scope    string `json:"scope"`
		Audience string `json:"aud"`
		Issued   int64  `json:"iat"`
		Expires  int64  `json:"exp"`
	}
	if !ok || !ok2 || !decodePart(encodedHeader, &header) || !decodePart(encodedClaims, &claims) {
		return nil, grantError("Invalid JWT: malformed assertion.")
	}
	i := slices.IndexFunc(s.opts.ServiceAccounts, func(a ServiceAccount) bool { return a.Email == claims.Issuer })
	if i < 0 {
		return nil, grantError("Invalid grant: account not found")
	}
	account := s.opts.ServiceAccounts[i]
	sum := sha256.Sum256([]byte(signed))
	sig, err := base64.RawURLEncoding.DecodeString(signature)
	if err != nil || header.Algorithm != "RS256" || account.KeyID != "" && header.KeyID != account.KeyID ||
		rsa.VerifyPKCS1v15(account.Key, crypto.SHA256, sum[:], sig) != nil {
		return nil, grantError("Invalid JWT Signature.")
	}
	now := s.authNow()
	const skew = 5 * time.Minute
	issued, expires := time.Unix(claims.Issued, 0), time.Unix(claims.Expires, 0)
	if issued.After(now.Add(skew)) || expires.Before(now.Add(-skew)) || expires.Sub(issued) > assertionLife {
		return nil, grantError("Invalid JWT: Token must be a short-lived token (60 minutes) and in a " +
			"reasonable timeframe.")
	}
	if claims.Audience != "https://oauth2.googleapis.com/token" && claims.Audience != s.tokenURL(r) {
		return nil, grantError("Invalid JWT: Failed audience check.")
	}
	if !slices.Contains(strings.Fields(claims.Scope), cloudPlatform) {
		return nil, &oauthError{http.StatusBadRequest, "invalid_scope",
			"Invalid OAuth scope or ID token audience provided."}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	text := "ya29.c0" + s.draw("service", 60)
	s.tokens[text] = &token{scopes: []string{cloudPlatform}, expires: now.Add(accessLife)}
	s.stats.Tokens++
	s.dropExpired()
	return object{"access_token": text, "expires_in": int(accessLife / time.Second), "token_type": "Bearer"}, nil
}

// tokenURL returns the address of the token endpoint as the client sees it, including a
// prefix that http.StripPrefix has removed.
func (s *Server) tokenURL(r *http.Request) string {
	scheme := "http"
	if r.TLS != nil {
		scheme = "https"
	}
	path, _, _ := strings.Cut(r.RequestURI, "?")
	return scheme + "://" + r.Host + path
}

// cutLast cuts s around the last sep.
func cutLast(s, sep string) (before, after string, ok bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}

// decodePart decodes a part of a JWT.
func decodePart(text string, v any) bool {
	b, err := base64.RawURLEncoding.DecodeString(text)
	return err == nil && json.Unmarshal(b, v) == nil
}
