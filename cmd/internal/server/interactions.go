package server

import (
	"context"
	"crypto/rand"
	"errors"
	"time"

	"pulsegate/adapters"
	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/bulk"
	"pulsegate/fhir/consent"
	"pulsegate/fhir/interaction"
	"pulsegate/fhir/push"
	"pulsegate/fhir/r4"
	"pulsegate/fhir/store"
	"pulsegate/fhir/subscription"
	"pulsegate/mapping/ingest"
	"pulsegate/mapping/preferred"
	"pulsegate/mapping/uscore/forms"
	"pulsegate/smart/client"
	"pulsegate/smart/policy"
	"pulsegate/smart/proof/keys"
)

// clientGrants compiles grants for work that goes on without a request of the
// client: export jobs and notifications.
type clientGrants struct {
	clients  *client.Registry
	consents *consent.Engine
	context  func(typ, id string) *access.Facts
}

func (s *services) grants() clientGrants {
	return clientGrants{s.clients, s.consents, contextOf(s.store)}
}

// contextOf returns access.Grant.Context. A resource that cannot be read has no facts, so
// that what it protects is hidden.
func contextOf(st store.Store) func(typ, id string) *access.Facts {
	return func(typ, id string) *access.Facts {
		res, facts, err := st.Read(context.Background(), fhir.Ref{Type: typ, ID: id}, 0)
		if err != nil || res.Deleted {
			return nil
		}
		return facts
	}
}

// compile returns the current grant of a client under scopes. If scopes is
// empty, those that the client is registered for apply.
func (cg clientGrants) compile(ctx context.Context, clientID, scopes string) (*access.Grant, error) {
	c, err := cg.clients.Get(ctx, clientID)
	if err != nil {
		return nil, err
	}
	if c.Disabled {
		return nil, fhir.Errorf(fhir.Forbidden, "server.clientGrants", "the client is disabled")
	}
	if scopes == "" {
		scopes = c.Scope
	}
	set, err := cg.clients.Scopes.Parse(scopes)
	if err != nil {
		return nil, err
	}
	return &access.Grant{Recipient: clientID, Rules: set.Rules(), Consents: cg.consents,
		Context:        cg.context,
		RecordsConsent: c.RecordsConsent, PhoneMade: c.PhoneMade}, nil
}

// registered returns the current grant of a client under the scopes that it is
// registered for.
func (cg clientGrants) registered(ctx context.Context, clientID string) (*access.Grant, error) {
	return cg.compile(ctx, clientID, "")
}

// followers are the services that work in the background.
type followers struct {
	subscriptions *subscription.Engine
	exporter      *bulk.Exporter // set by startBulk
	push          *push.Engine
	preferred     *preferred.Engine // nil if the setting preferred is off
	view          *preferred.View   // as preferred
}

// newFollowers starts the delivery of notifications and to targets, and the derivation of
// preferred values.
func newFollowers(ctx context.Context, env environment, db database, rec *audit.Recorder,
	grants clientGrants, ring *keys.Ring, all []adapters.Adapter) (followers, error) {
	options := subscription.Options{Store: db, Audit: rec, Clock: env.now, Rand: rand.Reader,
		Base: env.fhirBase(), Policy: env.egress, Roles: env.roles, Logger: env.log, GrantFor: grants.registered,
		Terminology: env.terminology}
	if err := subscriptionOptions(env, &options); err != nil {
		return followers{}, err
	}
	subs, err := subscription.New(ctx, options)
	if err != nil {
		return followers{}, err
	}
	targets, err := newPush(ctx, env, db, rec, grants, ring, all)
	if err != nil {
		subs.Close()
		return followers{}, err
	}
	f := followers{subscriptions: subs, push: targets}
	if !env.config.Preferred {
		return f, nil
	}
	if err := f.startPreferred(ctx, env, db, rec); err != nil {
		return followers{}, errors.Join(err, f.close())
	}
	return f, nil
}

// startPreferred starts the derivation of preferred values.
func (f *followers) startPreferred(ctx context.Context, env environment, db database,
	rec *audit.Recorder) error {
	policy, err := preferred.Load(env.config.PreferredRules)
	if err != nil {
		return err
	}
	key, err := ingest.Key(ctx, db, rand.Reader)
	if err != nil {
		return err
	}
	f.preferred, err = preferred.New(ctx, preferred.Options{Store: db, Audit: rec, Clock: env.now, Key: key,
		Policy: policy, Roles: env.roles, Logger: env.log,
		Zone: func(ctx context.Context, patient string) (*time.Location, error) {
			return zoneOf(ctx, db, patient)
		}})
	f.view = &preferred.View{Store: db, Policy: policy}
	return err
}

// close stops the followers. Further calls do nothing.
func (f followers) close() error {
	f.subscriptions.Close()
	if f.exporter != nil {
		f.exporter.Close()
	}
	f.push.Close()
	if f.preferred != nil {
		f.preferred.Close()
	}
	return nil
}

// stepUp returns the recent and strong sign-in that a person needs for an
// export and for taking a device out of use.
func (e environment) stepUp() policy.StepUp { return policy.StepUp{Clock: e.now} }

// cloudURLs holds the URLs of the manufacturers' clouds by vendor. Data of other vendors
// come from a phone.
var cloudURLs = map[string]string{ // read only
	"fitbit": "https://health.googleapis.com", "oura": "https://api.ouraring.com",
	"withings": "https://wbsapi.withings.net",
}

// vendorsOf returns the names and clouds of the vendors of adapters.
func vendorsOf(all []adapters.Adapter) map[string]forms.Vendor {
	out := map[string]forms.Vendor{}
	for _, a := range all {
		out[a.Vendor()] = forms.Vendor{Name: a.Name(), URL: cloudURLs[a.Vendor()]}
	}
	return out
}

// newInteractions returns the FHIR interactions.
func newInteractions(env environment, db database, rec *audit.Recorder, consents *consent.Engine,
	background followers, all []adapters.Adapter) (*interaction.Service, error) {
	validator, err := r4.New(r4.Limits{Bytes: int(env.config.MaxBodyBytes), Entries: env.config.MaxBundle})
	if err != nil {
		return nil, err
	}
	validator.Use(env.terminology)
	s := &interaction.Service{Store: db, Validator: validator, Audit: rec,
		Terminology: env.terminology, Clock: env.now, Rand: rand.Reader,
		Limits: interaction.Limits{BundleEntries: env.config.MaxBundle}, Base: env.fhirBase(),
		Checks: map[string]interaction.Check{"Subscription": background.subscriptions.Check,
			"Basic": background.subscriptions.CheckBasic, "Consent": consents.Check,
			"Device": env.stepUp().Device, "SearchParameter": env.parameters.Check},
		Registry: env.parameters.Registry,
		Forms:    forms.All(vendorsOf(all))}
	if background.view != nil {
		s.Preferred = background.view
	}
	return s, nil
}

// openInteractions opens the FHIR interactions.
func (s *services) openInteractions(env environment) (err error) {
	s.fhir, err = newInteractions(env, s.store, s.audit.recorder, s.consents, s.followers, s.adapters)
	return err
}
