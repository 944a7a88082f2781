package pebblestore

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"pulsegate/fhir/search"
	"pulsegate/fhir/series"
	"pulsegate/fhir/store"
)

// lifelike returns a heart rate about every 5 s, with times in seconds, gaps and
// integer rates.
func lifelike(rnd *rand.Rand, at int64, n int) (*series.Columns, int64) {
	c := &series.Columns{}
	rate := 70.0
	for range n {
		at += 5e6
		switch r := rnd.IntN(100); {
		case r < 12:
			at += int64(rnd.IntN(3)) * 1e6
		case r == 99:
			at += int64(rnd.IntN(600)) * 1e6
		}
		rate += rnd.NormFloat64() * 1.5
		rate += (72 - rate) * .02
		s := series.Sample{Start: at, End: series.NoEnd, Off: 120}
		s.Values[0] = series.Decimal{Mant: int64(rate)}
		c.Append(&s, 1)
	}
	return c, at
}

func fill(tb testing.TB, d *DB, patients, batches, size int) {
	ctx := context.Background()
	for p := range patients {
		rnd := rand.New(rand.NewPCG(uint64(p), 1))
		t := streamTemplate(fmt.Sprintf("p%06d", p), "8867-4", "d", series.Instant, 0)
		at := int64(1767225600) * 1e6
		for range batches {
			var c *series.Columns
			c, at = lifelike(rnd, at, size)
			ws := []store.SeriesWrite{{Template: t, Columns: c}}
			probed, found, err := d.Probe(ctx, ws)
			if err != nil || found[0][0] != store.Missing {
				tb.Fatal(err)
			}
			if _, err := d.Commit(ctx, &store.Batch{Series: ws, Probed: probed}); err != nil {
				tb.Fatal(err)
			}
		}
	}
}

func BenchmarkAppend(b *testing.B) {
	d, err := Open(b.TempDir(), Options{})
	if err != nil {
		b.Fatal(err)
	}
	rnd := rand.New(rand.NewPCG(1, 1))
	t := streamTemplate("p1", "8867-4", "d", series.Instant, 0)
	at := int64(1767225600) * 1e6
	const size = 65536
	var cs []*series.Columns
	for range 16 {
		var c *series.Columns
		c, at = lifelike(rnd, at, size)
		cs = append(cs, c)
	}
	ctx := context.Background()
	n := 0
	b.ResetTimer()
	for i := range b.N {
		if i%16 == 0 { // start another stream
			t = streamTemplate(fmt.Sprintf("p%d", i), "8867-4", "d", series.Instant, 0)
		}
		ws := []store.SeriesWrite{{Template: t, Columns: cs[i%16]}}
		probed, _, err := d.Probe(ctx, ws)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := d.Commit(ctx, &store.Batch{Series: ws, Probed: probed}); err != nil {
			b.Fatal(err)
		}
		n += size
	}
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "samples/s")
	if err := d.Compact(ctx); err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(d.Stats().DiskBytes)/float64(n), "disk-B/sample")
	if err := d.Close(); err != nil {
		b.Fatal(err)
	}
}

func BenchmarkSearchSamples(b *testing.B) {
	d, err := Open(b.TempDir(), Options{})
	if err != nil {
		b.Fatal(err)
	}
	fill(b, d, 20, 16, 65536)
	pairs, _ := search.Pairs("patient=p000007&code=8867-4&date=ge2026-01-20&_sort=-date")
	q, err := search.Parse("Observation", pairs, search.ParseOptions{})
	if err != nil {
		b.Fatal(err)
	}
	b.ResetTimer()
	var worst time.Duration
	for range b.N {
		began := time.Now()
		n := 0
		if err := d.Find(context.Background(), store.Find{Query: q, Filter: all(), Limit: 100},
			func(f *store.Found) bool { n++; return true }); err != nil || n != 100 {
			b.Fatal(err, n)
		}
		worst = max(worst, time.Since(began))
	}
	b.ReportMetric(float64(worst.Microseconds()), "worst-us")
	b.StopTimer()
	if err := d.Close(); err != nil {
		b.Fatal(err)
	}
}

func BenchmarkScanSamples(b *testing.B) {
	d, err := Open(b.TempDir(), Options{})
	if err != nil {
		b.Fatal(err)
	}
	fill(b, d, 4, 4, 65536)
	b.ResetTimer()
	n, size := 0, 0
	for range b.N {
		if err := d.Scan(context.Background(), store.ScanRange{Types: []string{"Observation"}, Filter: all()},
			func(f *store.Found) bool {
				n++
				size += len(f.Resource.JSON)
				return true
			}); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "samples/s")
	b.ReportMetric(float64(size)/1e6/b.Elapsed().Seconds(), "MB/s")
	b.StopTimer()
	if err := d.Close(); err != nil {
		b.Fatal(err)
	}
}
