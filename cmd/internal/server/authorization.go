package server

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"time"

	"gopkg.in/yaml.v3"

	"pulsegate/fhir/audit"
	"pulsegate/fhir/consent"
	"pulsegate/fhir/limit"
	"pulsegate/smart/appconsent"
	"pulsegate/smart/authz"
	"pulsegate/smart/brands"
	"pulsegate/smart/client"
	"pulsegate/smart/oauth/authorize"
	"pulsegate/smart/oauth/discovery"
	"pulsegate/smart/oauth/introspect"
	"pulsegate/smart/oauth/launch"
	"pulsegate/smart/oauth/register"
	"pulsegate/smart/oauth/token"
	"pulsegate/smart/pages"
	"pulsegate/smart/people/authn"
	"pulsegate/smart/people/role"
	"pulsegate/smart/policy"
	"pulsegate/smart/proof/dpop"
	"pulsegate/smart/proof/issuer"
	"pulsegate/smart/proof/keys"
)

// authorization is the authorization server.
type authorization struct {
	tokens        *token.Endpoint
	authorize     *authorize.Service
	launches      *launch.Service
	registration  *register.Handler
	introspection *introspect.Handler
}

// newPolicy returns the engine that turns access tokens into grants.
func newPolicy(ctx context.Context, env environment, db database, ring *keys.Ring, clients *client.Registry,
	consents *consent.Engine, people people) (*policy.Engine, error) {
	external, err := newExternalIssuers(env)
	if err != nil {
		return nil, err
	}
	var nonces *dpop.Nonces
	if env.config.DPoPNonce {
		if nonces, err = dpop.OpenNonces(ctx, db, rand.Reader, env.now); err != nil {
			return nil, err
		}
	}
	return &policy.Engine{Keys: ring, Clients: clients, Consents: consents, Scopes: clients.Scopes,
		Issuer: env.base, Audience: env.fhirBase(), Clock: env.now, Authorizations: &authz.Store{State: db},
		RoleRules: role.RulesOf, Roles: people.signs.Roles, ConsentsOf: people.consentsOf, ExternalIssuers: external,
		Nonces: nonces, Latest: db.LastSeq, Context: contextOf(db)}, nil
}

// newAuthorization returns the authorization server. It calls refused to show
// an error of the authorization endpoint to a person.
func newAuthorization(ctx context.Context, env environment, db database, rec *audit.Recorder,
	clients *client.Registry, pol *policy.Engine, people people,
	refused func(w http.ResponseWriter, r *http.Request, status int, text string)) (authorization, error) {
	var out authorization
	assertions, err := client.NewAssertions(clients, &client.Keys{HTTP: env.keySetClient(), Clock: env.now},
		env.base+token.Path)
	if err != nil {
		return out, err
	}
	scopes := clients.Scopes
	agreements := &appconsent.Approvals{Store: db, Audit: rec, Scopes: scopes, Issuer: env.base,
		UserLife: token.UserLife(env.config.UserTokenLife),
		Says:     func(granted string) []string { return pages.Says(scopes, granted) }, Logger: env.log}
	out.tokens, err = token.New(ctx, token.Options{Store: db, Audit: rec, Keys: pol.Keys, Assertions: assertions,
		Scopes: scopes, Clock: env.now, Rand: rand.Reader, Issuer: env.base, Audience: env.fhirBase(), Logger: env.log,
		UserLife: env.config.UserTokenLife, Alive: people.signs.Alive, Hold: people.signs.Hold,
		Begun: agreements.Begun, Ended: agreements.Ended, Nonces: pol.Nonces,
		Limits: limit.Limits{Shared: env.limits()}})
	if err != nil {
		return out, err
	}
	out.launches = &launch.Service{Store: db, Audit: rec, Clients: clients, Auth: pol, Scopes: scopes, Clock: env.now,
		Roles: people.signs.Roles, Base: env.fhirBase(), Logger: env.log}
	selection := contextSelection{store: db, base: env.fhirBase(), roles: people.signs.Roles}
	out.authorize, err = authorize.New(authorize.Options{Store: db, Audit: rec, Clients: clients,
		Launches: out.launches, Scopes: scopes, Clock: env.now, Rand: rand.Reader, Issuer: env.base,
		Audience: env.fhirBase(), Logger: env.log, Page: env.config.ConsentPage, ShowError: refused,
		RoleRules: role.RulesOf, MaySelect: selection.check, Now: out.tokens.Now,
		Limits: limit.Limits{Shared: env.limits()}})
	if err != nil {
		return out, err
	}
	out.registration = &register.Handler{Store: db, Audit: rec, Registry: clients, Scopes: scopes, Clock: env.now,
		Rand: rand.Reader, Issuer: env.base, Logger: env.log, Limits: register.NewLimits(env.limits())}
	out.introspection = introspect.New(introspect.Options{Policy: pol, Assertions: assertions, Tokens: out.tokens,
		Authorizations: pol.Authorizations, Clients: clients, Audit: rec, Clock: env.now, Issuer: env.base,
		Logger: env.log, Limits: limit.Limits{Shared: env.limits()}})
	return out, nil
}

