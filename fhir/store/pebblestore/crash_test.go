package pebblestore_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"pulsegate/fhir"
	"pulsegate/fhir/rapidtest"
	"pulsegate/fhir/series"
	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore"
)

var (
	crashes = flag.Int("crashes", 50, "crash clones to try")
	seed    = flag.Uint64("seed", 0, "seed of the crash test; 0 takes RAPID_SEED or a random one")
)

const crashWriters = 8

// acked holds the promises of one acknowledged commit.
type acked struct {
	ref  fhir.Ref
	t    store.Seq
	leaf uint64
	text string
	// sample was written, too. moved, if set, became a document in the same commit
	// and was deleted.
	sample, moved fhir.Ref
}

// journal collects the acknowledgements of all writers.
type journal struct {
	// pause stops the writers between two commits while it is held for writing.
	pause sync.RWMutex
	mu    sync.Mutex
	done  []acked
}

func (j *journal) add(a acked) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.done = append(j.done, a)
}

func (j *journal) all() []acked {
	j.mu.Lock()
	defer j.mu.Unlock()
	return append([]acked(nil), j.done...)
}

// stream returns the template of a writer's samples.
func stream(w int) *series.Template {
	t := &series.Template{Patient: fmt.Sprintf("p%d", w), Vendor: "apple", Values: 1,
		Slots: []series.Slot{series.SlotEffective, series.SlotValue},
		Parts: [][]byte{
			fmt.Appendf(nil, `},"status":"final","code":{"coding":[{"system":"http://loinc.org","code":"8867-4"}]},"subject":{"reference":"Patient/p%d"},`, w),
			[]byte(`,"valueQuantity":{"value":`), []byte(`}}`)}}
	copy(t.Identity[:], fmt.Sprintf("stream-%d", w))
	return t
}

// samples returns n samples of a stream, after those of lesser i.
func samples(i int64, n int) *series.Columns {
	cols := &series.Columns{}
	for k := range n {
		x := series.Sample{Start: 1767225600e6 + i*100e6 + int64(k)*1e6, End: series.NoEnd}
		x.Values[0] = series.Decimal{Mant: int64(60 + k)}
		cols.Append(&x, 1)
	}
	return cols
}

// writer commits a resource, samples, state and a leaf together until stop is set.
// Every seventh commit takes an earlier sample out of its series.
func writer(s store.Store, w int, j *journal, stop *atomic.Bool) error {
	tpl := stream(w)
	var refs []fhir.Ref
	for i := 0; !stop.Load(); i++ {
		cols := samples(int64(i), 1+i*37%90)
		first := cols.At(0)
		key := tpl.Key(&first)
		sample, moved := fhir.Ref{Type: "Observation", ID: key.ID()}, fhir.Ref{}
		batch := &store.Batch{Series: []store.SeriesWrite{{Template: tpl, Columns: cols}}, Probed: ^store.Seq(0)}
		if i%7 == 6 {
			moved, refs = refs[0], refs[1:]
			batch.Writes = []store.Write{{Op: store.Remove, Expect: store.Existing,
				Resource: fhir.Resource{Type: moved.Type, ID: moved.ID}}}
		}
		refs = append(refs, sample)
		ref := fhir.Ref{Type: "Device", ID: fmt.Sprintf("d-%d-%d", w, i)}
		text := ref.String()
		batch.Writes = append(batch.Writes, []store.Write{
			{Resource: fhir.Resource{Type: ref.Type, ID: ref.ID,
				JSON: []byte(fhir.Prefix(ref.Type, ref.ID) + `},"patient":{"reference":"Patient/p1"}}`)}},
			{Resource: fhir.Resource{Type: "Patient", ID: fmt.Sprintf("p%d", w),
				JSON: fmt.Appendf(nil, `%s},"multipleBirthInteger":%d}`,
					fhir.Prefix("Patient", fmt.Sprintf("p%d", w)), i)}},
		}...)
		batch.State = []store.StateWrite{{Key: text, Value: []byte(text)}}
		batch.Leaves = []store.Leaf{store.Leaf(text)}
		j.pause.RLock()
		r, err := s.Commit(context.Background(), batch)
		j.pause.RUnlock()
		if err != nil {
			return err
		}
		j.add(acked{ref, r.Seq, r.LeafIndex, text, sample, moved})
	}
	return nil
}

// lost counts the acknowledged commits that s does not hold.
func lost(t *testing.T, s store.Store, want []acked) (n int) {
	ctx := context.Background()
	for _, a := range want {
		r, _, err := s.Read(ctx, a.ref, 0)
		v, errV := s.Get(ctx, a.text)
		l, errL := s.Log().Leaf(a.leaf)
		if err != nil || errV != nil || errL != nil || r.Version != 1 || string(v) != a.text ||
			string(l) != a.text || s.LastSeq() < a.t {
			n++
			continue
		}
		if a.sample.ID == "" {
			continue
		}
		o, _, errS := s.Read(ctx, a.sample, a.t)
		if errS != nil || o.Version != 1 || o.Deleted {
			n++
			continue
		}
		if a.moved.ID != "" {
			if o, _, errS = s.Read(ctx, a.moved, 0); errS != nil || !o.Deleted || o.Version != 2 {
				n++
			}
		}
	}
	if err := s.Check(ctx, func(p string) { t.Error(p) }); err != nil {
		t.Error(err)
	}
	return n
}

