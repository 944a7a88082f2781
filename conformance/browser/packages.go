package browser

import (
	"crypto/sha256"
	_ "embed" // the lists of packages
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

// missing ends a test for which something is not there. With
// PULSEGATE_BROWSER=1 that is a failure.
func missing(t testing.TB, what string, err error) {
	t.Helper()
	if os.Getenv("PULSEGATE_BROWSER") != "" {
		t.Fatalf("%s: %v", what, err)
	}
	t.Skipf("no %s (sh deploy/ensure-chromium.sh installs what is needed; PULSEGATE_BROWSER=1 makes this a failure)", what)
}

// Chromium is the path of the browser.
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

// Node is the path of node.
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

// Packages is a folder with node_modules as package-lock.json has them, each
// held against its hash when it was installed: in the user's cache, once for
// each state of the list, without running any script of theirs.
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
		missing(t, "the clients of package-lock.json", err)
	}
	return dir
}

// install fills a folder of its own and moves it to its place whole: tests of
// several packages may do so at once.
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
