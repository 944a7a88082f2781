package server

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/gin-gonic/gin"

	"pulsegate/adapters"
	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/bulk"
	"pulsegate/fhir/capability"
	"pulsegate/fhir/clientaddr"
	"pulsegate/fhir/consent"
	"pulsegate/fhir/egress"
	"pulsegate/fhir/interaction"
	"pulsegate/fhir/r4"
	"pulsegate/fhir/rest"
	"pulsegate/fhir/search"
	"pulsegate/fhir/store/pebblestore"
	"pulsegate/fhir/subscription"
	"pulsegate/mapping"
	"pulsegate/mapping/ingest"
	"pulsegate/smart/brands"
	"pulsegate/smart/client"
	"pulsegate/smart/pages"
	"pulsegate/smart/policy"
	"pulsegate/smart/proof/dpop"
	"pulsegate/smart/proof/keys"
	"pulsegate/smart/scope"
)

// tokenParam tells the scope parser which parameters may narrow a scope.
func tokenParam(typ, code string) bool {
	p, ok := search.Lookup(typ, code)
	return ok && p.Type == search.TypeToken
}

// openAccess builds what decides: keys, clients, consents, policy, tokens.
func (m *Main) openAccess(ctx context.Context) error {
	var err error
	scopes := scope.Parser{TokenParam: tokenParam}
	if m.ring, err = keys.Open(m.Config.Data, m.now); err != nil {
		return err
	}
	if m.consents, err = consent.New(consent.Options{Store: m.store, Clock: m.now, Logger: m.Log}); err != nil {
		return err
	}
	m.clients = &client.Registry{Store: m.store, Scopes: scopes, Clock: m.now, AllowHTTP: m.egress.AllowHTTP}
	jwks := m.egress
	jwks.Timeout, jwks.MaxResponse = 3*time.Second, 64<<10
	assertions, err := client.NewAssertions(m.clients, &client.Keys{HTTP: egress.New(jwks), Clock: m.now},
		m.base+"/oauth/token")
	if err != nil {
		return err
	}
	if err := m.openPeople(ctx); err != nil {
		return err
	}
	return m.openSMART(ctx, assertions, scopes)
}

// grant is what a client may do now under the given scopes; with none given,
// under those it is registered for.
func (m *Main) grant(ctx context.Context, clientID, scopes string) (*access.Grant, error) {
	c, err := m.clients.Get(ctx, clientID)
	if err != nil {
		return nil, err
	}
	if c.Disabled {
		return nil, fhir.Errorf(fhir.Forbidden, "server.grant", "the client is disabled")
	}
	if scopes == "" {
		scopes = c.Scope
	}
	set, err := m.policy.Scopes.Parse(scopes)
	if err != nil {
		return nil, err
	}
	return &access.Grant{Recipient: clientID, Rules: set.Rules(), Consents: m.consents,
		RecordsConsent: c.RecordsConsent}, nil
}

// stepUp is what a person's token is held to before an export and before a
// device is taken out of use.
func (m *Main) stepUp() policy.StepUp { return policy.StepUp{Clock: m.now} }

// openFHIR builds the interactions, export and subscriptions.
func (m *Main) openFHIR(ctx context.Context) error {
	door, err := r4.New(r4.Limits{Bytes: int(m.Config.MaxBodyBytes), Entries: m.Config.MaxBundle})
	if err != nil {
		return err
	}
	m.subs, err = subscription.New(ctx, subscription.Options{Store: m.store, Audit: m.recorder, Clock: m.now,
		Rand: rand.Reader,
		Base: m.fhirBase(), Policy: m.egress, Logger: m.Log,
		GrantFor: func(ctx context.Context, clientID string) (*access.Grant,
			error) {
			return m.grant(ctx, clientID, "")
		}})
	if err != nil {
		return err
	}
	m.exporter, err = bulk.New(ctx, bulk.Options{Store: m.store, Audit: m.recorder, Clock: m.now, Rand: rand.Reader,
		Base: m.fhirBase(), GrantFor: m.grant, Logger: m.Log})
	if err != nil {
		return err
	}
	m.service = &interaction.Service{Store: m.store, Validator: door, Audit: m.recorder, Clock: m.now,
		Rand:   rand.Reader,
		Limits: interaction.Limits{BundleEntries: m.Config.MaxBundle}, Base: m.fhirBase(),
		Checks: map[string]interaction.Check{"Subscription": m.subs.Check, "Consent": m.consents.Check,
			"Device": m.stepUp().Device}}
	return nil
}

