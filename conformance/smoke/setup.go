package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"pulsegate/conformance/blackbox"
)

const scope = "system/*.cruds"

func (w *world) describes() error {
	wanted := map[string]string{
		"/livez": "", "/readyz": "", "/": "Pulsegate",
		"/.well-known/jwks.json":                `"keys"`,
		"/fhir/.well-known/smart-configuration": `"token_endpoint"`,
		"/fhir/metadata":                        `/OperationDefinition/ehr-bundle"`,
		"/fhir/OperationDefinition/ehr-bundle":  `physical-activity or us-core`,
	}
	for _, url := range w.srv.Metrics() {
		wanted[url] = "go_goroutines"
	}
	for path, want := range wanted {
		url := path
		if strings.HasPrefix(path, "/") {
			url = w.srv.Base + path
		}
		resp, err := http.Get(url)
		if err != nil {
			return err
		}
		b, err := io.ReadAll(resp.Body)
		if cerr := resp.Body.Close(); err == nil {
			err = cerr
		}
		if err != nil {
			return err
		}
		if err := expect(resp.StatusCode == 200 && strings.Contains(string(b), want),
			"%s: %d, %q not in the answer", path, resp.StatusCode, want); err != nil {
			return err
		}
	}
	anon := w.client("nobody", "")
	anon.Static = "-"
	status, out, err := anon.JSON("GET", "Observation", nil)
	if err != nil {
		return err
	}
	return expect(status == 401 && out["resourceType"] == "OperationOutcome", "search without a token: %d %v",
		status, out)
}

func (w *world) setUp() error {
	var p struct{ ID string }
	if err := w.srv.Run(&p, "patient", "add", "--given", "Ada", "--family", "Muster", "--birthdate", "1980-02-29",
		"--gender", "female", "--timezone", "Europe/Berlin"); err != nil {
		return err
	}
	w.patient = p.ID
	for _, v := range []string{"apple", "fitbit"} {
		if err := w.srv.Run(nil, "consent", "grant", "--patient", w.patient, "--vendor", v); err != nil {
			return err
		}
	}
	jwks, err := w.key.JWKS()
	if err != nil {
		return err
	}
	file := filepath.Join(w.dir, "jwks.json")
	if err := os.WriteFile(file, jwks, 0o600); err != nil {
		return err
	}
	var c struct {
		ID string `json:"client_id"`
	}
	if err := w.srv.Run(&c, "client", "add", "--name", "Smoke EHR", "--jwks", file, "--scope", scope); err != nil {
		return err
	}
	w.ehr = w.client(c.ID, scope)
	if err := w.srv.Run(nil, "patient", "add", "--given", "x"); err == nil {
		return errors.New("patient add without --family: exit code 0")
	}
	status, out, err := w.ehr.JSON("GET", "Patient/"+w.patient, nil)
	if err != nil {
		return err
	}
	return expect(status == 200 && out["id"] == w.patient, "read of the new patient: %d %v", status, out)
}

func (w *world) tokens() error {
	a, err := w.ehr.Assertion(blackbox.NewJTI())
	if err != nil {
		return err
	}
	status, out, err := w.ehr.TokenRequest(a, "system/Observation.rs")
	if err != nil {
		return err
	}
	if secs, ok := out["expires_in"].(float64); status != 200 || !ok || secs > 300 ||
		out["scope"] != "system/Observation.rs" {
		return fmt.Errorf("token: %d %v", status, out)
	}
	if status, out, err = w.ehr.TokenRequest(a, "system/Observation.rs"); err != nil {
		return err
	}
	if err := expect(status == 400 || status == 401, "replayed assertion: %d %v", status, out); err != nil {
		return err
	}
	var narrow struct {
		ID string `json:"client_id"`
	}
	if err := w.srv.Run(&narrow, "client", "add", "--name", "Narrow", "--jwks", filepath.Join(w.dir, "jwks.json"),
		"--scope", "system/Observation.rs?category=http://terminology.hl7.org/CodeSystem/observation-category|activity"); err != nil {
		return err
	}
	n := w.client(narrow.ID, "system/Patient.rs")
	if a, err = n.Assertion(blackbox.NewJTI()); err != nil {
		return err
	}
	if status, out, err = n.TokenRequest(a, "system/Patient.rs"); err != nil {
		return err
	}
	return expect(status == 400 && out["error"] == "invalid_scope", "scope beyond the registration: %d %v", status, out)
}

func (w *world) refusedIngest() error {
	var p struct{ ID string }
	if err := w.srv.Run(&p, "patient", "add", "--given", "No", "--family", "Consent"); err != nil {
		return err
	}
	f := filepath.Join(w.dir, "none.json")
	if err := os.WriteFile(f, payloads["heartrate.json"], 0o600); err != nil {
		return err
	}
	if err := w.srv.Run(nil, "ingest", "--patient", p.ID, "--vendor", "oura", f); err == nil {
		return errors.New("a payload without consent was accepted")
	}
	found, err := w.ehr.Search("Observation?patient=" + p.ID)
	if err != nil {
		return err
	}
	return expect(len(found) == 0, "%d Observations without consent", len(found))
}

// summary is the answer of an ingest.
type summary struct {
	Read, Created, Updated, Unchanged, Quarantined, Dropped int
	ByMetric                                                map[string]any
}

// ingestAll ingests all payloads and calls check with the summary of each.
func (w *world) ingestAll(check func(name string, s summary) error) error {
	for _, p := range order {
		f := filepath.Join(w.dir, p.file)
		if err := os.WriteFile(f, payloads[p.file], 0o600); err != nil {
			return err
		}
		var s summary
		if err := w.srv.Run(&s, "ingest", "--patient", w.patient, "--vendor", p.vendor, f); err != nil {
			return err
		}
		if err := check(p.file, s); err != nil {
			return err
		}
	}
	return nil
}

func (w *world) ingests() error {
	if err := w.srv.Run(nil, "consent", "grant", "--patient", w.patient, "--vendor", "oura", "--recipient",
		"any"); err != nil {
		return err
	}
	return w.ingestAll(func(name string, s summary) error {
		return expect(s.Created > 0 && s.Quarantined == 0, "%s: %+v", name, s)
	})
}

func (w *world) ingestsAgain() error {
	return w.ingestAll(func(name string, s summary) error {
		return expect(s.Created == 0 && s.Updated == 0 && s.Unchanged > 0, "%s again: %+v", name, s)
	})
}

func (w *world) ingestsOverHTTP() error {
	resp, err := w.ehr.Do("POST", w.srv.Base+"/ingest/oura/v2?patient="+w.patient+"&name=heartrate.json",
		payloads["heartrate.json"], "Content-Type", "application/json")
	if err != nil {
		return err
	}
	b, err := io.ReadAll(resp.Body)
	if cerr := resp.Body.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	return expect(resp.StatusCode == 200 && bytes.Contains(b, []byte(`"unchanged"`)) &&
		bytes.Contains(b, []byte(`"created":0`)), "POST /ingest: %d %s", resp.StatusCode, b)
}
