package brands_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"pulsegate/fhir/element"
	"pulsegate/smart/brands"
)

const base = "https://pulse.example"

var full = brands.Brand{Name: "Clinic", Aliases: []string{"The Clinic"},
	Website: "https://www.clinic.example/welcome", Identifiers: []element.Identifier{{System: "urn:x", Value: "7"}},
	Categories: []string{"prov"}, Logo: "https://clinic.example/logo.svg",
	LogoLicence: "https://clinic.example/licence", Phone: "+1", City: "Town", Country: "US",
	PortalName: "Portal", PortalURL: "https://portal.clinic.example", PortalText: "Yours."} // must not be modified

func TestBundle(t *testing.T) {
	for _, b := range []brands.Brand{full, {Name: "n", Website: base}} {
		if err := b.Check(); err != nil {
			t.Fatal(err)
		}
		raw, err := b.Bundle(base, base+"/fhir", time.Unix(1_800_000_000, 0))
		if err != nil {
			t.Fatal(err)
		}
		var got struct {
			ResourceType, Type, Timestamp string
			Entry                         []struct {
				FullURL  string
				Resource struct {
					ResourceType, ID, Address, Status string
					Identifier                        []element.Identifier
					Endpoint                          []struct{ Reference string }
					Extension                         []struct {
						URL       string
						Extension []struct {
							URL            string
							ValueReference struct{ Reference string }
						}
					}
				}
			}
		}
		// Organization.address is an array, Endpoint.address is a URL.
		if err := json.Unmarshal([]byte(strings.Replace(string(raw), `"address":[`, `"addresses":[`, 1)),
			&got); err != nil {
			t.Fatal(err)
		}
		if got.ResourceType != "Bundle" || got.Type != "collection" ||
			got.Timestamp != "2027-01-15T08:00:00.000Z" || len(got.Entry) != 2 {
			t.Fatalf("%s", raw)
		}
		org, end := got.Entry[0].Resource, got.Entry[1].Resource
		if org.ResourceType != "Organization" || org.Identifier[0] != b.Primary() ||
			org.Endpoint[0].Reference != "Endpoint/"+end.ID || end.Address != base+"/fhir" || end.Status != "active" {
			t.Errorf("%s", raw)
		}
		// uab-1: the endpoint of the portal is also an endpoint of the
		// organization and part of the Bundle.
		portal := org.Extension[len(org.Extension)-1]
		if portal.URL != "http://hl7.org/fhir/StructureDefinition/organization-portal" ||
			portal.Extension[2].ValueReference.Reference != org.Endpoint[0].Reference ||
			got.Entry[1].FullURL != base+"/"+org.Endpoint[0].Reference {
			t.Errorf("%s", raw)
		}
	}
	if p := full.Primary(); p.System != "urn:ietf:rfc:3986" || p.Value != "https://clinic.example" {
		t.Error(p)
	}
	for name, edit := range map[string]func(*brands.Brand){
		"no name":   func(b *brands.Brand) { b.Name = "" },
		"website":   func(b *brands.Brand) { b.Website = "clinic" },
		"logo":      func(b *brands.Brand) { b.Logo = "javascript:x" },
		"no value":  func(b *brands.Brand) { b.Identifiers = []element.Identifier{{}} },
		"ambiguous": func(b *brands.Brand) { b.Identifiers = []element.Identifier{b.Primary()} },
	} {
		b := full
		if edit(&b); b.Check() == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestServed(t *testing.T) {
	h := brands.Handler{Bundle: []byte(`{}`)}
	ask := func(method, tag string) *http.Response {
		r := httptest.NewRequest(method, brands.Path, nil)
		r.Header.Set("Origin", "https://app.example")
		if tag != "" {
			r.Header.Set("If-None-Match", tag)
		}
		rec := httptest.NewRecorder()
		h.ServeHTTP(rec, r)
		return rec.Result()
	}
	first := ask("GET", "")
	tag := first.Header.Get("ETag")
	if first.StatusCode != 200 || !strings.HasPrefix(tag, `W/"`) ||
		first.Header.Get("Access-Control-Allow-Origin") != "*" {
		t.Fatal(first.Header)
	}
	if s := ask("GET", `"x", `+tag).StatusCode; s != 304 {
		t.Error(s)
	}
	if s := ask("GET", `"x"`).StatusCode; s != 200 {
		t.Error(s)
	}
	if r := ask("OPTIONS", ""); r.StatusCode != 204 || r.Header.Get("Access-Control-Allow-Methods") == "" {
		t.Error(r.Header)
	}
}
