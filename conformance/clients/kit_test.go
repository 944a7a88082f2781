package clients

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"testing"
)

// reads tests discovery, search, read and refusals of fhir-kit-client with a bearer token.
func reads(t *testing.T, w *world, node, kit string) {
	tok, err := w.backend("Kit", "system/Patient.rs system/Observation.rs").Token()
	w.must(err)
	cmd := exec.Command(node, filepath.Join("testdata", "kit.mjs"))
	cmd.Env = append(os.Environ(), "KIT="+kit, "FHIR_BASE="+w.srv.Base+"/fhir", "TOKEN="+tok)
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
