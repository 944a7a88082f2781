package logtest

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"pulsegate/fhir/store/sharedlog"
)

var logChecks = []check{
	{name: "places", run: on(places)},
	{name: "fields", run: on(fields)},
	{name: "again", run: on(again)},
	{name: "taken", run: on(taken)},
	{name: "gap", run: on(gap)},
	{name: "void", run: on(void)},
	{name: "stop", run: on(stop)},
	{name: "retained", run: on(retained)},
	{name: "diverged", run: on(diverged)},
	{name: "truncated", run: on(truncated)},
	{name: "identity", run: on(identity)},
	{name: "bounds", run: on(bounds)},
	{name: "sizes", run: on(sizes)},
	{name: "large", run: on(large), heavy: true},
	{name: "cancelled", run: on(cancelled)},
	{name: "closed", run: on(closed)},
	{name: "undurable", run: undurable, needs: func(s *Server) bool { return s.Undurable != nil }},
	{name: "restored", run: restored, needs: func(s *Server) bool { return s.Backup != nil }},
	{name: "tampered", run: tampered, needs: func(s *Server) bool { return s.TamperEntry != nil }},
	{name: "epochs", run: on(epochs), needs: func(s *Server) bool { return s.Epochs }},
}

// places appends entries at the places 1, 2 and 3, and reads them after each position.
func places(_ context.Context, a, b *client) error {
	if err := b.expect(sharedlog.Position{}); err != nil {
		return err
	}
	entries, err := a.fill(3)
	if err != nil {
		return err
	}
	for i := range len(entries) + 1 {
		if err := b.expect(at(entries[:i]), entries[i:]...); err != nil {
			return err
		}
	}
	return nil
}

// fields appends entries with unusual fields.
func fields(_ context.Context, a, b *client) error {
	full := entry(1, sharedlog.Hash{}, 10)
	full.Epoch, full.Schema, full.First, full.Count = 1<<40, 1<<31, 1<<50, 1<<33
	full.Node = "node \u00fc\x00 '\"$."
	full.Touched = []string{"", "Consent?patient=\u00e9\x00$.", "Consent?patient=\u00e9\x00$."}
	empty := entry(2, full.Sum(), 0)
	empty.Schema, empty.Node, empty.First, empty.Count, empty.Touched = 0, "", 0, 0, nil
	many := entry(3, empty.Sum(), 10)
	for i := range 10_000 {
		many.Touched = append(many.Touched, fmt.Sprintf("Observation?%s%d", strings.Repeat("identifier", 5), i))
	}
	return step(
		func() error { return a.append(full) },
		func() error { return a.append(empty) },
		func() error { return a.append(many) },
		func() error { return b.expect(sharedlog.Position{}, full, empty, many) },
	)
}

// again appends an entry again, as its writer does that got no answer.
func again(_ context.Context, a, b *client) error {
	e := entry(1, sharedlog.Hash{}, 100)
	next := entry(2, e.Sum(), 100)
	return step(
		func() error { return a.append(e) },
		func() error { return a.append(e) },
		func() error { return b.append(e) },
		func() error { return b.append(next) },
		func() error { return a.append(e) },
		func() error { return b.expect(sharedlog.Position{}, e, next) },
	)
}

// taken appends two entries at one place.
func taken(_ context.Context, a, b *client) error {
	e, other := entry(1, sharedlog.Hash{}, 100), entry(1, sharedlog.Hash{}, 100)
	alike := *e
	alike.Nonce = other.Nonce // an entry with the same rows is another one
	return step(
		func() error { return a.append(e) },
		func() error { return b.refuse(other, sharedlog.ErrTaken) },
		func() error { return b.refuse(other, sharedlog.ErrTaken) },
		func() error { return a.refuse(&alike, sharedlog.ErrTaken) },
		func() error { return a.append(e) },
		func() error { return b.expect(sharedlog.Position{}, e) },
	)
}

// gap leaves a place free, which ends a Read until it is filled.
func gap(_ context.Context, a, b *client) error {
	e1 := entry(1, sharedlog.Hash{}, 100)
	e2 := entry(2, e1.Sum(), 100)
	e3 := entry(3, e2.Sum(), 100)
	return step(
		func() error { return a.append(e3) },
		func() error { return b.expect(sharedlog.Position{}) },
		func() error { return a.append(e1) },
		func() error { return b.expect(sharedlog.Position{}, e1) },
		func() error { return b.expect(at([]*sharedlog.Entry{e1})) },
		func() error { return a.append(e3) },
		func() error { return b.append(e2) },
		func() error { return b.expect(at([]*sharedlog.Entry{e1}), e2, e3) },
		func() error { return a.expect(sharedlog.Position{}, e1, e2, e3) },
	)
}

