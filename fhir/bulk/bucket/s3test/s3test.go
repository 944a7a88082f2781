//go:build unix

// Package s3test gives tests a bucket of an object store with the API of Amazon S3. It builds
// conformance/s3d once per version and user, and starts it once per test.
package s3test

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
)

// The access key of every server, and its region.
const (
	ID     = "test-key"
	Secret = "test-secret-of-no-use" //nolint:gosec // of servers that only tests start
	Region = "eu-test-1"
)

// Server is an object store with one bucket.
type Server struct {
	URL string // of the bucket
	dir string
}

// New starts an object store, which ends with the test. certificate is a PEM file with the
// certificate and the key for TLS; if it is empty, the server speaks http.
func New(t testing.TB, certificate string) *Server {
	t.Helper()
	path, err := build(t.Context())
	if err != nil {
		t.Fatalf("starting an object store: %v", err)
	}
	s := &Server{dir: t.TempDir()}
	c := exec.Command(path, "-dir", s.dir, "-id", ID, "-region", Region, "-certificate", certificate)
	c.Env = append(os.Environ(), "S3D_SECRET="+Secret)
	c.Stderr = os.Stderr
	in, err := c.StdinPipe() // the server ends when this is closed
	if err != nil {
		t.Fatal(err)
	}
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(in.Close(), c.Wait()); err != nil {
			t.Errorf("the object store: %v", err)
		}
	})
	line, err := bufio.NewReader(io.LimitReader(out, 1<<10)).ReadString('\n')
	if err != nil {
		t.Fatalf("the object store ended before it was ready: %v", err)
	}
	s.URL = strings.TrimSpace(line)
	return s
}

// Objects returns the content of all objects, by their names.
func (s *Server) Objects() (map[string]string, error) {
	out := map[string]string{}
	root := filepath.Join(s.dir, "objects", "exports")
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if d != nil && d.IsDir() && strings.HasPrefix(d.Name(), ".") { // of uploads that are not complete
			return fs.SkipDir
		}
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		name, _ := filepath.Rel(root, path)
		out[filepath.ToSlash(name)] = string(b)
		return err
	})
	return out, err
}

// Unfinished returns the number of files of multipart uploads that are not complete.
func (s *Server) Unfinished() (n int, err error) {
	err = filepath.WalkDir(filepath.Join(s.dir, "objects", "exports"),
		func(path string, d fs.DirEntry, err error) error {
			if err == nil && !d.IsDir() && strings.Contains(path, "/.sgwtmp/") {
				n++
			}
			return err
		})
	return n, err
}

// build returns the path of the server. It builds it if this user's cache does not have it
// yet. Other processes wait for it.
func build(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("go env GOMOD: %w", err)
	}
	source := filepath.Join(filepath.Dir(strings.TrimSpace(string(out))), "conformance", "s3d")
	h := sha256.New()
	_, _ = io.WriteString(h, runtime.Version()+runtime.GOOS+runtime.GOARCH) // never fails
	for _, name := range []string{"go.mod", "go.sum", "main.go"} {
		b, err := os.ReadFile(filepath.Join(source, name))
		if err != nil {
			return "", err
		}
		_, _ = h.Write(b)
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, "pulsegate")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	path := filepath.Join(dir, "s3d-"+hex.EncodeToString(h.Sum(nil)[:8]))
	lock, err := os.OpenFile(filepath.Join(dir, "s3d.lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return "", err
	}
	defer func() { _ = lock.Close() }() // also unlocks
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return "", err
	}
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	c := exec.CommandContext(ctx, "go", "build", "-trimpath", "-mod=readonly", "-o", path+".new", ".")
	c.Dir = source
	// Flags for the main module, such as -mod=vendor or -race, must not apply.
	c.Env = append(os.Environ(), "GOFLAGS=", "GOWORK=off", "CGO_ENABLED=0")
	if out, err := c.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building conformance/s3d: %w\n%s", err, out)
	}
	return path, os.Rename(path+".new", path)
}
