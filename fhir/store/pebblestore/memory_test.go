package pebblestore_test

import (
	"context"
	"encoding/binary"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"pulsegate/fhir/clocktest"
	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore"
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
