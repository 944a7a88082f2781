// Package issuer verifies access tokens of other issuers, such as a
// hospital's identity provider, that an operator has configured.
//
// It owns: the configuration of an issuer, the check of its tokens, and the
// mapping of its claims; for which clients an issuer speaks, and with which
// scopes. It does not own: what such a token may do; that is its scope, cut to
// what the issuer may ask, to what its client is registered for here and to its
// roles, under the same consents as any other (smart/policy).
//
// Source: RFC 9068; RFC 7519; RFC 8725.
package issuer

import (
	"bytes"
	"context"
	"encoding/json"
	"math"
	"net/url"
	"slices"
	"strings"
	"time"

	"pulsegate/fhir"
	"pulsegate/smart/client"
	"pulsegate/smart/internal/compact"
	"pulsegate/smart/scope"
)

// Issuer is one outside issuer.
type Issuer struct {
	Issuer   string   `yaml:"issuer"`   // iss, exactly
	Audience string   `yaml:"audience"` // aud must hold it; empty: the FHIR base URL
	JWKSURL  string   `yaml:"jwks-url"`
	Algs     []string `yaml:"algs"` // empty: RS256, RS384, ES256, ES384
	// Types are the values of typ that are taken; empty: at+jwt (RFC 9068).
	// Some providers sign access tokens as plain "JWT"; then nothing but
	// audience tells them from an id_token.
	Types  []string `yaml:"types"`
	Claims Claims   `yaml:"claims"`
	// Clients maps the issuer's names of clients to ids that are registered
	// here. The issuer speaks for these and for no other client; at least one
	// is needed.
	Clients map[string]string `yaml:"clients"`
	// Scopes are the most that its tokens may have, whatever the client is
	// registered for. Empty means all patient/ and user/ scopes. A system/
	// scope counts only if it is covered by one that is listed here.
	Scopes string `yaml:"scopes"`
	// Roles maps the issuer's names of roles to ours. What is not in it is no
	// role.
	Roles map[string]string `yaml:"roles"`
	// MaxLife is the longest life that is accepted; zero: 1 h.
	MaxLife time.Duration `yaml:"max-life"`
}

// Claims names the claims that facts are read from: a member, or a path with
// slashes ("realm_access/roles"). Empty ones take the default.
type Claims struct {
	Client   string `yaml:"client"`   // client_id, then azp
	Subject  string `yaml:"subject"`  // sub
	Scope    string `yaml:"scope"`    // scope: a string, or an array
	FHIRUser string `yaml:"fhirUser"` // fhirUser
	Patient  string `yaml:"patient"`  // patient
	Roles    string `yaml:"roles"`    // roles
}

// Token is what a verified token says.
type Token struct {
	Issuer, ClientID, Subject, Scope, ID string
	FHIRUser                             fhir.Ref // zero none
	Patient                              string
	Roles                                []string
	NotBefore, Expires                   time.Time
	AuthTime                             time.Time
	ACR                                  string
	JKT, X5T                             string // of cnf
	// Allowed are the issuer's Scopes.
	Allowed string
	// Person is set when the token is about somebody other than the client.
	Person bool
}

// Verifier checks tokens.
type Verifier struct {
	Issuers []Issuer
	Keys    *client.Keys // with Algs of this package
	Base    string       // FHIR base URL
}

// Algs are what key sets of issuers are read for.
func Algs() client.Algs {
	return client.Algs{"RSA": {"RS256", "RS384"}, "P-256": {"ES256"}, "P-384": {"ES384"}}
}

// Check refuses a configuration that would accept too much.
func (v *Verifier) Check() error {
	const op = "issuer.Check"
	for i, x := range v.Issuers {
		u, err := url.Parse(x.JWKSURL)
		switch {
		case x.Issuer == "" || err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http":
			return fhir.Errorf(fhir.Invalid, op, "outside issuer %d: issuer and jwks-url are needed", i+1)
		case slices.ContainsFunc(x.Algs,
			func(a string) bool { return !slices.Contains([]string{"RS256", "RS384", "ES256", "ES384"}, a) }):
			return fhir.Errorf(fhir.Invalid, op, "outside issuer %d: algs are RS256, RS384, ES256 and ES384", i+1)
		case slices.ContainsFunc(v.Issuers[:i], func(o Issuer) bool { return o.Issuer == x.Issuer }):
			return fhir.Errorf(fhir.Invalid, op, "outside issuer %d: named twice", i+1)
		case len(x.Clients) == 0:
			return fhir.Errorf(fhir.Invalid, op,
				"outside issuer %d: clients is needed: the issuer's name of each client that it may speak for, and the client's id here", i+1)
		}
		for theirs, here := range x.Clients {
			if theirs == "" || !fhir.ValidID(here) {
				return fhir.Errorf(fhir.Invalid, op, "outside issuer %d: clients: %q is no id of a client here",
					i+1, here)
			}
		}
		if x.Scopes == "" {
			continue
		}
		if _, err := (scope.Parser{TokenParam: scope.Registered}).Parse(x.Scopes); err != nil {
			return fhir.Errorf(fhir.Invalid, op, "outside issuer %d: scopes: %v", i+1, err)
		}
	}
	return nil
}

