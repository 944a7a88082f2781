// Package compact reads the header and claims of a compact JWS without
// trusting it, and checks its signature against one given key.
//
// It is strict where JOSE libraries are lenient: one serialisation, no
// duplicate members, no extensions, no key material from the token itself.
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

// MaxToken bounds a token in bytes.
const MaxToken = 8 << 10

// Header is what a token says of its signature.
type Header struct {
	Alg string `json:"alg"`
	Kid string `json:"kid"`
	Typ string `json:"typ"`
	JKU string `json:"jku"`
	// Members that refuse the token: its keys are not the token's to name.
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

// Claims are those that are checked. A time is Unix seconds; nil is absent.
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
	// Of this server's own tokens for people.
	Authz     string  `json:"authz"`     // id of the authorization
	Patient   string  `json:"patient"`   // in context
	Encounter string  `json:"encounter"` // in context
	FHIRUser  string  `json:"fhirUser"`  // absolute URL
	ACR       string  `json:"acr"`
	AuthTime  float64 `json:"auth_time"`
	Confirm   Confirm `json:"cnf"`
}

// Confirm is the key that a token is bound to (RFC 7800).
type Confirm struct {
	JKT string `json:"jkt,omitempty"`      // RFC 9449 6.1
	X5T string `json:"x5t#S256,omitempty"` // RFC 8705 3.1
}

// IsZero reports whether a token is bound to nothing.
func (c Confirm) IsZero() bool { return c == Confirm{} }

// ErrMalformed is every failure to read a token; it never says more.
var ErrMalformed = errors.New("not a signed token that is accepted")

// Parse reads header and claims. Nothing of them is verified.
func Parse(token string) (Header, Claims, error) {
	var h Header
	var c Claims
	if len(token) > MaxToken {
		return h, c, ErrMalformed
	}
	parts := strings.Split(token, ".")
	if len(parts) != 3 || parts[2] == "" {
		return h, c, ErrMalformed
	}
	if !decode(parts[0], &h) || !decode(parts[1], &c) {
		return h, c, ErrMalformed
	}
	if h.JWK != nil || h.X5U != nil || h.X5C != nil || h.Crit != nil || h.B64 != nil {
		return h, c, ErrMalformed
	}
	for _, f := range []*float64{c.Exp, c.Iat, c.Nbf} {
		if f != nil && (*f < 0 || *f > 1<<40 || math.IsNaN(*f)) {
			return h, c, ErrMalformed
		}
	}
	return h, c, nil
}

func decode(part string, v any) bool {
	b, err := base64.RawURLEncoding.Strict().DecodeString(part)
	return err == nil && json.Unmarshal(b, v) == nil
}

// Verify checks the signature with a public key of the right kind for alg.
func Verify(token, alg string, public any) bool {
	_, err := jws.Verify([]byte(token), jws.WithKey(jwa.SignatureAlgorithm(alg), public))
	return err == nil
}

// Sign makes a compact token.
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

// Payload returns the claims' bytes of a token that Parse has accepted.
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
