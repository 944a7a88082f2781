// Package upgrade tests a rolling upgrade with two binaries: the one of this version, and
// one that also reads and writes a newer schema of rows (tag pulsegate_nextschema).
package upgrade

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"pulsegate/conformance/blackbox"
	"pulsegate/conformance/clusterrun"
	"pulsegate/fhir/cluster/hints/redistest"
	"pulsegate/fhir/store/pebblestore"
	"pulsegate/fhir/store/sharedlog"
	"pulsegate/fhir/store/sharedlog/mongolog"
	"pulsegate/fhir/store/sharedlog/mongolog/mongotest"
)

var (
	oldBinary = flag.String("old", "", "the binary of this version; built if empty")
	newBinary = flag.String("new", "", "the binary with tag pulsegate_nextschema; built if empty")
)

// The schemas of the two binaries.
const (
	older = pebblestore.RowSchema
	newer = older + 1
)

// mark is the key of the row that only entries of the newer schema have.
const mark = "Nmark"

// patience bounds the waits.
const patience = 2 * time.Minute

// build returns a binary, built with a tag unless it is there.
func build(t *testing.T, have, tag string) string {
	t.Helper()
	if have != "" {
		return have
	}
	if testing.Short() {
		t.Skip("it builds two binaries")
	}
	bin := filepath.Join(t.TempDir(), "pulsegate")
	if out, err := exec.Command("go", "build", "-tags", tag, "-o", bin,
		"pulsegate/cmd/pulsegate").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return bin
}

// world is a cluster of servers of two binaries.
type world struct {
	t        *testing.T
	database mongotest.Database
	member   clusterrun.Member
	dir      string
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, database: mongotest.New(t), dir: t.TempDir()}
	w.member = clusterrun.Member{MongoDB: w.database.URI, Standalone: w.database.Standalone, Redis: redistest.URL(t)}
	var err error
	if w.member.KeyFile, err = clusterrun.WriteKey(w.dir); err != nil {
		t.Fatal(err)
	}
	if w.database.Password != "" {
		w.member.PasswordFile = filepath.Join(w.dir, "password")
		if err := os.WriteFile(w.member.PasswordFile, []byte(w.database.Password), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return w
}

// start starts a server with a binary on the data directory of its name.
func (w *world) start(name, bin string) (*blackbox.Server, error) {
	w.t.Helper()
	m := w.member
	port, err := blackbox.FreePort()
	if err != nil {
		w.t.Fatal(err)
	}
	m.Name, m.PeerListen = name, "127.0.0.1:"+strconv.Itoa(port)
	m.PeerAddress = m.PeerListen
	return blackbox.StartWith(bin, filepath.Join(w.dir, name), "127.0.0.1:0", append(m.Env(),
		"PULSEGATE_BASE_URL=http://localhost:8080", "PULSEGATE_PREFERRED=false"))
}

func (w *world) must(name, bin string) *blackbox.Server {
	w.t.Helper()
	s, err := w.start(name, bin)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = s.Kill() }) // it may have ended
	return s
}

// entries calls fn with the schema of each valid entry of the log and whether it has the mark.
func (w *world) entries(fn func(i int, node string, schema uint32, marked bool)) {
	w.t.Helper()
	log, err := mongolog.Open(w.t.Context(), mongolog.Options{URI: w.database.URI, Password: w.database.Password,
		Standalone: w.database.Standalone})
	if err != nil {
		w.t.Fatal(err)
	}
	defer log.Close(w.t.Context())
	d, err := zstd.NewReader(nil)
	if err != nil {
		w.t.Fatal(err)
	}
	defer d.Close()
	i, at := 0, sharedlog.Position{}
	err = log.Read(w.t.Context(), at, func(e *sharedlog.Entry, sum sharedlog.Hash) bool {
		var valid bool
		if at, valid = at.Next(e, sum); !valid {
			return true // it lost a race, and no process applies it
		}
		rows, err := d.DecodeAll(e.Rows, nil)
		if err != nil {
			w.t.Error(err)
		}
		fn(i, e.Node, e.Schema, bytes.Contains(rows, []byte(mark)))
		i++
		return true
	})
	if err != nil {
		w.t.Fatal(err)
	}
}

func add(t *testing.T, s *blackbox.Server, id string) {
	t.Helper()
	if err := s.Run(nil, "patient", "add", "--id", id, "--given", "Ada", "--family", "Beispiel"); err != nil {
		t.Fatal(err)
	}
}

func has(t *testing.T, s *blackbox.Server, ids ...string) {
	t.Helper()
	var out struct {
		Patients []struct {
			ID string `json:"id"`
		} `json:"patients"`
	}
	if err := s.Run(&out, "patient", "list"); err != nil || len(out.Patients) != len(ids) {
		t.Fatalf("patients %+v, want %q; %v", out, ids, err)
	}
}

// TestUpgrade runs both binaries side by side, raises the schema when the old one has left,
// and checks that the old one can neither join again nor damage its store.
func TestUpgrade(t *testing.T) {
	before, after := build(t, *oldBinary, ""), build(t, *newBinary, "pulsegate_nextschema")
	w := newWorld(t)
	old := w.must("old", before)
	one, two := w.must("one", after), w.must("two", after)
	add(t, old, "a")
	add(t, one, "b")
	has(t, old, "a", "b")
	has(t, two, "a", "b")
	w.entries(func(i int, node string, schema uint32, marked bool) {
		if schema != older || marked {
			t.Errorf("entry %d of %s has schema %d, marked %v", i, node, schema, marked)
		}
	})

	// The old one is alive.
	err := one.Run(nil, "cluster", "schema", "--raise")
	if err == nil || !strings.Contains(err.Error(), fmt.Sprint("old read no newer one than ", older)) {
		t.Fatalf("raised: %v", err)
	}
	if err := old.Stop(); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(patience); ; time.Sleep(100 * time.Millisecond) {
		if err = one.Run(nil, "cluster", "schema", "--raise"); err == nil {
			break
		}
		if !strings.Contains(err.Error(), "old") || time.Now().After(end) {
			t.Fatal(err)
		}
	}
	add(t, one, "c")
	add(t, two, "d")
	has(t, one, "a", "b", "c", "d")
	raised := map[string]bool{}
	w.entries(func(i int, node string, schema uint32, marked bool) {
		if schema == newer {
			raised[node] = true
		}
		if marked != (schema == newer) || len(raised) > 0 && schema != newer {
			t.Errorf("entry %d of %s has schema %d, marked %v", i, node, schema, marked)
		}
	})
	if len(raised) == 0 {
		t.Error("no entry has the newer schema")
	}

	// The old binary refuses, with its store and with an empty one, and damages nothing.
	for _, name := range []string{"old", "other", "one"} {
		if name == "one" {
			if err := one.Stop(); err != nil {
				t.Fatal(err)
			}
		}
		s, err := w.start(name, before)
		if err == nil {
			_ = s.Kill()
			t.Fatalf("the old binary starts on the directory of %s", name)
		}
		if !strings.Contains(err.Error(), fmt.Sprintf("schema %d, this program reads up to %d", newer, older)) {
			t.Errorf("the old binary on the directory of %s: %v", name, err)
		}
	}
	for _, name := range []string{"old", "one"} {
		s := w.must(name, after) // it is updated
		if strings.Contains(s.Log(), "joining from a snapshot") || strings.Contains(s.Log(), "discarded") {
			t.Errorf("%s has lost its copy:\n%s", name, s.Log())
		}
		has(t, s, "a", "b", "c", "d")
	}
}
