// Package readme runs the commands of two documents against a newly built binary: those
// in the sections "One request", "A connected device" and "From vendor to chart" of
// README.md and in "A server by hand" of deploy/README.md. It also runs the worked examples.
package readme

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pulsegate/conformance/blackbox"
)

// TestServerByHand runs the commands of deploy/README.md.
func TestServerByHand(t *testing.T) {
	dir := t.TempDir()
	bin, err := blackbox.Build(dir)
	if err != nil {
		t.Fatal(err)
	}
	// Only paths and the port change.
	script := commands(t, "../../deploy/README.md", "A server by hand", strings.NewReplacer(
		"bin/pulsegate", bin, "/tmp/pg", filepath.Join(dir, "pg"), "8081", free(t)))
	if len(script) < 10 {
		t.Fatalf("%d commands found, want at least 10", len(script))
	}
	out := shell(t, script)
	check := func(fromEnd int, want string) {
		t.Helper()
		if got := out[len(out)-fromEnd]; !strings.Contains(got, want) {
			t.Errorf("command %d from the end printed %.300q, want %q in it", fromEnd, got, want)
		}
	}
	check(1, "the audit log verifies")
	check(2, `"resourceType":"Bundle"`)
	if strings.Contains(out[len(out)-2], `"resourceType":"Observation"`) {
		t.Error("an Observation was served after the consent was withdrawn")
	}
	check(4, `"resourceType":"Observation"`)
}

// TestDemo runs the commands of README.md against a demo server.
func TestDemo(t *testing.T) {
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
		"bin/pulsegate link list", bin+" link list --data "+data, "bin/pulsegate explain", bin+" explain --data "+data,
		"bin/pulsegate pack list", bin+" pack list --data "+data, "bin/pulsegate", bin, "8080", port)
	script := commands(t, "../../README.md", "One request", replace)
	token := script[0]
	if len(script) != 2 {
		t.Fatalf("%d commands found, want 2", len(script))
	}
	out := shell(t, script)
	if n := strings.Count(out[len(out)-1], `"resourceType":"Observation"`); n != 3 {
		t.Errorf("%d Observations in %.300q, want 3", n, out[len(out)-1])
	}

	script = commands(t, "../../README.md", "A connected device", replace)
	if len(script) != 2 {
		t.Fatalf("%d commands found, want 2", len(script))
	}
	out = shell(t, script)
	if n := strings.Count(out[0], " working "); n != 2 {
		t.Errorf("%d links work, want 2: %.500q", n, out[0])
	}
	if !strings.Contains(out[1], "simulated clouds") {
		t.Errorf("the help of simulate is %.300q", out[1])
	}

	script = commands(t, "../../README.md", "From vendor to chart", replace)
	if len(script) != 3 {
		t.Fatalf("%d commands found, want 3", len(script))
	}
	out = shell(t, append([]string{token}, script...))
	if !strings.Contains(out[2], "of Patient/demo-ben") || !strings.Contains(out[2], "WRITTEN") {
		t.Errorf("the explanation is %.500q", out[2])
	}
	if !strings.Contains(out[3], "fitbit") || !strings.Contains(out[3], "1.0.0") {
		t.Errorf("the packs are %.300q", out[3])
	}
}

// commands returns the indented lines below a heading of a document, without
// the build.
func commands(t *testing.T, file, heading string, replace *strings.Replacer) (out []string) {
	t.Helper()
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	_, section, ok := strings.Cut(string(raw), "\n## "+heading+"\n")
	if !ok {
		t.Fatalf("%s has no section %q", file, heading)
	}
	section, _, _ = strings.Cut(section, "\n## ")
	for line := range strings.Lines(section) {
		if cmd, ok := strings.CutPrefix(line, "    "); ok && strings.TrimSpace(cmd) != "make build" {
			out = append(out, replace.Replace(strings.TrimSpace(cmd)))
		}
	}
	return out
}

// shell runs the commands in one shell at the root of the repository and
// returns the output of each.
func shell(t *testing.T, script []string) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	// The trap ends a server that the script starts in the background.
	sh := exec.CommandContext(ctx, "bash", "-e", "-c",
		"trap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n"+strings.Join(script, "\necho '---'\n"))
	sh.Dir = "../.."
	out, err := sh.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return strings.Split(string(out), "---\n")
}

// free returns a free port.
func free(t *testing.T) string {
	t.Helper()
	port, err := blackbox.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprint(port)
}
