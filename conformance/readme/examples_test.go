package readme

import (
	"path/filepath"
	"strings"
	"testing"

	"pulsegate/conformance/blackbox"
)

// TestExamples runs the worked examples of conformance/examples against a demo server, each
// file in one shell, and looks into the outputs of the commands.
func TestExamples(t *testing.T) {
	dir := t.TempDir()
	bin, err := blackbox.Build(dir)
	if err != nil {
		t.Fatal(err)
	}
	port, data := free(t), filepath.Join(dir, "data")
	srv, err := blackbox.StartAt(bin, data, "127.0.0.1:"+port, "--demo", "--base-url", "http://localhost:"+port)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := srv.Stop(); err != nil {
			t.Errorf("%v\n%s", err, srv.Log())
		}
	})
	replace := strings.NewReplacer("bin/pulsegate demo token", bin+" demo token --data "+data,
		"bin/pulsegate push-key create", bin+" push-key create --data "+data,
		"bin/pulsegate quarantine list", bin+" quarantine list --data "+data, "8080", port)
	for name, outputs := range map[string][]string{
		"search": {"", "", "", `"total":`, `"resourceType":"Observation"`, `"mode":"include"`, `"resourceType":"Observation"`,
			`"type":"collection"`},
		"ingest": {"", `"quarantined":1`, "", `"value":71.4`, "moon_phase"},
		"export": {"", "", "", "", "", "", `"type":"Observation"`, "", `"id":"demo-ada"`, "202"},
		"subscription": {"", "", "", `"observation-recorded`, "", "backport-subscription-status-r4", `"websocket-url"`,
			"backport-subscription-notification-r4", "204"},
	} {
		script := commands(t, "../examples/"+name+".md", "Commands", replace)
		if len(script) != len(outputs) {
			t.Fatalf("%s: %d commands, want %d", name, len(script), len(outputs))
		}
		out := shell(t, script)
		for i, want := range outputs {
			if !strings.Contains(out[i], want) {
				t.Errorf("%s: %s\nprinted %.500q, want %q in it", name, script[i], out[i], want)
			}
		}
	}
	files, err := filepath.Glob("../examples/*.md")
	if err != nil || len(files) != 4 {
		t.Errorf("%v: %v; want the four that are run", files, err)
	}
}
