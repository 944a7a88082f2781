package pebblestore_test

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"pulsegate/fhir/search"
	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore"
	"pulsegate/fhir/store/pebblestore/internal/rows"
)

// TestStateBesideIndexes commits state of any form in the groups of documents that have
// rows of a parameter defined at run time.
func TestStateBesideIndexes(t *testing.T) {
	registry := defined(0)
	d, err := pebblestore.Open("", pebblestore.Options{FS: vfs.NewCrashableMem(), CacheBytes: 8 << 20,
		Registry: func() *search.Registry { return registry }})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	index := rows.Index{Type: "Patient", URL: definable[0].URL, Param: rows.ParamKey(&definable[0])}
	_, err = d.Commit(context.Background(), &store.Batch{State: []store.StateWrite{
		{Key: rows.RuntimeKey(index.Type, index.Param), Value: index.Encode()}}})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for w := range 32 {
		wg.Go(func() {
			for i := range 50 {
				b := batchOf(device(fmt.Sprintf("d%d-%d", w, i), ""))
				if w%2 == 0 {
					b = &store.Batch{State: []store.StateWrite{{Key: fmt.Sprint("count/", w), Value: fmt.Append(nil, i)}}}
				}
				if _, err := d.Commit(context.Background(), b); err != nil {
					t.Errorf("writer %d: %v", w, err)
				}
			}
		})
	}
	wg.Wait()
}