// void fills the place of an entry that was not stored, on which a stored one builds.
func void(_ context.Context, a, b *client) error {
	e1 := entry(1, sharedlog.Hash{}, 100)
	missing := entry(2, e1.Sum(), 100)
	e3 := entry(3, missing.Sum(), 100)
	e2 := entry(2, e1.Sum(), 100)
	e4 := entry(4, e2.Sum(), 100)
	err := step(
		func() error { return a.append(e1) },
		func() error { return a.append(e3) },
		func() error { return b.append(e2) },
		func() error { return a.refuse(missing, sharedlog.ErrTaken) },
		func() error { return a.append(e4) },
		func() error { return b.expect(sharedlog.Position{}, e1, e2, e3, e4) },
	)
	if err != nil {
		return err
	}
	var p sharedlog.Position
	var valid []uint64
	err = b.Read(b.ctx, p, func(e *sharedlog.Entry, sum sharedlog.Hash) bool {
		next, ok := p.Next(e, sum)
		if p = next; ok {
			valid = append(valid, e.Index)
		}
		return true
	})
	if err != nil {
		return err
	}
	if fmt.Sprint(valid) != "[1 2 4]" || p.Valid != e4.Sum() {
		return fmt.Errorf("valid entries %v, want 1, 2 and 4", valid)
	}
	// Position.Last is the hash of the void entry, and a Read goes on from there.
	return b.expect(sharedlog.Position{Index: 3, Last: e3.Sum(), Valid: e2.Sum()}, e4)
}

// stop ends a Read before the end of the log.
func stop(_ context.Context, a, b *client) error {
	entries, err := a.fill(5)
	if err != nil {
		return err
	}
	calls := 0
	err = b.Read(b.ctx, at(entries[:1]), func(e *sharedlog.Entry, _ sharedlog.Hash) bool {
		calls++
		return e.Index < 3
	})
	if err != nil || calls != 2 {
		return fmt.Errorf("a Read that stops at the place 3: %d entries and error %v, want 2 and none", calls, err)
	}
	return nil
}

// retained changes the rows of an entry after its Append, and those that a Read
// returned. Neither changes the log.
func retained(_ context.Context, a, b *client) error {
	e := entry(1, sharedlog.Hash{}, 100)
	want := *e
	want.Rows = append([]byte(nil), e.Rows...)
	if err := a.append(e); err != nil {
		return err
	}
	e.Rows[0] ^= 1
	got, err := b.read(sharedlog.Position{})
	if err != nil {
		return err
	}
	for _, e := range got {
		e.Rows[1] ^= 1
	}
	return b.expect(sharedlog.Position{}, &want)
}

// diverged reads after positions that the log does not have.
func diverged(_ context.Context, a, b *client) error {
	entries, err := a.fill(4)
	if err != nil {
		return err
	}
	foreign := at(entries[:2])
	foreign.Last = entries[2].Sum()
	foreign.Valid = foreign.Last
	beyond := at(entries)
	beyond.Index++
	far := at(entries)
	far.Index += 1 << 20
	return step(
		func() error { return b.fails(foreign, sharedlog.ErrDiverged) },
		func() error { return b.fails(beyond, sharedlog.ErrDiverged) },
		func() error { return b.fails(far, sharedlog.ErrDiverged) },
		func() error { return b.expect(at(entries)) },
	)
}

// entriesForTruncation is more than a segment of an implementation in tests holds.
const entriesForTruncation = 150

// truncated removes the beginning of the log.
func truncated(_ context.Context, a, b *client) error {
	const n = entriesForTruncation
	entries, err := a.fill(n)
	if err != nil {
		return err
	}
	keep := uint64(n - 10)
	if err := a.Truncate(a.ctx, keep); err != nil {
		return fmt.Errorf("truncate: %w", err)
	}
	first, last, err := b.Bounds(b.ctx)
	if err != nil || first <= 1 || first > keep || last != n {
		return fmt.Errorf("bounds after Truncate(%d) of %d entries: %d to %d, error %v", keep, n, first, last, err)
	}
	edge := at(entries[:first-1])
	late := entry(1, sharedlog.Hash{}, 100)
	return step(
		func() error { return b.expect(at(entries[:keep]), entries[keep:]...) },
		func() error { return b.expect(at(entries[:first]), entries[first:]...) },
		func() error { return b.fails(sharedlog.Position{}, sharedlog.ErrTruncated) },
		func() error { return b.fails(at(entries[:1]), sharedlog.ErrTruncated) },
		func() error { return b.fails(edge, sharedlog.ErrTruncated, sharedlog.ErrDiverged) },
		// A process that slept must not write to a place that nothing reads again.
		func() error { return a.refuse(late, sharedlog.ErrTruncated) },
		func() error { return b.refuse(late, sharedlog.ErrTruncated) },
		func() error { return a.bounded(first, n) },
		// A smaller place truncates nothing, and a greater one keeps the last entry.
		func() error { return a.Truncate(a.ctx, 1) },
		func() error { return a.bounded(first, n) },
		func() error { return a.Truncate(a.ctx, n+1000) },
		func() error { return b.expect(at(entries)) },
		func() error { return b.append(entry(n+1, entries[n-1].Sum(), 100)) },
	)
}

