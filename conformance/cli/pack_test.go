package cli

import (
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pulsegate/conformance/blackbox"
)

// acmePack overrides a row of Apple.
const acmePack = `pack: acme
version: 1.2.3
vendor: apple
title: Acme Hospital
metrics:
  - {metric: HKQuantityTypeIdentifierHeartRate, name: Pulse of Acme, method: optical}
`

// TestPacks runs a server with a tenant's pack: the commands show it, Observations follow
// it, and a client with system scopes reads the ConceptMap that their Provenance names,
// but cannot write it.
func TestPacks(t *testing.T) {
	dir := t.TempDir()
	packs := filepath.Join(dir, "packs")
	if err := os.Mkdir(packs, 0o700); err != nil {
		t.Fatal(err)
	}
	for path, text := range map[string]string{filepath.Join(packs, "acme.yaml"): acmePack,
		filepath.Join(dir, "export.xml"): payload} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	srv, err := blackbox.StartWith(bin, filepath.Join(dir, "pulsegate-data"), "127.0.0.1:0",
		[]string{"PULSEGATE_MAPPING_PACKS=" + packs})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := srv.Stop(); err != nil {
			t.Error(err)
		}
	})
	s := &shell{t: t, dir: dir}
	s.must("pack", "check", packs)
	if out := s.must("pack", "list"); !strings.Contains(out, "acme      1.2.3    apple") ||
		!strings.Contains(out, "HKQuantityTypeIdentifierHeartRate") {
		t.Errorf("pack list:\n%s", out)
	}
	out := s.must("pack", "show", "apple", "heart_rate")
	for _, want := range []string{"row acme|1.2.3#HKQuantityTypeIdentifierHeartRate\n",
		"overrides name, method of apple|1.0.0#HKQuantityTypeIdentifierHeartRate\n", "name: Pulse of Acme\n",
		"codes: [loinc 8867-4]\n"} {
		if !strings.Contains(out, want) {
			t.Errorf("pack show: no %q in\n%s", want, out)
		}
	}
	_, rest, _ := strings.Cut(out, "in Provenances ")
	name, _, _ := strings.Cut(rest, "\n")
	if again := s.must("pack", "show", name); again != out || strings.Contains(name, "HeartRate") {
		t.Errorf("pack show %s:\n%s", name, again)
	}
	s.fails("no pack has a row", "pulsegate pack list", "pack", "show", "apple", "unheard")

	patient := strings.TrimSpace(s.must("patient", "add", "--given", "Ada", "--family", "Muster"))
	s.must("consent", "grant", "--patient", patient, "--vendor", "apple")
	s.must("ingest", "--patient", patient, "--vendor", "apple", "export.xml")
	c := registered(t, srv, "system/Observation.rs system/Provenance.rs system/CodeSystem.cruds system/ConceptMap.cruds")
	search := func(query string, want int) []map[string]any {
		t.Helper()
		found, err := c.Search(query)
		if err != nil || len(found) != want {
			t.Fatalf("%s: %d matches, want %d, %v", query, len(found), want, err)
		}
		return found
	}
	const row = "https://pulsegate.dev/fhir/identifier/mapping-row"
	search("Observation?code="+url.QueryEscape(
		"https://pulsegate.dev/fhir/CodeSystem/apple|HKQuantityTypeIdentifierHeartRate"), 1)
	for _, pack := range []string{"acme", "apple"} {
		search("Provenance?entity=ConceptMap/"+pack, 1)
	}
	search("Provenance?entity=ConceptMap/oura", 0)
	search("Provenance?entity:identifier="+url.QueryEscape(row+"|"+strings.ReplaceAll(name, "|", `\|`)), 1)
	const canonical = "https://pulsegate.dev/fhir/"
	search("ConceptMap?url="+canonical+"ConceptMap/acme&version=1.2.3", 1)
	search("ConceptMap?url="+canonical+"ConceptMap/acme&version=9.9.9", 0)
	search("CodeSystem?url="+canonical+"CodeSystem/apple&version="+url.QueryEscape("1.0.0+acme.1.2.3"), 1)
	search("CodeSystem?code=hrv-rmssd", 1)
	if n := len(search("ConceptMap?source-code=HKQuantityTypeIdentifierHeartRate", 2)); n != 2 {
		t.Error(n)
	}
	status, body, err := c.JSON(http.MethodGet, "CodeSystem/apple", nil)
	if err != nil || status != http.StatusOK || body["content"] != "fragment" {
		t.Errorf("%d %v", status, err)
	}
	for _, method := range []string{http.MethodPut, http.MethodDelete} {
		status, _, err := c.JSON(method, "ConceptMap/acme",
			[]byte(`{"resourceType":"ConceptMap","id":"acme","status":"draft"}`))
		if err != nil || status != http.StatusForbidden {
			t.Errorf("%s: %d %v", method, status, err)
		}
	}
	status, _, err = c.JSON(http.MethodPost, "CodeSystem",
		[]byte(`{"resourceType":"CodeSystem","url":"`+canonical+`CodeSystem/mine","status":"draft","content":"complete"}`))
	if err != nil || status != http.StatusForbidden {
		t.Errorf("create: %d %v", status, err)
	}
	other := registered(t, srv, "system/Observation.rs")
	if status, _, err := other.JSON(http.MethodGet, "ConceptMap/acme", nil); err != nil ||
		status != http.StatusForbidden {
		t.Errorf("without a scope: %d %v", status, err)
	}
}

// registered returns a client with the given scopes.
func registered(t *testing.T, srv *blackbox.Server, scope string) *blackbox.Client {
	t.Helper()
	key, err := blackbox.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	jwks, err := key.JWKS()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "jwks.json")
	if err := os.WriteFile(file, jwks, 0o600); err != nil {
		t.Fatal(err)
	}
	var out struct {
		ID string `json:"client_id"`
	}
	if err := srv.Run(&out, "client", "add", "--name", "EHR", "--jwks", file, "--scope", scope); err != nil {
		t.Fatal(err)
	}
	return &blackbox.Client{Base: srv.Base, ID: out.ID, Scope: scope, Key: key, HTTP: http.DefaultClient}
}
