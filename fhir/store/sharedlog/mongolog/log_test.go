package mongolog

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"

	"pulsegate/fhir/store/sharedlog"
	"pulsegate/fhir/store/sharedlog/mongolog/mongotest"
)

// testSegment keeps segments small, because the stand-in scans a collection at
// each look.
const testSegment = 32

// testOptions returns options for a database of this test.
func testOptions(t testing.TB) Options {
	t.Helper()
	d := mongotest.New(t)
	return Options{URI: d.URI, Password: d.Password, Standalone: d.Standalone, Segment: testSegment,
		Timeout: time.Minute}
}

// openLog opens a log and closes it at the end of the test.
func openLog(t testing.TB, o Options) *Log {
	t.Helper()
	l, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return l
}

// chain makes entries, each built on the one before.
type chain struct {
	at sharedlog.Position
}

// entry returns an entry after the position.
func (c *chain) entry(rows []byte) *sharedlog.Entry {
	e := &sharedlog.Entry{
		Index: c.at.Index + 1, Parent: c.at.Valid, Epoch: 1, Schema: 3, Node: "a",
		First: c.at.Index + 1, Count: 1, Touched: []string{"patient/p1"}, Rows: rows,
	}
	_, _ = rand.Read(e.Nonce[:])
	return e
}

// add appends an entry with the rows, and moves the position.
func (c *chain) add(t testing.TB, l *Log, rows []byte) *sharedlog.Entry {
	t.Helper()
	e := c.entry(rows)
	if err := l.Append(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	c.at, _ = c.at.Next(e, e.Sum())
	return e
}

// grow adds n small entries and returns the position after each.
func (c *chain) grow(t testing.TB, l *Log, n int) (out []sharedlog.Position) {
	t.Helper()
	for i := range n {
		c.add(t, l, fmt.Appendf(nil, "rows %d", i))
		out = append(out, c.at)
	}
	return out
}

// read returns the entries after p.
func read(t testing.TB, l *Log, p sharedlog.Position) ([]*sharedlog.Entry, error) {
	t.Helper()
	var out []*sharedlog.Entry
	err := l.Read(t.Context(), p, func(e *sharedlog.Entry, sum sharedlog.Hash) bool {
		if e.Sum() != sum {
			t.Errorf("entry %d does not have the hash that Read reports", e.Index)
		}
		out = append(out, e)
		return true
	})
	return out, err
}

// mustRead returns the entries after p and fails the test if Read fails.
func mustRead(t testing.TB, l *Log, p sharedlog.Position) []*sharedlog.Entry {
	t.Helper()
	out, err := read(t, l, p)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// random returns n random bytes.
func random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b)
	return b
}

// update changes fields of one stored document.
func update(t testing.TB, c *mongo.Collection, id string, fields bson.D) {
	t.Helper()
	if err := set(t.Context(), c, id, fields); err != nil {
		t.Fatalf("updating %s in %s: %v", id, c.Name(), err)
	}
}

// TestSegmentBorders reads from every position over three segments, and stops
// after each entry.
func TestSegmentBorders(t *testing.T) {
	o := testOptions(t)
	l := openLog(t, o)
	c := &chain{}
	at := append([]sharedlog.Position{{}}, c.grow(t, l, 2*testSegment+1)...)
	for i, p := range at {
		got := mustRead(t, l, p)
		if len(got) != len(at)-1-i {
			t.Fatalf("%d entries after %d, want %d", len(got), i, len(at)-1-i)
		}
		for j, e := range got {
			if e.Index != uint64(i+j+1) || !bytes.Equal(e.Rows, fmt.Appendf(nil, "rows %d", i+j)) {
				t.Fatalf("after %d: entry %d has the place %d and the rows %q", i, j, e.Index, e.Rows)
			}
		}
		n := 0
		if err := l.Read(t.Context(), p,
			func(*sharedlog.Entry, sharedlog.Hash) bool { n++; return false }); err != nil {
			t.Fatal(err)
		}
		if n > 1 {
			t.Errorf("Read went on after fn returned false")
		}
	}
	names, err := l.segments(t.Context())
	if err != nil || len(names) != 3 {
		t.Errorf("segments %v, %v: want 3", names, err)
	}
	// Another process takes the size of segments from the database.
	o.Segment = 64
	if other := openLog(t, o); other.segment != testSegment || len(mustRead(t, other, at[31])) != len(at)-32 {
		t.Errorf("another process has segments of %d entries", other.segment)
	}
}

