package cluster_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"pulsegate/fhir"
	"pulsegate/fhir/cluster"
	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore"
	"pulsegate/fhir/store/sharedlog"
	"pulsegate/fhir/store/sharedlog/memlog"
)

// alone makes the store of a process one of a server that is alone, with some Patients.
func (p *process) alone(t testing.TB, ids ...string) {
	t.Helper()
	s, err := pebblestore.Open(p.dir, pebblestore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	put(t, s, ids...)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestFoundingIsInterrupted founds a cluster with the store of a process that was killed
// before there was a cluster.
func TestFoundingIsInterrupted(t *testing.T) {
	servers := memlog.New(memlog.Options{})
	p := newProcess(t, servers, "a")
	p.alone(t, "p0")
	s, err := pebblestore.Open(p.dir, pebblestore.Options{Shared: &pebblestore.Shared{Log: p.client, Node: "a",
		Found: true, Identity: sharedlog.Identity{Cluster: [16]byte{7}, Epoch: 1, Schema: pebblestore.RowSchema}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if m := p.open(t); !m.Founded || m.Identity.Cluster == [16]byte{7} {
		t.Errorf("founded %v, %+v", m.Founded, m.Identity)
	}
	has(t, newProcess(t, servers, "new").open(t), "p0")
}

// TestFoundingWithoutAnswer loses the answer to the call that founds the cluster. Control:
// if the request is lost, the server stays alone.
func TestFoundingWithoutAnswer(t *testing.T) {
	for name, fault := range map[string]memlog.Fault{"answer": {LoseAnswer: true}, "request": {LoseRequest: true}} {
		for _, ids := range [][]string{nil, {"p0"}} {
			healed := false
			servers := memlog.New(memlog.Options{Plan: func(c memlog.Call) (f memlog.Fault) {
				if c.Op == memlog.OpSetIdentity && !healed {
					return fault
				}
				return f
			}})
			p := newProcess(t, servers, "a")
			if ids != nil {
				p.alone(t, ids...)
			}
			if name == "request" {
				p.refused(t, "could not be entered")
				if had, err := pebblestore.MembershipOf(p.dir, nil); err != nil || had.Alone() != (ids != nil) {
					t.Errorf("%+v, %v", had, err)
				}
				healed = true
			}
			if m := p.open(t); !m.Founded {
				t.Errorf("lost %s: it did not found the cluster", name)
			}
			has(t, newProcess(t, servers, "new").open(t), ids...)
		}
	}
}

// TestPrepare tests that every process begins with what Prepare has committed, which is
// called again if it fails.
func TestPrepare(t *testing.T) {
	servers := memlog.New(memlog.Options{})
	p := newProcess(t, servers, "a")
	p.alone(t, "p0")
	calls := 0
	o := p.options()
	o.Prepare = func(ctx context.Context, st *pebblestore.DB) error {
		_, err := st.Commit(ctx, &store.Batch{State: []store.StateWrite{{Key: "prepared", Value: []byte("yes")}}})
		if calls++; calls == 1 {
			err = errors.Join(err, errors.New("no such file"))
		}
		return err
	}
	if m, err := cluster.Open(t.Context(), o); err == nil {
		t.Fatal("founded without its preparation", m.Close())
	}
	p.alone(t, "p1")
	m, err := cluster.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	at := m.Position()
	if err := m.Close(); err != nil || calls != 2 || at != (sharedlog.Position{}) {
		t.Errorf("%d calls, at %+v, %v", calls, at, err)
	}
	other := newProcess(t, servers, "new").open(t)
	has(t, other, "p0", "p1")
	if v, err := other.Get(t.Context(), "prepared"); err != nil || string(v) != "yes" {
		t.Errorf("a process that joins has %q, %v", v, err)
	}
	if m, err = cluster.Open(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	if err := m.Close(); err != nil || calls != 2 {
		t.Errorf("%d calls, %v", calls, err)
	}
}

// TestSnapshotWaits tests that a snapshot waits for one that is being made, and does not
// wait any more when its context ends.
func TestSnapshotWaits(t *testing.T) {
	held, begun := make(chan struct{}), make(chan struct{}, 1000)
	servers := memlog.New(memlog.Options{Plan: func(c memlog.Call) (f memlog.Fault) {
		if c.Op == memlog.OpPutFile {
			begun <- struct{}{}
			f.Held = held
		}
		return f
	}})
	m := newProcess(t, servers, "a").open(t)
	put(t, m, "p0")
	results := make(chan error, 2)
	take := func(ctx context.Context) {
		_, err := m.Snapshot(ctx)
		results <- err
	}
	go take(t.Context())
	<-begun
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	take(ctx)
	if err := <-results; fhir.KindOf(err) != fhir.Unavailable {
		t.Errorf("a snapshot whose context has ended: %v", err)
	}
	close(held)
	if err := <-results; err != nil {
		t.Error(err)
	}
	take(t.Context())
	if err := <-results; err != nil {
		t.Error(err)
	}
}

// TestCheckpointOfKilledProcess tests that a process removes the checkpoint that it was
// making when it was killed.
func TestCheckpointOfKilledProcess(t *testing.T) {
	p := newProcess(t, memlog.New(memlog.Options{}), "a")
	left := p.dir + ".checkpoint"
	if err := os.MkdirAll(left, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(left, "000001.sst"), []byte("table"), 0o600); err != nil {
		t.Fatal(err)
	}
	p.open(t)
	entries, err := os.ReadDir(filepath.Dir(p.dir))
	if err != nil || slices.ContainsFunc(entries, func(e os.DirEntry) bool { return e.Name() == "store.checkpoint" }) {
		t.Errorf("%v, %v", entries, err)
	}
}
