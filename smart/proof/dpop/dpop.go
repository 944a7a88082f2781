package dpop

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"math"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/lestrrat-go/jwx/v2/jwk"

	"pulsegate/fhir"
	"pulsegate/fhir/store"
	"pulsegate/smart/internal/compact"
)

const (
	room = "dpop/"
	// MaxAge is how old a proof may be, Skew how far ahead its clock.
	MaxAge = time.Minute
	Skew   = 5 * time.Second
	keep   = time.Hour
	maxJTI = 255
)

// Algs are the algorithms of proofs.
func Algs() []string { return []string{"ES256", "ES384", "RS256", "RS384"} }

// Proof is a verified proof. Its jti has still to be used up.
type Proof struct {
	JKT string // RFC 7638 thumbprint of the key
	jti string
	iat time.Time
}

// Use is the write that uses the proof up; it fails with Conflict when that
// was done before.
func (p *Proof) Use() store.StateWrite {
	sum := sha256.Sum256([]byte(p.jti))
	end := p.iat.Add(MaxAge)
	return store.StateWrite{Key: room + p.JKT + "/" + base64.RawURLEncoding.EncodeToString(sum[:]),
		Value: strconv.AppendInt(nil, end.Unix(), 10), Expect: store.StateAbsent, Expires: end.Add(keep)}
}

type header struct {
	Typ  string         `json:"typ"`
	Alg  string         `json:"alg"`
	JWK  jsontext.Value `json:"jwk"`
	Crit jsontext.Value `json:"crit"`
	B64  jsontext.Value `json:"b64"`
}

type claims struct {
	JTI string   `json:"jti"`
	HTM string   `json:"htm"`
	HTU string   `json:"htu"`
	Iat *float64 `json:"iat"`
	Ath string   `json:"ath"`

	Nonce string `json:"nonce"`
}

func bad(rule string) error { return fhir.Errorf(fhir.Unauthorized, "dpop.Verify", "DPoP: %s", rule) }

// Verify checks the DPoP header of r for the endpoint at target. accessToken
// is the token that comes with it; "" at the token endpoint. nonces, when not
// nil, are those that a proof must have one of: ErrNonce. It returns nil when
// there is no such header.
func Verify(r *http.Request, target, accessToken string, now time.Time, nonces *Nonces) (*Proof, error) {
	values := r.Header.Values("DPoP")
	if len(values) == 0 {
		return nil, nil
	}
	if len(values) > 1 {
		return nil, bad("more than one proof")
	}
	h, c, err := parse(values[0])
	if err != nil {
		return nil, err
	}
	public, jkt, err := key(h)
	if err != nil {
		return nil, err
	}
	if !compact.Verify(values[0], h.Alg, public) {
		return nil, bad("the signature is not that of the key")
	}
	iat := time.UnixMilli(int64(*c.Iat * 1000))
	switch {
	case c.JTI == "" || len(c.JTI) > maxJTI:
		return nil, bad("jti must have 1 to 255 bytes")
	case c.HTM != r.Method:
		return nil, bad("htm is not the method of the request")
	case !sameURL(c.HTU, target):
		return nil, bad("htu is not the URL of the request")
	case iat.Before(now.Add(-MaxAge)) || iat.After(now.Add(Skew)):
		return nil, bad("iat is not about now")
	}
	if accessToken != "" {
		sum := sha256.Sum256([]byte(accessToken))
		if subtle.ConstantTimeCompare([]byte(c.Ath), []byte(base64.RawURLEncoding.EncodeToString(sum[:]))) != 1 {
			return nil, bad("ath is not the hash of the access token")
		}
	}
	if err := nonces.check(c.Nonce); err != nil {
		return nil, err
	}
	return &Proof{JKT: jkt, jti: c.JTI, iat: iat}, nil
}

// parse reads a proof without trusting it.
func parse(s string) (h header, c claims, err error) {
	malformed := bad("not a signed JWT of type dpop+jwt with jwk, jti, htm, htu and iat")
	parts := strings.Split(s, ".")
	if len(s) > compact.MaxToken || len(parts) != 3 || parts[2] == "" || !decode(parts[0], &h) ||
		!decode(parts[1], &c) {
		return h, c, malformed
	}
	if h.Typ != "dpop+jwt" || h.JWK == nil || h.Crit != nil || h.B64 != nil || c.Iat == nil || *c.Iat < 0 ||
		*c.Iat > 1<<40 || math.IsNaN(*c.Iat) {
		return h, c, malformed
	}
	return h, c, nil
}

func decode(part string, v any) bool {
	b, err := base64.RawURLEncoding.Strict().DecodeString(part)
	return err == nil && json.Unmarshal(b, v) == nil
}

// key reads the public key of a proof's header.
func key(h header) (public any, jkt string, err error) {
	var members struct {
		Kty string `json:"kty"`
		D   string `json:"d"`
		K   string `json:"k"`
		P   string `json:"p"`
		Q   string `json:"q"`
	}
	if json.Unmarshal(h.JWK, &members) != nil || members.D+members.K+members.P+members.Q != "" ||
		members.Kty != "EC" && members.Kty != "RSA" {
		return nil, "", bad("jwk must be a public EC or RSA key")
	}
	j, err := jwk.ParseKey(h.JWK)
	if err != nil {
		return nil, "", bad("jwk cannot be read")
	}
	var raw any
	if err := j.Raw(&raw); err != nil {
		return nil, "", bad("jwk cannot be read")
	}
	ok := false
	switch p := raw.(type) {
	case *ecdsa.PublicKey:
		_, err := p.ECDH()
		ok = err == nil && (h.Alg == "ES256" && p.Curve == elliptic.P256() || h.Alg == "ES384" &&
			p.Curve == elliptic.P384())
	case *rsa.PublicKey:
		ok = (h.Alg == "RS256" || h.Alg == "RS384") && p.N.BitLen() >= 2048 && p.N.BitLen() <= 8192 && p.E >= 3 &&
			p.E&1 == 1
	}
	if !ok {
		return nil, "", bad("alg must be ES256, ES384, RS256 or RS384, with a sound key of its kind")
	}
	sum, err := j.Thumbprint(crypto.SHA256)
	if err != nil {
		return nil, "", bad("jwk cannot be read")
	}
	return raw, base64.RawURLEncoding.EncodeToString(sum), nil
}

// sameURL compares without query and fragment (RFC 9449 4.3), after the
// normalisation of RFC 3986 6.2.2 and 6.2.3 that url.Parse and this do.
func sameURL(a, b string) bool {
	x, ok1 := normal(a)
	y, ok2 := normal(b)
	return ok1 && ok2 && x == y
}

func normal(s string) (string, bool) {
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || u.User != nil {
		return "", false
	}
	scheme, host := strings.ToLower(u.Scheme), strings.ToLower(u.Host)
	if scheme == "https" {
		host = strings.TrimSuffix(host, ":443")
	} else {
		host = strings.TrimSuffix(host, ":80")
	}
	path := u.EscapedPath()
	if path == "" {
		path = "/"
	}
	return scheme + "://" + host + path, true
}

// Thumbprint is the x5t#S256 of the certificate that the TLS client proved to
// own; "" when it showed none.
func Thumbprint(r *http.Request) string {
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return ""
	}
	sum := sha256.Sum256(r.TLS.PeerCertificates[0].Raw)
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// Equal compares thumbprints; "" equals nothing.
func Equal(a, b string) bool {
	return a != "" && subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1
}
