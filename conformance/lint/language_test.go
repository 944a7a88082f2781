package lint

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"
)

// source is one Go file, parsed once for all rules.
type source struct {
	path string // relative to the root of the repository
	text string
	file *ast.File
	fset *token.FileSet
}

func (s *source) line(p token.Pos) int { return s.fset.Position(p).Line }
func (s *source) isTest() bool         { return strings.HasSuffix(s.path, "_test.go") }

// finding is one breach of a rule.
type finding struct {
	line int
	text string
}

// languageRules are the rules of CONTRIBUTING.md, "Language", that a program
// can check. Each has a control: a file in which the rule finds want breaches.
var languageRules = []struct {
	name    string
	check   func(*source) []finding
	control string
	want    int
}{
	{"doc comments begin with the name", docBeginsWithName, `package p

// Parse returns a query.
func Parse() {}

// A Query is parsed.
type Query struct{}

// Returns the limit.
func limit() {}

// What the server knows.
var state int
`, 2},
	{"no definition by a relative clause", relativeClauses, `package p

// limit is what a body may hold.
const limit = 1

// Parse is of the interface.
func Parse() {}

// Who may ask.
type Caller struct{}

// Bound is the largest size in bytes.
const Bound = 2
`, 3},
	{"no imagery in comments", imageryInComments, `package p

// check is the door for requests.
func check() {
	// A thief gains nothing.
}
`, 2},
	{"no imagery in names", imageryInNames, `package p

type Door struct{ lately int }

func twinOf() { thief := 1; _ = thief }
`, 4},
	{"lines end before column 120", longLines, "package p\n\n// " + strings.Repeat("long ", 30) +
		"\nvar text = \"" + strings.Repeat("x", 130) + "\"\n", 1},
	{"log keys have one spelling", logKeys, `package p

func f() {
	slog.Error("failed", "err", err)
	log.Warn("slow", "request", id, "requestId", id)
	log.Info("done", "error", err, "request_id", id)
}
`, 3},
	{"only cmd reads the clock", wallClock, `package p

import "time"

func now() time.Time { return time.Now() }
`, 1},
	{"fields have names", oneLetterFields, `package p

type point struct {
	x, y int
	name string
}
`, 2},
}

func TestLanguage(t *testing.T) {
	var sources []*source
	for _, p := range goFiles(t) {
		if strings.HasSuffix(p, "_gen.go") {
			continue
		}
		text, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		sources = append(sources, parseSource(t, strings.TrimPrefix(p, root+"/"), string(text)))
	}
	for _, rule := range languageRules {
		t.Run(rule.name, func(t *testing.T) {
			for _, s := range sources {
				for _, f := range rule.check(s) {
					t.Errorf("%s:%d: %s", s.path, f.line, f.text)
				}
			}
		})
	}
}

func TestLanguageControl(t *testing.T) {
	for _, rule := range languageRules {
		t.Run(rule.name, func(t *testing.T) {
			if got := rule.check(parseSource(t, "fhir/p/p.go", rule.control)); len(got) != rule.want {
				t.Errorf("%d findings, want %d: %v", len(got), rule.want, got)
			}
		})
	}
}

func parseSource(t *testing.T, path, text string) *source {
	t.Helper()
	fset := token.NewFileSet()
	f, err := parser.ParseFile(fset, path, text, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	return &source{path, text, f, fset}
}

// docBeginsWithName checks the comments of declarations with one name. The
// articles "A", "An" and "The" may precede the name.
func docBeginsWithName(s *source) (out []finding) {
	check := func(doc *ast.CommentGroup, name *ast.Ident) {
		if doc == nil || name.Name == "_" || name.Name == "main" {
			return
		}
		words := strings.Fields(doc.Text())
		if len(words) == 0 {
			return
		}
		first := words[0]
		if slices.Contains([]string{"A", "An", "The"}, first) && len(words) > 1 {
			first = words[1]
		}
		first, _, _ = strings.Cut(first, "(")
		first = strings.TrimSuffix(strings.TrimRight(first, ",.:;"), "'s")
		if first != name.Name {
			out = append(out, finding{s.line(doc.Pos()), fmt.Sprintf("the comment of %s begins with %q", name.Name, words[0])})
		}
	}
	for _, d := range s.file.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			check(d.Doc, d.Name)
		case *ast.GenDecl:
			if len(d.Specs) != 1 {
				continue
			}
			switch spec := d.Specs[0].(type) {
			case *ast.TypeSpec:
				check(d.Doc, spec.Name)
			case *ast.ValueSpec:
				if len(spec.Names) == 1 {
					check(d.Doc, spec.Names[0])
				}
			}
		}
	}
	return out
}

var (
	relativeDefinition = regexp.MustCompile(
		`^\S+ (?:is|are|was) (?:what|how|who|whoever|whatever|whose|where|when|that|those|of|as|for)\b`)
	relativeBeginning = regexp.MustCompile(`^(?:What|Whatever|Who|Whoever|Whose|Those|Nobody)\b`)
)

// relativeClauses refuses comments such as "X is what the server knows", which
// do not name the thing.
func relativeClauses(s *source) (out []finding) {
	for _, c := range s.file.Comments {
		text := strings.Join(strings.Fields(c.Text()), " ")
		if relativeDefinition.MatchString(text) || relativeBeginning.MatchString(text) {
			out = append(out, finding{s.line(c.Pos()), fmt.Sprintf("name the thing instead of %.50q", text)})
		}
	}
	return out
}

// imagery lists words that stand for a mechanism which has a term of its own:
// validation, attacker, duplicate, result.
var imagery = regexp.MustCompile(`(?i)\b(doors?|doorways?|thief|thieves|twins?|fates?|plodding|lately|nobody|whoever)\b`)

