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
	"pulsegate/fhir/store/pebblestore"
)

// open admits everything: what is counted here is not validation.
type open struct{ interaction.Validator }

func (open) Create(typ string, body []byte, id string) (fhir.Resource, error) {
	return fhir.Resource{Type: typ, ID: id, JSON: []byte(fhir.Prefix(typ, id) + "}" + string(body) + "}")}, nil
}

func (open) Bundle([]byte) (*r4.Bundle, error) { return nil, nil }

// syncing counts what reaches the disk, each time as slowly as a disk.
type syncing struct{ n atomic.Int64 }

func (s *syncing) MaybeError(op errorfs.Op) error {
	switch op.Kind {
	case errorfs.OpFileSync, errorfs.OpFileSyncData, errorfs.OpFileSyncTo:
		s.n.Add(1)
		time.Sleep(20 * time.Millisecond)
	}
	return nil
}

func (s *syncing) String() string { return "syncing" }

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
	s := &interaction.Service{Store: st, Validator: open{}, Audit: rec, Clock: time.Now, Rand: rand.Reader,
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
