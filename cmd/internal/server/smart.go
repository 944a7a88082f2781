package server

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"time"

	"gopkg.in/yaml.v3"

	"pulsegate/fhir/access"
	"pulsegate/fhir/egress"
	"pulsegate/fhir/store"
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
	"pulsegate/smart/policy"
	"pulsegate/smart/proof/dpop"
	"pulsegate/smart/proof/issuer"
	"pulsegate/smart/scope"
)

// people is what the authorization server asks about persons. The zero value
// knows nobody: no person's token reaches any data.
type people struct {
	rules     func(roles []string) []access.Rule
	roles     func(ctx context.Context, s authz.Subject) (roles []string, ok bool, err error)
	alive     func(ctx context.Context, s authz.Subject, offline bool) (roles []string, ok bool, err error)
	hold      func(ctx context.Context, s authz.Subject) (w store.StateWrite, ok bool, err error)
	maySelect func(ctx context.Context, s authorize.Subject, patient, encounter string) error
	// consents are those that hold for a person under an authorization: with
	// what the person allowed the app, and emergency access.
	consents func(subjectID, authorization string) access.Consents
}

// openSMART builds the authorization server and the policy.
func (m *Main) openSMART(ctx context.Context, assertions *client.Assertions, scopes scope.Parser) error {
	if err := errors.Join(m.openOutside(), m.openBrand()); err != nil {
		return err
	}
	m.grants = &authz.Store{State: m.store}
	if m.Config.DPoPNonce {
		var err error
		if m.nonces, err = dpop.OpenNonces(ctx, m.store, rand.Reader, m.now); err != nil {
			return err
		}
	}
	m.policy = &policy.Engine{Keys: m.ring, Clients: m.clients, Consents: m.consents, Scopes: scopes,
		Issuer: m.base, Audience: m.fhirBase(),
		Clock: m.now, Grants: m.grants, RoleRules: m.people.rules, Roles: m.people.roles,
		ConsentsOf: m.people.consents, Outside: m.outside, Nonces: m.nonces, Latest: m.store.LastSeq}
	agreements := &appconsent.Agreements{Store: m.store, Audit: m.recorder, Scopes: scopes, Issuer: m.base,
		UserLife: token.UserLife(m.Config.UserTokenLife),
		Says:     func(granted string) []string { return pages.Says(scopes, granted) }, Logger: m.Log}
	var err error
	m.tokens, err = token.New(ctx, token.Options{Store: m.store, Audit: m.recorder, Keys: m.ring,
		Assertions: assertions, Scopes: scopes,
		Clock: m.now, Rand: rand.Reader, Issuer: m.base, Audience: m.fhirBase(), Logger: m.Log,
		UserLife: m.Config.UserTokenLife, Alive: m.people.alive, Hold: m.people.hold,
		Begun: agreements.Begun, Ended: agreements.Ended, Nonces: m.nonces})
	if err != nil {
		return err
	}
	m.launches = &launch.Service{Store: m.store, Audit: m.recorder, Clients: m.clients, Auth: m.policy,
		Scopes: scopes, Clock: m.now,
		Roles: m.people.roles, Base: m.fhirBase(), Logger: m.Log}
	m.authorize, err = authorize.New(authorize.Options{Store: m.store, Audit: m.recorder, Clients: m.clients,
		Launches: m.launches, Scopes: scopes,
		Clock: m.now, Rand: rand.Reader, Issuer: m.base, Audience: m.fhirBase(), Logger: m.Log,
		Page: m.Config.ConsentPage, Refused: m.refused,
		RoleRules: m.people.rules, MaySelect: m.people.maySelect, Now: m.tokens.Now})
	if err != nil {
		return err
	}
	m.registration = &register.Handler{Store: m.store, Audit: m.recorder, Registry: m.clients, Scopes: scopes,
		Clock: m.now, Rand: rand.Reader,
		Issuer: m.base, Logger: m.Log, Limits: register.NewLimits()}
	m.introspection = introspect.New(introspect.Options{Policy: m.policy, Assertions: assertions, Tokens: m.tokens,
		Grants:  m.grants,
		Clients: m.clients, Audit: m.recorder, Clock: m.now, Issuer: m.base, Logger: m.Log})
	return nil
}

// readYAML fills v from a file, strictly.
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

func (m *Main) openOutside() error {
	if m.Config.OutsideIssuers == "" {
		return nil
	}
	var in struct {
		Issuers []issuer.Issuer `yaml:"issuers"`
	}
	if _, err := readYAML(m.Config.OutsideIssuers, &in); err != nil {
		return err
	}
	jwks := m.egress
	jwks.Timeout, jwks.MaxResponse = 3*time.Second, 64<<10
	m.outside = &issuer.Verifier{Issuers: in.Issuers, Base: m.fhirBase(),
		Keys: &client.Keys{HTTP: egress.New(jwks), Clock: m.now, Algs: issuer.Algs()}}
	return m.outside.Check()
}

func (m *Main) openBrand() error {
	changed := m.now()
	if m.Config.Brand == "" {
		u, err := url.Parse(m.base)
		if err != nil {
			return err
		}
		m.brand = brands.Brand{Name: "Pulsegate at " + u.Host, Website: m.base}
	} else {
		var err error
		if changed, err = readYAML(m.Config.Brand, &m.brand); err != nil {
			return err
		}
	}
	if err := m.brand.Check(); err != nil {
		return err
	}
	var err error
	m.bundle, err = m.brand.Bundle(m.base, m.fhirBase(), changed)
	return err
}

// endpoints are named alike in discovery and in the CapabilityStatement.
func (m *Main) endpoints() discovery.Endpoints {
	return discovery.Endpoints{Token: m.base + token.Path, Authorize: m.base + authorize.Path,
		Introspect: m.base + introspect.Path,
		Revoke:     m.base + introspect.RevokePath, Register: m.base + register.Path,
		Manage: m.base + m.Config.ManagePage}
}

func (m *Main) discovery() discovery.Handler {
	id := m.brand.Primary()
	return discovery.Handler{BaseURL: m.base, Endpoints: m.endpoints(), BrandBundle: m.base + brands.Path,
		Brand:     &id,
		ACRValues: []string{authn.PhishingResistant, authn.MultiFactor},
		CertBound: m.Config.ClientCerts || len(m.Config.CertProxies) > 0}
}
