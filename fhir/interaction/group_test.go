package interaction_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/interaction"
	"pulsegate/fhir/r4"
	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore"
)

// open admits everything: what is counted here is not validation.
type open struct{ interaction.Validator }

func (open) Create(typ string, body []byte, id string) (fhir.Resource, error) {
	return fhir.Resource{Type: typ, ID: id, JSON: []byte(fhir.Prefix(typ, id) + "}" + string(body) + "}")}, nil
}

func (open) Bundle([]byte) (*r4.Bundle, error) { return nil, nil }

// syncing counts what reaches the disk, each time as slowly as a disk. The first of a
// step waits until all requests of the step are in the store.
type syncing struct {
	n    atomic.Int64
	wait atomic.Pointer[func() bool] // of the step; may be nil
}

func (s *syncing) MaybeError(op errorfs.Op) error {
	switch op.Kind {
	case errorfs.OpFileSync, errorfs.OpFileSyncData, errorfs.OpFileSyncTo:
		s.n.Add(1)
		if ready := s.wait.Swap(nil); ready != nil {
			for end := time.Now().Add(2 * time.Minute); !(*ready)() && time.Now().Before(end); {
				time.Sleep(time.Millisecond)
			}
		}
		time.Sleep(20 * time.Millisecond)
	}
	return nil
}

func (s *syncing) String() string { return "syncing" }

// counting counts the calls that the requests make.
type counting struct {
	store.Store
	calls atomic.Int64
}

func (c *counting) Commit(ctx context.Context, b *store.Batch) (store.Result, error) {
	c.calls.Add(1)
	return c.Store.Commit(ctx, b)
}

func (c *counting) Read(ctx context.Context, ref fhir.Ref, at store.Seq) (fhir.Resource, *access.Facts, error) {
	c.calls.Add(1)
	return c.Store.Read(ctx, ref, at)
}

// TestRequestsShareSyncs tests that concurrent requests share an fsync: creates, which
// commit their own events, and reads, which share a commit of events. Each is durable
// with its AuditEvent when it is answered.
func TestRequestsShareSyncs(t *testing.T) {
	disk := &syncing{}
	st, err := pebblestore.Open("", pebblestore.Options{FS: errorfs.Wrap(vfs.NewMem(), disk)})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	}()
	rec, err := audit.NewRecorder(audit.Options{Store: st, Clock: time.Now, Rand: rand.Reader,
		Observer: "https://pg.example"})
	if err != nil {
		t.Fatal(err)
	}
	calls := &counting{Store: st}
	s := &interaction.Service{Store: calls, Validator: open{}, Audit: rec, Clock: time.Now, Rand: rand.Reader,
		Base: "https://pg.example/fhir"}
	rq := &interaction.Request{Caller: audit.Caller{Principal: &access.Principal{ClientID: "c",
		Grant: access.All()}, RemoteIP: "192.0.2.1"}}
	const n, few = 64, 12
	ids := make([]string, n)
	for _, step := range []struct {
		name string
		do   func(i int) error
	}{
		{"creates", func(i int) error {
			w, err := s.Create(context.Background(), rq, "Organization", []byte(fmt.Sprintf(`,"name":"o%d"`, i)), "")
			ids[i] = w.Resource.ID
			return err
		}},
		{"reads", func(i int) error {
			_, err := s.Read(context.Background(), rq, fhir.Ref{Type: "Organization", ID: ids[i]})
			return err
		}},
	} {
		syncs, events := disk.n.Load(), st.Log().Size()
		calls.calls.Store(0)
		all := func() bool { return calls.calls.Load() >= n }
		disk.wait.Store(&all)
		var wg sync.WaitGroup
		for i := range n {
			wg.Add(1)
			go func() {
				defer wg.Done()
				if err := step.do(i); err != nil {
					t.Error(err)
				}
			}()
		}
		wg.Wait()
		if got := disk.n.Load() - syncs; got > few || got == 0 {
			t.Errorf("%d %s took %d fsyncs", n, step.name, got)
		} else {
			t.Logf("%d %s took %d fsyncs", n, step.name, got)
		}
		if got := st.Log().Size() - events; got != n {
			t.Errorf("%d %s left %d AuditEvents", n, step.name, got)
		}
	}
}
