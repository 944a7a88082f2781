package main

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"pulsegate/fhir/internal/fixtures"
)

// TestModel checks that r4.model is what the generator writes.
func TestModel(t *testing.T) {
	out := filepath.Join(t.TempDir(), "r4.model")
	if err := run(fixtures.Dir(t, "r4/hl7-core-4.0.1"), out); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile("../r4.model")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Error("r4.model is not current; run go generate")
	}
}
