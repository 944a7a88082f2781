package capability

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/fhir/go/fhirversion"
	"github.com/google/fhir/go/jsonformat"

	"pulsegate/fhir"
	"pulsegate/fhir/search"
)

func settings() Settings {
	return Settings{
		Base: "https://pg.example/fhir", Version: "0.1.0", Released: time.Date(2026, 11, 24, 0, 0, 0, 0, time.UTC),
		Token: "https://pg.example/oauth/token",
		Operations: []Operation{
			{Name: "export", Definition: "http://hl7.org/fhir/uv/bulkdata/OperationDefinition/export"},
			{Type: "Group", Name: "export",
				Definition: "http://hl7.org/fhir/uv/bulkdata/OperationDefinition/group-export", Documentation: "note"},
		},
		Instantiates: []string{"http://hl7.org/fhir/uv/bulkdata/CapabilityStatement/bulk-data"},
		Profiles:     map[string][]string{"Subscription": {"http://hl7.org/fhir/uv/subscriptions-backport/StructureDefinition/backport-subscription"}},
		Topics:       []string{fhir.Canonical + "/SubscriptionTopic/observation-recorded"},
	}
}

// TestStatement compares the statement with the registries.
func TestStatement(t *testing.T) {
	b, err := Statement(settings())
	if err != nil {
		t.Fatal(err)
	}
	var st statement
	if err := json.Unmarshal(b, &st); err != nil {
		t.Fatal(err)
	}
	r := st.Rest[0]
	if len(st.PatchFormat) != 3 || !slices.Contains(r.Interaction, code{"history-system"}) {
		t.Errorf("patch formats %v, interactions of the system %v", st.PatchFormat, r.Interaction)
	}
	if len(r.Resource) != len(fhir.Types) || len(r.Operation) != 1 {
		t.Fatalf("%d types, %d system operations", len(r.Resource), len(r.Operation))
	}
	for i, res := range r.Resource {
		if res.Type != fhir.Types[i] {
			t.Errorf("type %d is %s", i, res.Type)
		}
		if got, want := len(res.SearchParam), len(search.Params(res.Type)); got != want {
			t.Errorf("%s: %d search parameters, the registry has %d", res.Type, got, want)
		}
		if res.Versioning != "versioned" { // updates without If-Match are accepted
			t.Errorf("%s: versioning %s", res.Type, res.Versioning)
		}
		if got, want := interactions(&res), "read vread history-instance history-type search-type"; got != want &&
			got != want+" create update patch delete" {
			t.Errorf("%s: interactions %s", res.Type, got)
		}
		if res.ConditionalRead != "full-support" || res.ConditionalUpdate != res.ConditionalCreate ||
			(res.ConditionalDelete == "single") != res.ConditionalUpdate {
			t.Errorf("%s: conditional interactions %+v", res.Type, res)
		}
		writes := false
		for _, c := range res.Interaction {
			writes = writes || c.Code == "create"
		}
		if writes == (res.Type == "AuditEvent") {
			t.Errorf("%s: create offered: %v", res.Type, writes)
		}
		if (len(res.Operation) > 0) != (res.Type == "Group") {
			t.Errorf("%s: operations %v", res.Type, res.Operation)
		}
		if res.Type == "Subscription" && (len(res.Extension) != 1 || len(res.SupportedProfile) != 1) {
			t.Errorf("Subscription without topic or profile: %+v", res)
		}
	}
	if e := r.Security.Extension; len(e) != 1 || e[0].URL != oauthURIs || len(e[0].Extension) != 1 {
		t.Errorf("oauth-uris: %+v", e)
	}
}

// interactions returns the codes of the interactions of a type.
func interactions(r *resource) string {
	var out []string
	for _, c := range r.Interaction {
		out = append(out, c.Code)
	}
	return strings.Join(out, " ")
}

// TestStatementIsValidR4 validates both statements.
func TestStatementIsValidR4(t *testing.T) {
	um, err := jsonformat.NewUnmarshaller("UTC", fhirversion.R4)
	if err != nil {
		t.Fatal(err)
	}
	for name, make := range map[string]func(Settings) ([]byte, error){"CapabilityStatement": Statement,
		"TerminologyCapabilities": Terminology} {
		b, err := make(settings())
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(string(b), `{"resourceType":"`+name+`"`) {
			t.Errorf("%s: %.80s", name, b)
		}
		if _, err := um.Unmarshal(b); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestReverseIncludes tests that the statement lists what _revinclude takes.
func TestReverseIncludes(t *testing.T) {
	b, err := Statement(Settings{Base: "https://pg.example/fhir"})
	if err != nil {
		t.Fatal(err)
	}
	var s struct {
		Rest []struct {
			Documentation string
			Resource      []struct {
				Type             string
				SearchRevInclude []string
			}
		}
	}
	if err := json.Unmarshal(b, &s); err != nil {
		t.Fatal(err)
	}
	for _, r := range s.Rest[0].Resource {
		if !slices.Contains(r.SearchRevInclude, "Provenance:target") ||
			slices.Contains(r.SearchRevInclude, "Observation:device") != (r.Type == "Device" ||
				r.Type == "DeviceMetric") {
			t.Errorf("%s: %v", r.Type, r.SearchRevInclude)
		}
	}
	if !strings.Contains(s.Rest[0].Documentation, ":of-type") {
		t.Errorf("documentation: %s", s.Rest[0].Documentation)
	}
}
