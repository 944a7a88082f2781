package pebblestore_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"pulsegate/fhir"
	"pulsegate/fhir/rapidtest"
	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore"
	"pulsegate/fhir/store/sharedlog/memlog"
)

// history is a run of writers on several processes whose log fails.
type history struct {
	t    *testing.T
	dbs  []*pebblestore.DB
	mu   sync.Mutex
	acks []acked
	bad  []string
}

func (h *history) report(format string, args ...any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.bad = append(h.bad, fmt.Sprintf(format, args...))
}

// write commits resources that are written once, with a leaf, and increments a counter
// that all writers share.
func (h *history) write(d *pebblestore.DB, name string, n int) {
	ctx := context.Background()
	for i := range n {
		id := fmt.Sprintf("%s-%d", name, i)
		b := &store.Batch{Writes: []store.Write{device(id, "")}, Leaves: []store.Leaf{store.Leaf(id)}}
		r, err := d.Commit(ctx, b)
		if err != nil {
			h.report("%s: %v", id, err)
			continue
		}
		h.mu.Lock()
		h.acks = append(h.acks, acked{ref: fhir.Ref{Type: "Device", ID: id}, t: r.Seq, leaf: r.LeafIndex, text: id})
		h.mu.Unlock()
		if err := count(d); err != nil {
			h.report("counter: %v", err)
		}
	}
}

// count adds one to a counter by compare-and-swap.
func count(d *pebblestore.DB) error {
	return store.Retry(1000, "count", "the counter is busy", func() error {
		if err := d.Sync(context.Background()); err != nil {
			return err
		}
		old, err := d.Get(context.Background(), "counter")
		if err != nil {
			return err
		}
		w := store.StateWrite{Key: "counter", Value: fmt.Append(nil, 1), Expect: store.StateAbsent}
		if old != nil {
			var n int
			if _, err := fmt.Sscan(string(old), &n); err != nil {
				return err
			}
			w = store.StateWrite{Key: "counter", Value: fmt.Append(nil, n+1), Expect: store.StateEquals, Old: old}
		}
		_, err = d.Commit(context.Background(), &store.Batch{State: []store.StateWrite{w}})
		return err
	})
}

// check compares what was acknowledged with what every process shows.
func (h *history) check() {
	ctx := context.Background()
	sums := map[string]bool{}
	for i, d := range h.dbs {
		if err := d.Sync(ctx); err != nil {
			h.report("sync of store %d: %v", i, err)
			continue
		}
		if err := d.Check(ctx, func(p string) { h.report("store %d: %s", i, p) }); err != nil {
			h.report("check of store %d: %v", i, err)
		}
		leaves := map[string]int{}
		for k := range d.Log().Size() {
			l, err := d.Log().Leaf(k)
			if err != nil {
				h.report("leaf %d: %v", k, err)
				continue
			}
			leaves[string(l)]++
		}
		for text, n := range leaves {
			if n != 1 {
				h.report("store %d: leaf %s is there %d times", i, text, n)
			}
		}
		for _, a := range h.acks {
			r, _, err := d.Read(ctx, a.ref, 0)
			l, errL := d.Log().Leaf(a.leaf)
			if err != nil || r.Version != 1 || errL != nil || string(l) != a.text {
				h.report("store %d: %s has version %d (%v) and leaf %q (%v)", i, a.text, r.Version, err, l, errL)
			}
		}
		if v, err := d.Get(ctx, "counter"); err != nil || string(v) != fmt.Sprint(len(h.acks)) {
			h.report("store %d: the counter is %s of %d (%v)", i, v, len(h.acks), err)
		}
		sum, _, err := pebblestore.RowSum(d)
		if err != nil {
			h.report("rows of store %d: %v", i, err)
		}
		sums[sum] = true
	}
	if len(sums) != 1 {
		h.report("the stores differ")
	}
}

