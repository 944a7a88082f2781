// Package readme runs the commands in the section "The main job, by hand" of the README
// against a newly built binary.
package readme

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestTheMainJobByHand(t *testing.T) {
	raw, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(raw), "## The main job, by hand\n")
	if !ok {
		t.Fatal("the section is missing")
	}
	rest, _, _ = strings.Cut(rest, "\nThe operator's commands")
	dir, port := t.TempDir(), "18481"
	bin := filepath.Join(dir, "pulsegate")
	build := exec.Command("go", "build", "-o", bin, "./cmd/pulsegate")
	build.Dir = "../.."
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	var script []string
	for _, line := range strings.Split(rest, "\n") {
		cmd, ok := strings.CutPrefix(line, "    ")
		if !ok || cmd == "make build" {
			continue
		}
		// Replace only the binary, the data directory and the port.
		cmd = strings.ReplaceAll(cmd, "bin/pulsegate", bin)
		cmd = strings.ReplaceAll(cmd, "/tmp/pg", filepath.Join(dir, "pg"))
		script = append(script, strings.ReplaceAll(cmd, "8081", port))
	}
	if len(script) < 10 {
		t.Fatalf("only %d commands found", len(script))
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	// The server that a command starts in the background ends with the shell.
	sh := exec.CommandContext(ctx, "bash", "-e", "-c",
		"trap 'kill $(jobs -p)' EXIT\n"+strings.Join(script, "\necho '---'\n"))
	sh.Dir = "../.."
	out, err := sh.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	parts := strings.Split(string(out), "---\n")
	has := func(i int, want string) {
		t.Helper()
		if !strings.Contains(parts[len(parts)-i], want) {
			t.Errorf("command %d from the end printed %.300q, want %q in it", i, parts[len(parts)-i], want)
		}
	}
	has(1, "the audit log verifies")
	has(4, `"resourceType":"Observation"`)
	if strings.Contains(parts[len(parts)-2], `"resourceType":"Observation"`) {
		t.Error("an Observation is visible after the consent was withdrawn")
	}
	has(2, `"resourceType":"Bundle"`)
}
