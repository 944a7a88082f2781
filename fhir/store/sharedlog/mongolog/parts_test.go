package mongolog

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/event"

	"pulsegate/fhir/store/sharedlog"
)

// smallParts is the size of parts in tests.
const smallParts = 20_000

// openParts opens a log with small parts.
func openParts(t testing.TB, o Options) *Log {
	t.Helper()
	l := openLog(t, o)
	l.inline = smallParts
	return l
}

// countParts returns the number of stored parts.
func countParts(t testing.TB, l *Log) int {
	t.Helper()
	n, err := l.db.Collection("log_parts").CountDocuments(t.Context(), bson.D{})
	if err != nil {
		t.Fatal(err)
	}
	return int(n)
}

// sweep removes parts and fails the test if their number is not want.
func sweep(t testing.TB, l *Log, want int) {
	t.Helper()
	if n, err := l.Sweep(t.Context()); err != nil || n != want {
		t.Errorf("%d parts removed, %v: want %d", n, err, want)
	}
}

// TestDamagedParts removes and changes parts, and the list of parts in the entry.
// Read must fail and return no entry.
func TestDamagedParts(t *testing.T) {
	l := openParts(t, testOptions(t))
	c := &chain{}
	e := c.add(t, l, random(2*smallParts+100))
	parts := l.db.Collection("log_parts")
	segment := l.db.Collection(l.segmentName(1))
	var docs []partDoc
	if err := l.all(t.Context(), parts, bson.D{}, nil, &docs); err != nil || len(docs) != 3 {
		t.Fatal(len(docs), err)
	}
	var stored entryDoc
	if err := segment.FindOne(t.Context(), byID(place(1))).Decode(&stored); err != nil {
		t.Fatal(err)
	}
	names := stored.Large.Parts
	fails := func(t *testing.T) {
		t.Helper()
		if got, err := read(t, l, sharedlog.Position{}); err == nil || len(got) != 0 {
			t.Errorf("%d entries, %v: want an error", len(got), err)
		}
	}
	for _, d := range docs {
		t.Run("missing", func(t *testing.T) {
			if _, err := parts.DeleteOne(t.Context(), byID(d.ID)); err != nil {
				t.Fatal(err)
			}
			fails(t)
			if _, err := parts.InsertOne(t.Context(), d); err != nil {
				t.Fatal(err)
			}
		})
		t.Run("changed", func(t *testing.T) {
			bad := bytes.Clone(d.Data)
			bad[len(bad)/2] ^= 1
			for _, data := range [][]byte{bad, d.Data[1:], append(bytes.Clone(d.Data), 0), nil} {
				update(t, parts, d.ID, bson.D{{Key: "b", Value: data}})
				fails(t)
			}
			update(t, parts, d.ID, bson.D{{Key: "b", Value: d.Data}})
		})
	}
	for name, list := range map[string][][]byte{
		"fewer parts": names[:2], "more parts": {names[0], names[1], names[2], names[0]},
		"another order": {names[1], names[0], names[2]}, "an unknown part": {names[0], names[1], random(32)},
	} {
		t.Run(name, func(t *testing.T) {
			update(t, segment, place(1), bson.D{{Key: "l.q", Value: list}})
			fails(t)
		})
	}
	update(t, segment, place(1), bson.D{{Key: "l.q", Value: names}})
	for _, size := range []int64{-1, 0, 5, sharedlog.MaxRows + 1, 1 << 60} {
		update(t, segment, place(1), bson.D{{Key: "l.z", Value: size}})
		fails(t)
	}
	update(t, segment, place(1), bson.D{{Key: "l.z", Value: int64(len(e.Rows))}})
	if got := mustRead(t, l, sharedlog.Position{}); len(got) != 1 || !bytes.Equal(got[0].Rows, e.Rows) {
		t.Error("the entry is not the one that was appended")
	}
}