// TestGapEndsRead appends behind an empty place, within a segment and at its
// border.
func TestGapEndsRead(t *testing.T) {
	l := openLog(t, testOptions(t))
	c := &chain{}
	at := c.grow(t, l, testSegment-3)
	for range 3 {
		first := c.entry([]byte("first"))
		later := *c
		later.at, _ = later.at.Next(first, first.Sum())
		second := later.entry([]byte("second"))
		if err := l.Append(t.Context(), second); err != nil {
			t.Fatal(err)
		}
		p := c.at
		if got := mustRead(t, l, p); len(got) != 0 {
			t.Fatalf("after %d, Read returns %d entries behind a gap", p.Index, len(got))
		}
		if err := l.Append(t.Context(), first); err != nil {
			t.Fatal(err)
		}
		if got := mustRead(t, l, p); len(got) != 2 {
			t.Fatalf("after %d, Read returns %d entries, want 2", p.Index, len(got))
		}
		c.at, _ = later.at.Next(second, second.Sum())
	}
	if got := mustRead(t, l, at[0]); len(got) != testSegment-3-1+6 {
		t.Errorf("%d entries", len(got))
	}
}

// TestTaken appends to a place that has an entry: the same one, another one, and
// one with the same nonce and other content.
func TestTaken(t *testing.T) {
	l := openLog(t, testOptions(t))
	c := &chain{}
	before := *c
	e := c.add(t, l, []byte("rows"))
	if err := l.Append(t.Context(), e); err != nil {
		t.Errorf("the same entry again: %v", err)
	}
	if err := l.Append(t.Context(), before.entry([]byte("rows"))); !errors.Is(err, sharedlog.ErrTaken) {
		t.Errorf("another entry: %v, want ErrTaken", err)
	}
	forged := *e
	forged.Rows = []byte("other")
	if err := l.Append(t.Context(), &forged); err == nil || errors.Is(err, sharedlog.ErrTaken) {
		t.Errorf("the nonce of an entry with other rows: %v, want an error", err)
	}
	if got := mustRead(t, l, sharedlog.Position{}); len(got) != 1 || got[0].Nonce != e.Nonce {
		t.Errorf("the log has %d entries", len(got))
	}
}

// TestDiverged reads from positions that are not in the log.
func TestDiverged(t *testing.T) {
	l := openLog(t, testOptions(t))
	c := &chain{}
	at := c.grow(t, l, testSegment+2)
	for _, i := range []int{0, testSegment - 2, testSegment - 1, testSegment, testSegment + 1} {
		p := at[i]
		p.Last[0] ^= 1
		if _, err := read(t, l, p); !errors.Is(err, sharedlog.ErrDiverged) {
			t.Errorf("another hash at %d: %v, want ErrDiverged", p.Index, err)
		}
	}
	for _, n := range []uint64{1, testSegment, 3 * testSegment} {
		p := c.at
		p.Index += n
		if _, err := read(t, l, p); !errors.Is(err, sharedlog.ErrDiverged) {
			t.Errorf("%d places beyond the end: %v, want ErrDiverged", n, err)
		}
	}
	if _, err := read(t, l, sharedlog.Position{Last: sharedlog.Hash{1}}); !errors.Is(err, sharedlog.ErrDiverged) {
		t.Errorf("a hash before the beginning: %v, want ErrDiverged", err)
	}
	if got, err := read(t, l, c.at); err != nil || len(got) != 0 {
		t.Errorf("at the end: %d entries, %v", len(got), err)
	}
}

