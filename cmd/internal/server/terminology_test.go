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

	"pulsegate/fhir"
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
