package pebblestore_test

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"pulsegate/fhir"
	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore"
)

// TestNothingOldIsRead checks that a read that starts after a commit was answered
// sees that commit, while other goroutines read the same keys.
func TestNothingOldIsRead(t *testing.T) {
	s, err := pebblestore.Open("db", pebblestore.Options{FS: vfs.NewMem()})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	ctx := context.Background()
	ref := fhir.Ref{Type: "Device", ID: "x"}
	const key = "test/x"
	var answered atomic.Uint64
	var stop atomic.Bool
	var wg sync.WaitGroup
	look := func() {
		atLeast := answered.Load()
		r, f, err := s.Read(ctx, ref, 0)
		if err != nil || r.Version < atLeast || f.ID != "x" {
			t.Errorf("after version %d was answered: version %d, %v", atLeast, r.Version, err)
			stop.Store(true)
			return
		}
		if want := fmt.Sprintf(`"lotNumber":"%d"`, r.Version); !r.Deleted && !strings.Contains(string(r.JSON), want) {
			t.Errorf("version %d has other bytes: %s", r.Version, r.JSON)
		}
		v, err := s.Get(ctx, key)
		var n uint64
		if v != nil {
			if _, err := fmt.Sscan(string(v), &n); err != nil {
				t.Error(err)
			}
			clear(v) // the slice belongs to the reader
		}
		if err != nil || v != nil && n < atLeast || v == nil && atLeast%8 != 0 && (atLeast+1)%8 != 0 &&
			answered.Load() == atLeast {
			t.Errorf("after %d was answered: state %q, %v", atLeast, v, err)
			stop.Store(true)
		}
	}
	write := func(i uint64) {
		b := &store.Batch{Writes: []store.Write{{Op: store.Put, Resource: fhir.Resource{Type: "Device", ID: "x",
			JSON: fmt.Appendf(nil, `{"resourceType":"Device","id":"x","meta":{},"lotNumber":"%d"}`, i)}}}}
		if i%5 == 0 {
			b.Writes[0].Op = store.Remove
		}
		w := store.StateWrite{Key: key, Value: fmt.Append(nil, i)}
		if i%8 == 0 {
			w.Value = nil
		}
		b.State = []store.StateWrite{w}
		if _, err := s.Commit(ctx, b); err != nil {
			t.Error(err)
			stop.Store(true)
		}
		answered.Store(i)
	}
	write(1)
	for range 4 {
		wg.Go(func() {
			for !stop.Load() {
				look()
			}
		})
	}
	for i := uint64(2); i < 500 && !stop.Load(); i++ {
		write(i)
	}
	stop.Store(true)
	wg.Wait()
	if r, _, err := s.Read(ctx, ref, 0); err != nil || bytes.Equal(r.JSON, nil) != r.Deleted {
		t.Errorf("at the end: %v %v", r, err)
	}
}
