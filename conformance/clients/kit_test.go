package clients

import (
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"testing"

	"pulsegate/conformance/blackbox"
	"pulsegate/conformance/browser"
)

// TestFHIRKitClient tests discovery, search, read and refusals with a bearer token.
func TestFHIRKitClient(t *testing.T) {
	node := browser.Node(t)
	kit := filepath.Join(browser.Packages(t), "node_modules", "fhir-kit-client", "dist", "index.js")
	w := newWorld(t)
	k, err := blackbox.NewKey()
	w.must(err)
	set, err := k.JWKS()
	w.must(err)
	var reg struct {
		ClientID string `json:"client_id"`
	}
	const scope = "system/Patient.rs system/Observation.rs"
	w.must(w.srv.Run(&reg, "client", "add", "--name", "Kit", "--scope", scope, "--jwks", w.file("kit.json", set)))
	c := &blackbox.Client{Base: w.srv.Base, ID: reg.ClientID, Key: k, Scope: scope, HTTP: http.DefaultClient}
	assertion, err := c.Assertion(blackbox.NewJTI())
	w.must(err)
	status, tok, err := c.TokenRequest(assertion, scope)
	w.must(err)
	if status != 200 {
		t.Fatal(status, tok)
	}
	cmd := exec.Command(node, filepath.Join("testdata", "kit.mjs"))
	cmd.Env = append(os.Environ(), "KIT="+kit, "FHIR_BASE="+w.srv.Base+"/fhir", "TOKEN="+tok["access_token"].(string))
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	var got struct {
		Authorize, Token, Registration, Version, Read, Vread, Resolved, InBundle, Stats, Batch string
		Without, History, Lastn, Refused                                                       int
		Pages                                                                                  [][]string
		Back, Posted                                                                           []string
		Absent                                                                                 []any
	}
	w.must(json.Unmarshal(out, &got))
	b := w.srv.Base
	for name, pair := range map[string][2]any{
		"authorization endpoint": {got.Authorize, b + "/oauth/authorize"},
		"token endpoint":         {got.Token, b + "/oauth/token"},
		"registration":           {got.Registration, b + "/oauth/register"}, "version": {got.Version, "4.0.1"},
		"read": {got.Read, "Patient/demo-ada"}, "vread": {got.Vread, "1"},
		"resolved": {got.Resolved, "Patient/demo-ada"},
		"stats":    {got.Stats, "Parameters"}, "lastn": {got.Lastn, 2}, "batch": {got.Batch, "200 OK"},
		"without a token": {got.Without, 401}, "history": {got.History, 1}, "a write": {got.Refused, 403},
		"absent": {got.Absent, []any{404., "OperationOutcome"}}, "the same search by POST": {got.Posted, got.Pages[0]},
		"from the bundle": {got.InBundle, got.Pages[0][0]},
	} {
		if !reflect.DeepEqual(pair[0], pair[1]) {
			t.Errorf("%s: %v, want %v", name, pair[0], pair[1])
		}
	}
	if len(got.Pages[0]) != 4 || len(got.Pages[1]) != 4 ||
		slices.ContainsFunc(got.Pages[1], func(s string) bool { return slices.Contains(got.Pages[0], s) }) {
		t.Errorf("pages: %v", got.Pages)
	}
	if got.Back != nil && !slices.Equal(got.Back, got.Pages[0]) {
		t.Errorf("back: %v, want %v", got.Back, got.Pages[0])
	}
}
