package pebblestore_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"pulsegate/fhir"
	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore"
	"pulsegate/fhir/store/sharedlog"
	"pulsegate/fhir/store/sharedlog/memlog"
	"pulsegate/fhir/store/storetest"
	"pulsegate/fhir/store/storetest/several"
)

var identity = sharedlog.Identity{Cluster: [16]byte{1}, Epoch: 1, Schema: pebblestore.RowSchema}

// logOf returns the servers of a log with an identity.
func logOf(tb testing.TB, o memlog.Options) *memlog.Cluster {
	tb.Helper()
	plan := o.Plan
	armed := false
	if plan != nil {
		o.Plan = func(c memlog.Call) memlog.Fault {
			if !armed {
				return memlog.Fault{}
			}
			return plan(c)
		}
	}
	c := memlog.New(o)
	if ok, err := c.Client("operator").SetIdentity(context.Background(), sharedlog.Identity{}, identity); !ok ||
		err != nil {
		tb.Fatal(ok, err)
	}
	armed = true
	return c
}

// process is a process of a cluster: its files, and its connection to the log.
type process struct {
	fs    *vfs.MemFS
	log   *memlog.Client
	clock func() time.Time
	opts  pebblestore.Options
	conf  pebblestore.Shared
	// patience is passed to Quick. Zero means longer than any test takes.
	patience time.Duration
	wrap     func(sharedlog.Log) sharedlog.Log // may be nil
	change   func(*pebblestore.Shared)
}

const patience = 2 * time.Minute // longer than any test

func (p *process) open() (*pebblestore.DB, error) {
	o := p.opts
	o.FS, o.Clock, o.CacheBytes = p.fs, p.clock, 8<<20
	c := p.conf
	c.Log, c.Identity = p.log, identity
	if c.Poll == 0 {
		c.Poll = 5 * time.Millisecond
	}
	if p.wrap != nil {
		c.Log = p.wrap(c.Log)
	}
	wait := p.patience
	if wait == 0 {
		wait = patience
	}
	o.Shared = pebblestore.Quick(c, wait)
	if p.change != nil {
		p.change(o.Shared)
	}
	return pebblestore.Open("", o)
}

// group is a store of several processes over one log.
type group struct {
	*several.Store
	t         testing.TB
	cluster   *memlog.Cluster
	processes []*process
	closed    bool
}

func (g *group) start(t testing.TB) *group {
	var stores []store.Store
	for i, p := range g.processes {
		d, err := retryOpen(p)
		if err != nil {
			t.Fatal(err)
		}
		d.SetCompacting(i == 0)
		stores = append(stores, d)
	}
	return &group{Store: several.New(stores...), t: t, cluster: g.cluster, processes: g.processes}
}

// retryOpen opens a store whose log may fail.
func retryOpen(p *process) (d *pebblestore.DB, err error) {
	for range 100 {
		if d, err = p.open(); err == nil {
			return d, nil
		}
	}
	return nil, err
}

// Close checks that all stores have equal rows.
func (g *group) Close() error {
	if !g.closed {
		g.closed = true
		equal(g.t, g.Stores())
	}
	return g.Store.Close()
}

// equal checks that all stores show the same rows.
func equal(t testing.TB, stores []store.Store) {
	t.Helper()
	var want string
	var at sharedlog.Position
	for deadline := time.Now().Add(patience); ; { // a compaction may be on its way
		same := true
		for i, s := range stores {
			d := s.(*pebblestore.DB)
			d.SetCompacting(false)
			err := d.Sync(context.Background())
			if fhir.KindOf(err) == fhir.Unavailable && time.Now().Before(deadline) {
				same = false
				break
			} else if err != nil {
				t.Error(err)
				return
			}
			sum, pos, err := pebblestore.RowSum(d)
			if err != nil {
				t.Error(err)
				return
			}
			if i == 0 {
				want, at = sum, pos
			} else if pos != at {
				same = false
			} else if sum != want {
				t.Errorf("the rows of store %d differ from those of store 0 at place %d", i, at.Index)
				return
			}
		}
		if same {
			return
		}
		if time.Now().After(deadline) {
			t.Error("the stores do not come to rest")
			return
		}
	}
}

// shared returns a driver whose stores are n processes over one log.
func shared(n int, opts pebblestore.Options, faults memlog.Options) storetest.Driver {
	return storetest.Driver{
		Lives: *lives,
		Open: func(t testing.TB, clock func() time.Time) store.Store {
			g := &group{cluster: logOf(t, faults)}
			for i := range n {
				name := fmt.Sprint("node", i)
				g.processes = append(g.processes, &process{fs: vfs.NewCrashableMem(), clock: clock,
					log: g.cluster.Client(name), opts: opts, conf: pebblestore.Shared{Node: name}})
			}
			return g.start(t)
		},
		Reopen: func(t testing.TB, s store.Store) store.Store {
			g := s.(*group)
			if err := g.Close(); err != nil {
				t.Fatal(err)
			}
			return g.start(t)
		},
		Crash: func(t testing.TB, s store.Store) store.Store {
			g := s.(*group)
			seq := uint64(g.Stores()[0].LastSeq())
			var clones []*vfs.MemFS
			for i, p := range g.processes {
				clones = append(clones, p.fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 50,
					RNG: rand.New(rand.NewPCG(seq, uint64(i)))}))
			}
			if err := g.Close(); err != nil {
				t.Fatal(err)
			}
			for i, p := range g.processes {
				p.fs = clones[i]
			}
			return g.start(t)
		},
	}
}

func TestSharedContractOfOne(t *testing.T) {
	d := shared(1, pebblestore.Options{}, memlog.Options{})
	d.Lives = 500 * time.Millisecond
	storetest.Run(t, d)
}

func TestSharedContractOfThree(t *testing.T) {
	d := shared(3, pebblestore.Options{}, memlog.Options{})
	d.Lives = 500 * time.Millisecond
	storetest.Run(t, d)
}

// rough are faults of every kind.
func rough(seed uint64) memlog.Options {
	rates := memlog.Rough
	rates.Slow, rates.Latency = 0.1, 2*time.Millisecond
	random := memlog.Random(seed, rates)
	return memlog.Options{Plan: func(c memlog.Call) memlog.Fault {
		if c.Op == memlog.OpRead && c.Number%8 != 0 { // the suite reads very often
			return memlog.Fault{}
		}
		return random(c)
	}}
}

// TestSharedContractWithFaults runs the suite through processes whose log loses answers,
// receives entries late, loses its majority and is slow.
func TestSharedContractWithFaults(t *testing.T) {
	d := shared(3, pebblestore.Options{}, rough(firstSeed(t)))
	d.Lives = 500 * time.Millisecond
	storetest.Run(t, d)
}
