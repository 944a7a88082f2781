package lint

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	linkTarget = regexp.MustCompile(`\]\(([^)#\s]+)(?:#[^)]*)?\)`)
	testName   = regexp.MustCompile(`\b(?:Test|Fuzz|Benchmark)[A-Z]\w+`)
	repoPath   = regexp.MustCompile("`((?:adapters|cmd|conformance|deploy|fhir|mapping|smart)/[\\w./-]+)`")
	testDecl   = regexp.MustCompile(`(?m)^func ((?:Test|Fuzz|Benchmark)[A-Z]\w*)\(`)
)

// TestDocuments requires that the documents name things that exist: link
// targets, paths of the repository, tests.
func TestDocuments(t *testing.T) {
	tests := map[string]bool{}
	for _, p := range goFiles(t) {
		if !strings.HasSuffix(p, ".go") {
			continue
		}
		src, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range testDecl.FindAllStringSubmatch(string(src), -1) {
			tests[m[1]] = true
		}
	}
	n := 0
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == "testdata" || d.Name() == ".git" || d.Name() == "bin" || d.Name() == "dist" || d.Name() == "node_modules") {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(p, ".md") {
			return nil
		}
		text, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		n++
		for _, problem := range missingReferences(p, string(text), tests) {
			t.Errorf("%s: %s", strings.TrimPrefix(p, root+"/"), problem)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if n < 10 {
		t.Errorf("%d documents found, want at least 10", n)
	}
}

func TestDocumentsControl(t *testing.T) {
	const text = "See [here](lint_test.go), [there](none.md#x), [the web](https://example.org/), `fhir/rest`, `fhir/none`,\n" +
		"TestDocuments and TestOfNothing."
	got := missingReferences("README.md", text, map[string]bool{"TestDocuments": true})
	if len(got) != 3 {
		t.Errorf("%d problems found, want 3: %v", len(got), got)
	}
}

// missingReferences returns what the document at path names and does not exist.
func missingReferences(path, text string, tests map[string]bool) (out []string) {
	exists := func(p string) bool {
		_, err := os.Stat(p)
		return err == nil
	}
	for _, m := range linkTarget.FindAllStringSubmatch(text, -1) {
		if !strings.Contains(m[1], ":") && !exists(filepath.Join(filepath.Dir(path), m[1])) {
			out = append(out, fmt.Sprintf("link to %s, which does not exist", m[1]))
		}
	}
	for _, m := range repoPath.FindAllStringSubmatch(text, -1) {
		// A package may be followed by a name: fhir/consent.Refuse.
		p, _, _ := strings.Cut(filepath.Base(m[1]), ".")
		if !exists(filepath.Join(root, m[1])) && !exists(filepath.Join(root, filepath.Dir(m[1]), p)) {
			out = append(out, fmt.Sprintf("path %s, which does not exist", m[1]))
		}
	}
	for _, name := range testName.FindAllString(text, -1) {
		if !tests[name] {
			out = append(out, fmt.Sprintf("test %s, which does not exist", name))
		}
	}
	return out
}
