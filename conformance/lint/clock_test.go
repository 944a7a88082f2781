package lint

import (
	"go/ast"
	"go/parser"
	"go/token"
	"strings"
	"testing"
)

// TestClocks refuses clocks that return a variable or field which is also assigned,
// because goroutines of the server may read it concurrently. A clocktest.Clock may be
// set while it is read. Packages that support tests are checked as well.
func TestClocks(t *testing.T) {
	for _, p := range goFiles(t) {
		if strings.Contains(p, "fhir/clocktest/") {
			continue
		}
		fset := token.NewFileSet()
		f, err := parser.ParseFile(fset, p, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, at := range movedClocks(f) {
			t.Errorf("%s: this clock returns a variable that is assigned elsewhere; use a clocktest.Clock",
				fset.Position(at))
		}
	}
}

func TestClocksControl(t *testing.T) {
	const src = `package p
func f() {
	start, now := time.Now(), time.Now()
	use(func() time.Time { return start })
	use(func() time.Time { return now })
	use(func() time.Time { return w.clock })
	use(func() time.Time { now = now.Add(1); return now })
	use(func() time.Time { return w.instant })
	now, w.clock = now.Add(1), now
	other.instant = now
}`
	f, err := parser.ParseFile(token.NewFileSet(), "p.go", src, 0)
	if err != nil {
		t.Fatal(err)
	}
	if got := movedClocks(f); len(got) != 4 {
		t.Errorf("%d clocks found, want 4", len(got))
	}
}

// movedClocks returns the function literals of f that return, as a time, a variable or
// field with a name that is assigned somewhere in f. It ignores literals with more
// statements than an assignment and a return, because they may hold a lock.
func movedClocks(f *ast.File) (out []token.Pos) {
	assigned := map[string]bool{}
	ast.Inspect(f, func(n ast.Node) bool {
		if a, ok := n.(*ast.AssignStmt); ok && a.Tok != token.DEFINE {
			for _, l := range a.Lhs {
				assigned[variable(l)] = true
			}
		}
		return true
	})
	delete(assigned, "")
	ast.Inspect(f, func(n ast.Node) bool {
		fn, ok := n.(*ast.FuncLit)
		if !ok || len(fn.Type.Params.List) > 0 || fn.Type.Results == nil ||
			dotted(fn.Type.Results.List[0].Type) != "time.Time" {
			return true
		}
		if len(fn.Body.List) > 2 {
			return true
		}
		r, ok := fn.Body.List[len(fn.Body.List)-1].(*ast.ReturnStmt)
		if ok && len(r.Results) == 1 && assigned[variable(r.Results[0])] {
			out = append(out, fn.Pos())
		}
		return true
	})
	return out
}

// variable returns the name of a variable, or the name of a field with a leading dot:
// methods name their receivers differently, and x.now and y.now may be the same field.
func variable(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.Ident:
		return e.Name
	case *ast.SelectorExpr:
		return "." + e.Sel.Name
	}
	return ""
}

// dotted returns the source text of an identifier or selector, and the empty string for
// other expressions.
func dotted(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.Ident:
		return e.Name
	case *ast.SelectorExpr:
		return dotted(e.X) + "." + e.Sel.Name
	}
	return ""
}
