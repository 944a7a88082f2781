package client

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"math/big"
	"slices"
	"time"

	"pulsegate/fhir"
	"pulsegate/smart/internal/compact"
)

const (
	// Skew is how far the clocks of a client and the server may differ.
	Skew = time.Minute
	// MaxLife is how far ahead an assertion's exp may be.
	MaxLife = 5 * time.Minute
	maxJTI  = 255
)

// Assertion is a verified private_key_jwt. Its jti has still to be used up.
type Assertion struct {
	Client Client
	JTI    string
	Exp    time.Time
}

// Assertions verifies private_key_jwt assertions.
type Assertions struct {
	Clients  *Registry
	Keys     *Keys
	Audience string // the token endpoint's URL

	// What an unknown client's assertion is verified with, so that it costs
	// what a known one's costs.
	dummyEC  *ecdsa.PublicKey
	dummyRSA *rsa.PublicKey
}

// NewAssertions returns a verifier for the token endpoint at audience.
func NewAssertions(clients *Registry, keys *Keys, audience string) (*Assertions, error) {
	k, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		return nil, fhir.Wrap("client.NewAssertions", err)
	}
	b := make([]byte, 256)
	if _, err := rand.Read(b); err != nil {
		return nil, fhir.Wrap("client.NewAssertions", err)
	}
	b[0], b[255] = b[0]|0x80, b[255]|1 // an odd number of 2048 bits; nobody knows its factors, nor has to
	return &Assertions{Clients: clients, Keys: keys, Audience: audience, dummyEC: &k.PublicKey,
		dummyRSA: &rsa.PublicKey{N: new(big.Int).SetBytes(b), E: 65537}}, nil
}

// errClient is the one answer to everything that depends on whether and how a
// client is registered.
func errClient(cause error) error {
	e := fhir.Errorf(fhir.Unauthorized, "client.Verify", "client authentication failed")
	e.Err = cause
	return e
}

func refuse(rule string) error {
	return fhir.Errorf(fhir.Unauthorized, "client.Verify", "client_assertion: %s", rule)
}

// claimedID is the client id that an assertion names, unverified, for the audit
// trail; "" when it is no id.
func claimedID(assertion string) string {
	_, c, err := compact.Parse(assertion)
	if err != nil || !fhir.ValidID(c.Sub) {
		return ""
	}
	return c.Sub
}

// verify checks everything about an assertion but that its jti is new. Every
// failure is of kind Unauthorized (invalid_client), except when the registry
// cannot be read.
func (a *Assertions) verify(ctx context.Context, assertion string, now time.Time) (Assertion, error) {
	h, c, err := compact.Parse(assertion)
	if err != nil {
		return Assertion{}, refuse("not a compact JWS with the header members alg, kid, typ and perhaps jku")
	}
	if err := a.claims(h, c, now); err != nil {
		return Assertion{}, err
	}
	reg, err := a.Clients.Get(ctx, c.Sub)
	if err != nil && fhir.KindOf(err) != fhir.NotFound {
		return Assertion{}, err
	}
	var public any
	cause := err
	if err == nil && !reg.Disabled && (h.JKU == "" || h.JKU == reg.JWKSURL) {
		public, cause = a.Keys.find(ctx, reg, h.Alg, h.Kid)
	}
	ok := public != nil
	if !ok {
		public = a.dummyRSA
		if h.Alg == "ES384" {
			public = a.dummyEC
		}
	}
	if !compact.Verify(assertion, h.Alg, public) || !ok {
		return Assertion{}, errClient(cause)
	}
	return Assertion{Client: reg, JTI: c.Jti, Exp: at(c.Exp)}, nil
}

func at(seconds *float64) time.Time {
	return time.UnixMilli(int64(*seconds * 1000)).UTC()
}

// claims checks what can be said without knowing the client.
func (a *Assertions) claims(h compact.Header, c compact.Claims, now time.Time) error {
	switch {
	case h.Alg != "RS384" && h.Alg != "ES384":
		return refuse("alg must be RS384 or ES384")
	case h.Kid == "":
		return refuse("kid is missing")
	case h.Typ != "JWT": // SMART Backend Services: fixed value
		return refuse("typ must be JWT")
	case c.Iss == "" || c.Iss != c.Sub || !fhir.ValidID(c.Sub):
		return refuse("iss and sub must both be the client_id")
	case !slices.Contains(c.Aud, a.Audience):
		return refuse("aud must be the URL of the token endpoint")
	case c.Exp == nil:
		return refuse("exp is missing")
	case !at(c.Exp).After(now):
		return refuse("exp has passed")
	case at(c.Exp).After(now.Add(MaxLife)):
		return refuse("exp is more than 5 minutes ahead")
	case c.Nbf != nil && at(c.Nbf).After(now.Add(Skew)):
		return refuse("nbf is in the future")
	case c.Iat != nil && at(c.Iat).After(now.Add(Skew)):
		return refuse("iat is in the future")
	case c.Jti == "" || len(c.Jti) > maxJTI:
		return refuse("jti must have 1 to 255 bytes")
	}
	return nil
}
