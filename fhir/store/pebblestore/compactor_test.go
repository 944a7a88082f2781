package pebblestore

import (
	"context"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"pulsegate/fhir/series"
	"pulsegate/fhir/store"
)

// tailsPerMerge is the number of tails that start a compaction.
const tailsPerMerge = 16

// TestConcurrentCompactions checks that compactions of the same tails by the operator
// and in the background keep each sample once.
func TestConcurrentCompactions(t *testing.T) {
	ctx := context.Background()
	d, err := Open("", Options{FS: vfs.NewMem()})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	}()
	tpl := streamTemplate("p1", "c1", "d", series.Instant, 0)
	n := uint64(0)
	for i := range int64(40 * tailsPerMerge) {
		c := &series.Columns{}
		s := series.Sample{Start: 1767225600e6 - i*1e6, End: series.NoEnd} // backwards, so that each becomes a tail
		s.Values[0] = series.Decimal{Mant: 62}
		c.Append(&s, 1)
		if _, err := d.Commit(ctx, &store.Batch{Series: []store.SeriesWrite{{Template: tpl, Columns: c}},
			Probed: d.LastSeq()}); err != nil {
			t.Fatal(err)
		}
		n++
		if i%tailsPerMerge != tailsPerMerge-1 {
			continue
		}
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				if err := d.Compact(ctx); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		found := uint64(0)
		if err := d.Scan(ctx, store.ScanRange{Types: []string{"Observation"}, At: d.LastSeq(), Filter: all()},
			func(*store.Found) bool { found++; return true }); err != nil || found != n {
			t.Fatalf("%d samples of %d: %v", found, n, err)
		}
	}
	if err := d.Check(ctx, func(p string) { t.Error(p) }); err != nil {
		t.Fatal(err)
	}
}
