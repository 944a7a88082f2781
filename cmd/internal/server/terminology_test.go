package server

import (
	"context"
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pulsegate/cmd/internal/admin"
	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/guide"
	"pulsegate/fhir/search"
	"pulsegate/fhir/store"
)

// serve opens the services with a directory of mapping packs, calls use, and closes them.
func serve(t *testing.T, dir, packs string, use func(s *services)) {
	t.Helper()
	env := environment{config: settings(t, dir, map[string]string{"mapping-packs": packs}), version: "test",
		now: time.Now,
		log: slog.New(slog.DiscardHandler), base: "http://localhost:8080"}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	s, err := openServices(ctx, env)
	if err != nil {
		t.Fatal(err)
	}
	defer shut(t, s)
	use(s)
}

// published is a version of a CodeSystem or ConceptMap.
type published struct {
	Meta            struct{ VersionID string }
	Version, Status string
}

// published returns a version of a resource; 0 is the current one.
func (s *services) published(t *testing.T, typ, id string, version uint64) (p published) {
	t.Helper()
	r, _, err := s.store.Read(t.Context(), fhir.Ref{Type: typ, ID: id}, 0)
	if version > 0 {
		r, _, err = s.store.ReadVersion(t.Context(), fhir.Ref{Type: typ, ID: id}, version)
	}
	if err != nil {
		t.Fatal(typ, id, err)
	}
	if err := json.Unmarshal(r.JSON, &p); err != nil {
		t.Fatal(err)
	}
	return p
}

// TestPublishTerminology starts a server without a pack, again, with a pack, and without
// it. A resource must get a new version only if its content has changed, and the ConceptMap
// of a pack that is gone must be retired and return with the pack.
func TestPublishTerminology(t *testing.T) {
	dir, packs := t.TempDir(), t.TempDir()
	const pack = "pack: acme\nversion: 1.2.3\nvendor: oura\nmetrics: [{metric: tag, name: Label}]\n"
	if err := os.WriteFile(filepath.Join(packs, "acme.yaml"), []byte(pack), 0o600); err != nil {
		t.Fatal(err)
	}
	want := func(s *services, typ, id, version, business, status string) {
		t.Helper()
		if p := s.published(t, typ, id, 0); p.Meta.VersionID != version || p.Version != business || p.Status != status {
			t.Errorf("%s/%s: %+v, want version %s, %s, %s", typ, id, p, version, business, status)
		}
	}
	for range 2 {
		serve(t, dir, "", func(s *services) {
			want(s, "CodeSystem", "oura", "1", "1.0.0", "active")
			want(s, "ConceptMap", "oura", "1", "1.0.0", "active")
			want(s, "ConceptMap", "units", "1", "1.0.0", "active")
			want(s, "CodeSystem", "vendor", "1", "1.1.0", "active")
		})
	}
	serve(t, dir, packs, func(s *services) {
		want(s, "CodeSystem", "oura", "2", "1.0.0+acme.1.2.3", "active")
		want(s, "ConceptMap", "acme", "1", "1.2.3", "active")
		want(s, "ConceptMap", "oura", "1", "1.0.0", "active")
	})
	serve(t, dir, "", func(s *services) {
		want(s, "CodeSystem", "oura", "3", "1.0.0", "active")
		want(s, "ConceptMap", "acme", "2", "1.2.3", "retired")
		if p := s.published(t, "CodeSystem", "oura", 2); p.Version != "1.0.0+acme.1.2.3" {
			t.Errorf("the history has %+v", p)
		}
	})
	serve(t, dir, packs, func(s *services) { want(s, "ConceptMap", "acme", "3", "1.2.3", "active") })
}

