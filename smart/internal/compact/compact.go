// Package compact parses the header and claims of a compact JWS without
// trusting it, and verifies its signature with a given key.
//
// It is stricter than JOSE libraries: it accepts only the compact
// serialization, and refuses duplicate members, extensions, and keys inside the
// token.
package compact

import (
	"encoding/base64"
	"errors"
	"math"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/lestrrat-go/jwx/v2/jwa"
	"github.com/lestrrat-go/jwx/v2/jws"
)

// MaxToken is the maximum length of a token in bytes.
const MaxToken = 8 << 10

// Header is the JOSE header of a token.
type Header struct {
	Alg string `json:"alg"`
	Kid string `json:"kid"`
	Typ string `json:"typ"`
	JKU string `json:"jku"`
	// Tokens with any of these members are refused, because a token must not
	// choose its own key.
	JWK  jsontext.Value `json:"jwk"`
	X5U  jsontext.Value `json:"x5u"`
	X5C  jsontext.Value `json:"x5c"`
	Crit jsontext.Value `json:"crit"`
	B64  jsontext.Value `json:"b64"`
}

// audience is a string or an array of strings.
type audience []string

// UnmarshalJSON implements json.Unmarshaler.
func (a *audience) UnmarshalJSON(b []byte) error {
	if len(b) > 0 && b[0] == '"' {
		var s string
		if err := json.Unmarshal(b, &s); err != nil {
			return err
		}
		*a = audience{s}
		return nil
	}
	var list []string
	if err := json.Unmarshal(b, &list); err != nil {
		return err
	}
	*a = list
	return nil
}

// Claims holds the claims that callers check. Times are in Unix seconds and nil
// if absent.
type Claims struct {
	Iss      string   `json:"iss"`
	Sub      string   `json:"sub"`
	Aud      audience `json:"aud"`
	Jti      string   `json:"jti"`
	Exp      *float64 `json:"exp"`
	Iat      *float64 `json:"iat"`
	Nbf      *float64 `json:"nbf"`
	ClientID string   `json:"client_id"`
	Scope    string   `json:"scope"`
	// Claims of this server's tokens for people.
	Authz     string  `json:"authz"`     // id of the authorization
	Patient   string  `json:"patient"`   // launch context
	Encounter string  `json:"encounter"` // launch context
	FHIRUser  string  `json:"fhirUser"`  // absolute URL
	ACR       string  `json:"acr"`
	AuthTime  float64 `json:"auth_time"`
	Confirm   Confirm `json:"cnf"`
}

// Confirm is the cnf claim, which names the key that a token is bound to (RFC
// 7800).
type Confirm struct {
	JKT string `json:"jkt,omitempty"`      // RFC 9449 6.1
	X5T string `json:"x5t#S256,omitempty"` // RFC 8705 3.1
}

// IsZero reports whether the token is not bound to a key.
func (c Confirm) IsZero() bool { return c == Confirm{} }

// ErrMalformed is returned for every token that cannot be parsed. It reveals no
// details.
var ErrMalformed = errors.New("not a signed token that is accepted")

// Parse returns the header and claims of a token. It verifies neither.
func Parse(token string) (Header, Claims, error) {
	var header Header
	var claims Claims
	if len(token) > MaxToken {
		return header, claims, ErrMalformed
	}
	parts := strings.Split(token, ".")
	if len(parts) != 3 || parts[2] == "" {
		return header, claims, ErrMalformed
	}
	if !decode(parts[0], &header) || !decode(parts[1], &claims) {
		return header, claims, ErrMalformed
	}
	if header.JWK != nil || header.X5U != nil || header.X5C != nil || header.Crit != nil || header.B64 != nil {
		return header, claims, ErrMalformed
	}
	for _, f := range []*float64{claims.Exp, claims.Iat, claims.Nbf} {
		if f != nil && (*f < 0 || *f > 1<<40 || math.IsNaN(*f)) {
			return header, claims, ErrMalformed
		}
	}
	return header, claims, nil
}

func decode(part string, v any) bool {
	b, err := base64.RawURLEncoding.Strict().DecodeString(part)
	return err == nil && json.Unmarshal(b, v) == nil
}

// Verify reports whether the signature is valid under a public key of the type
// that alg needs.
func Verify(token, alg string, public any) bool {
	_, err := jws.Verify([]byte(token), jws.WithKey(jwa.SignatureAlgorithm(alg), public))
	return err == nil
}

// Sign returns a signed token.
func Sign(alg, typ, kid string, claims any, private any) (string, error) {
	payload, err := json.Marshal(claims, json.Deterministic(true))
	if err != nil {
		return "", err
	}
	h := jws.NewHeaders()
	if err := errors.Join(h.Set(jws.TypeKey, typ), h.Set(jws.KeyIDKey, kid)); err != nil {
		return "", err
	}
	b, err := jws.Sign(payload, jws.WithKey(jwa.SignatureAlgorithm(alg), private, jws.WithProtectedHeaders(h)))
	return string(b), err
}

// Payload returns the claims of a token that Parse has accepted, as JSON.
func Payload(token string) []byte {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return nil
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(parts[1])
	if err != nil {
		return nil
	}
	return b
}