// identity replaces the identity of a cluster.
func identity(ctx context.Context, a, b *client) error {
	one := sharedlog.Identity{Cluster: [16]byte{1}, Epoch: 1, Schema: 1}
	two, three := one, one
	two.Epoch, three.Schema = 2, 2
	is := func(c *client, want sharedlog.Identity) func() error {
		return func() error {
			if got, err := c.Identity(ctx); err != nil || got != want {
				return fmt.Errorf("identity: got %v and error %v, want %v", got, err, want)
			}
			return nil
		}
	}
	set := func(c *client, old, now sharedlog.Identity, want bool) func() error {
		return func() error {
			if got, err := c.SetIdentity(ctx, old, now); err != nil || got != want {
				return fmt.Errorf("set identity from %v to %v: got %t and error %v, want %t", old, now, got, err, want)
			}
			return nil
		}
	}
	var none sharedlog.Identity
	return step(is(a, none), set(a, one, two, false), is(b, none),
		set(a, none, one, true), is(b, one), set(b, none, two, false), set(b, two, three, false), is(a, one),
		set(b, one, two, true), is(a, two), set(a, one, three, false), set(a, two, three, true), is(b, three))
}

// bounds follows the bounds of a log that grows.
func bounds(_ context.Context, a, b *client) error {
	e1 := entry(1, sharedlog.Hash{}, 100)
	return step(
		func() error { return b.bounded(0, 0) },
		func() error { return a.append(e1) },
		func() error { return b.bounded(1, 1) },
		func() error { return a.append(entry(2, e1.Sum(), 100)) },
		func() error { return b.bounded(1, 2) },
		func() error { return a.append(entry(4, e1.Sum(), 100)) },
		func() error { return b.bounded(1, 4) },
	)
}

// sizes appends entries of different sizes, and one that is too large.
func sizes(_ context.Context, a, b *client) error {
	var entries []*sharedlog.Entry
	var parent sharedlog.Hash
	for i, n := range []int{0, 1, 100_000, 1} {
		e := entry(uint64(i)+1, parent, n)
		if err := a.append(e); err != nil {
			return fmt.Errorf("%d bytes: %w", n, err)
		}
		entries, parent = append(entries, e), e.Sum()
	}
	tooLarge := &sharedlog.Entry{Index: 5, Parent: parent, Nonce: [16]byte{1}, Rows: make([]byte, sharedlog.MaxRows+1)}
	return step(
		func() error { return b.expect(sharedlog.Position{}, entries...) },
		func() error { return a.refuse(tooLarge, sharedlog.ErrTooLarge) },
		func() error { return b.expect(at(entries)) },
		func() error { return b.append(entry(5, parent, 1)) },
	)
}

// large appends entries beyond the 12 MB that a document of the log may hold.
func large(_ context.Context, a, b *client) error {
	e := entry(1, sharedlog.Hash{}, 13<<20)
	small := entry(2, e.Sum(), 1)
	huge := entry(3, small.Sum(), 40<<20)
	return step(
		func() error { return a.append(e) },
		func() error { return b.append(small) },
		func() error { return b.append(e) },
		func() error { return b.append(huge) },
		func() error { return a.refuse(entry(1, sharedlog.Hash{}, 13<<20), sharedlog.ErrTaken) },
		func() error { return b.expect(sharedlog.Position{}, e, small, huge) },
	)
}

