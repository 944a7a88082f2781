package server

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"pulsegate/cmd/internal/admin"
	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/bulk"
	"pulsegate/fhir/cluster/role"
	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore"
	"pulsegate/fhir/store/sharedlog"
	"pulsegate/fhir/store/sharedlog/memlog"
	"pulsegate/mapping/ingest"
)

// leases returns the roles of a server over db.
func leases(t *testing.T, db *pebblestore.DB, node string) role.Roles {
	t.Helper()
	r, err := role.New(role.Options{State: db, Node: node, Clock: time.Now, Lease: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// newReplicas opens n empty stores that share a log.
func newReplicas(t *testing.T, n int) (all []*pebblestore.DB) {
	t.Helper()
	log := memlog.New(memlog.Options{})
	identity := sharedlog.Identity{Cluster: [16]byte{1}, Epoch: 1, Schema: pebblestore.RowSchema}
	if ok, err := log.Client("operator").SetIdentity(t.Context(), sharedlog.Identity{}, identity); !ok || err != nil {
		t.Fatal(ok, err)
	}
	for i := range n {
		name := strconv.Itoa(i)
		db, err := pebblestore.Open("", pebblestore.Options{FS: vfs.NewMem(), CacheBytes: 8 << 20,
			Shared: &pebblestore.Shared{Log: log.Client(name), Node: name, Identity: identity,
				Poll: 5 * time.Millisecond}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = db.Close() })
		all = append(all, db)
	}
	return all
}

// together opens the services of n servers at the same time. Each has a store of its own,
// which is empty, and they share a log. It returns one of the stores.
func together(t *testing.T, n int) (*pebblestore.DB, []*services) {
	t.Helper()
	stores := newReplicas(t, n)
	all, errs := make([]*services, n), make([]error, n)
	var starting sync.WaitGroup
	begin := make(chan struct{})
	for i := range n {
		env := environment{config: settings(t, t.TempDir(), nil), version: "test", now: time.Now,
			shared: stores[i], roles: leases(t, stores[i], strconv.Itoa(i)), log: slog.New(slog.DiscardHandler),
			base: "http://localhost:8080"}
		ctx, stop := context.WithCancel(context.Background())
		t.Cleanup(stop)
		starting.Go(func() {
			<-begin
			all[i], errs[i] = openServices(ctx, env)
		})
	}
	close(begin)
	starting.Wait()
	for _, s := range all {
		if s != nil {
			t.Cleanup(func() { _ = s.close() })
		}
	}
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	if err := stores[0].Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	return stores[0], all
}

// content returns the number of versions of each resource that servers store when they
// start.
func content(t *testing.T, db *pebblestore.DB) map[fhir.Ref]uint64 {
	t.Helper()
	out := map[fhir.Ref]uint64{}
	err := db.Scan(t.Context(), store.ScanRange{Types: []string{"CodeSystem", "ConceptMap", "Organization"},
		Filter: access.All().Filter(access.Read)}, func(f *store.Found) bool {
		out[fhir.Ref{Type: f.Resource.Type, ID: string([]byte(f.Resource.ID))}] = f.Resource.Version
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestServersStartTogether checks that three servers that start at the same time with an
// empty store publish each resource once, use one key for ids, and record each once.
func TestServersStartTogether(t *testing.T) {
	one, _ := together(t, 1)
	want := content(t, one)
	db, all := together(t, 3)
	got := content(t, db)
	for ref, version := range got {
		if version != 1 || want[ref] != 1 {
			t.Errorf("%v has version %d", ref, version)
		}
	}
	if len(got) != len(want) || len(got) < 3 {
		t.Errorf("%d resources, want %d", len(got), len(want))
	}
	events := 0
	err := db.Scan(t.Context(), store.ScanRange{Types: []string{"AuditEvent"},
		Filter: access.All().Filter(access.Read)},
		func(f *store.Found) bool {
			for ref := range got {
				if bytes.Contains(f.Resource.JSON, []byte(`"`+ref.String()+`/_history/`)) ||
					bytes.Contains(f.Resource.JSON, []byte(`"`+ref.String()+`"`)) {
					events++
				}
			}
			return true
		})
	if err != nil || events != len(got) {
		t.Errorf("%d AuditEvents for %d resources, %v", events, len(got), err)
	}
	key, err := db.Get(t.Context(), "ingest/key")
	if err != nil || len(key) == 0 {
		t.Error("no key")
	}
	id := all[0].pipeline.Mapper.SourceDevice("apple", "p1", "Watch").ID
	for _, s := range all[1:] {
		if other := s.pipeline.Mapper.SourceDevice("apple", "p1", "Watch").ID; other != id {
			t.Errorf("the servers give one device the ids %s and %s", id, other)
		}
	}
}

// TestRemapAtAnyServer checks that a job can be started, followed, listed and canceled at
// servers that do not run it, and that another server takes over when the runner ends.
func TestRemapAtAnyServer(t *testing.T) {
	_, all := together(t, 3)
	for range 2 {
		for _, s := range all {
			ops := operations{s}
			if err := s.store.Sync(t.Context()); err != nil { // as before each command
				t.Fatal(err)
			}
			job, err := ops.Remap(t.Context(), operatorOfTest, admin.Remap{Vendor: "oura"}, func(ingest.RemapJob) {})
			if err != nil || job.Status != ingest.RemapDone {
				t.Fatalf("%+v %v", job, err)
			}
		}
		if err := all[0].close(); err != nil { // perhaps the runner
			t.Fatal(err)
		}
		all = all[1:]
	}
	if err := all[0].store.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	list, err := operations{all[0]}.RemapJobs(t.Context(), operatorOfTest)
	if err != nil || len(list.Jobs) != 1 || list.Jobs[0].Status != ingest.RemapDone {
		t.Errorf("%+v %v", list, err)
	}
	_, err = operations{all[0]}.CancelRemap(t.Context(), operatorOfTest, admin.VendorName{Vendor: "Oura"})
	if fhir.KindOf(err) != fhir.NotFound {
		t.Errorf("a job that has ended was canceled: %v", err)
	}
}

// TestInTurn checks that servers do one after another what they do under a role.
func TestInTurn(t *testing.T) {
	db, err := pebblestore.Open(t.TempDir(), pebblestore.Options{NoSync: true, CacheBytes: 8 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var mu sync.Mutex
	var working, done int
	var all sync.WaitGroup
	for i := range 3 {
		s := &services{environment: environment{roles: leases(t, db, strconv.Itoa(i))}}
		all.Go(func() {
			err := s.inTurn(t.Context(), "test", func(context.Context) error {
				mu.Lock()
				working++
				if working > 1 {
					t.Error("two servers at a time")
				}
				mu.Unlock()
				if _, err := db.Commit(t.Context(), &store.Batch{State: []store.StateWrite{{Key: "test/x",
					Value: []byte("1")}}}); err != nil {
					t.Error(err)
				}
				mu.Lock()
				working--
				done++
				mu.Unlock()
				if done == 2 {
					return errors.New("failed")
				}
				return nil
			})
			if err != nil && err.Error() != "failed" {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if done != 3 {
		t.Errorf("%d of 3 servers", done)
	}
	s := &services{environment: environment{roles: role.Alone{}}}
	if err := s.inTurn(t.Context(), "test", func(context.Context) error { done++; return nil }); err != nil ||
		done != 4 {
		t.Errorf("alone: %d, %v", done, err)
	}
}

// TestExportAtAnyServer checks that an export can be started, awaited and downloaded at
// different servers, also after the server that prepares exports has ended.
func TestExportAtAnyServer(t *testing.T) {
	_, all := together(t, 3)
	ops := operations{all[0]}
	if err := ops.addDemoClient(t.Context(), operatorOfTest); err != nil {
		t.Fatal(err)
	}
	if _, err := ops.AddPatient(t.Context(), operatorOfTest,
		admin.NewPatient{ID: "ada", Given: "Ada", Family: "Invented"}); err != nil {
		t.Fatal(err)
	}
	synced := func(i int) *services {
		s := all[i%len(all)]
		if err := s.store.Sync(t.Context()); err != nil { // as before each request
			t.Fatal(err)
		}
		return s
	}
	export := func(i int) {
		t.Helper()
		s := synced(i)
		grant, err := s.grants().registered(t.Context(), demoClient)
		if err != nil {
			t.Fatal(err)
		}
		by := audit.Caller{RequestID: "r",
			Principal: &access.Principal{ClientID: demoClient, Scope: demoScope, Grant: grant}}
		at, err := s.followers.exporter.KickOff(t.Context(), by, bulk.Request{Level: bulk.System})
		if err != nil {
			t.Fatal(err)
		}
		id := at[strings.LastIndex(at, "/")+1:]
		var st *bulk.Status
		for end := time.Now().Add(2 * time.Minute); st == nil || st.Manifest == nil; time.Sleep(time.Millisecond) {
			if st, err = synced(i+1).followers.exporter.Status(t.Context(), by, id, 0, bulk.Form3); err != nil ||
				time.Now().After(end) {
				t.Fatalf("%+v %v", st, err)
			}
		}
		f, err := synced(i+2).followers.exporter.Open(t.Context(), by, id, "Organization.ndjson")
		if err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		if err := f.WriteTo(t.Context(), &out); err != nil || bytes.Count(out.Bytes(), []byte("\n")) < 2 {
			t.Errorf("%s, %v", out.Bytes(), err)
		}
	}
	for i := range all {
		export(i)
	}
	if err := all[0].close(); err != nil { // perhaps the server that prepares
		t.Fatal(err)
	}
	all = all[1:]
	for i := range all {
		export(i)
	}
}
