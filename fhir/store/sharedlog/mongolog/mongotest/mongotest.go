//go:build unix

// Package mongotest gives tests a MongoDB database. It builds the stand-in
// conformance/ferretd once per version and user, and starts it once per test
// binary. If PULSEGATE_TEST_MONGODB holds the connection string of a replica set,
// tests use databases there instead. The user needs the role readWrite on
// databases whose names begin with "pulsegate_test_".
package mongotest

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
)

// Variable names the environment variable with the connection string of a replica
// set.
const Variable = "PULSEGATE_TEST_MONGODB"

// Database is a database of one test.
type Database struct {
	URI        string // with the database, without a password
	Password   string
	Standalone bool // the server is not a member of a replica set: it is the stand-in
}

// New returns an empty database, which is removed at the end of the test.
func New(t testing.TB) Database {
	t.Helper()
	base := os.Getenv(Variable)
	standalone := base == ""
	if standalone {
		s, err := shared()
		if err != nil {
			t.Fatalf("starting the stand-in for MongoDB: %v", err)
		}
		base = s.uri
	}
	d, remove, err := Empty(base)
	if err != nil {
		t.Fatal(err)
	}
	d.Standalone = standalone
	t.Cleanup(func() {
		if err := remove(); err != nil {
			t.Errorf("removing a database: %v", err)
		}
	})
	return d
}

// Empty returns a new database of the server with a connection string, and a function
// that removes it.
func Empty(base string) (Database, func() error, error) {
	name := "pulsegate_test_" + strings.ToLower(rand.Text())
	uri, password, err := withDatabase(base, name)
	d := Database{URI: uri, Password: password}
	return d, func() error { return d.drop(name) }, err
}

// drop removes the database.
func (d Database) drop(name string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	o := options.Client().ApplyURI(d.URI)
	if o.Auth != nil && d.Password != "" {
		o.Auth.Password, o.Auth.PasswordSet = d.Password, true
	}
	client, err := mongo.Connect(o)
	if err != nil {
		return errors.New("the connection string is not valid")
	}
	defer func() { _ = client.Disconnect(ctx) }()
	return client.Database(name).Drop(ctx)
}

// withDatabase returns a connection string with another database and without its
// password, and the password.
func withDatabase(uri, name string) (string, string, error) {
	scheme, rest, ok := strings.Cut(uri, "://")
	if !ok {
		return "", "", fmt.Errorf("%s is not a connection string", Variable)
	}
	rest, query, _ := strings.Cut(rest, "?")
	hosts, source, _ := strings.Cut(rest, "/")
	password := ""
	if i := strings.LastIndexByte(hosts, '@'); i >= 0 {
		user, secret, _ := strings.Cut(hosts[:i], ":")
		var err error
		if password, err = url.PathUnescape(secret); err != nil {
			return "", "", fmt.Errorf("the password in %s is not escaped", Variable)
		}
		hosts = user + hosts[i:]
		if source == "" {
			source = "admin"
		}
		if !strings.Contains(strings.ToLower(query), "authsource=") {
			query = strings.TrimPrefix(query+"&authSource="+source, "&")
		}
	}
	if query != "" {
		query = "?" + query
	}
	return scheme + "://" + hosts + "/" + name + query, password, nil
}

// standIn is a running stand-in.
type standIn struct {
	uri string
	// stop ends it. It also keeps its standard input open, which the garbage collector
	// would close otherwise.
	stop func() error
}

// shared starts the stand-in that this process shares. It ends with this process,
// because its standard input does.
var shared = sync.OnceValues(func() (s standIn, err error) {
	path, err := Build(context.Background())
	if err == nil {
		s.uri, s.stop, err = Start(exec.Command(path))
	}
	return s, err
})

// Start starts the stand-in and returns its address when it is ready. It ends when
// stop is called, or when this process ends.
func Start(c *exec.Cmd) (uri string, stop func() error, err error) {
	in, err := c.StdinPipe()
	if err != nil {
		return "", nil, err
	}
	out, err := c.StdoutPipe()
	if err != nil {
		return "", nil, err
	}
	c.Stderr = os.Stderr
	if err := c.Start(); err != nil {
		return "", nil, err
	}
	line, err := bufio.NewReader(io.LimitReader(out, 1<<10)).ReadString('\n')
	if err != nil {
		_ = in.Close()
		return "", nil, errors.Join(errors.New("ferretd ended before it was ready"), c.Wait())
	}
	return strings.TrimSpace(line), func() error { return errors.Join(in.Close(), c.Wait()) }, nil
}

// Build returns the path of the stand-in. It builds it if this user's cache does
// not have it yet. Other processes wait for it.
func Build(ctx context.Context) (string, error) {
	source, err := sourceDir(ctx)
	if err != nil {
		return "", err
	}
	key, err := buildKey(source)
	if err != nil {
		return "", err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, "pulsegate")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	path := filepath.Join(dir, "ferretd-"+key)
	lock, err := os.OpenFile(filepath.Join(dir, "ferretd.lock"), os.O_CREATE|os.O_RDWR, 0o600)
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
		return "", fmt.Errorf("building conformance/ferretd: %w\n%s", err, out)
	}
	return path, os.Rename(path+".new", path)
}

// sourceDir returns the directory of the stand-in's module.
func sourceDir(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("go env GOMOD: %w", err)
	}
	dir := filepath.Join(filepath.Dir(strings.TrimSpace(string(out))), "conformance", "ferretd")
	if _, err := os.Stat(filepath.Join(dir, "go.mod")); err != nil {
		return "", fmt.Errorf("the stand-in for MongoDB is not in this module: %w", err)
	}
	return dir, nil
}

// buildKey identifies what the binary is made of.
func buildKey(source string) (string, error) {
	h := sha256.New()
	_, _ = io.WriteString(h, runtime.Version()+runtime.GOOS+runtime.GOARCH)
	for _, name := range []string{"go.mod", "go.sum", "main.go"} {
		b, err := os.ReadFile(filepath.Join(source, name))
		if err != nil {
			return "", err
		}
		_, _ = h.Write(b)
	}
	return hex.EncodeToString(h.Sum(nil)[:8]), nil
}
