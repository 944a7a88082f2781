package pebblestore

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/search"
	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore/internal/find"
	"pulsegate/fhir/store/pebblestore/internal/sorted"
)

// bySize is a search whose order no rows have.
const bySize = "Observation?_sort=-value-quantity,date&patient=p01,p02,p03"

// scratchFiles returns the names of the temporary files of a store.
func (p *population) scratchFiles() []string {
	names, err := p.fs.List("s/sorted")
	if err != nil {
		return nil
	}
	return names
}

// naive sorts all matches in memory.
func (p *population) naive(raw string) (out []string) {
	p.t.Helper()
	q, err := search.Parse("Observation", [][2]string{{"patient", "p01,p02,p03"}}, search.ParseOptions{})
	if err != nil {
		p.t.Fatal(err)
	}
	pairs, _ := search.Pairs(raw[len("Observation?"):])
	sorted, err := search.Parse("Observation", pairs, search.ParseOptions{})
	if err != nil {
		p.t.Fatal(err)
	}
	vals := map[string]*search.Values{}
	err = p.d.Find(context.Background(), store.Find{Query: q, Filter: allOf("Observation")}, func(f *store.Found) bool {
		v, err := search.Extract("Observation", f.Resource.JSON)
		if err != nil {
			p.t.Fatal(err)
		}
		vals[f.Resource.ID] = v
		out = append(out, f.Resource.ID)
		return true
	})
	if err != nil {
		p.t.Fatal(err)
	}
	slices.SortFunc(out, func(a, b string) int {
		if c := search.CompareValues("Observation", sorted.Sort, vals[a], vals[b]); c != 0 {
			return c
		}
		return int(slices.Compare([]byte(a), []byte(b)))
	})
	return out
}

// TestSortedOnce checks that a search is sorted once, on disk if it has many
// matches, and that later pages look only at the rows they return.
func TestSortedOnce(t *testing.T) {
	for _, run := range []int{8 << 20, 100 << 10} {
		t.Run(fmt.Sprint(run), func(t *testing.T) {
			opts := Options{bounds: limits{Bounds: find.DefaultBounds}}
			opts.bounds.run = run
			p := newPopulation(t, opts)
			defer p.d.Close()
			want, at := p.naive(bySize), p.d.LastSeq()
			ids, after, looked := p.find(bySize, 100, "", at)
			got := ids
			if looked < uint64(len(want)) {
				t.Fatalf("the first page looked at %d rows of %d", looked, len(want))
			}
			if spilled := len(p.scratchFiles()) == 1; spilled != (run < 1<<20) {
				t.Errorf("temporary files: %v", p.scratchFiles())
			}
			for len(ids) > 0 {
				p.clock.Add(sorted.ResultTTL / 2) // each page renews the result
				ids, after, looked = p.find(bySize, 900, after, at)
				if got = append(got, ids...); looked > uint64(len(ids)) {
					t.Fatalf("a later page of %d looked at %d rows", len(ids), looked)
				}
			}
			if !slices.Equal(got, want) {
				t.Error("the pages differ from the sorted matches")
			}
			// After a restart in the middle, the same page follows.
			_, after, _ = p.find(bySize, 100, "", at)
			next, _, _ := p.find(bySize, 100, after, at)
			if err := p.d.Close(); err != nil {
				t.Fatal(err)
			}
			if n := p.scratchFiles(); len(n) != 0 {
				t.Errorf("left behind: %v", n)
			}
			p.open()
			again, _, looked := p.find(bySize, 100, after, at)
			if !slices.Equal(again, next) || looked < uint64(len(want)) {
				t.Errorf("after a restart, %d rows looked at: another page", looked)
			}
		})
	}
}

// TestSortedLeftBehind checks that Open removes the temporary files of a killed
// process.
func TestSortedLeftBehind(t *testing.T) {
	p := newPopulation(t)
	if err := p.d.Close(); err != nil {
		t.Fatal(err)
	}
	if err := p.fs.MkdirAll("s/sorted", 0o700); err != nil {
		t.Fatal(err)
	}
	f, err := p.fs.Create("s/sorted/7", "test")
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	p.open()
	defer p.d.Close()
	if n := p.scratchFiles(); len(n) != 0 {
		t.Errorf("left behind: %v", n)
	}
}

// TestSortedBounds checks that results are dropped by age, owner and bytes, and are
// sorted again when needed.
func TestSortedBounds(t *testing.T) {
	opts := Options{bounds: limits{Bounds: find.DefaultBounds}}
	opts.bounds.run = 100 << 10
	p := newPopulation(t, opts)
	defer p.d.Close()
	at := p.d.LastSeq()
	results := p.d.search.Results
	kept := func() int {
		n, _ := results.Usage()
		return n
	}
	disk := func() int64 {
		_, n := results.Usage()
		return n
	}
	for i := range sorted.ResultsPer + 4 {
		p.find(fmt.Sprintf("%s&value-quantity=ge%d", bySize, i-50), 5, "", at)
	}
	if n, files := kept(), len(p.scratchFiles()); n != sorted.ResultsPer || files != sorted.ResultsPer {
		t.Errorf("%d results of one owner are kept in %d files", n, files)
	}
	p.clock.Add(sorted.ResultTTL + time.Second)
	p.commit(p.document("p00", 999)) // a commit drops expired results
	if n, files := kept(), len(p.scratchFiles()); n != 0 || files != 0 || disk() != 0 {
		t.Errorf("%d results, %d files, %d bytes are kept", n, files, disk())
	}
	// With space for little more than one result, the older one is dropped.
	_, _, _ = p.find(bySize, 5, "", at)
	results.Limit = disk() * 5 / 2
	_, after, _ := p.find(bySize+"&status=final", 5, "", at)
	if n := kept(); n < 1 || disk() > results.Limit {
		t.Errorf("%d results, %d bytes of %d", n, disk(), results.Limit)
	}
	if _, _, looked := p.find(bySize+"&status=final", 5, after, at); looked > 5 {
		t.Errorf("the newest was let go of: %d rows", looked)
	}
	// Without space, the search fails and leaves no files.
	results.Limit = 4 << 10
	q, _ := search.Parse("Observation", [][2]string{{"_sort", "code"}, {"patient", "p01,p02,p03"}},
		search.ParseOptions{})
	err := p.d.Find(context.Background(), store.Find{Query: q, Filter: allOf("Observation")},
		func(*store.Found) bool { return true })
	if fhir.KindOf(err) != fhir.TooCostly {
		t.Errorf("a sort beyond its limit: %v", err)
	}
	if files := p.scratchFiles(); len(files) > kept() {
		t.Errorf("files of no result: %v", files)
	}
}