// live runs writers on three processes with faults from a seed, and returns what is
// wrong with the outcome. change, if not nil, breaks the processes.
func live(t *testing.T, seed uint64, change func(*pebblestore.Shared)) *history {
	cluster := logOf(t, memlog.Options{Plan: memlog.Random(seed, memlog.Rough)})
	h := &history{t: t}
	for i := range 3 {
		name := fmt.Sprint("node", i)
		p := &process{fs: vfs.NewCrashableMem(), log: cluster.Client(name), patience: patience,
			conf: pebblestore.Shared{Node: name}, change: change}
		if change != nil {
			p.patience = 2 * time.Second
		}
		d, err := retryOpen(p)
		if err != nil {
			t.Fatal(err)
		}
		h.dbs = append(h.dbs, d)
	}
	var wg sync.WaitGroup
	for i, d := range h.dbs {
		for w := range 3 {
			wg.Go(func() { h.write(d, fmt.Sprintf("d%d-%d", i, w), 6) })
		}
	}
	wg.Wait()
	h.check()
	for _, d := range h.dbs {
		if err := d.Close(); err != nil {
			h.report("close: %v", err)
		}
	}
	return h
}

// firstSeed returns the seed of the run.
func firstSeed(t *testing.T) uint64 {
	sd := rapidtest.Seed(*seed)
	t.Logf("-seed %d", sd)
	return sd
}

func TestSharedWithFaults(t *testing.T) {
	sd := firstSeed(t)
	for i := range uint64(clones(10)) {
		h := live(t, sd+i, nil)
		for _, b := range h.bad {
			t.Error(b)
		}
		if len(h.acks) != 54 || t.Failed() {
			t.Fatalf("%d of 54 commits, seed %d", len(h.acks), sd+i)
		}
	}
}

// TestSharedControls breaks the rules of the commit path one at a time. The check of
// TestSharedWithFaults must find each within a few runs. TestNothingBeforeTheMajority has
// the control that applies a group too early.
func TestSharedControls(t *testing.T) {
	rng := rand.New(rand.NewPCG(firstSeed(t), 2))
	for name, change := range map[string]func(*pebblestore.Shared){
		"answer early": pebblestore.AnswerEarly, "forget": pebblestore.Forget,
	} {
		t.Run(name, func(t *testing.T) {
			for run := range 20 {
				if h := live(t, rng.Uint64(), change); len(h.bad) > 0 {
					t.Logf("run %d: %d problems, such as %s", run, len(h.bad), h.bad[0])
					return
				}
			}
			t.Fatal("nothing was found: the test proves nothing")
		})
	}
}

// TestSharedCrash opens clones of the files of a process that is killed at random
// moments. After they have read the log, they hold what was acknowledged, and have the
// same rows as the process.
func TestSharedCrash(t *testing.T) {
	sd := firstSeed(t)
	rng := rand.New(rand.NewPCG(sd, 3))
	cluster := logOf(t, memlog.Options{})
	p := &process{fs: vfs.NewCrashableMem(), log: cluster.Client("node0")}
	d, err := p.open()
	if err != nil {
		t.Fatal(err)
	}
	var j journal
	var stop atomic.Bool
	done := make(chan error, crashWriters)
	for w := range crashWriters {
		go func() { done <- writer(d, w, &j, &stop) }()
	}
	behind := 0
	for n := range clones(20) / 2 {
		until(t, "there are more commits", func() bool { return len(j.all()) > 20*(n+1) })
		want := j.all()
		q := &process{log: cluster.Client(fmt.Sprint("clone", n)), fs: p.fs.CrashClone(vfs.CrashCloneCfg{
			UnsyncedDataPercent: rng.IntN(101), RNG: rand.New(rand.NewPCG(sd, uint64(n)))})}
		j.pause.Lock()
		if at, err := pebblestore.PositionOf("", q.fs); err != nil {
			t.Fatal(err)
		} else if at.Index < d.Position().Index {
			behind++
		}
		c, err := q.open()
		if err != nil {
			t.Fatalf("clone %d does not open: %v", n, err)
		}
		if missing := lost(t, c, want); missing > 0 {
			t.Fatalf("%d of %d acknowledged commits are missing", missing, len(want))
		}
		equal(t, []store.Store{c, d})
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
	if behind == 0 {
		t.Fatal("no clone was behind the log: the test proves nothing")
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
}
