// Package lint checks the rules of this repository: format, vet, staticcheck, the
// directions of imports, and the lengths of files and functions.
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

// long lists functions over 100 lines and files over 800 lines, each with a reason.
var long = map[string]string{}

// goFiles returns the paths of all Go files of the repository.
func goFiles(t *testing.T) []string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == "testdata" || strings.HasPrefix(d.Name(), ".") && d.Name() != ".." ||
			d.Name() == "bin" || d.Name() == "node_modules") {
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
			t.Errorf("%s: not formatted by gofmt", p)
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

// TestHistograms checks that every histogram has a unit and explicit bucket boundaries.
// The default boundaries from 5 to 10,000 do not suit durations in seconds.
func TestHistograms(t *testing.T) {
	for _, p := range goFiles(t) {
		if strings.HasSuffix(p, "_test.go") {
			continue
		}
		fset := token.NewFileSet()
		f, err := parser.ParseFile(fset, p, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range missingHistogramOptions(f) {
			t.Errorf("%s: histogram without %s", fset.Position(m.at), m.option)
		}
	}
}

func TestHistogramsControl(t *testing.T) {
	const src = `package p
func f() {
	m.Float64Histogram("a", metric.WithUnit("s"))
	m.Int64Histogram("b", metric.WithExplicitBucketBoundaries(1, 2))
	m.Int64Histogram("c", metric.WithUnit("By"), metric.WithExplicitBucketBoundaries(1, 2))
	httpconv.NewServerRequestDuration(m)
}`
	f, err := parser.ParseFile(token.NewFileSet(), "p.go", src, 0)
	if err != nil {
		t.Fatal(err)
	}
	if got := missingHistogramOptions(f); len(got) != 3 {
		t.Errorf("%d missing options, want 3", len(got))
	}
}

// missingOption is a histogram that lacks an option.
type missingOption struct {
	at     token.Pos
	option string
}

// missingHistogramOptions returns the options that the histograms of f lack.
// The constructors of semconv's httpconv set the unit themselves.
func missingHistogramOptions(f *ast.File) (out []missingOption) {
	ast.Inspect(f, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		fun, ok := call.Fun.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		var want []string
		switch fun.Sel.Name {
		case "Float64Histogram", "Int64Histogram":
			want = []string{"WithUnit", "WithExplicitBucketBoundaries"}
		case "NewServerRequestDuration":
			want = []string{"WithExplicitBucketBoundaries"}
		}
		have := map[string]bool{}
		for _, a := range call.Args {
			if c, ok := a.(*ast.CallExpr); ok {
				if s, ok := c.Fun.(*ast.SelectorExpr); ok {
					have[s.Sel.Name] = true
				}
			}
		}
		for _, w := range want {
			if !have[w] {
				out = append(out, missingOption{call.Pos(), w})
			}
		}
		return true
	})
	return out
}

// directions lists the allowed imports within this module: packages below pkg may
// import only packages below pkg and below the paths in may.
var directions = []struct {
	pkg  string
	may  []string
	test bool // the rule applies to test files, too
}{
	{"pulsegate/fhir/access", nil, true},
	{"pulsegate/fhir/element", nil, true},
	{"pulsegate/mapping/sample", nil, true},
	{"pulsegate/adapters/link", []string{"pulsegate/adapters/cloud", "pulsegate/fhir"}, false},
	{"pulsegate/adapters/sync", []string{"pulsegate/adapters", "pulsegate/fhir", "pulsegate/mapping"}, false},
	{"pulsegate/adapters/pushkey", []string{"pulsegate/adapters", "pulsegate/fhir", "pulsegate/mapping"}, false},
	{"pulsegate/adapters", []string{"pulsegate/adapters", "pulsegate/mapping/sample"}, true},
	{"pulsegate/fhir", []string{"pulsegate/fhir"}, false},
	{"pulsegate/smart", []string{"pulsegate/smart", "pulsegate/fhir"}, false},
	{"pulsegate/mapping", []string{"pulsegate/mapping", "pulsegate/fhir", "pulsegate/adapters"}, false},
	{"pulsegate/conformance/blackbox", []string{"pulsegate/fhir/porttest"}, true},
}

// owners lists third-party packages and the only packages that may import them.
var owners = map[string]string{
	"github.com/google/fhir/go":           "pulsegate/fhir/validate/crosscheck",
	"github.com/cockroachdb/pebble":       "pulsegate/fhir/store,pulsegate/conformance/cluster",
	"github.com/aws/aws-sdk-go-v2":        "pulsegate/fhir/bulk/bucket",
	"github.com/cockroachdb/apd":          "pulsegate/fhir/fhirpath",
	"github.com/coder/websocket":          "pulsegate/fhir/rest,pulsegate/conformance",
	"github.com/redis/go-redis":           "pulsegate/fhir/cluster/hints",
	"go.opentelemetry.io/otel/sdk":        "pulsegate/cmd",
	"github.com/gin-gonic/gin":            "pulsegate/",
	"github.com/spf13/cobra":              "pulsegate/cmd",
	"github.com/lestrrat-go/jwx":          "pulsegate/smart,pulsegate/conformance,pulsegate/cmd,pulsegate/adapters/cloud/googlehealth",
	"github.com/prometheus/client_golang": "pulsegate/cmd",
	"go.mongodb.org/mongo-driver":         "pulsegate/fhir/store/sharedlog/mongolog,pulsegate/fhir/cluster/mirror,pulsegate/conformance/bench",
}

// below reports whether package p is dir or one of its subpackages.
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
		for _, r := range directions {
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
			break // only the first matching rule applies
		}
		for _, i := range p.Imports {
			for lib, owner := range owners {
				if strings.HasPrefix(i, lib) && !owned(p.ImportPath, owner) {
					t.Errorf("%s: only %s may import %s", p.ImportPath, owner, lib)
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

// command returns a command that runs in the root directory of the module.
func command(name string, args ...string) *exec.Cmd {
	c := exec.Command(name, args...)
	c.Dir = root
	return c
}
