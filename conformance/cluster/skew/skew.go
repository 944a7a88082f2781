// Package skew builds the server for tests with a wrong clock. The offset is linked
// into package time of the test's binary, so that every part of it, libraries and TLS
// included, is wrong by the same time. A binary for use has no such offset, and no way
// to set one. The monotonic clock runs as it does on a machine whose clock is wrong.
package skew

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// call is the place in time.Now that reads the clock of the system.
const call = "	sec, nsec, mono := runtimeNow()\n"

// offset is the file that is added to package time. The linker sets skew.
const offset = `package time

var skew string

var skewed = func() Duration {
	if skew == "" {
		return 0
	}
	d, err := ParseDuration(skew)
	if err != nil {
		panic(err)
	}
	return d
}()

func addSkew(sec int64, nsec int32) (int64, int32) {
	n := int64(nsec) + int64(skewed%Second)
	sec += int64(skewed / Second)
	if n < 0 {
		sec, n = sec-1, n+1e9
	} else if n >= 1e9 {
		sec, n = sec+1, n-1e9
	}
	return sec, int32(n)
}
`

// Builder builds programs. Its files are below a directory.
type Builder struct{ dir, overlay string }

// New prepares a Builder with the files that it needs in dir.
func New(dir string) (*Builder, error) {
	out, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		return nil, fmt.Errorf("go env GOROOT: %w", err)
	}
	source := filepath.Join(strings.TrimSpace(string(out)), "src", "time")
	b, err := os.ReadFile(filepath.Join(source, "time.go"))
	if err != nil {
		return nil, err
	}
	// The first reading after the beginning of time.Now is its own.
	before, now, found := strings.Cut(string(b), "\nfunc Now() Time {\n")
	body, after, ends := strings.Cut(now, "\n}\n")
	if !found || !ends || strings.Count(body, call) != 1 {
		return nil, errors.New("skew: time.Now of this version of Go is another than this package knows")
	}
	body = strings.Replace(body, call, call+"	sec, nsec = addSkew(sec, nsec)\n", 1)
	files := map[string]string{
		"time.go": before + "\nfunc Now() Time {\n" + body + "\n}\n" + after, "skew.go": offset}
	replace := map[string]string{}
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			return nil, err
		}
		replace[filepath.Join(source, name)] = path
	}
	list, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return nil, err
	}
	x := &Builder{dir: dir, overlay: filepath.Join(dir, "overlay.json")}
	return x, os.WriteFile(x.overlay, list, 0o600)
}

// Build builds a package with a wrong clock, and returns the path of the program. The
// first build compiles all packages, which takes minutes. Others only link.
func (x *Builder) Build(pkg string, by time.Duration) (string, error) {
	path := filepath.Join(x.dir, filepath.Base(pkg)+by.String())
	c := exec.Command("go", "build", "-trimpath", "-overlay", x.overlay, "-ldflags", "-s -w -X time.skew="+by.String(),
		"-o", path, pkg)
	c.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := c.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building %s: %w\n%s", pkg, err, out)
	}
	return path, nil
}
