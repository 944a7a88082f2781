// Package policy turns a bearer token into what it may do.
//
// It owns: the check of an access token and the making of the access.Grant
// from its scopes and the consents. It does not own: the token's making
// (smart/token), scopes (smart/scope), consents (fhir/consent), or the
// application of the Grant (fhir/access and whoever reads the store).
//
// A token is read from the Authorization header only (RFC 6750 2.1). That its
// client is still registered and enabled is asked at every request; the
// signature is checked once for each token.
package policy

import (
	"context"
	"crypto/sha256"
	"net/http"
	"strings"
	"sync"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/smart/client"
	"pulsegate/smart/internal/compact"
	"pulsegate/smart/keys"
	"pulsegate/smart/scope"
	"pulsegate/smart/token"
)

const maxCached = 4096

// Clients is a client.Registry.
type Clients interface {
	Get(ctx context.Context, id string) (client.Client, error)
}

// Engine authenticates requests. Its fields are set once; it is safe for
// concurrent use.
type Engine struct {
	Keys     *keys.Ring
	Clients  Clients
	Consents access.Consents
	Scopes   scope.Parser
	Issuer   string
	Audience string // the FHIR base URL
	Clock    func() time.Time

	mu    sync.Mutex
	known map[[32]byte]*known
}

// known is a token whose signature and fixed claims have been checked.
type known struct {
	principal access.Principal
	notBefore time.Time
}

func invalid() error {
	return fhir.Errorf(fhir.Unauthorized, "policy.Authenticate", "invalid_token")
}

// Authenticate returns the caller. The Principal is shared between requests
// with the same token: it must not be changed. A failure is Unauthorized and
// says nothing about the token.
func (e *Engine) Authenticate(r *http.Request) (*access.Principal, error) {
	values := r.Header.Values("Authorization")
	if len(values) == 0 {
		return nil, fhir.Errorf(fhir.Unauthorized, "policy.Authenticate", "a bearer token is needed")
	}
	if len(values) > 1 {
		return nil, invalid()
	}
	scheme, tok, ok := strings.Cut(values[0], " ")
	if !ok || !strings.EqualFold(scheme, "Bearer") || len(tok) > compact.MaxToken {
		return nil, invalid()
	}
	hash := sha256.Sum256([]byte(tok))
	now := e.Clock()
	k := e.lookup(hash)
	fresh := k == nil
	if fresh {
		var err error
		if k, err = e.check(tok); err != nil {
			return nil, err
		}
	}
	if !now.Before(k.principal.Expires) || now.Before(k.notBefore) {
		return nil, invalid()
	}
	c, err := e.Clients.Get(r.Context(), k.principal.ClientID)
	if err != nil && fhir.KindOf(err) != fhir.NotFound {
		return nil, err
	}
	if err != nil || c.Disabled {
		return nil, invalid()
	}
	if fresh {
		k.principal.ClientName = c.Name // nobody else has it yet
		e.remember(hash, k, now)
	}
	return &k.principal, nil
}

func (e *Engine) lookup(hash [32]byte) *known {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.known[hash]
}

// remember keeps a token that is good at now.
func (e *Engine) remember(hash [32]byte, k *known, now time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.known == nil {
		e.known = map[[32]byte]*known{}
	}
	if len(e.known) >= maxCached {
		for h, old := range e.known {
			if !now.Before(old.principal.Expires) {
				delete(e.known, h)
			}
		}
		if len(e.known) >= maxCached {
			clear(e.known) // bounded; to check again is cheap
		}
	}
	e.known[hash] = k
}

func (e *Engine) check(tok string) (*known, error) {
	c, err := e.Keys.Verify(tok, token.Type)
	if err != nil {
		return nil, invalid()
	}
	if c.Iss != e.Issuer || len(c.Aud) != 1 || c.Aud[0] != e.Audience || c.Sub == "" || c.ClientID == "" ||
		c.Jti == "" || c.Exp == nil || c.Iat == nil || *c.Exp-*c.Iat > token.MaxLife.Seconds() {
		return nil, invalid()
	}
	set, err := e.Scopes.Parse(c.Scope)
	if err != nil {
		return nil, invalid()
	}
	// The server's own clock may have gone back since (smart/token).
	k := &known{notBefore: time.Unix(int64(*c.Iat), 0).Add(-client.Skew)}
	if c.Nbf != nil && int64(*c.Nbf) > k.notBefore.Unix() {
		k.notBefore = time.Unix(int64(*c.Nbf), 0)
	}
	k.principal = access.Principal{
		ClientID: c.ClientID, Subject: c.Sub, Issuer: c.Iss, TokenID: c.Jti, Scope: c.Scope,
		Expires: time.Unix(int64(*c.Exp), 0).UTC(),
		Grant:   &access.Grant{Recipient: c.ClientID, Rules: set.Rules(), Consents: e.Consents},
	}
	return k, nil
}
