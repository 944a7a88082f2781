package cli

import (
	"bytes"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"pulsegate/conformance/blackbox"
)

// TestPushKeyCommands checks that push-key create prints the settings for the app, and
// that an app with these settings can deliver until the key is revoked.
func TestPushKeyCommands(t *testing.T) {
	dir := t.TempDir()
	srv, err := blackbox.Start(bin, filepath.Join(dir, "pulsegate-data"), "--demo")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := srv.Stop(); err != nil {
			t.Error(err)
		}
	})
	s := &shell{t: t, dir: dir}
	id := strings.TrimSpace(s.must("patient", "add", "--given", "Ada", "--family", "Muster"))
	out := s.must("push-key", "create", "--patient", id, "--vendor", "apple", "--name", "Ada's phone")
	if !strings.Contains(out, "next: deliveries are refused until the patient consents") {
		t.Errorf("no word about the missing consent:\n%s", out)
	}
	app, _, _ := strings.Cut(out[strings.Index(out, "App: Health Auto Export"):], "\n\n")
	setting := func(name string) string {
		t.Helper()
		for line := range strings.Lines(app) {
			if value, ok := strings.CutPrefix(strings.TrimSpace(line), name+"  "); ok {
				return strings.TrimSpace(value)
			}
		}
		t.Fatalf("no setting %q in\n%s", name, app)
		return ""
	}
	if setting("Export format") != "JSON" || setting("Aggregation (summarize data)") == "" ||
		setting("Period (date range)") == "" {
		t.Errorf("settings:\n%s", app)
	}
	deliver := func(want int) {
		t.Helper()
		req, err := http.NewRequest(setting("Method"), setting("URL"), bytes.NewReader([]byte(
			`{"data":{"metrics":[{"name":"step_count","units":"count","data":[{"date":"2026-04-07 10:00:00 +0200","qty":23}]}]}}`)))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set(setting("Header name"), setting("Header value"))
		req.Header.Set("automation-name", "Clinic steps")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		if err := resp.Body.Close(); err != nil || resp.StatusCode != want {
			t.Errorf("the delivery was answered with %d, want %d (%v)", resp.StatusCode, want, err)
		}
	}
	deliver(403)
	s.must("consent", "grant", "--patient", id, "--vendor", "apple")
	deliver(200)
	key := strings.Split(strings.Fields(out)[0], "_")[1]
	list := s.must("push-key", "list", "--patient", id)
	for _, want := range []string{key, "Ada's phone", "Clinic steps", "operator"} {
		if !strings.Contains(list, want) {
			t.Errorf("push-key list lacks %q:\n%s", want, list)
		}
	}
	if strings.Contains(list, strings.Fields(out)[0]) {
		t.Error("push-key list prints the secret")
	}
	if other := s.must("push-key", "list", "--patient", id, "--vendor", "oura"); strings.Contains(other, key) {
		t.Errorf("push-key list --vendor oura:\n%s", other)
	}
	s.fails("give the id of a key", "pulsegate push-key revoke --help", "push-key", "revoke")
	s.fails("no such push key", "pulsegate push-key list", "push-key", "revoke", "--patient", id, "--vendor", "oura")
	s.fails("there is no push key", "pulsegate push-key list", "push-key", "revoke", "00000000")
	s.fails("vendor", "", "push-key", "create", "--patient", id, "--vendor", "nothing")
	s.fails("", "pulsegate patient list", "push-key", "create", "--patient", "nobody", "--vendor", "apple")
	if out := s.must("push-key", "revoke", key); strings.TrimSpace(out) != key {
		t.Errorf("push-key revoke printed %q", out)
	}
	deliver(401)
	if out := s.must("push-key", "create", "--patient", id, "--vendor", "Apple Health", "--life", "48h",
		"--json"); !strings.Contains(out, `"settings"`) || !strings.Contains(out, `"expires"`) {
		t.Errorf("JSON:\n%s", out)
	}
}
