package server

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pulsegate/cmd/internal/admin"
	"pulsegate/fhir/access"
	"pulsegate/fhir/search"
	"pulsegate/fhir/store"
)

// openWith opens the services of a server with the named settings changed.
func openWith(t *testing.T, set map[string]string) (*services, error) {
	t.Helper()
	env := environment{config: settings(t, t.TempDir(), set), version: "test", now: time.Now,
		log: slog.New(slog.DiscardHandler), base: "http://localhost:8080"}
	ctx, stop := context.WithCancel(t.Context())
	t.Cleanup(stop)
	return openServices(ctx, env)
}

// TestPreferredValues checks the settings of preferred values.
func TestPreferredValues(t *testing.T) {
	for _, set := range []string{"true", "false"} {
		s, err := openWith(t, map[string]string{"preferred": set})
		if err != nil {
			t.Fatal(err)
		}
		defer shut(t, s)
		ops, by := operations{s}, admin.Operator{Name: "uid:0"}
		p, err := ops.AddPatient(t.Context(), by, admin.NewPatient{Given: "Ada", Family: "Beispiel"})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ops.GrantConsent(t.Context(), by, admin.NewConsent{Patient: p.ID, Vendor: "apple"}); err != nil {
			t.Fatal(err)
		}
		const payload = `<?xml version="1.0"?><HealthData><Record type="HKQuantityTypeIdentifierBodyMass" ` +
			`sourceName="Scale" unit="kg" startDate="2026-10-01 08:00:00 +0200" endDate="2026-10-01 08:00:00 +0200" ` +
			`value="62"/></HealthData>`
		if _, err := ops.Ingest(t.Context(), by, admin.IngestRequest{Patient: p.ID, Vendor: "apple",
			Name: "export.xml"}, strings.NewReader(payload)); err != nil {
			t.Fatal(err)
		}
		want := uint64(0)
		if set == "true" {
			want = 1
			if err := s.followers.preferred.Sync(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		q, err := search.Parse("Observation", [][2]string{{"patient", p.ID}, {"_tag", "preferred"}},
			search.ParseOptions{})
		if err != nil {
			t.Fatal(err)
		}
		n, err := s.store.Count(t.Context(), store.Find{Query: q, Filter: access.All().Filter(access.Search)})
		if err != nil || n != want || (s.fhir.Preferred != nil) != (want == 1) {
			t.Errorf("preferred: %s: %d values, want %d; %v", set, n, want, err)
		}
	}
}

// TestBadPolicyStopsStart checks that the server does not start with a policy that it cannot
// read.
func TestBadPolicyStopsStart(t *testing.T) {
	file := filepath.Join(t.TempDir(), "policy.yaml")
	if err := os.WriteFile(file, []byte("version: 1.0.0\nranks: []\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := openWith(t, map[string]string{"preferred": "true", "preferred-policy": file})
	if err == nil {
		shut(t, s)
		t.Fatal("the server started")
	}
	if !strings.Contains(err.Error(), "preferred-policy: concepts") {
		t.Errorf("error %v", err)
	}
}
