package server

import (
	"context"
	"crypto/rand"
	"errors"
	"net"
	"net/http"
	"path/filepath"
	"slices"

	"pulsegate/adapters"
	"pulsegate/adapters/link"
	"pulsegate/adapters/pushkey"
	"pulsegate/adapters/sync"
	"pulsegate/adapters/vendors"
	"pulsegate/cmd/internal/telemetry"
	"pulsegate/fhir"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/bulk"
	"pulsegate/fhir/bulk/submit"
	"pulsegate/fhir/cluster/role"
	"pulsegate/fhir/consent"
	"pulsegate/fhir/interaction"
	"pulsegate/fhir/searchparameter"
	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore"
	"pulsegate/fhir/terminology"
	"pulsegate/mapping/ingest"
	"pulsegate/smart/client"
	"pulsegate/smart/pages"
	"pulsegate/smart/policy"
	"pulsegate/smart/proof/keys"
	"pulsegate/smart/scope"
)

// services holds the services of an open server.
type services struct {
	environment
	telemetry   *telemetry.Telemetry
	store       database
	embedded    *pebblestore.DB // the embedded store below store
	audit       auditTrail
	keys        *keys.Ring
	consents    *consent.Engine
	clients     *client.Registry
	people      people
	policy      *policy.Engine
	oauth       authorization
	brand       branding
	followers   followers
	fhir        *interaction.Service
	bulkSubmit  *submit.Consumer
	bulkPublish *bulk.Publisher
	adapters    []adapters.Adapter
	pipeline    *ingest.Pipeline
	remaps      *remapRuns
	links       *link.Links
	progress    progress
	sweep       chan struct{} // starts sweepLinks
	sync        *sync.Engine
	demo        *demoVendors // nil unless this is a demo with simulated clouds
	pushKeys    *pushkey.Keys
	pages       *pages.Pages

	closers closers
}

// closers are the functions that close the opened parts of a server, in the order
// of opening.
type closers []func() error

func (c *closers) add(fn func() error) { *c = append(*c, fn) }

// addListener adds the closing of l, which may have been closed before.
func (c *closers) addListener(l net.Listener) {
	c.add(func() error {
		if err := l.Close(); !errors.Is(err, net.ErrClosed) {
			return err
		}
		return nil
	})
}

// close calls the functions in reverse order, and each of them once.
func (c *closers) close() error {
	var errs []error
	for _, fn := range slices.Backward(*c) {
		errs = append(errs, fn())
	}
	*c = nil
	return errors.Join(errs...)
}

// openServices opens all services, each after those that it depends on. Background
// work ends with ctx. If openServices returns an error, it has closed everything.
func openServices(ctx context.Context, env environment) (_ *services, err error) {
	if env.parameters == nil {
		env.parameters = searchparameter.New(env.log)
	}
	s := &services{environment: env, adapters: vendors.All()}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	if err := secureData(env.config.Data, env.log); err != nil {
		return nil, err
	}
	if s.telemetry, err = telemetry.Start(ctx, env.version, env.log); err != nil {
		return nil, err
	}
	if err := s.openStore(ctx); err != nil {
		return nil, err
	}
	env = s.environment
	fresh := s.store.Log().Size() == 0
	if s.audit, err = openAudit(ctx, env, s.store); err != nil {
		return nil, err
	}

	if s.keys, err = openKeys(ctx, env); err != nil {
		return nil, err
	}
	s.consents, err = consent.New(consent.Options{Store: s.store, Clock: env.now, Logger: env.log})
	if err != nil {
		return nil, err
	}
	s.closers.add(func() error { s.consents.Close(); return nil })
	s.clients = &client.Registry{Store: s.store, Scopes: scope.Parser{TokenParam: scope.Registered}, Clock: env.now,
		AllowHTTP: env.egress.AllowHTTP}
	// Two dependencies are circular: signing out ends tokens while the token
	// endpoint depends on people, and the authorization endpoint shows errors on
	// pages while the pages depend on it. The function literals below are called
	// only after both sides are complete.
	s.people, err = newPeople(ctx, env, s.store, s.audit, s.consents, fresh,
		func(ctx context.Context, b *store.Batch, userID, session string, by audit.Caller) error {
			return s.oauth.tokens.EndAll(ctx, b, userID, session, by)
		})
	if err != nil {
		return nil, err
	}
	if s.brand, err = newBranding(env); err != nil {
		return nil, err
	}
	if s.policy, err = newPolicy(ctx, env, s.store, s.keys, s.clients, s.consents, s.people); err != nil {
		return nil, err
	}
	s.oauth, err = newAuthorization(ctx, env, s.store, s.audit.recorder, s.clients, s.policy, s.people,
		func(w http.ResponseWriter, r *http.Request, status int, text string) {
			s.pages.Refused(w, r, status, text)
		})
	if err != nil {
		return nil, err
	}

	if env.terminology, err = terminology.New(ctx, s.store, s.fhirBase()); err != nil {
		return nil, err
	}
	s.closers.add(func() error { env.terminology.Close(); return nil })
	s.followers, err = newFollowers(ctx, env, s.store, s.audit.recorder, s.grants(),
		s.keys, s.adapters)
	if err != nil {
		return nil, err
	}
	s.closers.add(s.followers.close)
	if err := s.openInteractions(env); err != nil {
		return nil, err
	}
	s.pipeline, err = newPipeline(ctx, env, s.store, s.audit.recorder, s.consents, s.adapters)
	if err != nil {
		return nil, err
	}
	if err := s.startBulk(ctx); err != nil {
		return nil, err
	}
	if s.pushKeys, err = newPushKeys(env, s.store, s.audit.recorder); err != nil {
		return nil, err
	}
	if s.links, err = newLinks(s); err != nil {
		return nil, err
	}
	if s.sync, err = newSync(ctx, s); err != nil {
		return nil, err
	}
	s.progress = linkProgress{s.sync}
	if s.pages, err = newPages(s); err != nil {
		return nil, err
	}
	if err := s.inTurn(ctx, "setup", s.publish); err != nil {
		return nil, err
	}
	s.startWork(ctx)
	return s, nil
}

