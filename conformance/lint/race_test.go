package lint

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// unraced lists packages that start goroutines and are not in the RACE of the Makefile.
var unraced = map[string]string{ // read only
	"adapters/adaptertest":     "helpers of tests",
	"adapters/cloud/cloudtest": "helpers of tests",
	"adapters/simulate":        "a simulated cloud, which no server runs",
	"fhir/store/storetest":     "a suite, which runs with the packages that it tests",
}

// TestRace checks that the race detector runs with each package that starts goroutines.
func TestRace(t *testing.T) {
	mk, err := os.ReadFile(filepath.Join(root, "Makefile"))
	if err != nil {
		t.Fatal(err)
	}
	raced := racedPackages(string(mk))
	if len(raced) < 10 {
		t.Fatalf("the Makefile names %d packages, want at least 10", len(raced))
	}
	missing := map[string]bool{}
	for _, p := range goFiles(t) {
		rel, err := filepath.Rel(root, p)
		if err != nil {
			t.Fatal(err)
		}
		top, _, _ := strings.Cut(rel, "/")
		if strings.HasSuffix(p, "_test.go") || !strings.Contains(" adapters fhir mapping smart ", " "+top+" ") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), p, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		if dir := filepath.ToSlash(filepath.Dir(rel)); starts(f) && !coveredBy(dir, raced) && !excused(dir) {
			missing[dir] = true
		}
	}
	for dir := range missing {
		t.Errorf("%s starts goroutines; add it to RACE in the Makefile", dir)
	}
}

// TestRaceControl checks both ways to start a goroutine, and the list.
func TestRaceControl(t *testing.T) {
	for src, want := range map[string]bool{"go f()": true, "wg.Go(f)": true, "f()": false} {
		f, err := parser.ParseFile(token.NewFileSet(), "p.go", "package p\nfunc g() { "+src+" }", 0)
		if err != nil {
			t.Fatal(err)
		}
		if starts(f) != want {
			t.Errorf("%s: %v, want %v", src, !want, want)
		}
	}
	list := racedPackages("X := ./z\nRACE := ./a/b ./c/... \\\n\t./d\nY := ./e\n")
	for dir, want := range map[string]bool{"a/b": true, "a/b/internal/x": true, "a": false, "c/f": true, "d": true,
		"dd": false, "e": false, "z": false} {
		if coveredBy(dir, list) != want {
			t.Errorf("%s: %v, want %v", dir, !want, want)
		}
	}
}

// racedPackages returns the directories in the RACE of a Makefile.
func racedPackages(mk string) (out []string) {
	_, list, _ := strings.Cut(strings.ReplaceAll(mk, "\\\n", " "), "\nRACE := ")
	list, _, _ = strings.Cut(list, "\n")
	for _, p := range strings.Fields(list) {
		out = append(out, strings.TrimSuffix(strings.TrimPrefix(p, "./"), "/..."))
	}
	return out
}

// coveredBy reports whether a package or one above it is in list. Tests of a package call
// those below it.
func coveredBy(dir string, list []string) bool {
	for _, p := range list {
		if dir == p || strings.HasPrefix(dir, p+"/") {
			return true
		}
	}
	return false
}

func excused(dir string) bool {
	for p := range unraced {
		if strings.HasPrefix(dir+"/", strings.TrimSuffix(p, "/")+"/") {
			return true
		}
	}
	return false
}

// starts reports whether f starts a goroutine.
func starts(f *ast.File) (found bool) {
	ast.Inspect(f, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.GoStmt:
			found = true
		case *ast.CallExpr:
			s, ok := n.Fun.(*ast.SelectorExpr)
			found = found || ok && s.Sel.Name == "Go"
		}
		return true
	})
	return found
}
