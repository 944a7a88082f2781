package pebblestore_test

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore"
	"pulsegate/fhir/store/sharedlog"
)

// offering opens two processes, and returns the entries of the first.
func offering(t *testing.T, change func(*pebblestore.Shared)) (a, b *pebblestore.DB,
	entries func() []*sharedlog.Entry) {
	t.Helper()
	_, g, dbs := lazy(t, 2, func(p *process) {
		if p.conf.Node == "node1" {
			p.change = change
		}
	})
	g.closed = change != nil // the stores of a control differ
	var mu sync.Mutex
	var all []*sharedlog.Entry
	dbs[0].Landed(func(e *sharedlog.Entry) {
		mu.Lock()
		defer mu.Unlock()
		all = append(all, e)
	})
	return dbs[0], dbs[1], func() []*sharedlog.Entry {
		mu.Lock()
		defer mu.Unlock()
		return all
	}
}

// TestOffer passes the entries of a process to another one, which never looks at the log.
// It shows them in order, whatever the order in which they come.
func TestOffer(t *testing.T) {
	a, b, entries := offering(t, nil)
	var shown []store.Seq
	defer b.Watch(func(c store.Commit) { shown = append(shown, c.Seq) })()
	for i := range 4 {
		must(t, a, batchOf(device(fmt.Sprint("d", i), "")))
	}
	for _, step := range []struct {
		entry int
		want  store.Seq
	}{{1, 1}, {1, 1}, {3, 1}, {2, 3}, {4, 4}} {
		if step.entry == 3 {
			// It is kept until entry 2 has come, or a look has found both.
			b.Offer(entries()[2])
			if last := b.LastSeq(); last != 1 && last != 4 {
				t.Fatalf("%d is the last commit", last)
			}
			continue
		}
		b.Offer(entries()[step.entry-1])
		if last := b.LastSeq(); last < step.want {
			t.Fatalf("after entry %d, %d is the last commit", step.entry, last)
		}
	}
	if fmt.Sprint(shown) != "[1 2 3 4]" {
		t.Fatalf("watchers were called for %v", shown)
	}
	must(t, b, batchOf(device("own", "")))
}

// TestOfferIsChecked offers entries that are not those of the log. None is applied, and
// the store goes on. The control applies an entry that does not follow the ones before it,
// and must be found.
func TestOfferIsChecked(t *testing.T) {
	forgeries := map[string]func(e *sharedlog.Entry){
		"parent": func(e *sharedlog.Entry) { e.Parent[0]++ },
		"epoch":  func(e *sharedlog.Entry) { e.Epoch++ },
		"schema": func(e *sharedlog.Entry) { e.Schema = pebblestore.RowSchema + 1 },
		"rows":   func(e *sharedlog.Entry) { e.Rows = e.Rows[:len(e.Rows)/2] },
		"first":  func(e *sharedlog.Entry) { e.First++ },
		"far":    func(e *sharedlog.Entry) { e.Index += 1 << 40 },
		"large":  func(e *sharedlog.Entry) { e.Rows = make([]byte, pebblestore.MaxOffer+1) },
	}
	check := func(t *testing.T, forge func(*sharedlog.Entry), change func(*pebblestore.Shared)) (err error) {
		a, b, entries := offering(t, change)
		must(t, a, batchOf(device("one", "")))
		b.Offer(entries()[0])
		must(t, a, batchOf(device("two", "")))
		forged := *entries()[1]
		forge(&forged)
		b.Offer(&forged)
		if err := b.Sync(context.Background()); err != nil {
			return err
		}
		if b.Position() != a.Position() {
			return fmt.Errorf("the position is %+v, that of the other process %+v", b.Position(), a.Position())
		}
		return nil
	}
	for name, forge := range forgeries {
		t.Run(name, func(t *testing.T) {
			if err := check(t, forge, nil); err != nil {
				t.Error(err)
			}
		})
	}
	t.Run("control", func(t *testing.T) {
		if check(t, forgeries["parent"], pebblestore.AnyOffer) == nil {
			t.Error("an entry that does not follow is not found: the test proves nothing")
		}
	})
}
