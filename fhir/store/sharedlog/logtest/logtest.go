// Package logtest tests implementations of sharedlog.Log and sharedlog.Snapshots. One
// suite holds for all of them. What only some implementations let a test do, such as
// taking the majority away from the servers, is a hook in Server, and the checks that
// need a hook run where it is given.
package logtest

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"pulsegate/fhir/store/sharedlog"
)

// Server is a log under test, with its snapshots.
type Server struct {
	// Client returns a client, as another process has it. The check closes it. It is
	// called by several goroutines at once.
	Client func() (sharedlog.Log, error)
	// Snapshots returns the snapshots, as another process reaches them. If it is nil,
	// they are not tested.
	Snapshots func() (sharedlog.Snapshots, error)

	// Undurable stores an entry that no majority has. The function that it returns
	// makes the entry durable, or discards it.
	Undurable func(ctx context.Context, e *sharedlog.Entry) (settle func(keep bool) error, err error)
	// Backup returns a function that restores the servers to their present state.
	Backup func(ctx context.Context) (restore func() error, err error)
	// TamperEntry changes the rows of an entry on the servers.
	TamperEntry func(index uint64) error
	// TamperFile changes the content of a file on the servers.
	TamperFile func(sum sharedlog.Hash) error
	// Pass lets time pass on the clock by which Snapshots.Remove decides.
	Pass func(d time.Duration)
	// Epochs states that an Append under another epoch than that of the identity fails
	// with ErrEpoch.
	Epochs bool
}

// Open returns the server of a log that is empty.
type Open func(t *testing.T) *Server

// check is one part of the suite. It returns an error if the log breaks the contract.
type check struct {
	name string
	run  func(ctx context.Context, s *Server) error
	// needs reports whether s has the hooks of the check. It may be nil.
	needs func(s *Server) bool
	// heavy checks are skipped by -short.
	heavy bool
}

// limit bounds one check. It is generous, because it only ends a check that hangs.
const limit = 2 * time.Minute

// Run tests the log that open returns, which must be a new one each time.
func Run(t *testing.T, open Open) {
	for _, c := range slices.Concat(logChecks, concurrencyChecks, snapshotChecks) {
		t.Run(c.name, func(t *testing.T) {
			if c.heavy && testing.Short() {
				t.Skip("not with -short")
			}
			s := open(t)
			if c.needs != nil && !c.needs(s) {
				return
			}
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			defer cancel()
			if err := c.run(ctx, s); err != nil {
				t.Error(err)
			}
		})
	}
}

// on turns a function of two clients of one log into a check.
func on(fn func(ctx context.Context, a, b *client) error) func(context.Context, *Server) error {
	return func(ctx context.Context, s *Server) error {
		a, err := open(ctx, s)
		if err != nil {
			return err
		}
		defer a.close()
		b, err := open(ctx, s)
		if err != nil {
			return err
		}
		defer b.close()
		return fn(ctx, a, b)
	}
}

// client is a Log with the steps that checks are made of.
type client struct {
	sharedlog.Log
	ctx context.Context
}

func open(ctx context.Context, s *Server) (*client, error) {
	l, err := s.Client()
	if err != nil {
		return nil, fmt.Errorf("opening a client: %w", err)
	}
	return &client{l, ctx}, nil
}

func (c *client) close() { _ = c.Close(context.WithoutCancel(c.ctx)) }

// entry returns an entry with a random nonce and rows of some size.
func entry(index uint64, parent sharedlog.Hash, size int) *sharedlog.Entry {
	e := &sharedlog.Entry{Index: index, Parent: parent, Schema: 1, Node: "node-1", First: index * 10, Count: 3,
		Touched: []string{"Consent?patient=1"}, Rows: make([]byte, size)}
	rand.Read(e.Nonce[:])
	// Random rows cannot be compressed.
	rand.Read(e.Rows)
	return e
}

// fill appends n entries, each built on the one before.
func (c *client) fill(n int) ([]*sharedlog.Entry, error) {
	var out []*sharedlog.Entry
	var parent sharedlog.Hash
	for i := range n {
		e := entry(uint64(i)+1, parent, 100)
		if err := c.append(e); err != nil {
			return nil, err
		}
		out, parent = append(out, e), e.Sum()
	}
	return out, nil
}