// crash runs writers on a file system and opens clones of it, taken at random
// moments. It returns the number of acknowledged commits that were missing.
func crash(t *testing.T, clones int, noSync bool) (missing, promised int) {
	sd := rapidtest.Seed(*seed)
	t.Logf("-seed %d", sd)
	rng := rand.New(rand.NewPCG(sd, 1))
	for clones > 0 {
		fs := vfs.NewCrashableMem()
		s, err := pebblestore.Open("", pebblestore.Options{FS: fs, NoSync: noSync})
		if err != nil {
			t.Fatal(err)
		}
		var j journal
		var stop atomic.Bool
		done := make(chan error, crashWriters)
		for w := range crashWriters {
			go func() { done <- writer(s, w, &j, &stop) }()
		}
		for range min(clones, 10) {
			clones--
			time.Sleep(time.Duration(rng.IntN(8)) * time.Millisecond)
			want := j.all() // acknowledged before the crash
			clone := fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: rng.IntN(101),
				RNG: rand.New(rand.NewPCG(sd, uint64(clones)))})
			j.pause.Lock() // stop the writers, so that a slow check does not let the next clone grow
			c, err := pebblestore.Open("", pebblestore.Options{FS: clone})
			if err != nil {
				t.Fatalf("clone %d does not open: %v", clones, err)
			}
			missing, promised = missing+lost(t, c, want), promised+len(want)
			if err := c.Close(); err != nil {
				t.Fatal(err)
			}
			j.pause.Unlock()
		}
		stop.Store(true)
		for range crashWriters {
			if err := <-done; err != nil {
				t.Fatal(err)
			}
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return missing, promised
}

func TestCrashLosesNothingAcknowledged(t *testing.T) {
	missing, promised := crash(t, clones(*crashes), false)
	t.Logf("%d of %d acknowledged commits missing", missing, promised)
	if missing != 0 || promised == 0 {
		t.Fatalf("%d of %d acknowledged commits are missing", missing, promised)
	}
}

// TestCrashControlLoses is the control: without fsync, the same test must find
// losses.
func TestCrashControlLoses(t *testing.T) {
	missing, promised := crash(t, clones(min(*crashes, 20)), true)
	t.Logf("%d of %d acknowledged commits missing", missing, promised)
	if missing == 0 {
		t.Fatal("without fsync nothing was lost: the crash test proves nothing")
	}
}

func TestFailedFsyncStopsTheStore(t *testing.T) {
	for after := range int32(12) {
		mem := vfs.NewCrashableMem()
		var armed, broken atomic.Bool
		var left atomic.Int32
		left.Store(after)
		inj := errorfs.InjectorFunc(func(op errorfs.Op) error {
			if !armed.Load() {
				return nil
			}
			switch op.Kind {
			case errorfs.OpFileSync, errorfs.OpFileSyncData, errorfs.OpFileSyncTo:
				if broken.Load() || left.Add(-1) < 0 {
					broken.Store(true)
					return errors.New("injected")
				}
			}
			return nil
		})
		s, err := pebblestore.Open("", pebblestore.Options{FS: errorfs.Wrap(mem, inj)})
		if err != nil {
			t.Fatal(err)
		}
		armed.Store(true)
		var j journal
		var stop atomic.Bool
		done := make(chan error, crashWriters)
		for w := range crashWriters {
			go func() { done <- writer(s, w, &j, &stop) }()
		}
		for range crashWriters {
			if err := <-done; fhir.KindOf(err) != fhir.Unavailable {
				t.Fatalf("after %d syncs: %v", after, err)
			}
		}
		// The disk may work again, but this store must stay stopped.
		armed.Store(false)
		if _, err := s.Commit(context.Background(),
			&store.Batch{State: []store.StateWrite{{Key: "k",
				Value: []byte("v")}}}); fhir.KindOf(err) != fhir.Unavailable {
			t.Fatalf("a commit after the failure: %v", err)
		}
		if _, err := s.Get(context.Background(), "k"); fhir.KindOf(err) != fhir.Unavailable {
			t.Fatalf("a read after the failure: %v", err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		c, err := pebblestore.Open("", pebblestore.Options{FS: mem.CrashClone(vfs.CrashCloneCfg{})})
		if err != nil {
			t.Fatal(err)
		}
		if n := lost(t, c, j.all()); n != 0 {
			t.Fatalf("after %d syncs: %d acknowledged commits are missing", after, n)
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// clones returns a smaller number under -short, because the race detector slows
// down a clone of an in-memory file system by a factor of a hundred.
func clones(n int) int {
	if testing.Short() {
		return min(n, 20)
	}
	return n
}