// cancelled calls the log with a context that has ended.
func cancelled(ctx context.Context, a, b *client) error {
	entries, err := a.fill(2)
	if err != nil {
		return err
	}
	ended, cancel := context.WithCancel(ctx)
	cancel()
	e := entry(3, entries[1].Sum(), 100)
	if err := a.Append(ended, e); err == nil {
		return errors.New("append succeeded although its context had ended")
	}
	err = a.Read(ended, sharedlog.Position{}, func(*sharedlog.Entry, sharedlog.Hash) bool { return true })
	if err == nil {
		return errors.New("read succeeded although its context had ended")
	}
	// The client remains usable, and the entry can be appended again.
	return step(
		func() error { return a.append(e) },
		func() error { return b.expect(sharedlog.Position{}, append(entries, e)...) },
	)
}

// closed closes one client. The others go on.
func closed(_ context.Context, a, b *client) error {
	entries, err := a.fill(2)
	if err != nil {
		return err
	}
	if err := a.Close(a.ctx); err != nil {
		return fmt.Errorf("close: %w", err)
	}
	if err := a.Append(a.ctx, entry(3, entries[1].Sum(), 100)); err == nil {
		return errors.New("append succeeded after Close")
	}
	return b.expect(sharedlog.Position{}, entries...)
}

// undurable reads entries that no majority has yet.
func undurable(ctx context.Context, s *Server) error {
	return on(func(ctx context.Context, a, b *client) error {
		entries, err := a.fill(2)
		if err != nil {
			return err
		}
		lost := entry(3, entries[1].Sum(), 100)
		settle, err := s.Undurable(ctx, lost)
		if err != nil {
			return err
		}
		kept := entry(3, entries[1].Sum(), 100)
		err = step(
			func() error { return b.expect(sharedlog.Position{}, entries...) },
			func() error { return b.bounded(1, 2) },
			func() error { return b.refuse(kept, sharedlog.ErrTaken) },
			func() error { return settle(false) },
			func() error { return b.expect(at(entries)) },
		)
		if err != nil {
			return err
		}
		if settle, err = s.Undurable(ctx, kept); err != nil {
			return err
		}
		return step(
			func() error { return b.expect(at(entries)) },
			func() error { return settle(true) },
			func() error { return b.expect(at(entries), kept) },
			func() error { return a.append(kept) },
			func() error { return a.refuse(lost, sharedlog.ErrTaken) },
		)
	})(ctx, s)
}

// restored restores the servers to an earlier state.
func restored(ctx context.Context, s *Server) error {
	return on(func(ctx context.Context, a, b *client) error {
		before, err := a.fill(3)
		if err != nil {
			return err
		}
		restore, err := s.Backup(ctx)
		if err != nil {
			return err
		}
		lost := entry(4, before[2].Sum(), 100)
		other := entry(4, before[2].Sum(), 100)
		after := at([]*sharedlog.Entry{lost})
		return step(
			func() error { return a.append(lost) },
			func() error { return b.expect(after) },
			restore,
			func() error { return b.fails(after, sharedlog.ErrDiverged) },
			func() error { return b.expect(at(before)) },
			func() error { return a.append(other) },
			func() error { return b.fails(after, sharedlog.ErrDiverged) },
			func() error { return b.expect(sharedlog.Position{}, append(before, other)...) },
		)
	})(ctx, s)
}

// tampered reads an entry whose rows were changed on the servers.
func tampered(ctx context.Context, s *Server) error {
	return on(func(_ context.Context, a, b *client) error {
		entries, err := a.fill(3)
		if err != nil {
			return err
		}
		if err := s.TamperEntry(2); err != nil {
			return err
		}
		var read []uint64
		err = b.Read(b.ctx, sharedlog.Position{}, func(e *sharedlog.Entry, _ sharedlog.Hash) bool {
			read = append(read, e.Index)
			return true
		})
		if err == nil || len(read) > 1 {
			return fmt.Errorf("read over the damaged entry 2: got the entries %v and error %v", read, err)
		}
		return a.expect(at(entries[:2]), entries[2])
	})(ctx, s)
}

// epochs appends entries of an earlier epoch.
func epochs(ctx context.Context, a, b *client) error {
	id := sharedlog.Identity{Cluster: [16]byte{1}, Epoch: 2}
	if ok, err := a.SetIdentity(ctx, sharedlog.Identity{}, id); err != nil || !ok {
		return fmt.Errorf("set identity: %t and error %v", ok, err)
	}
	old, current := entry(1, sharedlog.Hash{}, 100), entry(1, sharedlog.Hash{}, 100)
	old.Epoch, current.Epoch = 1, 2
	return step(
		func() error { return b.refuse(old, sharedlog.ErrEpoch) },
		func() error { return b.append(current) },
		func() error { return a.expect(sharedlog.Position{}, current) },
	)
}
