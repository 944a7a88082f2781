package browser

import (
	"crypto/sha256"
	_ "embed" // package.json and package-lock.json
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

//go:embed package.json
var packageJSON []byte

//go:embed package-lock.json
var packageLock []byte

// missing skips a test because a program is missing. With PULSEGATE_BROWSER=1, the
// test fails.
func missing(t testing.TB, what string, err error) {
	t.Helper()
	if os.Getenv("PULSEGATE_BROWSER") != "" {
		t.Fatalf("%s: %v", what, err)
	}
	t.Skipf("no %s (sh deploy/ensure-chromium.sh installs it; PULSEGATE_BROWSER=1 makes this a failure)", what)
}

// Chromium returns the path of the browser.
func Chromium(t testing.TB) string {
	t.Helper()
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if p, err := exec.LookPath(name); err == nil {
			return p
		}
	}
	missing(t, "chromium", exec.ErrNotFound)
	return ""
}

// Node returns the path of node.
func Node(t testing.TB) string {
	t.Helper()
	for _, name := range []string{"node", "nodejs"} {
		if p, err := exec.LookPath(name); err == nil {
			return p
		}
	}
	missing(t, "node", exec.ErrNotFound)
	return ""
}

// Packages returns a directory with the node_modules of package-lock.json. It lies in
// the cache of the user, and is created once per version of the list. The installation
// verifies the hash of each package and runs no scripts of packages.
func Packages(t testing.TB) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(append(append([]byte{}, packageJSON...), packageLock...))
	root := filepath.Join(cache, "pulsegate-test")
	dir := filepath.Join(root, "packages-"+hex.EncodeToString(sum[:8]))
	if _, err := os.Stat(dir); err == nil {
		return dir
	}
	if err := install(root, dir); err != nil {
		missing(t, "packages of package-lock.json", err)
	}
	return dir
}

// install installs the packages in a temporary directory below root and renames that
// to dir, because the tests of several packages may do so concurrently.
func install(root, dir string) error {
	if err := os.MkdirAll(root, 0o755); err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(root, "installing-")
	if err != nil {
		return err
	}
	err = os.WriteFile(filepath.Join(tmp, "package.json"), packageJSON, 0o644)
	if err == nil {
		err = os.WriteFile(filepath.Join(tmp, "package-lock.json"), packageLock, 0o644)
	}
	if err == nil {
		cmd := exec.Command("npm", "ci", "--legacy-peer-deps", "--omit=optional", "--ignore-scripts", "--no-audit",
			"--no-fund")
		cmd.Dir = tmp
		if out, rerr := cmd.CombinedOutput(); rerr != nil {
			err = fmt.Errorf("%w: %s", rerr, out)
		}
	}
	if err == nil {
		if err = os.Rename(tmp, dir); err == nil {
			return nil
		}
		if _, serr := os.Stat(dir); serr == nil {
			err = nil // another test was faster
		}
	}
	return errors.Join(err, os.RemoveAll(tmp))
}
