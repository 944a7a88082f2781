// Package issuer verifies the access tokens of external issuers, such as a
// hospital's identity provider, that an operator has configured.
//
// It owns: the configuration of an issuer, the verification of its tokens, the
// mapping of its claims, and the limits on an issuer's clients and scopes. It
// does not own the decision on a request: smart/policy restricts the token's
// scopes to those that the issuer may grant, to the client's registration and
// to the user's roles, under the same consents as for any other token.
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

// Issuer configures one external issuer.
type Issuer struct {
	Issuer   string   `yaml:"issuer"`   // must equal the claim iss
	Audience string   `yaml:"audience"` // must be in the claim aud; defaults to the FHIR base URL
	JWKSURL  string   `yaml:"jwks-url"`
	Algs     []string `yaml:"algs"` // default RS256, RS384, ES256, ES384
	// Types lists the accepted values of typ. The default is at+jwt (RFC 9068).
	// If it includes "JWT", for providers that sign access tokens as such, then
	// only Audience distinguishes them from id_tokens.
	Types  []string `yaml:"types"`
	Claims Claims   `yaml:"claims"`
	// Clients maps the issuer's client ids to ids that are registered here.
	// Tokens for other clients are refused. At least one entry is required.
	Clients map[string]string `yaml:"clients"`
	// Scopes limits the scopes of the issuer's tokens, in addition to the
	// client's registration. If it is empty, all patient/ and user/ scopes are
	// allowed. A system/ scope is allowed only if it is covered by one that is
	// listed here.
	Scopes string `yaml:"scopes"`
	// Roles maps the issuer's role names to the roles of this server. Other
	// names are ignored.
	Roles map[string]string `yaml:"roles"`
	// MaxLife is the maximum lifetime of an accepted token. The default is one
	// hour.
	MaxLife time.Duration `yaml:"max-life"`
}

// Claims names the claims to read, as a member or as a path with slashes
// ("realm_access/roles"). Each empty field has the default in its comment.
type Claims struct {
	Client   string `yaml:"client"`   // client_id, then azp
	Subject  string `yaml:"subject"`  // sub
	Scope    string `yaml:"scope"`    // scope, a string or an array
	FHIRUser string `yaml:"fhirUser"` // fhirUser
	Patient  string `yaml:"patient"`  // patient
	Roles    string `yaml:"roles"`    // roles
}

// Token holds the verified claims of a token.
type Token struct {
	Issuer, ClientID, Subject, Scope, ID string
	FHIRUser                             fhir.Ref // zero if there is none
	Patient                              string
	Roles                                []string
	NotBefore, Expires                   time.Time
	AuthTime                             time.Time
	ACR                                  string
	JKT, X5T                             string // from the claim cnf
	// Allowed is the value of Issuer.Scopes.
	Allowed string
	// Person is set if the token's subject is a person and not the client
	// itself.
	Person bool
}

// Verifier verifies tokens of external issuers.
type Verifier struct {
	Issuers []Issuer
	Keys    *client.Keys // configured with the result of Algs
	Base    string       // FHIR base URL
}

// Algs returns the accepted key types and algorithms for client.Keys.
func Algs() client.Algs {
	return client.Algs{"RSA": {"RS256", "RS384"}, "P-256": {"ES256"}, "P-384": {"ES384"}}
}

// Check validates the configuration.
func (v *Verifier) Check() error {
	const op = "issuer.Check"
	for i, is := range v.Issuers {
		u, err := url.Parse(is.JWKSURL)
		switch {
		case is.Issuer == "" || err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http":
			return fhir.Errorf(fhir.Invalid, op, "external issuer %d: issuer and jwks-url are required", i+1)
		case slices.ContainsFunc(is.Algs,
			func(a string) bool { return !slices.Contains([]string{"RS256", "RS384", "ES256", "ES384"}, a) }):
			return fhir.Errorf(fhir.Invalid, op, "external issuer %d: algs must be RS256, RS384, ES256 or ES384", i+1)
		case slices.ContainsFunc(v.Issuers[:i], func(other Issuer) bool { return other.Issuer == is.Issuer }):
			return fhir.Errorf(fhir.Invalid, op, "external issuer %d: it is configured twice", i+1)
		case len(is.Clients) == 0:
			return fhir.Errorf(fhir.Invalid, op,
				"external issuer %d: clients is required: it maps the issuer's client ids to ids that are registered here", i+1)
		}
		for theirs, here := range is.Clients {
			if theirs == "" || !fhir.ValidID(here) {
				return fhir.Errorf(fhir.Invalid, op, "external issuer %d: clients: %q is not a valid client id",
					i+1, here)
			}
		}
		if is.Scopes == "" {
			continue
		}
		if _, err := (scope.Parser{TokenParam: scope.Registered}).Parse(is.Scopes); err != nil {
			return fhir.Errorf(fhir.Invalid, op, "external issuer %d: scopes: %v", i+1, err)
		}
	}
	return nil
}

