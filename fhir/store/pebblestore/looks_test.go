package pebblestore_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore"
	"pulsegate/fhir/store/sharedlog"
	"pulsegate/fhir/store/sharedlog/memlog"
)

// gate is a log that holds the answers of looks while it is shut.
type gate struct {
	sharedlog.Log
	shut  atomic.Bool
	looks chan chan struct{} // a look that has read; close lets it end
}

func (g *gate) Read(ctx context.Context, p sharedlog.Position, fn func(*sharedlog.Entry, sharedlog.Hash) bool) error {
	if !g.shut.Load() {
		return g.Log.Read(ctx, p, fn)
	}
	type found struct {
		entry *sharedlog.Entry
		sum   sharedlog.Hash
	}
	var all []found
	err := g.Log.Read(ctx, p, func(e *sharedlog.Entry, sum sharedlog.Hash) bool {
		all = append(all, found{e, sum})
		return true
	})
	answer := make(chan struct{})
	g.looks <- answer
	<-answer
	for _, f := range all {
		if !fn(f.entry, f.sum) {
			break
		}
	}
	return err
}

// next returns the next look that has read the log.
func (g *gate) next(t *testing.T) chan struct{} {
	t.Helper()
	select {
	case answer := <-g.looks:
		return answer
	case <-time.After(patience):
		t.Fatal("no look at the log begins while another one is under way")
		return nil
	}
}

// gated opens two processes. The looks of the second one meet the gate.
func gated(t *testing.T, change func(*pebblestore.Shared)) (g *gate, s *script, grp *group, a, b *pebblestore.DB) {
	t.Helper()
	g = &gate{looks: make(chan chan struct{}, 16)}
	s, grp, dbs := lazy(t, 2, func(p *process) {
		if p.conf.Node == "node1" {
			p.wrap = func(l sharedlog.Log) sharedlog.Log {
				g.Log = l
				return g
			}
			p.change = change
		}
	})
	return g, s, grp, dbs[0], dbs[1]
}

func syncLater(d *pebblestore.DB) <-chan error {
	out := make(chan error, 1)
	go func() { out <- d.Sync(context.Background()) }()
	return out
}

// TestSyncBesideLook calls Sync while a look is under way that began before a commit of
// another process. A look of its own begins, and Sync shows the commit. The control lets
// the look under way serve the call, and must be found.
func TestSyncBesideLook(t *testing.T) {
	stale := func(t *testing.T, change func(*pebblestore.Shared)) error {
		g, _, _, a, b := gated(t, change)
		must(t, a, batchOf(device("one", "")))
		g.shut.Store(true)
		before := syncLater(b)
		first := g.next(t)
		must(t, a, batchOf(device("two", "")))
		after := syncLater(b)
		second := g.next(t)
		g.shut.Store(false)
		defer close(second)
		close(first)
		if err := <-before; err != nil {
			return err
		}
		if change == nil {
			if len(after) > 0 {
				return errors.New("Sync ends before a look that began after the call")
			}
			second <- struct{}{}
		}
		if err := <-after; err != nil {
			return err
		}
		if b.LastSeq() != 2 {
			return fmt.Errorf("after Sync, commit 2 is not shown, but %d is the last", b.LastSeq())
		}
		return nil
	}
	if err := stale(t, nil); err != nil {
		t.Error(err)
	}
	if stale(t, pebblestore.JoinLooks) == nil {
		t.Error("a look that began before the call is not found: the test proves nothing")
	}
}

// TestLooksEndInAnyOrder lets the later of two looks end first. It serves the callers of
// both, and what the earlier one has found is not applied again.
func TestLooksEndInAnyOrder(t *testing.T) {
	g, _, _, a, b := gated(t, nil)
	var shown []store.Seq
	defer b.Watch(func(c store.Commit) { shown = append(shown, c.Seq) })()
	must(t, a, batchOf(device("one", "")))
	g.shut.Store(true)
	before := syncLater(b)
	first := g.next(t)
	must(t, a, batchOf(device("two", "")))
	after := syncLater(b)
	second := g.next(t)
	g.shut.Store(false)
	close(second)
	if err := errors.Join(<-before, <-after); err != nil {
		t.Fatal(err)
	}
	must(t, b, batchOf(device("three", "")))
	close(first)
	must(t, a, batchOf(device("four", "")))
	if err := b.Sync(context.Background()); err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(shown) != "[1 2 3 4]" {
		t.Fatalf("watchers were called for %v", shown)
	}
}

// TestLookBehindTruncation lets a look read from a place that was passed and truncated
// while it was on its way.
func TestLookBehindTruncation(t *testing.T) {
	g, s, grp, a, b := gated(t, nil)
	must(t, a, batchOf(device("one", "")))
	held, called := make(chan struct{}), make(chan struct{})
	var once atomic.Bool
	s.set(func(c memlog.Call) memlog.Fault {
		if c.Client == "node1" && c.Op == memlog.OpRead && !once.Swap(true) {
			close(called)
			return memlog.Fault{Held: held}
		}
		return memlog.Fault{}
	})
	before := syncLater(b)
	<-called
	if err := b.Sync(context.Background()); err != nil {
		t.Fatal(err)
	}
	must(t, a, batchOf(device("two", "")))
	must(t, b, batchOf(device("three", "")))
	ctx := context.Background()
	if err := errors.Join(<-before, a.Sync(ctx), grp.processes[0].log.Truncate(ctx, 3)); err != nil {
		t.Fatal(err)
	}
	g.shut.Store(true)
	close(held)
	close(g.next(t)) // the look that was held has failed, and another one takes its place
	g.shut.Store(false)
	must(t, b, batchOf(device("four", "")))
	if err := b.Sync(ctx); err != nil {
		t.Fatalf("the store stopped, although it follows the log: %v", err)
	}
}
