//go:build unix

package mongotest

import (
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// TestWithDatabase replaces the database of a connection string, and takes its
// password out.
func TestWithDatabase(t *testing.T) {
	for _, c := range []struct{ uri, want, password string }{
		{"mongodb://db", "mongodb://db/x", ""},
		{"mongodb://db/", "mongodb://db/x", ""},
		{"mongodb://a:1,b:2/y?replicaSet=rs0", "mongodb://a:1,b:2/x?replicaSet=rs0", ""},
		{"mongodb://u@db/y", "mongodb://u@db/x?authSource=y", ""},
		{"mongodb://u:p%2Fq+r@db", "mongodb://u@db/x?authSource=admin", "p/q+r"},
		{"mongodb+srv://u:p@db/?tls=true&authSource=z", "mongodb+srv://u@db/x?tls=true&authSource=z", "p"},
	} {
		got, password, err := withDatabase(c.uri, "x")
		if err != nil || got != c.want || password != c.password {
			t.Errorf("%s: %s, %q, %v, want %s, %q", c.uri, got, password, err, c.want, c.password)
		}
	}
	for _, uri := range []string{"", "db", "mongodb://u:%zz@db"} {
		if _, _, err := withDatabase(uri, "x"); err == nil {
			t.Errorf("%q is accepted", uri)
		} else if strings.Contains(err.Error(), "zz") {
			t.Errorf("the error contains the password: %v", err)
		}
	}
}

// TestBuildAndStop builds the stand-in from several goroutines, starts it twice in
// one directory, one after the other, and ends it by closing its standard input.
func TestBuildAndStop(t *testing.T) {
	paths := make([]string, 3)
	var all sync.WaitGroup
	for i := range paths {
		all.Go(func() {
			var err error
			if paths[i], err = Build(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if paths[0] == "" || paths[0] != paths[1] || paths[0] != paths[2] || !filepath.IsAbs(paths[0]) {
		t.Fatalf("different builds: %q", paths)
	}
	dir := t.TempDir()
	for range 2 {
		uri, stop, err := Start(exec.Command(paths[0], "-dir", dir))
		if err != nil || !strings.HasPrefix(uri, "mongodb://127.0.0.1:") {
			t.Fatal(uri, err)
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
	}
	if _, _, err := Start(exec.Command(paths[0], "-listen", "nowhere")); err == nil {
		t.Error("an invalid address is accepted")
	}
}
