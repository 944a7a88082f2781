package memlog_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"pulsegate/fhir/clocktest"
	"pulsegate/fhir/store/sharedlog"
	"pulsegate/fhir/store/sharedlog/logtest"
	"pulsegate/fhir/store/sharedlog/memlog"
)

// server returns a server of logtest, with all hooks.
func server() *logtest.Server {
	clock := clocktest.At(time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC))
	var minority atomic.Bool
	cluster := memlog.New(memlog.Options{Now: clock.Now, Plan: func(memlog.Call) (f memlog.Fault) {
		if minority.Load() {
			f.NoMajority = memlog.Never
		}
		return f
	}})
	var n atomic.Int64
	client := func() *memlog.Client { return cluster.Client(fmt.Sprintf("node-%d", n.Add(1))) }
	return &logtest.Server{
		Client:    func() (sharedlog.Log, error) { return client(), nil },
		Snapshots: func() (sharedlog.Snapshots, error) { return client().Snapshots(), nil },
		Undurable: func(ctx context.Context, e *sharedlog.Entry) (func(bool) error, error) {
			minority.Store(true)
			err := client().Append(ctx, e)
			minority.Store(false)
			if !errors.Is(err, memlog.ErrNoMajority) {
				return nil, fmt.Errorf("Append without a majority: got error %v", err)
			}
			return func(keep bool) error {
				if keep {
					cluster.RegainMajority()
				} else {
					cluster.RollBack()
				}
				return nil
			}, nil
		},
		Backup: func(context.Context) (func() error, error) {
			restore := cluster.Backup()
			return func() error { restore(); return nil }, nil
		},
		TamperEntry: func(index uint64) error { return found(cluster.TamperEntry(index)) },
		TamperFile:  func(sum sharedlog.Hash) error { return found(cluster.TamperFile(sum)) },
		Pass:        func(d time.Duration) { clock.Add(d) },
		Epochs:      true,
	}
}

func found(ok bool) error {
	if !ok {
		return errors.New("nothing to tamper with")
	}
	return nil
}

func TestLog(t *testing.T) {
	logtest.Run(t, func(*testing.T) *logtest.Server { return server() })
}