func (m *Main) openIngest(ctx context.Context) error {
	key, err := ingest.Key(ctx, m.store, rand.Reader)
	if err != nil {
		return err
	}
	if len(key) == 0 {
		m.Log.WarnContext(ctx, "the store is older than the secret for ids: whoever knows a fact can derive the id it has; import the data into a new store to end this")
	}
	mapper, err := mapping.New(mapping.Builtin(), mapping.Options{SeriesFrom: m.Config.SeriesFrom, Key: key})
	if err != nil {
		return err
	}
	for _, a := range m.adapters {
		if !mapper.Knows(a.Vendor()) {
			return fhir.Errorf(fhir.Internal, "server.openIngest", "the metric table has no file %s.yaml", a.Vendor())
		}
	}
	m.pipeline = m.ingestPipeline(mapper, m.adapters)
	return nil
}

func (m *Main) ingestPipeline(mapper *mapping.Mapper, all []adapters.Adapter) *ingest.Pipeline {
	return &ingest.Pipeline{Store: m.store, Audit: m.recorder, Consents: m.consents, Mapper: mapper, Adapters: all,
		Clock: m.now, Zone: m.zoneOf, SpoolDir: m.Config.Data,
		Limits: ingest.Limits{MaxBytes: m.Config.MaxIngestBytes}, Logger: m.Log, LegacyIDs: m.store.Legacy()}
}

// handler is everything that listens on the address.
func (m *Main) handler() (http.Handler, error) {
	settings := m.settings()
	statement, err := capability.Statement(settings)
	if err != nil {
		return nil, err
	}
	terminology, err := capability.Terminology(settings)
	if err != nil {
		return nil, err
	}
	page, err := newLanding(m.base, m.healthy)
	if err != nil {
		return nil, err
	}
	s := &rest.Server{Service: m.service, Auth: m.policy, Metadata: func() []byte { return statement },
		Terminology: func() []byte { return terminology }, Logger: m.Log, Clock: m.now, Rand: rand.Reader,
		Consents: m.consents,
		Limits:   rest.Limits{Body: m.Config.MaxBodyBytes, Inflated: m.Config.MaxBodyBytes},
		Operations: []rest.Mounter{
			rest.Bulk{Exporter: m.exporter, Base: m.fhirBase(), Service: m.service, StepUp: m.stepUp().Demand},
			rest.Subscriptions{Engine: m.subs, Service: m.service},
			&rest.AuditLog{Store: m.store, Recorder: m.recorder, Notary: m.notary, Clock: m.now},
		}}
	e := s.Engine()
	e.GET("/", gin.WrapH(page))
	e.GET("/favicon.ico", gin.WrapF(pages.Favicon))
	e.GET("/livez", func(c *gin.Context) { c.String(http.StatusOK, "ok\n") })
	e.GET("/readyz", func(c *gin.Context) {
		if err := m.healthy(); err != nil {
			c.String(http.StatusServiceUnavailable, "%s\n", err)
			return
		}
		c.String(http.StatusOK, "ok\n")
	})
	if m.page, err = m.pages(); err != nil {
		return nil, err
	}
	for _, x := range []rest.Mounter{m.page, m.ring, m.tokens, m.authorize, m.launches, m.registration,
		m.introspection, m.discovery(), brands.Handler{Bundle: m.bundle},
		&ingest.Handler{Pipeline: m.pipeline, Auth: m.policy, RequestID: rest.RequestID, Limits: m.pipeline.Limits,
			Logger: m.Log}} {
		x.Mount(e)
	}
	return m.behindProxies(secured(m.base, m.nonces.Offer(e)))
}

