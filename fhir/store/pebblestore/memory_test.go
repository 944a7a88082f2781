package pebblestore_test

import (
	"context"
	"encoding/binary"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"pulsegate/fhir"
	"pulsegate/fhir/clocktest"
	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore"
	"pulsegate/fhir/store/sharedlog/memlog"
)

// TestBatchesAreForgotten lets more results of batches expire at once than a group
// removes.
func TestBatchesAreForgotten(t *testing.T) {
	clock := clocktest.Ticking(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), 10*time.Millisecond)
	d, err := pebblestore.Open("", pebblestore.Options{FS: vfs.NewMem(), Clock: clock.Now, NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	}()
	n := uint32(0)
	write := func() {
		b := &store.Batch{State: []store.StateWrite{{Key: "k", Value: []byte("v")}}}
		n++
		binary.BigEndian.PutUint32(b.ID[:], n)
		must(t, d, b)
	}
	kept := func() (kept int) {
		if err := d.List(context.Background(), "commit/", func(string, []byte) bool { kept++; return true }); err != nil {
			t.Fatal(err)
		}
		return kept
	}
	for range 1000 {
		write()
	}
	if kept() != 1000 {
		t.Fatalf("%d results of 1000", kept())
	}
	clock.Add(2 * store.BatchMemory)
	for range 4 {
		write()
	}
	if kept() != 4 {
		t.Fatalf("%d results of 4", kept())
	}
}

// TestBatchSentLongAgo sends a batch again whose result was forgotten. A batch that does
// not say when it was sent is committed again, which shows what the refusal prevents.
func TestBatchSentLongAgo(t *testing.T) {
	clock := clocktest.At(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))
	_, _, dbs := lazy(t, 2, func(p *process) { p.clock = clock.Now })
	b := batchOf(device("d", ""))
	b.ID, b.Sent = [16]byte{1}, time.Now().Add(-store.BatchMemory/2-time.Minute)
	_, err := dbs[0].Commit(t.Context(), b)
	wantKind(t, err, fhir.Unavailable)

	recent := *b
	recent.Sent = time.Now().Add(-store.BatchMemory/2 + time.Minute)
	first := must(t, dbs[0], &recent)
	if r := must(t, dbs[1], b); r.Seq != first.Seq { // the result is known
		t.Fatalf("T %d, want %d", r.Seq, first.Seq)
	}
	clock.Add(2 * store.BatchMemory)
	must(t, dbs[0], batchOf(device("other", "")))
	_, err = dbs[1].Commit(t.Context(), b)
	wantKind(t, err, fhir.Unavailable)
	b.Sent = time.Time{}
	if r := must(t, dbs[1], b); r.Seq == first.Seq || r.Outcomes[0].Version != 2 {
		t.Fatal("the result was not forgotten: the test proves nothing")
	}
}

// TestBatchBuiltAgainLate delays the entry of a batch with an ID until another process
// has taken its place much later. The batch is then built again, as if its process had
// been suspended. It is refused only if its result may have been forgotten.
func TestBatchBuiltAgainLate(t *testing.T) {
	for _, tc := range []struct {
		id      byte
		passed  time.Duration
		refused bool
	}{{1, store.BatchMemory / 4, false}, {1, store.BatchMemory/2 + time.Second, true}, {0, store.BatchMemory, false}} {
		clock := clocktest.At(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))
		s, _, dbs := lazy(t, 2, func(p *process) { p.clock = clock.Now })
		held, waiting := make(chan struct{}), make(chan struct{}, 1)
		s.set(func(c memlog.Call) memlog.Fault {
			if c.Client != "node0" || c.Op != memlog.OpAppend {
				return memlog.Fault{}
			}
			select {
			case waiting <- struct{}{}:
			default:
			}
			return memlog.Fault{Held: held}
		})
		b := batchOf(device("d", ""))
		b.ID[0] = tc.id
		out := commitLater(dbs[0], b)
		<-waiting
		clock.Add(tc.passed)
		must(t, dbs[1], batchOf(device("other", "")))
		close(held)
		got := <-out
		if tc.refused {
			wantKind(t, got.err, fhir.Unavailable)
		} else if got.err != nil {
			t.Errorf("%+v: %v", tc, got.err)
		}
		if err := dbs[1].Sync(t.Context()); err != nil {
			t.Fatal(err)
		}
		_, _, err := dbs[1].Read(t.Context(), fhir.Ref{Type: "Device", ID: "d"}, 0)
		if (err != nil) != tc.refused {
			t.Errorf("%+v: %v", tc, err)
		}
	}
}
