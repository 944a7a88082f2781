// Package processes opens the stores of several processes over one log in memory, for
// tests that run through all of them.
package processes

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore"
	"pulsegate/fhir/store/sharedlog"
	"pulsegate/fhir/store/sharedlog/memlog"
	"pulsegate/fhir/store/storetest/several"
)

// Processes are the processes over one log. Their files are in memory.
type Processes struct {
	// Store sends each call to the store of another process than the last.
	Store *several.Store
	// DBs are the stores of the processes.
	DBs []*pebblestore.DB

	log   *memlog.Cluster
	clock func() time.Time
	files []*vfs.MemFS
	lives int         // of the processes; each has connections of its own
	calm  atomic.Bool // no faults, while stores are opened and closed
}

var identity = sharedlog.Identity{Cluster: [16]byte{3}, Epoch: 1, Schema: pebblestore.RowSchema}

// faults are rates at which the processes wait for the log, but do not refuse requests.
var faults = memlog.Rates{LoseAnswer: 0.02, Late: 0.02, LoseRequest: 0.01}

// patience is longer than any machine takes for a commit. The faults delay the log, but the
// stores must not refuse.
const patience = 5 * time.Minute

// New opens the stores of n processes over an empty log. If seed is not zero, the log
// loses requests and answers, and receives entries late. clock may be nil.
func New(n int, clock func() time.Time, seed uint64) (*Processes, error) {
	p := &Processes{clock: clock}
	random := memlog.Random(seed, faults)
	p.calm.Store(true)
	p.log = memlog.New(memlog.Options{Plan: func(c memlog.Call) memlog.Fault {
		if seed == 0 || p.calm.Load() || c.Op == memlog.OpRead && c.Number%4 != 0 { // each request reads
			return memlog.Fault{}
		}
		return random(c)
	}})
	if _, err := p.log.Client("operator").SetIdentity(context.Background(), sharedlog.Identity{}, identity); err != nil {
		return nil, err
	}
	for range n {
		p.files = append(p.files, vfs.NewCrashableMem())
	}
	return p, p.Open()
}

// Open opens the stores again, after Close. Only the first process compacts series.
func (p *Processes) Open() error {
	p.lives++
	p.DBs = nil
	var stores []store.Store
	for i, fs := range p.files {
		node := fmt.Sprint("node", i+1)
		d, err := pebblestore.Open("", pebblestore.Options{FS: fs, Clock: p.clock, CacheBytes: 8 << 20,
			Shared: &pebblestore.Shared{Log: p.log.Client(fmt.Sprint(node, ".", p.lives)), Node: node,
				Identity: identity, Poll: 5 * time.Millisecond, Patience: patience}})
		if err != nil {
			return errors.Join(err, p.Close())
		}
		d.SetCompacting(i == 0)
		p.DBs, stores = append(p.DBs, d), append(stores, d)
	}
	p.Store = several.New(stores...)
	p.calm.Store(false)
	return nil
}

// Close closes the stores.
func (p *Processes) Close() error {
	p.calm.Store(true)
	p.log.DeliverLate()
	var err error
	for _, d := range p.DBs {
		err = errors.Join(err, d.Close())
	}
	return err
}

// Crash takes what a crash would leave of the files, which are the durable data and a
// random part of the rest.
func (p *Processes) Crash(r *rand.Rand) (left []*vfs.MemFS) {
	for _, fs := range p.files {
		left = append(left, fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: r.IntN(101), RNG: r}))
	}
	return left
}

// OpenFrom opens the stores of other files, after Close.
func (p *Processes) OpenFrom(files []*vfs.MemFS) error {
	p.files = files
	return p.Open()
}
