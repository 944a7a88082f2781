package main

import (
	"bytes"
	"compress/gzip"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pulsegate/fhir/internal/fixtures"
)

// content returns the content of a file, without its compression.
func content(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasSuffix(name, ".gz") {
		return b
	}
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	out, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestTablesAreUpToDate tests that the committed tables are those that HL7's
// definitions give.
func TestTablesAreUpToDate(t *testing.T) {
	dir := fixtures.Dir(t, "r4")
	guides := ""
	for _, g := range []string{"9.0.0=us_core_900.tgz", "7.0.0=us_core_700.tgz", "6.1.0=us_core_610.tgz"} {
		guides += "," + g[:6] + filepath.Join(dir, g[6:])
	}
	out := t.TempDir()
	types := filepath.Join(out, "types_gen.go")
	if err := run(filepath.Join(dir, "hl7-core-4.0.1"), "codes.txt", guides, "../../guide/resources", out, types, false); err != nil {
		t.Fatal(err)
	}
	for name, committed := range map[string]string{"r4.txt.gz": "../r4.txt.gz", "profiles.txt.gz": "../profiles.txt.gz",
		"types_gen.go": "../../types_gen.go"} {
		if !bytes.Equal(content(t, filepath.Join(out, name)), content(t, committed)) {
			t.Errorf("%s is not up to date: run go generate in fhir/definitions", name)
		}
	}
}
