// Package discovery serves the metadata of the authorization server:
// .well-known/smart-configuration below the FHIR base and at the root of the
// host, and .well-known/openid-configuration and
// .well-known/oauth-authorization-server at the root.
//
// All paths serve the same document. It describes the mounted endpoints only:
// an endpoint without a URL is left out.
//
// Sources: SMART App Launch 2.2, "Conformance"; OpenID Connect Discovery 1.0;
// RFC 8414; RFC 9207 3; RFC 9449 5.1; RFC 8705 3.3.
package discovery

import (
	"encoding/json"
	"net/http"

	"github.com/gin-gonic/gin"

	"pulsegate/fhir"
	"pulsegate/fhir/element"
	"pulsegate/smart/proof/dpop"
	"pulsegate/smart/scope"
)

// Endpoints holds the URLs of the mounted endpoints. The URL of an endpoint
// that is not mounted is empty.
type Endpoints struct {
	Token, Authorize, Introspect, Revoke, Register, Manage string
}

// Handler serves the documents.
type Handler struct {
	BaseURL string // of the server, without a trailing slash
	Endpoints
	// BrandBundle is the URL of the user-access brands Bundle, or "".
	BrandBundle string
	Brand       *element.Identifier // primary brand of the brand bundle
	// ACRValues lists the supported acr values, that is, strengths of a sign-in.
	ACRValues []string
	// CertBound is set if the server requests certificates from TLS clients.
	CertBound bool
}

type document struct {
	Issuer            string              `json:"issuer"`
	JWKS              string              `json:"jwks_uri"`
	Authorize         string              `json:"authorization_endpoint,omitempty"`
	Token             string              `json:"token_endpoint"`
	Introspect        string              `json:"introspection_endpoint,omitempty"`
	Revoke            string              `json:"revocation_endpoint,omitempty"`
	Register          string              `json:"registration_endpoint,omitempty"`
	Manage            string              `json:"management_endpoint,omitempty"`
	AuthMethods       []string            `json:"token_endpoint_auth_methods_supported"`
	AuthAlgs          []string            `json:"token_endpoint_auth_signing_alg_values_supported"`
	IntrospectMethods []string            `json:"introspection_endpoint_auth_methods_supported,omitempty"`
	RevokeMethods     []string            `json:"revocation_endpoint_auth_methods_supported,omitempty"`
	GrantTypes        []string            `json:"grant_types_supported"`
	Scopes            []string            `json:"scopes_supported"`
	ResponseTypes     []string            `json:"response_types_supported"`
	ResponseModes     []string            `json:"response_modes_supported,omitempty"`
	CodeChallenges    []string            `json:"code_challenge_methods_supported"`
	DPoPAlgs          []string            `json:"dpop_signing_alg_values_supported"`
	CertBound         bool                `json:"tls_client_certificate_bound_access_tokens,omitempty"`
	IssParameter      bool                `json:"authorization_response_iss_parameter_supported,omitempty"`
	Subjects          []string            `json:"subject_types_supported,omitempty"`
	IDAlgs            []string            `json:"id_token_signing_alg_values_supported,omitempty"`
	Claims            []string            `json:"claims_supported,omitempty"`
	ACRValues         []string            `json:"acr_values_supported,omitempty"`
	Prompts           []string            `json:"prompt_values_supported,omitempty"`
	RequestURI        *bool               `json:"request_uri_parameter_supported,omitempty"`
	BrandBundle       string              `json:"user_access_brand_bundle,omitempty"`
	Brand             *element.Identifier `json:"user_access_brand_identifier,omitempty"`
	Capabilities      []string            `json:"capabilities"`
}

func (h Handler) document() document {
	d := document{
		Issuer:         h.BaseURL,
		JWKS:           h.BaseURL + "/.well-known/jwks.json",
		Authorize:      h.Authorize,
		Token:          h.Token,
		Introspect:     h.Introspect,
		Revoke:         h.Revoke,
		Register:       h.Register,
		Manage:         h.Manage,
		AuthMethods:    []string{"private_key_jwt"},
		AuthAlgs:       []string{"RS384", "ES384"},
		GrantTypes:     []string{"client_credentials"},
		Scopes:         h.scopes(),
		ResponseTypes:  []string{},
		CodeChallenges: []string{"S256"},
		DPoPAlgs:       dpop.Algs(),
		CertBound:      h.CertBound,
		BrandBundle:    h.BrandBundle,
		Brand:          h.Brand,
		Capabilities:   []string{"client-confidential-asymmetric", "permission-v1", "permission-v2"},
	}
	if h.Authorize != "" {
		unsupported := false
		d.AuthMethods = append(d.AuthMethods, "client_secret_basic", "client_secret_post", "none")
		d.GrantTypes = append(d.GrantTypes, "authorization_code", "refresh_token")
		d.ResponseTypes, d.ResponseModes, d.IssParameter = []string{"code"}, []string{"query"}, true
		d.Subjects, d.IDAlgs, d.RequestURI = []string{"public"}, []string{"RS256"}, &unsupported
		d.Claims = []string{"iss", "sub", "aud", "exp", "iat", "auth_time", "nonce", "acr", "amr", "fhirUser",
			"name", "profile"}
		d.ACRValues, d.Prompts = h.ACRValues, []string{"login", "consent", "select_account"}
		d.Capabilities = append(d.Capabilities, "launch-ehr", "launch-standalone", "authorize-post",
			"client-public", "client-confidential-symmetric",
			"sso-openid-connect", "context-banner", "context-style", "context-ehr-patient",
			"context-standalone-patient",
			"permission-offline", "permission-online", "permission-patient", "permission-user")
		if fhir.KnownType("Encounter") {
			// Only a server that serves Encounters can put one into context.
			d.Capabilities = append(d.Capabilities, "context-ehr-encounter")
		}
	}
	if h.Introspect != "" {
		d.IntrospectMethods = []string{"private_key_jwt", "client_secret_basic", "client_secret_post"}
	}
	if h.Revoke != "" {
		d.RevokeMethods = d.AuthMethods
	}
	return d
}

