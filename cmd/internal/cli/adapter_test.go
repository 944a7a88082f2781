package cli

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// sources lists the packages that a new adapter needs to compile and to pass its tests.
// mapping is needed for the schema and the units of the table.
var sources = []string{"go.mod", "go.sum", "adapters/*.go", "adapters/adaptertest", "adapters/internal",
	"adapters/cloud/*.go", "adapters/cloud/cloudtest", "adapters/cloud/internal", "mapping/decimal", "mapping/sample",
	"mapping/table/*.go", "mapping/table/*.yaml", "mapping/table/*.json", "fhir"}

// copySources copies source files of the module to a directory.
func copySources(t *testing.T, root, to string) {
	t.Helper()
	for _, pattern := range sources {
		matches, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil || len(matches) == 0 {
			t.Fatalf("%s: %v", pattern, err)
		}
		for _, m := range matches {
			err := filepath.WalkDir(m, func(path string, e os.DirEntry, err error) error {
				rel, relErr := filepath.Rel(root, path)
				if err != nil || relErr != nil || e.IsDir() {
					return err
				}
				b, err := os.ReadFile(path)
				if err != nil {
					return err
				}
				if err := os.MkdirAll(filepath.Dir(filepath.Join(to, rel)), 0o755); err != nil {
					return err
				}
				return os.WriteFile(filepath.Join(to, rel), b, 0o644)
			})
			if err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestNewAdapter checks that a new adapter compiles and that its tests pass as they are
// generated, and that its table is valid.
func TestNewAdapter(t *testing.T) {
	if testing.Short() {
		t.Skip("compiles packages")
	}
	dir := t.TempDir()
	copySources(t, "../../..", dir)
	if err := newAdapter(dir, "acme"); err != nil {
		t.Fatal(err)
	}
	const check = `package table_test

import (
	"testing"

	"pulsegate/mapping/table"
)

func TestLoad(t *testing.T) {
	all, err := table.Load(table.Builtin())
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range all.Vendors {
		if v.Vendor == "acme" && len(v.Rows) == 1 {
			return
		}
	}
	t.Error("the table of acme was not loaded")
}
`
	tests, err := filepath.Glob(filepath.Join(dir, "mapping/table/*_test.go"))
	if err != nil || len(tests) == 0 {
		t.Fatal(tests, err)
	}
	for _, old := range tests {
		if err := os.Remove(old); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "mapping/table/acme_test.go"), []byte(check), 0o600); err != nil {
		t.Fatal(err)
	}
	c := exec.CommandContext(t.Context(), "go", "test", "./adapters/acme", "./adapters/cloud/acme", "./mapping/table")
	c.Dir, c.Env = dir, append(os.Environ(), "GOFLAGS=-mod=mod -trimpath", "GOPROXY=off", "PULSEGATE_FIXTURES=")
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if err := newAdapter(dir, "acme"); err == nil || !strings.Contains(err.Error(), "exists") {
		t.Errorf("a second time: %v", err)
	}
}

// TestNewAdapterRefuses checks names and places that are refused before anything is
// written.
func TestNewAdapterRefuses(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"", "a", "Acme", "ac-me", "../x", "ac/me", "1st", "range", strings.Repeat("a", 33)} {
		if err := newAdapter("../../..", name); err == nil || !strings.Contains(err.Error(), "lower-case letters") {
			t.Errorf("%q: %v", name, err)
		}
	}
	if err := newAdapter(dir, "acme"); err == nil || !strings.Contains(err.Error(), "source tree") {
		t.Errorf("outside of the source tree: %v", err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("%v was written, %v", left, err)
	}
}