// TestDamagedEntry changes each field of a stored entry. Read must not return it.
func TestDamagedEntry(t *testing.T) {
	l := openLog(t, testOptions(t))
	c := &chain{}
	c.add(t, l, []byte("rows"))
	e := c.add(t, l, random(maxSmall))
	segment := l.db.Collection(l.segmentName(1))
	fields := map[string]any{
		"p": random(32), "n": random(16), "e": int64(2), "s": int64(9), "w": "b", "t": int64(7), "c": int64(0),
		"k": []string{"patient/p2"}, "b": []byte("swor"), "x": true, "h": random(32),
	}
	for name, value := range fields {
		t.Run(name, func(t *testing.T) {
			var raw bson.M
			if err := segment.FindOne(t.Context(), byID(place(1))).Decode(&raw); err != nil {
				t.Fatal(err)
			}
			update(t, segment, place(1), bson.D{{Key: name, Value: value}})
			if got, err := read(t, l, sharedlog.Position{}); err == nil || len(got) != 0 {
				t.Errorf("%d entries, %v: want an error", len(got), err)
			}
			if _, err := segment.ReplaceOne(t.Context(), byID(place(1)), raw); err != nil {
				t.Fatal(err)
			}
		})
	}
	if got := mustRead(t, l, sharedlog.Position{}); len(got) != 2 || !bytes.Equal(got[1].Rows, e.Rows) {
		t.Fatalf("%d entries", len(got))
	}
	update(t, segment, place(2), bson.D{{Key: "l.b", Value: random(maxSmall)}})
	if got, err := read(t, l, sharedlog.Position{}); err == nil || len(got) != 1 {
		t.Errorf("other rows of a large entry: %d entries, %v: want an error", len(got), err)
	}
}

// TestSizes appends entries on both sides of each limit, with smaller parts. The
// suite appends entries with parts of 12 MB.
func TestSizes(t *testing.T) {
	const inline = 40_000
	l := openLog(t, testOptions(t))
	l.inline = inline
	c := &chain{}
	var want [][32]byte
	sizes := []int{0, 1, maxSmall - 200, maxSmall, maxSmall + 1, inline, inline + 1, 2*inline + 5}
	for _, n := range sizes {
		e := c.add(t, l, random(n))
		want = append(want, sha256.Sum256(e.Rows))
	}
	for i, e := range mustRead(t, l, sharedlog.Position{}) {
		if len(e.Rows) != sizes[i] || sha256.Sum256(e.Rows) != want[i] || len(e.Touched) != 1 {
			t.Errorf("entry %d: %d bytes of rows and %d guards, want %d and 1", e.Index, len(e.Rows),
				len(e.Touched), sizes[i])
		}
	}
	n, err := l.db.Collection("log_parts").CountDocuments(t.Context(), bson.D{})
	if err != nil || n != 5 {
		t.Errorf("%d parts, %v: want 5", n, err)
	}
	if first, last, err := l.Bounds(t.Context()); first != 1 || last != uint64(len(sizes)) || err != nil {
		t.Errorf("bounds %d, %d, %v", first, last, err)
	}
}

