package ingest

import (
	"context"
	"crypto/rand"
	"fmt"
	"maps"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"pulsegate/adapters"
	"pulsegate/fhir"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore"
	"pulsegate/fhir/store/sharedlog"
	"pulsegate/fhir/store/sharedlog/memlog"
	"pulsegate/mapping/sample"
)

// replicas returns processes with their own stores, which share a log. A store shows
// commits of other processes only when it is asked to, so that each process reads old
// state whenever it may.
func replicas(t *testing.T, n int) []*world {
	t.Helper()
	log := memlog.New(memlog.Options{})
	identity := sharedlog.Identity{Cluster: [16]byte{1}, Epoch: 1, Schema: pebblestore.RowSchema}
	if ok, err := log.Client("operator").SetIdentity(t.Context(), sharedlog.Identity{}, identity); !ok || err != nil {
		t.Fatal(ok, err)
	}
	one := newWorld(t)
	one.othersWrite = true // its store stays empty
	var all []*world
	for i := range n {
		name := fmt.Sprint("p", i)
		db, err := pebblestore.Open("", pebblestore.Options{FS: vfs.NewMem(), CacheBytes: 8 << 20,
			Shared: &pebblestore.Shared{Log: log.Client(name), Node: name, Identity: identity, Poll: time.Hour}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := db.Close(); err != nil {
				t.Error(err)
			}
		})
		rec, err := audit.NewRecorder(audit.Options{Store: db, Clock: one.pipeline.Clock, Rand: rand.Reader,
			Observer: "https://example.org"})
		if err != nil {
			t.Fatal(err)
		}
		c := &consents{}
		all = append(all, &world{t: t, consents: c, pipeline: &Pipeline{Store: db, Audit: rec, Consents: c,
			Mapper: one.pipeline.Mapper, Adapters: one.pipeline.Adapters, Clock: one.pipeline.Clock,
			SpoolDir: t.TempDir()}})
	}
	patient := fhir.Resource{Type: "Patient", ID: "p1", JSON: []byte(fhir.Prefix("Patient", "p1") + `}}`)}
	if _, err := all[0].pipeline.Store.Commit(t.Context(),
		&store.Batch{Writes: []store.Write{{Resource: patient}}}); err != nil {
		t.Fatal(err)
	}
	return all
}

func (w *world) synced() *world {
	w.t.Helper()
	if err := w.pipeline.Store.Sync(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
	return w
}

// TestReplicasStoreConcurrently checks that processes with their own stores, which deliver
// data of one patient at the same time, leave what one process leaves: all samples once,
// restated ones in the version of the last statement, and the facts of all.
func TestReplicasStoreConcurrently(t *testing.T) {
	const processes, payloads = 3, 4
	payload := func(process, i int) (out []any) {
		for j := range 5 { // overlaps with that of the next process
			out = append(out, heartRate(oct(1, 0).Add(time.Duration(5*i+j+3*process)*time.Minute), "62"))
		}
		coarse := coarseRate(8)
		coarse.Start = coarse.Start.Add(time.Duration(i) * time.Minute)
		facts := sample.Fact{Name: fmt.Sprint("fact", process), Value: "1"}
		return append(out, weight(fmt.Sprint("w", i), "70"), coarse, asleep(22+process, 1), versioned(9, "11.0", facts))
	}
	all := replicas(t, processes)
	want := newWorld(t)
	var running sync.WaitGroup
	for process, w := range all {
		w.synced()
		running.Go(func() {
			for i := range payloads {
				if _, err := w.deliver("apple", nil, payload(process, i)...); err != nil {
					t.Errorf("process %d: %v", process, err)
				}
			}
		})
	}
	running.Wait()
	for process := range processes {
		for i := range payloads {
			if _, err := want.deliver("apple", nil, payload(process, i)...); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, w := range all {
		w.synced()
		for _, typ := range []string{"Observation", "Device"} {
			got, want := w.all(typ), want.all(typ)
			if len(got) != len(want) {
				t.Errorf("%d of %s, want %d", len(got), typ, len(want))
			}
			for id := range want {
				if _, ok := got[id]; !ok {
					t.Errorf("%s/%s is lost", typ, id)
				}
			}
		}
		got, first := w.state(), all[0].state()
		if !maps.Equal(got, first) {
			t.Errorf("the processes differ: %v\n%v", got, first)
		}
		for key := range want.state() {
			// The sample that comes first is the exemplar of its form.
			if _, ok := got[key]; !ok && !strings.HasPrefix(key, prefixExemplar) {
				t.Errorf("the state %s is lost", key)
			}
		}
		w.checkKept("apple")
	}
}

// TestReplicaEraseAndParts checks that an erasure and a repeated part hold at a process
// that has not seen the commits of the other one.
func TestReplicaEraseAndParts(t *testing.T) {
	all := replicas(t, 2)
	first, second := all[0].synced(), all[1].synced()
	const to = "/ingest/apple/health-auto-export"
	if code, _ := part(t, first.handler(keyOf("p1", "apple")), to, "s1", exportedRate(62)); code != 200 {
		t.Fatal(code)
	}
	if code, _ := part(t, first.handler(keyOf("p1", "apple")), to, "s2", exportedRate(63)); code != 200 {
		t.Fatal(code)
	}
	code, sum := part(t, second.handler(keyOf("p1", "apple")), to, "s1", exportedRate(62)) // its store is old
	if code != 200 || !sum.Repeated || second.rate() != "63" {
		t.Errorf("%d %+v, heart rate %s", code, sum, second.rate())
	}
	reading := make(chan struct{})
	erased := make(chan struct{})
	second.pipeline.Adapters = []adapters.Adapter{slow{page{"apple", []any{weight("a1", "70")}}, reading, erased}}
	var delivering sync.WaitGroup
	delivering.Go(func() {
		_, err := second.pipeline.Run(t.Context(), Request{Patient: "p1", Vendor: "apple", Format: "page",
			Body: strings.NewReader("page"), Caller: operator()})
		if fhir.KindOf(err) != fhir.Unavailable {
			t.Errorf("a delivery that began before the erasure: %v", err)
		}
	})
	<-reading
	if sum, err := first.erase("apple"); err != nil || sum.Erased == 0 {
		t.Errorf("%+v %v", sum, err)
	}
	close(erased)
	delivering.Wait()
	if ids := second.synced().ids(); len(ids) != 0 {
		t.Errorf("%v are left", ids)
	}
}

// slow is an adapter that waits before it decodes.
type slow struct {
	adapters.Adapter
	reading chan<- struct{}
	until   <-chan struct{}
}

func (s slow) Decode(ctx context.Context, in adapters.Input, sink adapters.Sink) error {
	close(s.reading)
	<-s.until
	return s.Adapter.Decode(ctx, in, sink)
}