// publish writes the resources that the server itself publishes.
func (s *services) publish(ctx context.Context) error {
	if err := s.addOrganizations(ctx); err != nil {
		return err
	}
	if err := s.publishTopics(ctx); err != nil {
		return err
	}
	return s.publishGuide(ctx)
}

// startWork starts the work in the background that needs all services.
func (s *services) startWork(ctx context.Context) {
	s.startSync(ctx)
	s.startSweep(ctx)
	s.startRemaps(ctx)
	s.startReindex(ctx)
}

// startBulk resumes export jobs, and starts to consume bulk submissions, which may hold
// phone-made Observations, and to publish files.
func (s *services) startBulk(ctx context.Context) (err error) {
	delivery, err := exportDelivery(s.environment)
	if err != nil {
		return err
	}
	s.followers.exporter, err = bulk.New(ctx, bulk.Options{Store: s.store, Audit: s.audit.recorder, Clock: s.now,
		Rand: rand.Reader, Base: s.fhirBase(), GrantFor: s.grants().compile,
		Search: s.fhir, Roles: s.roles, Delivery: delivery, Logger: s.log})
	if err != nil {
		return err
	}
	s.closers.add(s.followers.close)
	s.fhir.Receiver = phoneMade{s.pipeline}
	s.bulkSubmit, err = submit.New(ctx, submit.Options{Store: s.store, Writer: s.fhir, Audit: s.audit.recorder,
		Clock: s.now, Base: s.fhirBase(), Policy: s.egress, GrantFor: s.grants().compile,
		Roles: s.roles, Logger: s.log})
	if err != nil {
		return err
	}
	s.closers.add(func() error { s.bulkSubmit.Close(); return nil })
	s.bulkPublish = bulk.NewPublisher(s.store, s.fhirBase())
	s.closers.add(func() error { s.bulkPublish.Close(); return nil })
	return nil
}

func (s *services) close() error { return s.closers.close() }

// inTurn calls do while this server has a role, and gives the role up. Servers that start
// together do one after another what none of them may do twice.
func (s *services) inTurn(ctx context.Context, name string, do func(context.Context) error) error {
	turn, stop := context.WithCancel(ctx)
	defer stop()
	err := error(fhir.Errorf(fhir.Unavailable, "server.inTurn", "the server stops"))
	s.roles.Run(turn, name, func(ctx context.Context, _ role.Term) {
		if err = do(ctx); ctx.Err() == nil || err == nil {
			stop() // and if the role was lost, it is taken again
		}
	})
	return err
}

// database is a store with samples.
type database interface {
	store.Store
	store.Columnar
}

// openStore opens the store of a server that is alone, or that of a member of a
// cluster.
func (s *services) openStore(ctx context.Context) (err error) {
	if s.roles == nil { // a test may have set it
		s.roles = role.Alone{}
	}
	if s.config.MongoDB != "" && s.shared == nil {
		if s.member, err = join(ctx, s.environment); err != nil {
			return err
		}
		s.closers.add(s.member.close)
		s.embedded, s.store, s.roles = s.member.DB, s.member.store, s.member.roles
		return nil
	}
	if s.embedded = s.shared; s.embedded == nil {
		if s.embedded, err = pebblestore.Open(storeDir(s.environment), storeOptions(s.environment)); err != nil {
			return err
		}
		s.closers.add(s.embedded.Close)
	}
	s.store = s.embedded
	return s.followParameters(ctx, s.embedded, &s.closers)
}

// followParameters reads the SearchParameters of a store that was just opened, and follows
// them until c is closed.
func (e environment) followParameters(ctx context.Context, st store.Store, c *closers) error {
	stop, err := e.parameters.Follow(ctx, st)
	if err == nil {
		c.add(func() error { stop(); return nil })
	}
	return err
}

// openKeys opens the signing keys: those in the data directory, or those that the
// servers of a cluster share.
func openKeys(ctx context.Context, env environment) (*keys.Ring, error) {
	if env.member == nil {
		return keys.Open(env.config.Data, env.now)
	}
	return keys.OpenShared(ctx, env.member.vault, env.now)
}

func storeDir(env environment) string { return filepath.Join(env.config.Data, "store") }

func storeOptions(env environment) pebblestore.Options {
	return pebblestore.Options{Clock: env.now, Logger: env.log, CacheBytes: int64(env.config.CacheMiB) << 20,
		Registry: env.parameters.Registry}
}
