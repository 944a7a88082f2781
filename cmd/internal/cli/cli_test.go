package cli

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"pulsegate/cmd/internal/admin"
	"pulsegate/cmd/internal/config"
)

func testRoot() *cobra.Command {
	return New("v1.2.3", func(context.Context, *config.Config, io.Writer, io.Writer) error { return nil })
}

// leaves returns the commands below c that have no subcommands, or have examples of
// their own.
func leaves(c *cobra.Command) (out []*cobra.Command) {
	for _, s := range c.Commands() {
		switch {
		case s.Name() == "help" || s.Name() == "completion":
		case s.HasSubCommands():
			if s.Example != "" {
				out = append(out, s)
			}
			out = append(out, leaves(s)...)
		default:
			out = append(out, s)
		}
	}
	return out
}

// TestExamples checks that every command has an example, and that each example is a
// valid invocation of the command.
func TestExamples(t *testing.T) {
	seen := map[string]bool{}
	for _, c := range leaves(testRoot()) {
		path := pathOf(c)
		seen[path] = true
		if c.Example == "" {
			t.Errorf("%s has no example", path)
		}
		for line := range strings.Lines(examples[path]) {
			line, _, _ = strings.Cut(strings.TrimSpace(line), " > ")
			if _, inner, ok := strings.Cut(line, "$("); ok {
				line = strings.TrimSuffix(inner, ")")
			}
			args := words(line)
			if len(args) == 0 || args[0] != "pulsegate" {
				t.Errorf("%s: the example does not begin with pulsegate: %s", path, line)
				continue
			}
			found, rest, err := testRoot().Find(args[1:])
			if err != nil || pathOf(found) != path {
				t.Errorf("%s: the example invokes another command: %s", path, line)
				continue
			}
			if err := found.ParseFlags(rest); err != nil {
				t.Errorf("%s: %v", line, err)
			} else if err := found.ValidateRequiredFlags(); err != nil {
				t.Errorf("%s: %v", line, err)
			} else if err := found.ValidateArgs(found.Flags().Args()); err != nil {
				t.Errorf("%s: %v", line, err)
			}
		}
	}
	for path := range examples {
		if !seen[path] {
			t.Errorf("example of %q, which is not a command", path)
		}
	}
}

// words splits at spaces outside double quotes.
func words(s string) (out []string) {
	for i, part := range strings.Split(s, `"`) {
		if i%2 == 1 {
			out = append(out, part)
			continue
		}
		out = append(out, strings.Fields(part)...)
	}
	return out
}

// execute runs the command line and returns its output.
func execute(args ...string) (string, error) {
	root := testRoot()
	var out bytes.Buffer
	root.SetArgs(args)
	root.SetOut(&out)
	root.SetErr(&out)
	err := Execute(context.Background(), root)
	return out.String(), err
}

// TestNextStep checks that the errors of the command line itself name a next step.
func TestNextStep(t *testing.T) {
	t.Chdir(t.TempDir())
	t.Setenv("PULSEGATE_DATA", "")
	for _, args := range [][]string{
		{"patient", "list"},                        // no server anywhere
		{"patient", "list", "--data", "elsewhere"}, // no server there
		{"patient"},
		{"consent", "grant", "--nonsense"},
		{"consent", "grant"}, // required flags
		{"patient", "show"},  // required argument
		{"nonsense"},
	} {
		_, err := execute(args...)
		if err == nil {
			t.Errorf("%v: no error", args)
			continue
		}
		if text := Explain(err); !strings.Contains(text, "\nnext: ") {
			t.Errorf("%v: no next step in %q", args, text)
		}
	}
}

func TestVersion(t *testing.T) {
	out, err := execute("version")
	if err != nil || !strings.Contains(out, "v1.2.3") {
		t.Errorf("%q, %v", out, err)
	}
}

// noOps implements admin.Operations for a server that only answers its process id.
type noOps struct{ admin.Operations }

// serveAdmin serves the admin socket in dir until the test ends.
func serveAdmin(t *testing.T, dir string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	s := &admin.Server{Dir: dir, Ops: noOps{}}
	l, err := s.Listen()
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		<-done
		if err := s.Close(ctx); err != nil {
			t.Error(err)
		}
	})
}

// TestFindData checks which server a command without --data finds.
func TestFindData(t *testing.T) {
	t.Chdir(t.TempDir())
	t.Setenv("PULSEGATE_DATA", "")
	if _, err := findData(); err == nil {
		t.Error("found a server although none is running")
	}
	// A socket that a killed server left behind does not count.
	if err := os.MkdirAll("pulsegate-data", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join("pulsegate-data", admin.SocketName), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	serveAdmin(t, "demo-data")
	if got, err := findData(); err != nil || got != "demo-data" {
		t.Errorf("found %q, %v; want demo-data", got, err)
	}
	if err := InUse("demo-data"); err == nil || !strings.Contains(err.Error(), "another pulsegate (pid ") {
		t.Errorf("InUse: %v", err)
	}
	if err := InUse("pulsegate-data"); err != nil {
		t.Errorf("InUse of a stale socket: %v", err)
	}
	if err := os.Remove(filepath.Join("pulsegate-data", admin.SocketName)); err != nil {
		t.Fatal(err)
	}
	serveAdmin(t, "pulsegate-data")
	if _, err := findData(); err == nil || !strings.Contains(err.Error(), "2 servers") {
		t.Errorf("two servers: %v", err)
	}
	t.Setenv("PULSEGATE_DATA", "mine")
	if got, err := findData(); err != nil || got != "mine" {
		t.Errorf("found %q, %v; want PULSEGATE_DATA", got, err)
	}
}

// TestTable checks the format of tables: a header, aligned columns, and no cell that
// is empty or contains a line break.
func TestTable(t *testing.T) {
	var b bytes.Buffer
	tab := newTable(&b, "ID", "NAME", "N")
	tab.row("a", "two\twords\nhere", 7)
	tab.row("longer", "", 1.5)
	if err := tab.done(); err != nil {
		t.Fatal(err)
	}
	want := "ID      NAME            N\na       two words here  7\nlonger  -               1.50\n"
	if b.String() != want {
		t.Errorf("got\n%swant\n%s", b.String(), want)
	}
}

func TestByReason(t *testing.T) {
	got := byReason([]admin.QuarantineItem{
		{ID: "1", Reason: "bad-unit", Vendor: "apple", Metric: "M", Count: 2},
		{ID: "2", Reason: "unmapped", Vendor: "oura", Metric: "N", Count: 1},
		{ID: "3", Reason: "unmapped", Vendor: "oura", Metric: "N", Count: 4},
	})
	if len(got) != 2 || *got[0] != (reasonGroup{"unmapped", "oura", "N", "2", 2, 5}) ||
		*got[1] != (reasonGroup{"bad-unit", "apple", "M", "1", 1, 2}) {
		t.Errorf("got %+v, %+v", got[0], got[len(got)-1])
	}
}
