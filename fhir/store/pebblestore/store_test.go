package pebblestore_test

import (
	"flag"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"pulsegate/fhir/rapidtest"
	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore"
	"pulsegate/fhir/store/storetest"
)

var lives = flag.Duration("pair", 0, "how long to compare samples with documents; 0 is the default of the suite; -rapid.checks also limits it")

// TestMain sets the default to few cases for each of the ways to run the suite.
func TestMain(m *testing.M) { rapidtest.Main(m, 40, 4) }

// driver opens stores in memory.
func driver() storetest.Driver { return driverOf(pebblestore.Options{}) }

func driverOf(opts pebblestore.Options) storetest.Driver {
	type origin struct {
		fs    *vfs.MemFS
		clock func() time.Time
	}
	var from sync.Map // open stores and their file systems
	open := func(t testing.TB, o origin) store.Store {
		opts.FS, opts.Clock, opts.CacheBytes = o.fs, o.clock, 8<<20
		s, err := pebblestore.Open("", opts)
		if err != nil {
			t.Fatal(err)
		}
		from.Store(s, o)
		return s
	}
	closed := func(t testing.TB, s store.Store) origin {
		o, _ := from.LoadAndDelete(s)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		return o.(origin)
	}
	return storetest.Driver{
		Lives: *lives,
		Open: func(t testing.TB, clock func() time.Time) store.Store {
			return open(t, origin{vfs.NewCrashableMem(), clock})
		},
		Reopen: func(t testing.TB, s store.Store) store.Store { return open(t, closed(t, s)) },
		Crash: func(t testing.TB, s store.Store) store.Store {
			o, _ := from.Load(s)
			clone := o.(origin).fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 50,
				RNG: rand.New(rand.NewPCG(uint64(s.LastSeq()), 1))})
			return open(t, origin{clone, closed(t, s).clock})
		},
	}
}

func TestContract(t *testing.T) { storetest.Run(t, driver()) }

// TestContractTight runs the suite with bounds as small as possible.
func TestContractTight(t *testing.T) {
	d := driverOf(pebblestore.Tight(pebblestore.Options{}))
	d.Lives = 2 * time.Second
	storetest.Run(t, d)
}
func TestContractOfDocuments(t *testing.T) { storetest.Run(t, storetest.AsDocuments(driver())) }
