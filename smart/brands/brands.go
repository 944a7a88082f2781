// Package brands publishes the user-access brands Bundle, which describes the
// organization that runs this server, so that apps can list it (SMART App
// Launch 2.2, "User Access Brands and Endpoints").
//
// It owns: the Bundle, built from an operator's Brand, and GET /brands.json
// with CORS and a weak ETag. It does not own the reference to it in discovery
// (smart/oauth/discovery).
package brands

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/gin-gonic/gin"

	"pulsegate/fhir"
	"pulsegate/fhir/element"
)

// Path is the path of the Bundle below the base URL.
const Path = "/brands.json"

// Brand describes the organization. It covers every must-support element of the
// profile. Empty fields are omitted.
type Brand struct {
	Name        string               `yaml:"name"`
	Aliases     []string             `yaml:"aliases"`
	Website     string               `yaml:"website"` // https URL of the primary web presence
	Identifiers []element.Identifier `yaml:"identifiers"`
	Categories  []string             `yaml:"categories"` // codes of organization-type: "prov", "pay", …
	Logo        string               `yaml:"logo"`       // https URL
	LogoLicence string               `yaml:"logo-licence"`
	Phone       string               `yaml:"phone"`
	City        string               `yaml:"city"`
	State       string               `yaml:"state"`
	PostalCode  string               `yaml:"postal-code"`
	Country     string               `yaml:"country"`
	PortalName  string               `yaml:"portal-name"`
	PortalText  string               `yaml:"portal-description"`
	PortalURL   string               `yaml:"portal-url"`
}

// Primary returns the identifier by which discovery names the brand: the
// website without "www." and path, as the guide recommends.
func (b Brand) Primary() element.Identifier {
	u, err := url.Parse(b.Website)
	if err != nil || u.Host == "" {
		return element.Identifier{}
	}
	return element.Identifier{System: element.URI, Value: u.Scheme + "://" + strings.TrimPrefix(u.Host, "www.")}
}

// Check returns an error if the profile does not allow the brand.
func (b Brand) Check() error {
	bad := func(place, rule string) error {
		return fhir.Errorf(fhir.Invalid, "brands.Check", "brand: %s: %s", place, rule)
	}
	if strings.TrimSpace(b.Name) == "" {
		return bad("name", "is required")
	}
	if b.Primary().Value == "" {
		return bad("website", "an absolute URL is required")
	}
	for place, s := range map[string]string{"website": b.Website, "logo": b.Logo, "portal-url": b.PortalURL} {
		if u, err := url.Parse(s); s != "" &&
			(err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http") {
			return bad(place, "must be an absolute http or https URL")
		}
	}
	for _, i := range b.Identifiers {
		if i.Value == "" {
			return bad("identifiers", "each needs a value")
		}
		if i == b.Primary() {
			return bad("identifiers", "the identifier of the website is added automatically; remove it")
		}
	}
	return nil
}

type m = map[string]any

func ext(u, kind string, v any) m { return m{"url": u, kind: v} }

