package adaptertest

import (
	"os"
	"path/filepath"
	"testing"
)

// Fixtures returns the path of a file or a directory in the directory that
// PULSEGATE_FIXTURES names. It holds vendor payloads that are not part of the
// repository. The test is skipped if the variable is not set, and fails if the
// path does not exist.
func Fixtures(t testing.TB, below string) string {
	t.Helper()
	root := os.Getenv("PULSEGATE_FIXTURES")
	if root == "" {
		t.Skip("PULSEGATE_FIXTURES is not set; it names a directory with vendor payloads")
	}
	p := filepath.Join(root, below)
	if _, err := os.Stat(p); err != nil {
		t.Fatalf("PULSEGATE_FIXTURES: %v", err)
	}
	return p
}
