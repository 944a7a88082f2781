package server

import (
	"crypto/rand"
	"net/http"
	"strings"

	"github.com/gin-gonic/gin"

	"pulsegate/fhir"
	"pulsegate/fhir/capability"
	"pulsegate/fhir/clientaddr"
	"pulsegate/fhir/element"
	"pulsegate/fhir/guide"
	"pulsegate/fhir/rest"
	"pulsegate/fhir/subscription"
	"pulsegate/mapping/ingest"
	"pulsegate/smart/brands"
	"pulsegate/smart/pages"
	"pulsegate/smart/proof/dpop"
)

// handler returns the handler of the public listener.
func (s *services) handler(h *health) (http.Handler, error) {
	e, err := s.engine(h)
	if err != nil {
		return nil, err
	}
	return s.behindProxies(secured(s.base, s.policy.Nonces.Offer(e)))
}

// engine returns the routes of the public listener.
func (s *services) engine(h *health) (*gin.Engine, error) {
	settings := s.capabilities()
	statement, err := s.statement()
	if err != nil {
		return nil, err
	}
	terminology, err := capability.Terminology(settings)
	if err != nil {
		return nil, err
	}
	landing, err := newLanding(s.base, h.check)
	if err != nil {
		return nil, err
	}
	api := &rest.Server{Service: s.fhir, Auth: s.policy, Metadata: statement,
		Terminology: func() []byte { return terminology },
		Definitions: ownOperations(),
		Logger:      s.log, Clock: s.now,
		Rand: rand.Reader, Consents: s.consents, Unsynced: unsynced, Unavailable: s.unavailable,
		SignIn: "/auth/",
		Limits: rest.Limits{Body: s.config.MaxBodyBytes, Inflated: s.config.MaxBodyBytes,
			Shared: s.limits()},
		Public: []rest.Mounter{rest.BulkPublish{Publisher: s.bulkPublish},
			rest.Sockets{Engine: s.followers.subscriptions, Auth: s.policy}},
		Operations: []rest.Mounter{
			rest.Bulk{Exporter: s.followers.exporter, Base: s.fhirBase(), Service: s.fhir, StepUp: s.stepUp().Demand},
			rest.BulkSubmit{Consumer: s.bulkSubmit, Service: s.fhir, StepUp: s.stepUp().Demand},
			rest.Subscriptions{Engine: s.followers.subscriptions, Service: s.fhir},
			&rest.AuditLog{Store: s.store, Recorder: s.audit.recorder, Notary: s.audit.notary, Clock: s.now},
		}}
	e := api.Engine()
	e.GET("/", gin.WrapH(landing))
	e.GET("/favicon.ico", gin.WrapF(pages.Favicon))
	h.mount(e)
	for _, part := range []rest.Mounter{s.pages, s.keys, s.oauth.tokens, s.oauth.authorize, s.oauth.launches,
		s.oauth.registration, s.oauth.introspection, s.discovery(), brands.Handler{Bundle: s.brand.bundle},
		&ingest.Handler{Pipeline: s.pipeline, Auth: s.pushKeys.Or(s.policy), RequestID: rest.RequestID,
			Limits: s.pipeline.Limits, Logger: s.log, Shared: s.limits()}, s.sync} {
		part.Mount(e)
	}
	for _, part := range s.documents(e, statement) {
		part.Mount(e)
	}
	return e, nil
}

// behindProxies applies the headers by which trusted proxies report a client's
// certificate and address. The certificate comes first, because the address of
// the peer decides whether that header is trusted.
func (e environment) behindProxies(next http.Handler) (http.Handler, error) {
	certs, err := e.config.Proxies()
	if err != nil {
		return nil, err
	}
	forwarders, err := e.config.Forwarders()
	if err != nil {
		return nil, err
	}
	return dpop.Proxied{Trusted: certs, Next: clientaddr.Handler{Trusted: forwarders, Header: e.config.Forwarded,
		HTTPS: strings.HasPrefix(e.base, "https://"),
		Next:  next}}, nil
}

// capabilities returns the input of the CapabilityStatement.
func (s *services) capabilities() capability.Settings {
	const bulkIG = element.HL7 + "uv/bulkdata/OperationDefinition/"
	const backport = element.SubscriptionsBackport
	ends := s.endpoints()
	return capability.Settings{
		Base: s.fhirBase(), Version: publicVersion(s.version), Released: s.now(),
		Token: ends.Token, Authorize: ends.Authorize, Introspect: ends.Introspect, Revoke: ends.Revoke,
		Register: ends.Register, Manage: ends.Manage,
		Operations: append(rest.Offered(), []capability.Operation{
			{Name: "export", Definition: bulkIG + "export", Documentation: exportDocumentation},
			{Name: "bulk-submit", Definition: bulkIG + "bulk-submit"},
			{Name: "bulk-submit-status", Definition: bulkIG + "bulk-submit-status"},
			{Name: "bulk-publish", Definition: bulkIG + "bulk-publish"},
			{Type: "Patient", Name: "export", Definition: bulkIG + "patient-export",
				Documentation: exportDocumentation},
			{Type: "Group", Name: "export", Definition: bulkIG + "group-export",
				Documentation: exportDocumentation},
			{Type: "AuditEvent", Name: "checkpoint",
				Definition: fhir.Canonical + "/OperationDefinition/audit-checkpoint"},
			{Type: "AuditEvent", Name: "verify", Definition: fhir.Canonical + "/OperationDefinition/audit-verify"},
			{Type: "Subscription", Name: "status",
				Definition: backport + "OperationDefinition/backport-subscription-status"},
			{Type: "Subscription", Name: "events",
				Definition: backport + "OperationDefinition/backport-subscription-events"},
			{Type: "Subscription", Name: "get-ws-binding-token",
				Definition: backport + "OperationDefinition/backport-subscription-get-ws-binding-token"},
			{Type: "Subscription", Name: "resend",
				Definition:    backport + "OperationDefinition/backport-subscription-resend",
				Documentation: "Defined by the draft of version 1.2 of the guide. At most the first 200 events of the range are sent again."},
		}...),
		Instantiates: instantiated(),
		Profiles:     supportedProfiles(),
		WebSocket:    "ws" + strings.TrimPrefix(s.fhirBase(), "http") + subscription.SocketPath,
	}
}

// ownOperations returns the OperationDefinitions of this project by id.
func ownOperations() map[string][]byte {
	out := map[string][]byte{}
	for _, r := range guide.Resources() {
		if r.Type == "OperationDefinition" {
			out[r.ID] = r.JSON
		}
	}
	return out
}

// exportDocumentation says how the export answers what the guide leaves open ("Server
// Capability Documentation").
const exportDocumentation = "All parameters of Bulk Data 3.0, by GET and POST. Files are bounded by 128 MiB. " +
	"Patient and group exports hold the Patient compartment; older data of patients who have joined a group since " +
	"_since are not added. _typeFilter takes searches without result parameters. organizeOutputBy takes Patient. " +
	"A poll that accepts application/json;bulkdata=4.0 gets the manifest of 4.0.0."
