package fhirpath

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func testDocument(t testing.TB, name string) *Document {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	doc, err := Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

// TestCases runs the cases of testdata/cases.txt.
func TestCases(t *testing.T) {
	data, err := os.ReadFile("testdata/cases.txt")
	if err != nil {
		t.Fatal(err)
	}
	var doc *Document
	expression, count := "", 0
	for line := range strings.Lines(string(data)) {
		line = strings.TrimSuffix(line, "\n")
		if name, ok := strings.CutPrefix(line, "file "); ok {
			doc = testDocument(t, name)
			continue
		}
		if line == "" || strings.HasPrefix(line, "# ") && !strings.Contains(line, "=>") {
			continue
		}
		i := strings.LastIndex(line, "=>")
		if i < 0 {
			expression += line + "\n"
			continue
		}
		expression += line[:i]
		runCase(t, doc, expression, strings.TrimSpace(line[i+2:]))
		expression = ""
		count++
	}
	if count < 200 {
		t.Errorf("only %d cases found", count)
	}
}

func runCase(t *testing.T, doc *Document, source, want string) {
	t.Helper()
	var out Collection
	e, err := Compile(source)
	if err == nil {
		out, err = e.Evaluate(context.Background(), doc.Root(), testEnv(), nil)
	}
	if part, ok := strings.CutPrefix(want, "error "); ok {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("%s: got the error %v, want %q", source, err, part)
		}
		return
	}
	if err != nil {
		t.Errorf("%s: %v", source, err)
		return
	}
	var got []string
	for _, v := range out {
		s, ok := v.Text()
		if !ok {
			s = "-"
		}
		got = append(got, strings.NewReplacer("\n", `\n`, ",", `\,`).Replace(s))
	}
	if s := strings.Join(got, ", "); s != want {
		t.Errorf("%s: got %s, want %s", source, s, want)
	}
}