// Bundle returns the Bundle as JSON. base is the URL of the server, fhirBase
// that of the FHIR endpoint.
func (b Brand) Bundle(base, fhirBase string, changed time.Time) ([]byte, error) {
	const profiles = element.HL7 + "smart-app-launch/StructureDefinition/"
	stamp := changed.UTC().Format(fhir.InstantLayout)
	org := m{"resourceType": "Organization", "id": "brand",
		"meta":   m{"lastUpdated": stamp, "profile": []string{profiles + "user-access-brand"}},
		"active": true, "name": b.Name, "identifier": append([]element.Identifier{b.Primary()}, b.Identifiers...),
		"endpoint": []m{{"reference": "Endpoint/fhir"}}}
	if len(b.Aliases) > 0 {
		org["alias"] = b.Aliases
	}
	for _, c := range b.Categories {
		have, ok := org["type"].([]m)
		if !ok {
			have = nil
		}
		org["type"] = append(have, m{"coding": []m{{"system": element.Terminology + "organization-type", "code": c}}})
	}
	telecom := []m{{"system": "url", "value": b.Website}}
	if b.Phone != "" {
		telecom = append(telecom, m{"system": "phone", "value": b.Phone})
	}
	org["telecom"] = telecom
	address := m{}
	for k, v := range map[string]string{"city": b.City, "state": b.State, "postalCode": b.PostalCode,
		"country": b.Country} {
		if v != "" {
			address[k] = v
		}
	}
	if len(address) > 0 {
		org["address"] = []m{address}
	}
	org["extension"] = b.extensions(base)
	end := m{"resourceType": "Endpoint", "id": "fhir",
		"meta": m{"lastUpdated": stamp, "profile": []string{profiles + "user-access-endpoint"}},
		"extension": []m{ext(element.StructureDefinition+"endpoint-fhir-version", "valueCode",
			"4.0.1")},
		"status": "active",
		"connectionType": m{"system": element.Terminology + "endpoint-connection-type",
			"code": "hl7-fhir-rest"},
		"name": b.Name, "contact": []m{{"system": "url", "value": b.Website}},
		"payloadType": []m{{"coding": []m{{"system": element.Terminology + "endpoint-payload-type",
			"code": "none"}}}},
		"address": fhirBase}
	out, err := json.Marshal(m{"resourceType": "Bundle",
		"meta": m{"lastUpdated": stamp, "profile": []string{profiles + "user-access-brands-bundle"}},
		"type": "collection", "timestamp": stamp, "entry": []m{
			{"fullUrl": base + "/Organization/brand", "resource": org},
			{"fullUrl": base + "/Endpoint/fhir", "resource": end}}})
	return out, fhir.Wrap("brands.Bundle", err)
}

func (b Brand) extensions(base string) []m {
	var out []m
	if b.Logo != "" {
		parts := []m{ext("brandLogo", "valueUrl", b.Logo)}
		if b.LogoLicence != "" {
			parts = append(parts, ext("brandLogoLicense", "valueUrl", b.LogoLicence))
		}
		out = append(out, m{"url": element.StructureDefinition + "organization-brand", "extension": parts})
	}
	name, portal := b.PortalName, b.PortalURL
	if name == "" {
		name = b.Name
	}
	if portal == "" {
		portal = base
	}
	parts := []m{ext("portalName", "valueString", name), ext("portalUrl", "valueUrl", portal),
		ext("portalEndpoint", "valueReference", m{"reference": "Endpoint/fhir"})}
	if b.PortalText != "" {
		parts = append(parts, ext("portalDescription", "valueMarkdown", b.PortalText))
	}
	return append(out, m{"url": element.StructureDefinition + "organization-portal", "extension": parts})
}

// Handler serves a Bundle to requests from any origin.
type Handler struct{ Bundle []byte }

// Mount registers the handler at Path.
func (h Handler) Mount(r gin.IRouter) {
	for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodOptions} {
		r.Handle(method, Path, gin.WrapH(h))
	}
}

// ServeHTTP implements http.Handler.
func (h Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	sum := sha256.Sum256(h.Bundle)
	tag := `W/"` + hex.EncodeToString(sum[:12]) + `"`
	head := w.Header()
	head.Set("Access-Control-Allow-Origin", "*")
	head.Set("Access-Control-Expose-Headers", "ETag")
	if r.Method == http.MethodOptions {
		head.Set("Access-Control-Allow-Methods", "GET, HEAD")
		head.Set("Access-Control-Allow-Headers", "Accept, If-None-Match")
		w.WriteHeader(http.StatusNoContent)
		return
	}
	head.Set("ETag", tag)
	head.Set("Cache-Control", "public, max-age=3600")
	for _, v := range strings.Split(r.Header.Get("If-None-Match"), ",") {
		if v = strings.TrimSpace(v); v == "*" || strings.TrimPrefix(v, "W/") == strings.TrimPrefix(tag, "W/") {
			w.WriteHeader(http.StatusNotModified)
			return
		}
	}
	head.Set("Content-Type", "application/fhir+json")
	if r.Method == http.MethodHead {
		return
	}
	if _, err := w.Write(h.Bundle); err != nil {
		return // the client has disconnected
	}
}