// scopes lists the scopes that apps usually request. The parser accepts more: scopes for
// all types, of each combination of permissions, in the syntax of v1 and v2, and with all
// token parameters (SMART App Launch 2.2: the list may leave out supported scopes).
func (h Handler) scopes() []string {
	out := []string{}
	levels := []scope.Level{scope.System}
	if h.Authorize != "" {
		levels = append(levels, scope.Patient, scope.User)
		out = append(out, scope.Names()...)
	}
	for _, level := range levels {
		for _, s := range offered {
			out = append(out, string(level)+"/"+s)
		}
	}
	return out
}

// offered lists resource scopes without their level.
var offered = func() []string { // read only
	out := []string{"*.cruds", "*.rs", "*.read", "*.write", "*.*"}
	for _, t := range common {
		out = append(out, t+".rs", t+".read")
	}
	out = append(out, "Observation.cruds", "Observation.c", "Observation.cu", "Observation.write")
	for _, c := range []string{"vital-signs", "activity", "laboratory", "survey", "social-history"} {
		out = append(out, "Observation.rs?category="+element.ObservationCategory+"|"+c)
	}
	for _, may := range []string{"c", "u", "cu"} { // US Core 9, "Writing Vital Signs"
		out = append(out, "Observation."+may+"?category="+element.ObservationCategory+"|vital-signs")
	}
	for _, c := range []string{"problem-list-item", "encounter-diagnosis"} {
		out = append(out, "Condition.rs?category="+element.Terminology+"condition-category|"+c)
	}
	out = append(out, "Condition.rs?category=http://hl7.org/fhir/us/core/CodeSystem/condition-category|health-concern",
		"DocumentReference.rs?category=http://hl7.org/fhir/us/core/CodeSystem/us-core-documentreference-category|clinical-note")
	return out
}()

// common lists the types that US Core describes, and those of the record of accesses.
var common = []string{ // read only
	"AllergyIntolerance", "AuditEvent", "CarePlan", "CareTeam", "Condition", "Consent", "Coverage", "Device",
	"DiagnosticReport", "DocumentReference", "Encounter", "Goal", "Group", "Immunization", "Location",
	"MedicationDispense", "MedicationRequest", "Observation", "Organization", "Patient", "Practitioner",
	"PractitionerRole", "Procedure", "Provenance", "QuestionnaireResponse", "RelatedPerson", "ServiceRequest",
	"Specimen", "Subscription",
}

// ServeHTTP serves the document as JSON for every Accept header.
func (h Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Access-Control-Allow-Origin", "*")
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "public, max-age=300")
	b, err := json.Marshal(h.document())
	if err != nil {
		http.Error(w, "", http.StatusInternalServerError)
		return
	}
	if r.Method == http.MethodOptions {
		w.Header().Set("Access-Control-Allow-Methods", "GET")
		w.Header().Set("Access-Control-Allow-Headers", "Accept, Content-Type")
		w.WriteHeader(http.StatusNoContent)
		return
	}
	if _, err := w.Write(b); err != nil {
		return // the caller has disconnected
	}
}

// StylePath is the path of the style document below the base URL.
const StylePath = "/.well-known/smart-style.json"

// style describes the appearance of this server's pages to apps that it launches
// (SMART App Launch 2.2, "Styling"). The colors are those of the stylesheet in
// light mode.
const style = `{
  "color_background": "#f4f7f8",
  "color_error": "#9f2419",
  "color_highlight": "#0a6070",
  "color_modal_backdrop": "#14212b",
  "color_success": "#17653a",
  "color_text": "#14212b",
  "dim_border_radius": "12px",
  "dim_font_size": "16px",
  "dim_spacing_size": "16px",
  "font_family_body": "system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', sans-serif",
  "font_family_heading": "system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', sans-serif"
}
`

func serveStyle(c *gin.Context) {
	c.Header("Access-Control-Allow-Origin", "*")
	c.Header("Cache-Control", "public, max-age=3600")
	c.Data(http.StatusOK, "application/json", []byte(style))
}

// Mount registers the documents at their paths.
func (h Handler) Mount(m gin.IRouter) {
	m.GET(StylePath, serveStyle)
	paths := []string{"/fhir/.well-known/smart-configuration", "/.well-known/smart-configuration",
		"/.well-known/oauth-authorization-server"}
	if h.Authorize != "" {
		paths = append(paths, "/.well-known/openid-configuration")
	}
	for _, p := range paths {
		m.GET(p, gin.WrapH(h))
		m.OPTIONS(p, gin.WrapH(h))
	}
}
