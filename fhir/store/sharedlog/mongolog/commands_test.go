package mongolog

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/event"
	"go.mongodb.org/mongo-driver/v2/mongo/readconcern"

	"pulsegate/fhir/store/sharedlog"
)

// recorder records the commands that the driver sends.
type recorder struct {
	mu       sync.Mutex
	commands []bson.Raw
}

func (r *recorder) monitor() *event.CommandMonitor {
	return &event.CommandMonitor{Started: func(_ context.Context, e *event.CommandStartedEvent) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.commands = append(r.commands, slices.Clone(e.Command))
	}}
}

// take returns the commands since the last call.
func (r *recorder) take() []bson.Raw {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := r.commands
	r.commands = nil
	return out
}

// text returns the string at a path of a command, or "".
func text(c bson.Raw, path ...string) string {
	s, _ := c.Lookup(path...).StringValueOK()
	return s
}

// describe returns a command, its collection and its concern.
func describe(c bson.Raw) string {
	elements, _ := c.Elements()
	name := elements[0].Key()
	concern := text(c, "readConcern", "level")
	if concern == "" {
		concern = text(c, "writeConcern", "w")
		if journal, ok := c.Lookup("writeConcern", "j").BooleanOK(); ok && journal {
			concern += " journal"
		}
	}
	return strings.TrimSpace(fmt.Sprintf("%s %s %s", name, text(c, name), concern))
}

func describeAll(commands []bson.Raw) (out []string) {
	for _, c := range commands {
		out = append(out, describe(c))
	}
	return out
}

// recorded opens a log as on a replica set, and records its commands.
func recorded(t *testing.T) (*Log, *recorder) {
	t.Helper()
	o := testOptions(t)
	r := &recorder{}
	o.monitor = r.monitor()
	l := openLog(t, o)
	l.strong = readconcern.Linearizable() // which the stand-in ignores
	l.inline = smallParts
	r.take()
	return l, r
}

// TestCommands compares the commands of each operation. An operation that is a
// single command makes one round trip.
func TestCommands(t *testing.T) {
	l, r := recorded(t)
	c := &chain{}
	segment := l.segmentName(1)
	check := func(name string, want ...string) {
		t.Helper()
		if got := describeAll(r.take()); !slices.Equal(got, want) {
			t.Errorf("%s sends %q, want %q", name, got, want)
		}
	}
	e := c.add(t, l, []byte("rows"))
	check("Append", "insert "+segment+" majority journal")
	if err := l.Append(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	check("Append of a stored entry", "insert "+segment+" majority journal", "find "+segment+" linearizable")
	mustRead(t, l, c.at)
	check("Read at the end", "find "+segment+" linearizable")
	before := c.at
	c.grow(t, l, 3)
	r.take()
	mustRead(t, l, before)
	check("Read of small entries", "find "+segment+" linearizable")
	before = c.at
	large := c.add(t, l, random(smallParts+100))
	check("Append of a large entry", "insert log_parts majority journal", "insert log_parts majority journal",
		"insert "+segment+" majority journal")
	mustRead(t, l, before)
	check("Read of a large entry", "find "+segment+" linearizable", "find "+segment+" majority",
		"find log_parts majority", "find log_parts majority")
	if err := l.Append(t.Context(), large); err != nil {
		t.Fatal(err)
	}
	check("Append of a stored large entry", "insert log_parts majority journal", "find log_parts linearizable",
		"insert log_parts majority journal", "find log_parts linearizable",
		"insert "+segment+" majority journal", "find "+segment+" linearizable")
	c.grow(t, l, testSegment-int(c.at.Index)-1)
	r.take()
	mustRead(t, l, c.at)
	check("Read at the end of a segment", "find "+l.segmentName(testSegment)+" linearizable",
		"find "+segment+" linearizable")
	if _, err := l.SetIdentity(t.Context(), sharedlog.Identity{}, sharedlog.Identity{Epoch: 1}); err != nil {
		t.Fatal(err)
	}
	check("SetIdentity", "find log_identity linearizable", "insert log_identity majority journal")
}

// TestEveryCommand runs every operation, and checks all commands: writes go to a
// majority and are not retried, and reads are of what a majority has.
func TestEveryCommand(t *testing.T) {
	l, r := recorded(t)
	l.opt.Grace = -1
	s := l.Snapshots()
	c := &chain{}
	c.add(t, l, random(smallParts+100))
	c.grow(t, l, 2*testSegment)
	mustRead(t, l, sharedlog.Position{})
	m, content := manifest(1, random(1000))
	steps := []func() error{
		func() error { return l.Truncate(t.Context(), c.at.Index) },
		func() error { _, err := l.Sweep(t.Context()); return err },
		func() error { _, err := l.Identity(t.Context()); return err },
		func() error { return s.Put(t.Context(), m, content.open) },
		func() error { _, err := s.List(t.Context()); return err },
		func() error { return s.Remove(t.Context(), m) },
		func() error { return l.readLayout(t.Context()) },
	}
	for i, step := range steps {
		if err := step(); err != nil {
			t.Fatalf("step %d: %v", i, err)
		}
	}
	seen := map[string]bool{}
	for _, raw := range r.take() {
		text := describe(raw)
		name, _, _ := strings.Cut(text, " ")
		seen[name] = true
		switch name {
		case "insert", "update", "delete", "drop":
			if !strings.HasSuffix(text, " majority journal") {
				t.Errorf("%q is not written to a majority", text)
			}
			if _, err := raw.LookupErr("txnNumber"); err == nil {
				t.Errorf("%q can be retried by the driver", text)
			}
		case "find":
			if !strings.HasSuffix(text, " majority") && !strings.HasSuffix(text, " linearizable") {
				t.Errorf("%q reads what a majority may not have", text)
			}
		case "hello", "listCollections", "endSessions":
		default:
			t.Errorf("unexpected command %q", text)
		}
		single, _ := raw.Lookup("singleBatch").BooleanOK()
		if _, err := raw.LookupErr("maxTimeMS"); err != nil && single {
			t.Errorf("%q has no time limit on the server", text)
		}
		if mode := raw.Lookup("$readPreference", "mode"); mode.Type != 0 &&
			!strings.HasPrefix(mode.StringValue(), "primary") {
			t.Errorf("%q goes to a secondary", text)
		}
	}
	for _, name := range []string{"insert", "update", "delete", "drop", "find"} {
		if !seen[name] {
			t.Errorf("no command %s was sent", name)
		}
	}
}

// TestServerTime asks for the time of the server.
func TestServerTime(t *testing.T) {
	l := openLog(t, testOptions(t))
	before := time.Now().Truncate(time.Millisecond)
	at, trip, err := l.ServerTime(t.Context())
	after := time.Now()
	if err != nil || trip <= 0 || trip > after.Sub(before) {
		t.Errorf("round trip of %v, %v", trip, err)
	}
	if l.opt.Standalone && (at.Before(before) || at.After(after)) {
		t.Errorf("the stand-in, on this machine, has the time %v, not between %v and %v", at, before, after)
	}
}

// contents holds the files of a manifest by hash.
type contents map[sharedlog.Hash][]byte

func (c contents) open(f sharedlog.File) (io.ReadCloser, error) {
	b, ok := c[f.Sum]
	if !ok {
		return nil, errors.New("no such file")
	}
	return io.NopCloser(strings.NewReader(string(b))), nil
}