func invalid() error { return fhir.Errorf(fhir.Unauthorized, "issuer.Verify", "invalid_token") }

// Verify checks a token; ok is false when its issuer is none of the
// configured ones. A failure is Unauthorized and says nothing about the token.
func (v *Verifier) Verify(ctx context.Context, token string) (t Token, ok bool, err error) {
	h, c, err := compact.Parse(token)
	if err != nil {
		return Token{}, false, nil
	}
	i := slices.IndexFunc(v.Issuers, func(x Issuer) bool { return x.Issuer == c.Iss })
	if i < 0 {
		return Token{}, false, nil
	}
	x := &v.Issuers[i]
	algs, types, aud, life := x.Algs, x.Types, x.Audience, x.MaxLife
	if len(algs) == 0 {
		algs = []string{"RS256", "RS384", "ES256", "ES384"}
	}
	if len(types) == 0 {
		types = []string{"at+jwt"}
	}
	if aud == "" {
		aud = v.Base
	}
	if life <= 0 {
		life = time.Hour
	}
	typ := strings.TrimPrefix(strings.ToLower(h.Typ), "application/")
	if !slices.Contains(algs, h.Alg) || h.JKU != "" ||
		!slices.ContainsFunc(types, func(s string) bool { return strings.EqualFold(s, typ) }) ||
		!slices.Contains(c.Aud, aud) || c.Exp == nil || c.Iat == nil || *c.Exp-*c.Iat > life.Seconds() {
		return Token{}, true, invalid()
	}
	public, err := v.Keys.Find(ctx, x.JWKSURL, h.Alg, h.Kid)
	if err != nil && fhir.KindOf(err) != fhir.Unavailable {
		return Token{}, true, err
	}
	if err != nil || public == nil || h.Kid == "" || !compact.Verify(token, h.Alg, public) {
		return Token{}, true, invalid()
	}
	t, err = v.read(x, compact.Payload(token))
	t.NotBefore, t.Expires = seconds(*c.Iat).Add(-client.Skew), seconds(*c.Exp)
	if c.Nbf != nil && seconds(*c.Nbf).After(t.NotBefore) {
		t.NotBefore = seconds(*c.Nbf)
	}
	t.ID, t.ACR, t.JKT, t.X5T = c.Jti, c.ACR, c.Confirm.JKT, c.Confirm.X5T
	if c.AuthTime > 0 && !math.IsNaN(c.AuthTime) && c.AuthTime < 1<<40 {
		t.AuthTime = seconds(c.AuthTime)
	}
	return t, true, err
}

func seconds(f float64) time.Time { return time.Unix(int64(f), 0).UTC() }

func (v *Verifier) read(x *Issuer, payload []byte) (Token, error) {
	var all map[string]any
	dec := json.NewDecoder(bytes.NewReader(payload))
	dec.UseNumber()
	if err := dec.Decode(&all); err != nil {
		return Token{}, invalid()
	}
	t := Token{Issuer: x.Issuer}
	t.ClientID = first(all, x.Claims.Client, "client_id", "azp")
	t.Subject = first(all, x.Claims.Subject, "sub")
	t.Scope = strings.Join(list(all, or(x.Claims.Scope, "scope")), " ")
	t.Patient = strings.TrimPrefix(first(all, x.Claims.Patient, "patient"), "Patient/")
	name := t.ClientID
	here, ok := x.Clients[name]
	if !ok {
		return Token{}, invalid() // not one that this issuer speaks for
	}
	t.ClientID, t.Allowed = here, x.Scopes
	for _, r := range list(all, or(x.Claims.Roles, "roles")) {
		if ours, ok := x.Roles[r]; ok && !slices.Contains(t.Roles, ours) {
			t.Roles = append(t.Roles, ours)
		}
	}
	if u := first(all, x.Claims.FHIRUser, "fhirUser"); u != "" {
		ref, ok := fhir.ParseRef(strings.TrimPrefix(u, v.Base+"/"))
		if !ok {
			return Token{}, invalid() // a user of another server is nobody here
		}
		t.FHIRUser = ref
	}
	t.Person = !t.FHIRUser.IsZero() || t.Subject != name
	if t.Subject == "" || !fhir.ValidID(t.ClientID) || t.Patient != "" && !fhir.ValidID(t.Patient) {
		return Token{}, invalid()
	}
	return t, nil
}

func or(s, def string) string {
	if s == "" {
		return def
	}
	return s
}

// first is the first of the names (or only the configured one) that is a
// string.
func first(all map[string]any, configured string, names ...string) string {
	if configured != "" {
		names = []string{configured}
	}
	for _, n := range names {
		if l := list(all, n); len(l) == 1 {
			return l[0]
		}
	}
	return ""
}

// list reads a string, split at spaces where it is a scope, or an array of
// strings.
func list(all map[string]any, path string) []string {
	var v any = all
	for _, p := range strings.Split(path, "/") {
		m, ok := v.(map[string]any)
		if !ok {
			return nil
		}
		if v, ok = m[p]; !ok {
			return nil
		}
	}
	switch x := v.(type) {
	case string:
		return []string{x}
	case []any:
		var out []string
		for _, e := range x {
			s, ok := e.(string)
			if !ok {
				return nil
			}
			out = append(out, s)
		}
		return out
	}
	return nil
}