// TestDocumentLimit encodes the largest entries that are accepted. MongoDB's limit
// is 16 MB, which the stand-in does not have.
func TestDocumentLimit(t *testing.T) {
	const mongoLimit = 16 << 20
	e := &sharedlog.Entry{Index: 1, Node: "a", Rows: make([]byte, maxInline)}
	for size := 0; size+100+16 < maxTouched-1; size += 100 + 16 {
		e.Touched = append(e.Touched, string(make([]byte, 100)))
	}
	d, parts, err := encode(e, sharedlog.Hash{}, maxInline)
	if err != nil || len(parts) != 0 {
		t.Fatal(len(parts), err)
	}
	if b, err := bson.Marshal(d); err != nil || len(b) > mongoLimit {
		t.Errorf("an entry of %d bytes, %v", len(b), err)
	}
	e.Touched = append(e.Touched, string(make([]byte, 200)))
	if _, _, err := encode(e, sharedlog.Hash{}, maxInline); !errors.Is(err, sharedlog.ErrTooLarge) {
		t.Errorf("more guards: %v, want ErrTooLarge", err)
	}
	e.Touched, e.Rows = nil, make([]byte, sharedlog.MaxRows)
	if d, parts, err = encode(e, sharedlog.Hash{}, maxInline); err != nil || len(parts) != 11 {
		t.Fatal(len(parts), err)
	}
	b, err := bson.Marshal(d)
	if err != nil || len(b) > 1<<10 {
		t.Errorf("an entry of %d bytes, %v", len(b), err)
	}
	for _, p := range parts {
		if b, err := bson.Marshal(partDoc{partID(d.ID, d.Large.Parts[0]), p}); err != nil || len(b) > mongoLimit {
			t.Errorf("a part of %d bytes, %v", len(b), err)
		}
	}
	e.Rows = make([]byte, sharedlog.MaxRows+1)
	if _, _, err := encode(e, sharedlog.Hash{}, maxInline); !errors.Is(err, sharedlog.ErrTooLarge) {
		t.Errorf("more rows: %v, want ErrTooLarge", err)
	}
	for _, n := range []uint64{0, 1<<62 + 1} {
		e := &sharedlog.Entry{Index: n}
		if _, _, err := encode(e, e.Sum(), maxInline); err == nil {
			t.Errorf("the place %d is accepted", n)
		}
	}
}

// TestIdentity replaces the identity by compare-and-swap.
func TestIdentity(t *testing.T) {
	o := testOptions(t)
	l, other := openLog(t, o), openLog(t, o)
	id, err := l.Identity(t.Context())
	if err != nil || id != (sharedlog.Identity{}) {
		t.Fatalf("an empty log has the identity %v, %v", id, err)
	}
	one := sharedlog.Identity{Cluster: [16]byte{1, 2}, Epoch: 1, Schema: 3}
	two := sharedlog.Identity{Cluster: one.Cluster, Epoch: 2, Schema: 3}
	steps := []struct {
		log      *Log
		old, now sharedlog.Identity
		want     bool
	}{
		{l, one, two, false},
		{l, sharedlog.Identity{}, one, true},
		{other, sharedlog.Identity{}, two, false},
		{other, one, two, true},
		{l, one, two, false},
		{l, two, one, true},
	}
	current := sharedlog.Identity{}
	for i, s := range steps {
		ok, err := s.log.SetIdentity(t.Context(), s.old, s.now)
		if err != nil || ok != s.want {
			t.Errorf("step %d: %v, %v, want %v", i, ok, err, s.want)
		}
		if ok {
			current = s.now
		}
		if id, err := l.Identity(t.Context()); err != nil || id != current {
			t.Errorf("step %d: identity %v, %v, want %v", i, id, err, current)
		}
	}
}

// TestIdentityRace lets processes replace the identity at the same time. Exactly
// one may succeed for each epoch.
func TestIdentityRace(t *testing.T) {
	o := testOptions(t)
	logs := []*Log{openLog(t, o), openLog(t, o), openLog(t, o)}
	old := sharedlog.Identity{}
	for round := range 5 {
		type result struct {
			now sharedlog.Identity
			ok  bool
			err error
		}
		results := make(chan result)
		for i, l := range logs {
			now := sharedlog.Identity{Cluster: [16]byte{byte(i + 1)}, Epoch: uint64(round + 1)}
			go func() {
				ok, err := l.SetIdentity(t.Context(), old, now)
				results <- result{now, ok, err}
			}()
		}
		var won []sharedlog.Identity
		for range logs {
			r := <-results
			if r.err != nil {
				t.Fatal(r.err)
			}
			if r.ok {
				won = append(won, r.now)
			}
		}
		now, err := logs[0].Identity(t.Context())
		if err != nil || len(won) != 1 || won[0] != now {
			t.Fatalf("%d processes replaced the identity, which is %v, %v", len(won), now, err)
		}
		old = now
	}
}