// TestPublishGuide checks that the resources of the guide are stored once and found by
// their URL, that the ImplementationGuide lists them all, and that one of an earlier
// version of the guide is retired, but none of a client.
func TestPublishGuide(t *testing.T) {
	dir := t.TempDir()
	gone := fhir.Canonical + "/StructureDefinition/gone"
	definition := func(id, url string) []byte {
		return []byte(`{"resourceType":"StructureDefinition","id":"` + id + `","url":"` + url + `","name":"Gone","status":"active",` +
			`"kind":"resource","abstract":false,"type":"Observation","derivation":"constraint",` +
			`"baseDefinition":"http://hl7.org/fhir/StructureDefinition/Observation","differential":{"element":[{"id":"Observation","path":"Observation"}]}}`)
	}
	serve(t, dir, "", func(s *services) {
		for _, r := range guide.Resources() {
			if p := s.published(t, r.Type, r.ID, 0); p.Meta.VersionID != "1" || p.Version != guide.Version {
				t.Errorf("%s/%s: %+v", r.Type, r.ID, p)
			}
			q, err := search.Parse(r.Type, [][2]string{{"url", r.URL}}, search.ParseOptions{Base: s.fhirBase()})
			if err != nil {
				t.Fatal(err)
			}
			var found []string
			err = s.store.Find(t.Context(), store.Find{Query: q, Filter: access.All().Filter(access.Search)},
				func(f *store.Found) bool { found = append(found, strings.Clone(f.Resource.ID)); return true })
			if err != nil || len(found) != 1 || found[0] != r.ID {
				t.Errorf("%s finds %v, %v", r.URL, found, err)
			}
		}
		r, _, err := s.store.Read(t.Context(), fhir.Ref{Type: "ImplementationGuide", ID: guide.PackageID}, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, listed := range []string{"StructureDefinition/sleep-session", "CodeSystem/oura", "ConceptMap/units"} {
			if !strings.Contains(string(r.JSON), `{"reference":"`+listed+`"}`) {
				t.Errorf("the ImplementationGuide does not list %s", listed)
			}
		}
		manifest, _, err := s.bulkPublish.Manifest(t.Context())
		for _, typ := range []string{"StructureDefinition", "OperationDefinition", "ValueSet", "ImplementationGuide"} {
			if err != nil || !strings.Contains(string(manifest), `"type":"`+typ+`"`) {
				t.Errorf("$bulk-publish has no %s: %v", typ, err)
			}
		}
		by := operations{s}
		for id, u := range map[string]string{"gone": gone, "other": "https://clinic.example/StructureDefinition/gone"} {
			_, err := by.put(t.Context(), by.request(admin.Operator{Name: "test"}), "StructureDefinition", id, definition(id, u))
			if err != nil {
				t.Fatal(err)
			}
		}
	})
	serve(t, dir, "", func(s *services) {
		for _, r := range guide.Resources() {
			if p := s.published(t, r.Type, r.ID, 0); p.Meta.VersionID != "1" {
				t.Errorf("%s/%s was stored again: %+v", r.Type, r.ID, p)
			}
		}
		for id, status := range map[string]string{"gone": "retired", "other": "active"} {
			if p := s.published(t, "StructureDefinition", id, 0); p.Status != status {
				t.Errorf("%s: %+v", id, p)
			}
		}
	})
}

// TestBadPackStopsStart checks that a server does not start with a pack that breaks a
// rule, and that the error names the place and the rule.
func TestBadPackStopsStart(t *testing.T) {
	packs := t.TempDir()
	const pack = "pack: acme\nversion: 1.2.3\nvendor: oura\nmetrics:\n  - {metric: heartrate, unit: ms}\n"
	if err := os.WriteFile(filepath.Join(packs, "acme.yaml"), []byte(pack), 0o600); err != nil {
		t.Fatal(err)
	}
	for path, part := range map[string]string{packs: "acme.yaml:5: row heartrate: unit and scale",
		filepath.Join(packs, "none"): "mapping-packs: ", filepath.Join(packs, "acme.yaml"): "must be a directory"} {
		env := environment{config: settings(t, t.TempDir(), map[string]string{"mapping-packs": path}), version: "test",
			now: time.Now, log: slog.New(slog.DiscardHandler), base: "http://localhost:8080"}
		s, err := openServices(t.Context(), env)
		if s != nil || err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("error %v, want %s", err, part)
		}
	}
}
