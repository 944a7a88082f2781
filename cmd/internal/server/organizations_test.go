package server

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"pulsegate/cmd/internal/admin"
	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/search"
	"pulsegate/fhir/store"
)

// TestProvenanceByUSCore checks the Provenance of ingested data against US Core
// Provenance: it names an author, a transmitter and the organization on behalf
// of which the software acted, and each reference resolves.
func TestProvenanceByUSCore(t *testing.T) {
	s := mustOpen(t, t.TempDir())
	ops, by := operations{s}, admin.Operator{Name: "uid:0"}
	p, err := ops.AddPatient(t.Context(), by, admin.NewPatient{Given: "Ada", Family: "Beispiel"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ops.GrantConsent(t.Context(), by, admin.NewConsent{Patient: p.ID, Vendor: "apple"}); err != nil {
		t.Fatal(err)
	}
	const payload = `<?xml version="1.0"?><HealthData><Record type="HKQuantityTypeIdentifierBodyMass" sourceName="Scale" unit="kg" ` +
		`startDate="2026-10-01 08:00:00 +0200" endDate="2026-10-01 08:00:00 +0200" value="62"/></HealthData>`
	if _, err := ops.Ingest(t.Context(), by, admin.IngestRequest{Patient: p.ID, Vendor: "apple", Name: "export.xml"},
		strings.NewReader(payload)); err != nil {
		t.Fatal(err)
	}
	q, err := search.Parse("Provenance", nil, search.ParseOptions{Base: s.fhirBase()})
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	err = s.store.Find(t.Context(), store.Find{Query: q, Filter: access.All().Filter(access.Search)},
		func(f *store.Found) bool {
			if bytes.Contains(f.Resource.JSON, []byte("preferred-policy")) {
				return true // of a value that the server has derived
			}
			found++
			checkAgents(t, s, f.Resource.JSON)
			return true
		})
	if err != nil || found != 1 {
		t.Fatalf("%d Provenances, %v", found, err)
	}
}

func checkAgents(t *testing.T, s *services, body []byte) {
	type reference struct{ Reference string }
	var prov struct {
		Agent []struct {
			Type struct{ Coding []struct{ Code string } }
			Who  reference
			On   *reference `json:"onBehalfOf"`
		}
	}
	if err := json.Unmarshal(body, &prov); err != nil {
		t.Fatal(err)
	}
	resolves := func(r reference) bool {
		ref, ok := fhir.ParseRef(r.Reference)
		if !ok {
			return false
		}
		found, err := exists(t.Context(), s.store, ref)
		if err != nil {
			t.Fatal(err)
		}
		return found
	}
	got := map[string]bool{}
	for _, a := range prov.Agent {
		got[a.Type.Coding[0].Code] = resolves(a.Who)
		if a.On != nil {
			got["onBehalfOf"] = resolves(*a.On)
		}
	}
	for _, want := range []string{"author", "transmitter", "onBehalfOf"} {
		if !got[want] {
			t.Errorf("%s does not resolve to a resource: %s", want, body)
		}
	}
}