// readYAML decodes a file into v and returns the time of its last change.
// Unknown fields are errors.
func readYAML(path string, v any) (time.Time, error) {
	f, err := os.Open(path)
	if err != nil {
		return time.Time{}, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return time.Time{}, err
	}
	dec := yaml.NewDecoder(io.LimitReader(f, 1<<20))
	dec.KnownFields(true)
	if err := dec.Decode(v); err != nil {
		return time.Time{}, fmt.Errorf("%s: %w", path, err)
	}
	return info.ModTime(), nil
}

// newExternalIssuers returns the verifier for tokens of external issuers, nil if
// none is configured.
func newExternalIssuers(env environment) (*issuer.Verifier, error) {
	if env.config.ExternalIssuers == "" {
		return nil, nil
	}
	var in struct {
		Issuers []issuer.Issuer `yaml:"issuers"`
	}
	if _, err := readYAML(env.config.ExternalIssuers, &in); err != nil {
		return nil, err
	}
	v := &issuer.Verifier{Issuers: in.Issuers, Base: env.fhirBase(),
		Keys: &client.Keys{HTTP: env.keySetClient(), Clock: env.now, Algs: issuer.Algs()}}
	return v, v.Check()
}

// branding is the brand that apps show for this server when a person selects a
// hospital.
type branding struct {
	brand  brands.Brand
	bundle []byte // the User-access Brands Bundle
}

func newBranding(env environment) (branding, error) {
	var b branding
	changed := env.now()
	if env.config.Brand == "" {
		u, err := url.Parse(env.base)
		if err != nil {
			return b, err
		}
		b.brand = brands.Brand{Name: "Pulsegate at " + u.Host, Website: env.base}
	} else {
		var err error
		if changed, err = readYAML(env.config.Brand, &b.brand); err != nil {
			return b, err
		}
	}
	if err := b.brand.Check(); err != nil {
		return b, err
	}
	var err error
	b.bundle, err = b.brand.Bundle(env.base, env.fhirBase(), changed)
	return b, err
}

// endpoints returns the URLs that discovery and the CapabilityStatement list.
func (e environment) endpoints() discovery.Endpoints {
	return discovery.Endpoints{Token: e.base + token.Path, Authorize: e.base + authorize.Path,
		Introspect: e.base + introspect.Path,
		Revoke:     e.base + introspect.RevokePath, Register: e.base + register.Path,
		Manage: e.base + e.config.ManagePage}
}

func (s *services) discovery() discovery.Handler {
	id := s.brand.brand.Primary()
	return discovery.Handler{BaseURL: s.base, Endpoints: s.endpoints(), BrandBundle: s.base + brands.Path,
		Brand:     &id,
		ACRValues: []string{authn.PhishingResistant, authn.MultiFactor},
		CertBound: s.config.ClientCerts || len(s.config.CertProxies) > 0}
}
