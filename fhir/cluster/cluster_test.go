package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/cluster"
	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore"
	"pulsegate/fhir/store/sharedlog/memlog"
)

// process holds the connection and the directory of one process.
type process struct {
	client *memlog.Client
	dir    string
	name   string
}

func newProcess(t testing.TB, servers *memlog.Cluster, name string) *process {
	return &process{servers.Client(name), filepath.Join(t.TempDir(), "store"), name}
}

func (p *process) options() cluster.Options {
	return cluster.Options{Log: p.client, Snapshots: p.client.Snapshots(), Dir: p.dir,
		Store: pebblestore.Options{Shared: &pebblestore.Shared{Node: p.name, Poll: time.Millisecond}}}
}

func (p *process) open(t testing.TB) *cluster.Member {
	t.Helper()
	m, err := cluster.Open(context.Background(), p.options())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return m
}

func (p *process) refused(t testing.TB, text string) {
	t.Helper()
	m, err := cluster.Open(context.Background(), p.options())
	if err == nil {
		t.Fatal(errors.Join(errors.New("it joined"), m.Close()))
	}
	if !strings.Contains(err.Error(), text) {
		t.Fatalf("the error %q does not say %q", err, text)
	}
}

func put(t testing.TB, s store.Store, ids ...string) {
	t.Helper()
	for _, id := range ids {
		r := fhir.Resource{Type: "Patient", ID: id, JSON: []byte(fhir.Prefix("Patient", id) + "}}")}
		if _, err := s.Commit(context.Background(), &store.Batch{
			Writes: []store.Write{{Resource: r, Expect: store.Absent}}, Leaves: []store.Leaf{[]byte(id)}}); err != nil {
			t.Fatal(err)
		}
	}
}

// has checks that a store has exactly these Patients and their leaves.
func has(t testing.TB, s store.Store, ids ...string) {
	t.Helper()
	if err := s.Sync(context.Background()); err != nil {
		t.Fatal(err)
	}
	var got []string
	if err := s.Changes(context.Background(), 0, func(c *store.Change) bool {
		got = append(got, c.Ref.ID)
		return true
	}); err != nil {
		t.Fatal(err)
	}
	if strings.Join(got, " ") != strings.Join(ids, " ") || s.Log().Size() != uint64(len(ids)) {
		t.Fatalf("it has %v and %d leaves, want %v", got, s.Log().Size(), ids)
	}
	if err := s.Check(context.Background(), func(p string) { t.Error(p) }); err != nil {
		t.Fatal(err)
	}
}