func invalid() error { return fhir.Errorf(fhir.Unauthorized, "issuer.Verify", "invalid_token") }

// Verify verifies a token. ok is false if its issuer is not configured. The
// error has kind Unauthorized and reveals nothing about the token.
func (v *Verifier) Verify(ctx context.Context, token string) (t Token, ok bool, err error) {
	header, claims, err := compact.Parse(token)
	if err != nil {
		return Token{}, false, nil
	}
	i := slices.IndexFunc(v.Issuers, func(issuer Issuer) bool { return issuer.Issuer == claims.Iss })
	if i < 0 {
		return Token{}, false, nil
	}
	issuer := &v.Issuers[i]
	algs, types, aud, life := issuer.Algs, issuer.Types, issuer.Audience, issuer.MaxLife
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
	typ := strings.TrimPrefix(strings.ToLower(header.Typ), "application/")
	if !slices.Contains(algs, header.Alg) || header.JKU != "" ||
		!slices.ContainsFunc(types, func(s string) bool { return strings.EqualFold(s, typ) }) ||
		!slices.Contains(claims.Aud, aud) || claims.Exp == nil || claims.Iat == nil ||
		*claims.Exp-*claims.Iat > life.Seconds() {
		return Token{}, true, invalid()
	}
	public, err := v.Keys.Find(ctx, issuer.JWKSURL, header.Alg, header.Kid)
	if err != nil && fhir.KindOf(err) != fhir.Unavailable {
		return Token{}, true, err
	}
	if err != nil || public == nil || header.Kid == "" || !compact.Verify(token, header.Alg, public) {
		return Token{}, true, invalid()
	}
	t, err = v.read(issuer, compact.Payload(token))
	t.NotBefore, t.Expires = seconds(*claims.Iat).Add(-client.Skew), seconds(*claims.Exp)
	if claims.Nbf != nil && seconds(*claims.Nbf).After(t.NotBefore) {
		t.NotBefore = seconds(*claims.Nbf)
	}
	t.ID, t.ACR, t.JKT, t.X5T = claims.Jti, claims.ACR, claims.Confirm.JKT, claims.Confirm.X5T
	if claims.AuthTime > 0 && !math.IsNaN(claims.AuthTime) && claims.AuthTime < 1<<40 {
		t.AuthTime = seconds(claims.AuthTime)
	}
	return t, true, err
}

func seconds(f float64) time.Time { return time.Unix(int64(f), 0).UTC() }

func (v *Verifier) read(issuer *Issuer, payload []byte) (Token, error) {
	var all map[string]any
	dec := json.NewDecoder(bytes.NewReader(payload))
	dec.UseNumber()
	if err := dec.Decode(&all); err != nil {
		return Token{}, invalid()
	}
	t := Token{Issuer: issuer.Issuer}
	t.ClientID = first(all, issuer.Claims.Client, "client_id", "azp")
	t.Subject = first(all, issuer.Claims.Subject, "sub")
	t.Scope = strings.Join(list(all, or(issuer.Claims.Scope, "scope")), " ")
	t.Patient = strings.TrimPrefix(first(all, issuer.Claims.Patient, "patient"), "Patient/")
	name := t.ClientID
	here, ok := issuer.Clients[name]
	if !ok {
		return Token{}, invalid() // the issuer may not issue tokens for this client
	}
	t.ClientID, t.Allowed = here, issuer.Scopes
	for _, r := range list(all, or(issuer.Claims.Roles, "roles")) {
		if ours, ok := issuer.Roles[r]; ok && !slices.Contains(t.Roles, ours) {
			t.Roles = append(t.Roles, ours)
		}
	}
	if u := first(all, issuer.Claims.FHIRUser, "fhirUser"); u != "" {
		ref, ok := fhir.ParseRef(strings.TrimPrefix(u, v.Base+"/"))
		if !ok {
			return Token{}, invalid() // a user of another server has no account here
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

// first returns the first of the claims that is a string. If configured is set,
// only that claim is read.
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

// list returns a claim that is a string or an array of strings.
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
	switch value := v.(type) {
	case string:
		return []string{value}
	case []any:
		var out []string
		for _, e := range value {
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