func imageryInComments(s *source) (out []finding) {
	for _, c := range s.file.Comments {
		for i, l := range strings.Split(c.Text(), "\n") {
			if m := imagery.FindString(l); m != "" {
				out = append(out, finding{s.line(c.Pos()) + i, fmt.Sprintf("use the field's term instead of %q", m)})
			}
		}
	}
	return out
}

var imageryName = regexp.MustCompile(`(?i:^(?:doors?|plodding|lately|whose)$)|^(?:twin|thief|fate)s?(?:[A-Z]|$)|(?:Door|Thief|Twin|Fate)s?$`)

func imageryInNames(s *source) (out []finding) {
	seen := map[string]bool{}
	ast.Inspect(s.file, func(n ast.Node) bool {
		if id, ok := n.(*ast.Ident); ok && imageryName.MatchString(id.Name) && !seen[id.Name] {
			seen[id.Name] = true
			out = append(out, finding{s.line(id.Pos()), fmt.Sprintf("use the field's term instead of %q", id.Name)})
		}
		return true
	})
	return out
}

// longLines measures lines with tabs of four columns. String literals do not
// count, because breaking a test vector or a message makes it hard to find.
func longLines(s *source) (out []finding) {
	literals := map[int]int{} // columns of string literals, by line
	ast.Inspect(s.file, func(n ast.Node) bool {
		lit, ok := n.(*ast.BasicLit)
		if !ok || lit.Kind != token.STRING {
			return true
		}
		for i, part := range strings.Split(lit.Value, "\n") {
			literals[s.line(lit.Pos())+i] += utf8.RuneCountInString(part)
		}
		return true
	})
	for i, l := range strings.Split(s.text, "\n") {
		n := utf8.RuneCountInString(strings.ReplaceAll(l, "\t", "    "))
		if n > 120 && n-literals[i+1] < 120 && literals[i+1] > 0 {
			continue
		}
		if n > 120 && !preformatted(l) {
			out = append(out, finding{i + 1, fmt.Sprintf("%d columns", n)})
		}
	}
	return out
}

// preformatted reports whether a line cannot be wrapped: a directive, a table in a
// comment, or the output of an Example.
func preformatted(line string) bool {
	line = strings.TrimSpace(line)
	for _, prefix := range []string{"//go:", "//\t", "// {", "// search.Parse: "} {
		if strings.HasPrefix(line, prefix) {
			return true
		}
	}
	return false
}

// otherKeys maps misspelled log keys to the right ones.
var otherKeys = map[string]string{"err": "error", "request": "request_id", "requestId": "request_id",
	"requestID": "request_id", "reqid": "request_id"}

func logKeys(s *source) (out []finding) {
	ast.Inspect(s.file, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		for _, arg := range logKeyArgs(call) {
			lit, ok := arg.(*ast.BasicLit)
			if !ok || lit.Kind != token.STRING {
				continue
			}
			key, err := strconv.Unquote(lit.Value)
			if err != nil {
				continue
			}
			if right := otherKeys[key]; right != "" {
				out = append(out, finding{s.line(lit.Pos()), fmt.Sprintf("log key %q, want %q", key, right)})
			}
		}
		return true
	})
	return out
}

// logKeyArgs returns the arguments of a call that may be log keys: those behind
// the message of a method of log/slog, and the key of an attribute.
func logKeyArgs(call *ast.CallExpr) []ast.Expr {
	sel, ok := call.Fun.(*ast.SelectorExpr)
	if !ok {
		return nil
	}
	message := -1
	switch sel.Sel.Name {
	case "Debug", "Info", "Warn", "Error":
		message = 0
	case "DebugContext", "InfoContext", "WarnContext", "ErrorContext":
		message = 1
	case "Log", "LogAttrs":
		message = 2
	case "With":
	default:
		if x, ok := sel.X.(*ast.Ident); !ok || x.Name != "slog" {
			return nil
		}
	}
	return call.Args[min(message+1, len(call.Args)):]
}

// clockReaders may read the wall clock: programs, tests, and measurements of
// elapsed time, each with the reason.
var clockReaders = map[string]string{
	"cmd/":                    "wires the clock",
	"conformance/":            "programs and tests",
	"fhir/store/pebblestore/": "measures elapsed time and file ages; commit times come from Options.Clock",
	"fhir/store/floor/":       "measures elapsed time",
	"fhir/store/storetest/":   "bounds the duration of random tests",
}

func wallClock(s *source) (out []finding) {
	if s.isTest() {
		return nil
	}
	for dir := range clockReaders {
		if strings.HasPrefix(s.path, dir) {
			return nil
		}
	}
	ast.Inspect(s.file, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if ok && dotted(call.Fun) == "time.Now" {
			out = append(out, finding{s.line(call.Pos()), "time.Now: take the clock as a parameter"})
		}
		return true
	})
	return out
}

// oneLetterFields refuses fields with names of one letter in types that other
// functions use. Tests may have them.
func oneLetterFields(s *source) (out []finding) {
	if s.isTest() {
		return nil
	}
	for _, d := range s.file.Decls {
		decl, ok := d.(*ast.GenDecl)
		if !ok {
			continue
		}
		for _, spec := range decl.Specs {
			spec, ok := spec.(*ast.TypeSpec)
			if !ok {
				continue
			}
			fields, ok := spec.Type.(*ast.StructType)
			if !ok {
				continue
			}
			for _, f := range fields.Fields.List {
				for _, n := range f.Names {
					if len(n.Name) == 1 && n.Name != "_" {
						out = append(out, finding{s.line(n.Pos()), fmt.Sprintf("field %s of %s has one letter", n.Name, spec.Name.Name)})
					}
				}
			}
		}
	}
	return out
}