// TestFounding checks that of several processes that start at once, one founds the
// cluster, and all are members of it.
func TestFounding(t *testing.T) {
	servers := memlog.New(memlog.Options{})
	members := make([]*cluster.Member, 4)
	var all sync.WaitGroup
	for i := range members {
		p := newProcess(t, servers, fmt.Sprint("node-", i))
		all.Go(func() {
			var err error
			if members[i], err = cluster.Open(context.Background(), p.options()); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if t.Failed() {
		return
	}
	founders := 0
	for i, m := range members {
		if m.Founded {
			founders++
		}
		put(t, m, fmt.Sprint("p", i))
		defer func() {
			if err := m.Close(); err != nil {
				t.Error(err)
			}
		}()
	}
	if founders != 1 {
		t.Errorf("%d founders", founders)
	}
	for _, m := range members {
		has(t, m, "p0", "p1", "p2", "p3")
	}
}

// TestJoin checks that a process joins from the log, from a snapshot if the log no
// longer begins at its first entry, and after an absence longer than the log reaches
// back.
func TestJoin(t *testing.T) {
	ctx := context.Background()
	servers := memlog.New(memlog.Options{})
	a := newProcess(t, servers, "a").open(t)
	put(t, a, "p0")
	away := newProcess(t, servers, "away")
	m, err := cluster.Open(ctx, away.options())
	if err != nil {
		t.Fatal(err)
	}
	has(t, m, "p0")
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	want := []string{"p0"}
	for i := range 3 {
		id := fmt.Sprint("q", i)
		put(t, a, id)
		want = append(want, id)
		if _, err := a.Snapshot(ctx); err != nil {
			t.Fatal(err)
		}
	}
	if first, _, err := a.SharedLog().Bounds(ctx); err != nil || first < 3 {
		t.Fatalf("the log begins at %d %v", first, err)
	}
	if all, err := a.Snapshots(ctx); err != nil || len(all) != 2 {
		t.Fatalf("%d snapshots are kept %v", len(all), err)
	}
	put(t, a, "last")
	want = append(want, "last")
	has(t, newProcess(t, servers, "new").open(t), want...)
	back := away.open(t)
	if back.Discarded == "" || back.Was != 0 {
		t.Errorf("it was away for too long, and discarded its copy because of %q", back.Discarded)
	}
	has(t, back, want...)
	put(t, back, "after")
	has(t, a, append(want, "after")...)
}

// TestTamperedSnapshot checks that no process joins from a snapshot with a changed file.
func TestTamperedSnapshot(t *testing.T) {
	ctx := context.Background()
	servers := memlog.New(memlog.Options{})
	a := newProcess(t, servers, "a").open(t)
	put(t, a, "p0")
	m, err := a.Snapshot(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range m.Files {
		if f.Size > 0 && !servers.TamperFile(f.Sum) {
			t.Fatal("the file is not stored")
		}
	}
	newProcess(t, servers, "b").refused(t, "file")
}

// TestBase checks that the store of a server that was alone becomes that of the
// cluster which it founds, and that no second one can be added.
func TestBase(t *testing.T) {
	servers := memlog.New(memlog.Options{})
	founder, other := newProcess(t, servers, "founder"), newProcess(t, servers, "other")
	for _, p := range []*process{founder, other} {
		p.alone(t, "alone-"+p.name)
	}
	m := founder.open(t)
	if !m.Founded {
		t.Error("it did not found the cluster")
	}
	put(t, m, "p1")
	other.refused(t, "was alone")
	s, err := pebblestore.Open(other.dir, pebblestore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	has(t, s, "alone-other")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	has(t, newProcess(t, servers, "new").open(t), "alone-founder", "p1")
}

// TestBaseRace checks that of two servers that were alone and found a cluster at
// once, one does and the other keeps what it has.
func TestBaseRace(t *testing.T) {
	servers := memlog.New(memlog.Options{})
	ps := []*process{newProcess(t, servers, "a"), newProcess(t, servers, "b")}
	results := make([]error, len(ps))
	var all sync.WaitGroup
	for i, p := range ps {
		p.alone(t, p.name)
		all.Go(func() {
			m, err := cluster.Open(context.Background(), p.options())
			if err == nil {
				err = m.Close()
			} else {
				results[i] = err
				return
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if (results[0] == nil) == (results[1] == nil) {
		t.Fatalf("one of them should found the cluster: %v", results)
	}
	lost := ps[0]
	won := ps[1]
	if results[1] != nil {
		lost, won = ps[1], ps[0]
	}
	s, err := pebblestore.Open(lost.dir, pebblestore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	has(t, s, lost.name)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	has(t, newProcess(t, servers, "new").open(t), won.name)
}

// TestLeave checks that the copy of a cluster is not opened alone, unless it leaves.
func TestLeave(t *testing.T) {
	servers := memlog.New(memlog.Options{})
	p := newProcess(t, servers, "a")
	m, err := cluster.Open(context.Background(), p.options())
	if err != nil {
		t.Fatal(err)
	}
	put(t, m, "p0")
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	if s, err := pebblestore.Open(p.dir, pebblestore.Options{}); err == nil {
		t.Fatal("the copy was opened alone", s.Close())
	}
	if err := pebblestore.Leave(p.dir, nil); err != nil {
		t.Fatal(err)
	}
	s, err := pebblestore.Open(p.dir, pebblestore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	has(t, s, "p0")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	p.refused(t, "was alone")
}

// TestForeignCluster checks that a copy of one cluster does not join another one.
func TestForeignCluster(t *testing.T) {
	first, second := memlog.New(memlog.Options{}), memlog.New(memlog.Options{})
	p := newProcess(t, first, "a")
	m, err := cluster.Open(context.Background(), p.options())
	if err != nil {
		t.Fatal(err)
	}
	put(t, m, "p0")
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	p.client = second.Client("a")
	p.refused(t, "the database has none")
	newProcess(t, second, "b").open(t)
	p.refused(t, "another cluster")
}

// TestRestore checks that members notice that the log was restored to an earlier
// state, and that after the operator has raised the epoch all of them go on from it.
func TestRestore(t *testing.T) {
	ctx := context.Background()
	servers := memlog.New(memlog.Options{})
	ps := []*process{newProcess(t, servers, "a"), newProcess(t, servers, "b")}
	var members []*cluster.Member
	for _, p := range ps {
		m, err := cluster.Open(ctx, p.options())
		if err != nil {
			t.Fatal(err)
		}
		members = append(members, m)
	}
	put(t, members[0], "p0", "p1")
	if _, err := members[0].Snapshot(ctx); err != nil {
		t.Fatal(err)
	}
	put(t, members[0], "p2")
	if _, err := members[0].Snapshot(ctx); err != nil {
		t.Fatal(err)
	}
	restore := servers.Backup()
	put(t, members[1], "lost")
	has(t, members[0], "p0", "p1", "p2", "lost")
	restore()
	for _, m := range members {
		if err := m.Sync(ctx); err == nil {
			t.Error("it did not notice that the log was restored")
		}
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	}
	// Without a decision of the operator, the copies stay: they may be all that is left
	// of what the log lost.
	ps[1].refused(t, "cluster restore")
	id, err := cluster.Restore(ctx, ps[0].client)
	if err != nil || id.Epoch != 2 {
		t.Fatal(id, err)
	}
	for _, p := range ps {
		m := p.open(t)
		if m.Was != 1 || m.Discarded == "" || m.Identity.Epoch != 2 {
			t.Errorf("it was of epoch %d, and discarded its copy because of %q", m.Was, m.Discarded)
		}
		if before, err := pebblestore.MembershipOf(m.Kept, nil); err != nil || before.Epoch != 1 {
			t.Errorf("the copy from before is not kept: %+v %v", before, err)
		}
		has(t, m, "p0", "p1", "p2")
		members = append(members, m)
	}
	put(t, members[2], "p3")
	has(t, members[3], "p0", "p1", "p2", "p3")
	// A member of the old epoch that was not stopped can serve nothing either.
	if _, err := cluster.Restore(ctx, memlog.New(memlog.Options{}).Client("x")); fhir.KindOf(err) != fhir.NotFound {
		t.Error(err)
	}
}

// TestOldProgram checks that a program that cannot read the rows of the cluster does
// not start, and keeps its copy.
func TestOldProgram(t *testing.T) {
	ctx := context.Background()
	servers := memlog.New(memlog.Options{})
	p := newProcess(t, servers, "a")
	m, err := cluster.Open(ctx, p.options())
	if err != nil {
		t.Fatal(err)
	}
	put(t, m, "p0")
	old := m.Identity
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	raised := old
	raised.Schema++
	if ok, err := p.client.SetIdentity(ctx, old, raised); err != nil || !ok {
		t.Fatal(ok, err)
	}
	p.refused(t, "row schema")
	if kept, err := pebblestore.MembershipOf(p.dir, nil); err != nil || !kept.Exists {
		t.Errorf("its copy is gone: %+v %v", kept, err)
	}
	if ok, err := p.client.SetIdentity(ctx, raised, old); err != nil || !ok {
		t.Fatal(ok, err)
	}
	has(t, p.open(t), "p0")
}
