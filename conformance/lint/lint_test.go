// Package lint holds the house rules as tests: format, vet, staticcheck, the
// directions of imports, the length of files and functions.
package lint

import (
	"bytes"
	"encoding/json"
	"errors"
	"go/ast"
	"go/format"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const root = "../.."

// long names functions over 100 lines and files over 800, with the reason.
var long = map[string]string{}

func goFiles(t *testing.T) []string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == "testdata" || strings.HasPrefix(d.Name(), ".") && d.Name() != ".." || d.Name() == "bin" || d.Name() == "node_modules") {
			return filepath.SkipDir
		}
		if strings.HasSuffix(p, ".go") {
			out = append(out, p)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(out) < 20 {
		t.Fatalf("only %d Go files found: wrong root?", len(out))
	}
	return out
}

func TestFormat(t *testing.T) {
	for _, p := range goFiles(t) {
		src, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		out, err := format.Source(src)
		if err != nil {
			t.Errorf("%s: %v", p, err)
		} else if !bytes.Equal(src, out) {
			t.Errorf("%s: not gofmt'd", p)
		}
	}
}

func TestLength(t *testing.T) {
	for _, p := range goFiles(t) {
		rel := strings.TrimPrefix(p, root+"/")
		if strings.HasSuffix(p, "_gen.go") {
			continue
		}
		fset := token.NewFileSet()
		f, err := parser.ParseFile(fset, p, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		if n := fset.File(f.Pos()).LineCount(); n > 800 && long[rel] == "" {
			t.Errorf("%s: %d lines", rel, n)
		}
		for _, d := range f.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok {
				continue
			}
			n := fset.Position(fn.End()).Line - fset.Position(fn.Pos()).Line + 1
			if n > 100 && long[rel+":"+fn.Name.Name] == "" {
				t.Errorf("%s: %s has %d lines", rel, fn.Name.Name, n)
			}
		}
	}
}

// rooms are the directions of imports: a package below the key may import,
// of this module, only what lies below one of the values.
var rooms = []struct {
	pkg  string
	may  []string
	test bool // the rule holds for test files too
}{
	{"pulsegate/fhir/access", nil, true},
	{"pulsegate/mapping/sample", nil, true},
	{"pulsegate/adapters", []string{"pulsegate/adapters", "pulsegate/mapping/sample"}, true},
	{"pulsegate/fhir", []string{"pulsegate/fhir"}, false},
	{"pulsegate/smart", []string{"pulsegate/smart", "pulsegate/fhir"}, false},
	{"pulsegate/mapping", []string{"pulsegate/mapping", "pulsegate/fhir", "pulsegate/adapters"}, false},
	{"pulsegate/conformance/blackbox", nil, true},
}

// owners are third-party packages that only one room may use.
var owners = map[string]string{
	"github.com/google/fhir/go":           "pulsegate/fhir/r4",
	"github.com/cockroachdb/pebble":       "pulsegate/fhir/store",
	"go.opentelemetry.io/otel/sdk":        "pulsegate/cmd",
	"github.com/gin-gonic/gin":            "pulsegate/",
	"github.com/spf13/cobra":              "pulsegate/cmd",
	"github.com/lestrrat-go/jwx":          "pulsegate/smart,pulsegate/conformance,pulsegate/cmd",
	"github.com/prometheus/client_golang": "pulsegate/cmd",
}

func below(p, dir string) bool {
	return p == dir || strings.HasPrefix(p, strings.TrimSuffix(dir, "/")+"/")
}

func TestImports(t *testing.T) {
	type pkg struct {
		ImportPath                         string
		Imports, TestImports, XTestImports []string
	}
	out, err := command("go", "list", "-json=ImportPath,Imports,TestImports,XTestImports", "./...").Output()
	if err != nil {
		t.Fatal(err)
	}
	dec := json.NewDecoder(bytes.NewReader(out))
	for {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			t.Fatal(err)
		}
		for _, r := range rooms {
			if !below(p.ImportPath, r.pkg) {
				continue
			}
			imps := p.Imports
			if r.test {
				imps = append(append(append([]string{}, p.Imports...), p.TestImports...), p.XTestImports...)
			}
			for _, i := range imps {
				if strings.HasPrefix(i, "pulsegate/") && !below(i, p.ImportPath) && !allowed(i, r.may) {
					t.Errorf("%s must not import %s", p.ImportPath, i)
				}
			}
			break // the first room that fits holds
		}
		for _, i := range p.Imports {
			for lib, owner := range owners {
				if strings.HasPrefix(i, lib) && !owned(p.ImportPath, owner) {
					t.Errorf("%s: only %s uses %s", p.ImportPath, owner, lib)
				}
			}
		}
	}
}

func owned(pkg, owners string) bool {
	for _, o := range strings.Split(owners, ",") {
		if below(pkg, o) {
			return true
		}
	}
	return false
}

func allowed(imp string, may []string) bool {
	for _, m := range may {
		if below(imp, m) {
			return true
		}
	}
	return false
}

func TestVetAndStaticcheck(t *testing.T) {
	for _, args := range [][]string{{"vet", "./..."}, {"tool", "staticcheck", "./..."}} {
		if out, err := command("go", args...).CombinedOutput(); err != nil {
			t.Errorf("go %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
}

// command runs in the module's root.
func command(name string, args ...string) *exec.Cmd {
	c := exec.Command(name, args...)
	c.Dir = root
	return c
}
