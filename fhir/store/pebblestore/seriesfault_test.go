package pebblestore

import (
	"context"
	"flag"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"pulsegate/fhir"
	"pulsegate/fhir/search"
	"pulsegate/fhir/series"
	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore/internal/keys"
	"pulsegate/fhir/store/pebblestore/internal/tier"
)

func open(t testing.TB, fs vfs.FS) *DB {
	t.Helper()
	d, err := Open("s", Options{FS: fs})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func everything(t *testing.T, d *DB) (n int, err error) {
	t.Helper()
	q, err := search.Parse("Observation", [][2]string{{"patient", "p000000"}, {"_sort", "-date"}},
		search.ParseOptions{})
	if err != nil {
		t.Fatal(err)
	}
	err = d.Find(context.Background(), store.Find{Query: q, Filter: all()},
		func(*store.Found) bool { n++; return true })
	return n, err
}

// TestFlippedBit checks that a flipped bit in a row of the sample tier causes an
// error, never a wrong value, and that Check finds it.
func TestFlippedBit(t *testing.T) {
	rnd := rand.New(rand.NewPCG(7, 7))
	for _, tab := range []byte{keys.TableHeader, keys.TableBlock, keys.TableSeries} {
		for range 12 {
			d := open(t, vfs.NewMem())
			fill(t, d, 1, 2, 3000)
			want, err := everything(t, d)
			if err != nil || want != 6000 {
				t.Fatal(want, err)
			}
			it, err := d.pdb.NewIter(&pebble.IterOptions{LowerBound: []byte{tab}, UpperBound: []byte{tab + 1}})
			if err != nil {
				t.Fatal(err)
			}
			it.First()
			k, v := append([]byte(nil), it.Key()...), append([]byte(nil), it.Value()...)
			if err := it.Close(); err != nil {
				t.Fatal(err)
			}
			bit := rnd.IntN(8 * len(v))
			v[bit/8] ^= 1 << (bit % 8)
			if err := d.pdb.Set(k, v, pebble.Sync); err != nil {
				t.Fatal(err)
			}
			d.tier, _ = tier.New()
			// publish a new view
			if _, err := d.Commit(context.Background(),
				&store.Batch{State: []store.StateWrite{{Key: "k", Value: []byte{1}}}}); err != nil {
				t.Fatal(err)
			}
			if n, err := everything(t, d); err == nil {
				t.Errorf("%c bit %d: %d answers of %d and no error", tab, bit, n, want)
			}
			problems := 0
			if err := d.Check(context.Background(), func(string) { problems++ }); err != nil || problems == 0 {
				t.Errorf("%c bit %d: check finds nothing: %v", tab, bit, err)
			}
			if err := d.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestUnknownSchema checks that Open refuses a store of another schema version.
func TestUnknownSchema(t *testing.T) {
	for _, version := range []string{"1", "3", "99"} {
		fs := vfs.NewMem()
		d := open(t, fs)
		if err := d.pdb.Set(keys.Schema, []byte(version), pebble.Sync); err != nil {
			t.Fatal(err)
		}
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := Open("s", Options{FS: fs}); fhir.KindOf(err) != fhir.Unavailable ||
			!strings.Contains(err.Error(), "schema version") {
			t.Errorf("open a store of schema %s: %v", version, err)
		}
	}
}

var samples = flag.Int("samples", 1500, "samples of TestCompactionIsBounded")

// TestCompactionIsBounded checks that compaction rewrites each sample a bounded
// number of times and leaves few tails, in any order of samples.
func TestCompactionIsBounded(t *testing.T) {
	n := *samples
	if testing.Short() {
		n = min(n, 600)
	}
	rnd := rand.New(rand.NewPCG(3, 3))
	for name, at := range map[string]func(i int) int{
		"in order": func(i int) int { return i },
		"reverse":  func(i int) int { return n - i },
		"shuffled": func() func(int) int { p := rnd.Perm(n); return func(i int) int { return p[i] } }(),
		"late":     func(i int) int { return i + 40*(i%3) },
	} {
		t.Run(name, func(t *testing.T) {
			d := open(t, vfs.NewMem())
			tpl := streamTemplate("p000000", "8867-4", "d", series.Instant, 0)
			seen := map[int]bool{}
			for i := range n {
				k := at(i)
				if seen[k] {
					continue
				}
				seen[k] = true
				c := &series.Columns{}
				s := series.Sample{Start: 1767225600e6 + int64(k)*5e6, End: series.NoEnd}
				s.Values[0] = series.Decimal{Mant: 60}
				c.Append(&s, 1)
				if _, err := d.Commit(context.Background(),
					&store.Batch{Series: []store.SeriesWrite{{Template: tpl, Columns: c}},
						Probed: ^store.Seq(0)}); err != nil {
					t.Fatal(err)
				}
			}
			for d.compactor.waiting() > 0 { // ends with the test's deadline
				time.Sleep(10 * time.Millisecond)
			}
			stats, err := d.SeriesStats(context.Background())
			if err != nil || len(stats) != 1 || stats[0].Samples != uint64(len(seen)) {
				t.Fatalf("%+v %v", stats, err)
			}
			c := d.Compaction()
			t.Logf("%d samples, %d written again, %d tails of %d samples, %d blocks", len(seen), c.Rewritten,
				stats[0].Tails, stats[0].Loose, stats[0].Blocks)
			if c.Rewritten > uint64(len(seen)*21) || stats[0].Tails > 5*16 {
				t.Errorf("%+v %+v", c, stats[0])
			}
			if got, err := everything(t, d); err != nil || got != len(seen) {
				t.Errorf("%d found: %v", got, err)
			}
			if err := d.Check(context.Background(), func(p string) { t.Error(p) }); err != nil {
				t.Error(err)
			}
			if err := d.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}