// behindProxies takes from trusted proxies what they know of a client. The
// certificate comes first: whose word that is, tells the peer's own address.
func (m *Main) behindProxies(next http.Handler) (http.Handler, error) {
	certs, err := m.Config.Proxies()
	if err != nil {
		return nil, err
	}
	forwarders, err := m.Config.Forwarders()
	if err != nil {
		return nil, err
	}
	return dpop.Proxied{Trusted: certs, Next: clientaddr.Handler{Trusted: forwarders, Header: m.Config.Forwarded,
		Next: next}}, nil
}

var errDraining = errors.New("draining")

// healthy is what /readyz says.
func (m *Main) healthy() error {
	select {
	case <-m.draining:
		return errDraining
	default:
	}
	// A read shows that the store answers; a store that had to stop does not.
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if _, err := m.store.Get(ctx, "client/none"); err != nil {
		return errors.New("the store does not answer")
	}
	return spaceError(m.store.Space())
}

// spaceError returns the error that /readyz shows for a full disk, or nil. It
// names no directory: only the log and store stat do.
func spaceError(s pebblestore.Space) error {
	if !s.Full() {
		return nil
	}
	return fmt.Errorf("the disk is full: %d MiB are free, and the server keeps %d MiB in reserve", s.Free>>20,
		s.Reserve>>20)
}

// settings returns the input of the CapabilityStatement for this configuration.
func (m *Main) settings() capability.Settings {
	const bulkIG = "http://hl7.org/fhir/uv/bulkdata/OperationDefinition/"
	const backport = "http://hl7.org/fhir/uv/subscriptions-backport/"
	base := "http://hl7.org/fhir/StructureDefinition/"
	ends := m.endpoints()
	return capability.Settings{
		Base: m.fhirBase(), Version: publicVersion(m.Version), Released: m.now(),
		Token: ends.Token, Authorize: ends.Authorize, Introspect: ends.Introspect, Revoke: ends.Revoke,
		Register: ends.Register, Manage: ends.Manage,
		Operations: append(rest.Offered(), []capability.Operation{
			{Name: "export", Definition: bulkIG + "export"},
			{Type: "Patient", Name: "export", Definition: bulkIG + "patient-export"},
			{Type: "Group", Name: "export", Definition: bulkIG + "group-export"},
			{Type: "Subscription", Name: "status",
				Definition: backport + "OperationDefinition/backport-subscription-status"},
			{Type: "Subscription", Name: "events",
				Definition: backport + "OperationDefinition/backport-subscription-events"},
		}...),
		Instantiates: []string{"http://hl7.org/fhir/uv/bulkdata/CapabilityStatement/bulk-data"},
		Profiles: map[string][]string{
			"Subscription": {backport + "StructureDefinition/backport-subscription"},
			"Observation": {base + "vitalsigns", base + "heartrate", base + "resprate", base + "oxygensat",
				base + "bodytemp",
				base + "bodyheight", base + "bodyweight", base + "bmi", base + "bp"},
		},
		Topics: []string{fhir.Canonical + "/SubscriptionTopic/observation-recorded"},
	}
}

// put stores a resource of an operator through the ordinary interactions and
// returns its id.
func (o operator) put(ctx context.Context, rq *interaction.Request, typ, id string, body []byte) (string, error) {
	if id == "" {
		w, err := o.m.service.Create(ctx, rq, typ, body, "")
		return w.Resource.ID, err
	}
	body = (&fhir.Resource{Type: typ, ID: id, JSON: body}).Sendable()
	w, err := o.m.service.Update(ctx, rq, fhir.Ref{Type: typ, ID: id}, body, interaction.Preconditions{})
	return w.Resource.ID, err
}

// record leaves the AuditEvent of an operator's command that is no FHIR
// interaction.
func (o operator) record(ctx context.Context, rq *interaction.Request, command, patient string) error {
	return o.m.recorder.Record(ctx, commandEvent(rq, command, patient))
}

func commandEvent(rq *interaction.Request, command, patient string) audit.Event {
	return audit.Event{Type: audit.Operator, Interaction: strings.ReplaceAll(command, " ", "-"),
		Caller: rq.Caller, Patient: patient}
}

// scopeText trims a scope as a person types it.
func scopeText(s string) string { return strings.Join(strings.Fields(s), " ") }

func jwksText(raw json.RawMessage) json.RawMessage {
	if string(raw) == "null" {
		return nil
	}
	return raw
}
