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
	// Skew is the accepted difference between the clocks of a client and this
	// server.
	Skew = time.Minute
	// MaxLife is the maximum time until an assertion expires.
	MaxLife = 5 * time.Minute
	maxJTI  = 255
)

// Assertion is a verified private_key_jwt assertion. The caller still has to
// use up its jti.
type Assertion struct {
	Client Client
	JTI    string
	Exp    time.Time
}

// Assertions verifies private_key_jwt assertions.
type Assertions struct {
	Clients  *Registry
	Keys     *Keys
	Audience string // URL of the token endpoint

	// Keys to verify the assertions of unknown clients, so that these take as
	// long as those of registered clients.
	dummyEC  *ecdsa.PublicKey
	dummyRSA *rsa.PublicKey
}

// NewAssertions returns a verifier of assertions for the token endpoint at
// audience.
func NewAssertions(clients *Registry, keys *Keys, audience string) (*Assertions, error) {
	key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		return nil, fhir.Wrap("client.NewAssertions", err)
	}
	b := make([]byte, 256)
	if _, err := rand.Read(b); err != nil {
		return nil, fhir.Wrap("client.NewAssertions", err)
	}
	b[0], b[255] = b[0]|0x80, b[255]|1 // an odd number of 2048 bits; its factors do not matter
	return &Assertions{Clients: clients, Keys: keys, Audience: audience, dummyEC: &key.PublicKey,
		dummyRSA: &rsa.PublicKey{N: new(big.Int).SetBytes(b), E: 65537}}, nil
}

// errClient returns the same error for every failure that depends on the
// registration of a client.
func errClient(cause error) error {
	e := fhir.Errorf(fhir.Unauthorized, "client.verify", "client authentication failed")
	e.Err = cause
	return e
}

func refuse(rule string) error {
	return fhir.Errorf(fhir.Unauthorized, "client.verify", "client_assertion: %s", rule)
}

// claimedID returns the client id that an assertion names, unverified, for the
// audit trail. It returns "" if the id is not valid.
func claimedID(assertion string) string {
	_, c, err := compact.Parse(assertion)
	if err != nil || !fhir.ValidID(c.Sub) {
		return ""
	}
	return c.Sub
}

// verify checks an assertion, except that its jti is new. The error has kind
// Unauthorized (invalid_client), unless the registry cannot be read.
func (a *Assertions) verify(ctx context.Context, assertion string, now time.Time) (Assertion, error) {
	header, claims, err := compact.Parse(assertion)
	if err != nil {
		return Assertion{}, refuse("not a compact JWS with the header members alg, kid, typ and perhaps jku")
	}
	if err := a.claims(header, claims, now); err != nil {
		return Assertion{}, err
	}
	reg, err := a.Clients.Get(ctx, claims.Sub)
	if err != nil && fhir.KindOf(err) != fhir.NotFound {
		return Assertion{}, err
	}
	var public any
	cause := err
	if err == nil && !reg.Disabled && (header.JKU == "" || header.JKU == reg.JWKSURL) {
		public, cause = a.Keys.find(ctx, reg, header.Alg, header.Kid)
	}
	ok := public != nil
	if !ok {
		public = a.dummyRSA
		if header.Alg == "ES384" {
			public = a.dummyEC
		}
	}
	if !compact.Verify(assertion, header.Alg, public) || !ok {
		return Assertion{}, errClient(cause)
	}
	return Assertion{Client: reg, JTI: claims.Jti, Exp: at(claims.Exp)}, nil
}

func at(seconds *float64) time.Time {
	return time.UnixMilli(int64(*seconds * 1000)).UTC()
}

// claims checks the parts of an assertion that do not depend on the client.
func (a *Assertions) claims(header compact.Header, c compact.Claims, now time.Time) error {
	switch {
	case header.Alg != "RS384" && header.Alg != "ES384":
		return refuse("alg must be RS384 or ES384")
	case header.Kid == "":
		return refuse("kid is missing")
	case header.Typ != "JWT": // fixed by SMART Backend Services
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
