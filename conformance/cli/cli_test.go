package cli

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"pulsegate/conformance/blackbox"
)

// shell runs the binary in a separate working directory.
type shell struct {
	t   *testing.T
	dir string
	env []string
}

func (s *shell) run(args ...string) (stdout, stderr string, ok bool) {
	s.t.Helper()
	cmd := exec.Command(bin, args...)
	cmd.Dir, cmd.Env = s.dir, append(os.Environ(), s.env...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	return out.String(), errs.String(), err == nil
}

// must runs a command that has to succeed, and returns its output.
func (s *shell) must(args ...string) string {
	s.t.Helper()
	out, errs, ok := s.run(args...)
	if !ok {
		s.t.Fatalf("pulsegate %s: %s", strings.Join(args, " "), errs)
	}
	return out
}

// fails runs a command that has to fail, and checks its error and next step.
func (s *shell) fails(want, next string, args ...string) {
	s.t.Helper()
	_, errs, ok := s.run(args...)
	_, step, has := strings.Cut(errs, "\nnext: ")
	if ok || !has || !strings.Contains(errs, want) || !strings.Contains(step, next) {
		s.t.Errorf("pulsegate %s: ok %v, printed %q; want an error with %q and the next step %q",
			strings.Join(args, " "), ok, errs, want, next)
	}
}

// bin is the binary under test.
var bin string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "pulsegate-cli-")
	if err == nil {
		bin, err = blackbox.Build(dir)
	}
	code := 1
	if err == nil {
		code = m.Run()
	}
	if err = errors.Join(err, os.RemoveAll(dir)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// start starts a server in a new working directory.
func start(t *testing.T) *shell {
	t.Helper()
	dir := t.TempDir()
	srv, err := blackbox.Start(bin, filepath.Join(dir, "pulsegate-data"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := srv.Stop(); err != nil {
			t.Error(err)
		}
	})
	return &shell{t: t, dir: dir}
}

const payload = `<?xml version="1.0" encoding="UTF-8"?>
<HealthData locale="en_US">
 <ExportDate value="2026-10-02 08:00:00 +0200"/>
 <Record type="HKQuantityTypeIdentifierHeartRate" sourceName="Watch" unit="count/min" creationDate="2026-10-01 08:00:05 +0200" startDate="2026-10-01 08:00:00 +0200" endDate="2026-10-01 08:00:00 +0200" value="62"/>
 <Record type="HKQuantityTypeIdentifierUnheardOf" sourceName="Watch" unit="x" creationDate="2026-10-01 08:00:05 +0200" startDate="2026-10-01 08:00:00 +0200" endDate="2026-10-01 08:00:00 +0200" value="1"/>
 <Record type="HKQuantityTypeIdentifierUnheardOf" sourceName="Watch" unit="x" creationDate="2026-10-01 08:01:05 +0200" startDate="2026-10-01 08:01:00 +0200" endDate="2026-10-01 08:01:00 +0200" value="2"/>
</HealthData>`

// TestOperator runs the commands without --data: they find the only running server.
func TestOperator(t *testing.T) {
	s := start(t)
	if err := os.WriteFile(filepath.Join(s.dir, "export.xml"), []byte(payload), 0o600); err != nil {
		t.Fatal(err)
	}
	table := func(header string, args ...string) string {
		t.Helper()
		out := s.must(args...)
		if !regexp.MustCompile(`(?m)^` + strings.ReplaceAll(header, " ", `\s+`) + `$`).MatchString(out) {
			t.Errorf("pulsegate %s: no line %q in\n%s", strings.Join(args, " "), header, out)
		}
		if strings.ContainsAny(out, "{}") {
			t.Errorf("pulsegate %s: JSON among text:\n%s", strings.Join(args, " "), out)
		}
		return out
	}
	id := strings.TrimSpace(s.must("patient", "add", "--given", "Ada", "--family", "Muster", "--timezone",
		"Europe/Berlin"))
	if out := table("ID NAME BORN GENDER TIME ZONE", "patient", "list"); !strings.Contains(out, id) ||
		!strings.Contains(out, "Ada Muster") {
		t.Errorf("patient list:\n%s", out)
	}
	s.fails("no active consent", "pulsegate consent grant --patient "+id+" --vendor apple", "ingest", "--patient",
		id, "--vendor", "apple", "export.xml")
	consent := strings.TrimSpace(s.must("consent", "grant", "--patient", id, "--vendor", "Apple"))
	table("CONSENT PATIENT STATUS VENDOR CATEGORIES RECIPIENT DATE", "consent", "list")
	if out := table("METRIC READ CREATED UPDATED UNCHANGED QUARANTINED DROPPED LEFT OUT", "ingest", "--patient", id,
		"--vendor", "APPLE", "export.xml"); !strings.Contains(out, "next: see why with `pulsegate quarantine list`") {
		t.Errorf("ingest does not mention the quarantine:\n%s", out)
	}
	if out := table("DEVICE STATUS NAME", "patient", "show", id); !strings.Contains(out, consent) ||
		!strings.Contains(out, "Watch") {
		t.Errorf("patient show:\n%s", out)
	}
	if out := table("REASON VENDOR METRIC ITEMS TIMES AN ITEM", "quarantine",
		"list"); !regexp.MustCompile(`unmapped +apple +HKQuantityTypeIdentifierUnheardOf +2 +2 `).MatchString(out) {
		t.Errorf("quarantine list:\n%s", out)
	}
	table("ITEM PATIENT VENDOR REASON METRIC TIMES FIRST SEEN WHERE", "quarantine", "list", "--items")
	if out := table("REASON ITEMS", "quarantine", "retry"); !strings.Contains(out,
		"2 items retried, 0 mapped, 2 remain in quarantine") || !regexp.MustCompile(`unmapped +2`).MatchString(out) {
		t.Errorf("quarantine retry:\n%s", out)
	}
	table("CLIENT STATUS NAME CREATED MAY SCOPE", "client", "list")
	table("USER LOGIN STATUS ROLES NAME", "user", "list")
	table("CHECKPOINT SIZE CONSISTENT ROOT", "audit", "verify")
	if out := s.must("version"); !strings.HasPrefix(out, "pulsegate ") {
		t.Errorf("version: %s", out)
	}
	s.fails("no such patient", "pulsegate patient list", "patient", "show", "nobody")
	s.fails("", "pulsegate client list", "client", "disable", "nobody")
	s.fails("", "pulsegate quarantine list", "quarantine", "show", "nothing")
	s.fails("", "pulsegate user list", "user", "disable", "--login", "nobody")
	s.fails("another pulsegate (pid ", "--data DIR", "serve", "--listen", "127.0.0.1:0")
	out, _, _ := s.run("__complete", "patient", "show", "")
	if !strings.Contains(out, id) {
		t.Errorf("completion of a patient's id: %q", out)
	}
	if out, _, _ := s.run("__complete", "client", "add", "--auth", "p"); !strings.Contains(out, "private_key_jwt") {
		t.Errorf("completion of --auth: %q", out)
	}
}

// TestMisspelledSetting checks that serve refuses an unknown environment variable.
func TestMisspelledSetting(t *testing.T) {
	dir := t.TempDir()
	s := &shell{t: t, dir: dir, env: []string{"PULSEGATE_LISTN=127.0.0.1:0"}}
	_, errs, ok := s.run("serve", "--data", filepath.Join(dir, "d"))
	if want := "did you mean PULSEGATE_LISTEN?"; ok || !strings.Contains(errs, want) {
		t.Errorf("ok %v, printed %q; want %q", ok, errs, want)
	}
}