func (c *client) append(e *sharedlog.Entry) error {
	if err := c.Append(c.ctx, e); err != nil {
		return fmt.Errorf("append at %d: %w", e.Index, err)
	}
	return nil
}

// refuse fails unless an Append fails with want.
func (c *client) refuse(e *sharedlog.Entry, want error) error {
	if err := c.Append(c.ctx, e); !errors.Is(err, want) {
		return fmt.Errorf("append at %d: got error %v, want %v", e.Index, err, want)
	}
	return nil
}

// at returns the position after the last of entries that are valid and have no gaps.
func at(entries []*sharedlog.Entry) sharedlog.Position {
	if len(entries) == 0 {
		return sharedlog.Position{}
	}
	e := entries[len(entries)-1]
	return sharedlog.Position{Index: e.Index, Last: e.Sum(), Valid: e.Sum()}
}

// read returns the entries after p. It fails if their hashes are not theirs, or if
// their places are not the next ones.
func (c *client) read(p sharedlog.Position) ([]*sharedlog.Entry, error) {
	var out []*sharedlog.Entry
	var wrong error
	err := c.Read(c.ctx, p, func(e *sharedlog.Entry, sum sharedlog.Hash) bool {
		if e.Index != p.Index+uint64(len(out))+1 {
			wrong = fmt.Errorf("read after %d: entry %d has the place %d", p.Index, len(out)+1, e.Index)
		} else if sum != e.Sum() {
			wrong = fmt.Errorf("read of the place %d: the hash is not that of the entry", e.Index)
		}
		out = append(out, e)
		return wrong == nil
	})
	return out, errors.Join(wrong, err)
}

// expect fails unless the entries after p are want.
func (c *client) expect(p sharedlog.Position, want ...*sharedlog.Entry) error {
	got, err := c.read(p)
	if err != nil {
		return fmt.Errorf("read after %d: %w", p.Index, err)
	}
	if len(got) != len(want) {
		return fmt.Errorf("read after %d: got %d entries, want %d", p.Index, len(got), len(want))
	}
	for i, e := range got {
		if err := equal(e, want[i]); err != nil {
			return err
		}
	}
	return nil
}

// equal fails unless the two entries are equal.
func equal(got, want *sharedlog.Entry) error {
	var field string
	switch {
	case got.Index != want.Index:
		field = "Index"
	case got.Parent != want.Parent:
		field = "Parent"
	case got.Nonce != want.Nonce:
		field = "Nonce"
	case got.Epoch != want.Epoch:
		field = "Epoch"
	case got.Schema != want.Schema:
		field = "Schema"
	case got.Node != want.Node:
		field = "Node"
	case got.First != want.First || got.Count != want.Count:
		field = "First or Count"
	case !slices.Equal(got.Touched, want.Touched):
		field = "Touched"
	case sha256.Sum256(got.Rows) != sha256.Sum256(want.Rows):
		field = "Rows"
	default:
		return nil
	}
	return fmt.Errorf("the entry at %d has another %s than the one that was appended", want.Index, field)
}

// fails fails unless a Read after p fails with one of the errors, without an entry.
func (c *client) fails(p sharedlog.Position, want ...error) error {
	got, err := c.read(p)
	if len(got) > 0 {
		return fmt.Errorf("read after %d: got %d entries, want error %v", p.Index, len(got), want)
	}
	for _, w := range want {
		if errors.Is(err, w) {
			return nil
		}
	}
	return fmt.Errorf("read after %d: got error %v, want %v", p.Index, err, want)
}

// bounded fails unless Bounds returns these places.
func (c *client) bounded(first, last uint64) error {
	f, l, err := c.Bounds(c.ctx)
	if err != nil {
		return fmt.Errorf("bounds: %w", err)
	}
	if f != first || l != last {
		return fmt.Errorf("bounds: got %d to %d, want %d to %d", f, l, first, last)
	}
	return nil
}

// step runs steps until one fails.
func step(steps ...func() error) error {
	for _, s := range steps {
		if err := s(); err != nil {
			return err
		}
	}
	return nil
}