// TestSweep removes parts whose place another entry took, and no others.
func TestSweep(t *testing.T) {
	l := openParts(t, testOptions(t))
	c := &chain{}
	before := *c
	kept := c.add(t, l, random(2*smallParts+100))
	lost := before.entry(random(3*smallParts + 100))
	if err := l.Append(t.Context(), lost); !errors.Is(err, sharedlog.ErrTaken) {
		t.Fatal(err)
	}
	// The parts of an entry on its way.
	coming := c.entry(random(smallParts + 100))
	doc, pieces, err := encode(coming, coming.Sum(), l.inline)
	if err != nil {
		t.Fatal(err)
	}
	for i, p := range pieces {
		if err := l.putPart(t.Context(), partID(doc.ID, doc.Large.Parts[i]), p); err != nil {
			t.Fatal(err)
		}
	}
	if n := countParts(t, l); n != 3+4+2 {
		t.Fatalf("%d parts", n)
	}
	sweep(t, l, 4)
	if err := l.Append(t.Context(), coming); err != nil {
		t.Fatal(err)
	}
	sweep(t, l, 0)
	if got := mustRead(t, l, sharedlog.Position{}); len(got) != 2 || !bytes.Equal(got[0].Rows, kept.Rows) ||
		!bytes.Equal(got[1].Rows, coming.Rows) {
		t.Errorf("%d entries, or other rows", len(got))
	}
	// The parts of an entry whose place went to one without parts.
	small := c.entry([]byte("small"))
	small.Index, small.Parent = 3, coming.Sum()
	if err := l.Append(t.Context(), small); err != nil {
		t.Fatal(err)
	}
	late := *small
	late.Nonce, late.Rows = [16]byte{1}, random(smallParts+100)
	if err := l.Append(t.Context(), &late); !errors.Is(err, sharedlog.ErrTaken) {
		t.Fatal(err)
	}
	sweep(t, l, 2)
	if n := countParts(t, l); n != 3+2 {
		t.Errorf("%d parts remain, want 5", n)
	}
}

// killVariable makes TestKilledBetweenPartsAndEntry the process that is killed.
const killVariable = "MONGOLOG_TEST_KILL"

// TestKilledBetweenPartsAndEntry kills a process when it has stored the parts of an
// entry and is about to insert the entry.
func TestKilledBetweenPartsAndEntry(t *testing.T) {
	if uri := os.Getenv(killVariable); uri != "" {
		appendAndDie(t, uri)
		return
	}
	o := testOptions(t)
	l := openParts(t, o)
	child := exec.Command(os.Args[0], "-test.run=^TestKilledBetweenPartsAndEntry$")
	child.Env = append(os.Environ(), killVariable+"="+o.URI, killVariable+"_PASSWORD="+o.Password)
	out, err := child.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("the process was not killed: %v\n%s", err, out)
	}
	if got := mustRead(t, l, sharedlog.Position{}); len(got) != 0 || countParts(t, l) != 3 {
		t.Fatalf("%d entries and %d parts, want 0 and 3", len(got), countParts(t, l))
	}
	sweep(t, l, 0) // the process may only have stopped
	c := &chain{}
	e := c.add(t, l, random(smallParts+100))
	sweep(t, l, 3)
	if got := mustRead(t, l, sharedlog.Position{}); len(got) != 1 || !bytes.Equal(got[0].Rows, e.Rows) {
		t.Errorf("%d entries", len(got))
	}
}

// appendAndDie appends an entry and kills this process when the insert of the entry
// is about to be sent.
func appendAndDie(t *testing.T, uri string) {
	o := Options{URI: uri, Password: os.Getenv(killVariable + "_PASSWORD"), Standalone: true}
	o.monitor = &event.CommandMonitor{Started: func(_ context.Context, e *event.CommandStartedEvent) {
		target, _ := e.Command.Lookup("insert").StringValueOK()
		if strings.HasPrefix(target, segmentPrefix+"0") {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	}}
	l := openParts(t, o)
	err := l.Append(t.Context(), (&chain{}).entry(random(2*smallParts+100)))
	t.Errorf("the process lives: %v", err)
}

// TestPartsAtOnce lets processes append the same large entry at the same time.
func TestPartsAtOnce(t *testing.T) {
	o := testOptions(t)
	e := (&chain{}).entry(random(4*smallParts + 100))
	var all sync.WaitGroup
	for range 4 {
		l := openParts(t, o)
		all.Go(func() {
			if err := l.Append(t.Context(), e); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	l := openParts(t, o)
	if got := mustRead(t, l, sharedlog.Position{}); len(got) != 1 || !bytes.Equal(got[0].Rows, e.Rows) {
		t.Errorf("%d entries", len(got))
	}
	sweep(t, l, 0)
}
