package adaptertest

import (
	"os"
	"path/filepath"
	"testing"
)

// Fixtures returns the file or folder below the one that PULSEGATE_FIXTURES
// names: vendor payloads that are not part of the project. Without the
// variable the test is skipped; with it a missing one fails.
func Fixtures(t testing.TB, below string) string {
	t.Helper()
	root := os.Getenv("PULSEGATE_FIXTURES")
	if root == "" {
		t.Skip("PULSEGATE_FIXTURES names no folder with vendor payloads")
	}
	p := filepath.Join(root, below)
	if _, err := os.Stat(p); err != nil {
		t.Fatalf("PULSEGATE_FIXTURES: %v", err)
	}
	return p
}
