package pebblestore_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/search"
	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore"
	"pulsegate/fhir/store/sharedlog"
	"pulsegate/fhir/store/sharedlog/memlog"
)

// script is a Plan that a test changes.
type script struct{ plan atomic.Pointer[memlog.Plan] }

func (s *script) set(p memlog.Plan) { s.plan.Store(&p) }

func (s *script) fault(c memlog.Call) memlog.Fault {
	if p := s.plan.Load(); p != nil {
		return (*p)(c)
	}
	return memlog.Fault{}
}

// lazy opens n processes that look at the log only when they must.
func lazy(t *testing.T, n int, change func(*process)) (s *script, g *group, dbs []*pebblestore.DB) {
	t.Helper()
	s = &script{}
	g = &group{cluster: logOf(t, memlog.Options{Plan: s.fault})}
	for i := range n {
		name := fmt.Sprint("node", i)
		p := &process{fs: vfs.NewCrashableMem(), log: g.cluster.Client(name),
			conf: pebblestore.Shared{Node: name, Poll: time.Hour}}
		if change != nil {
			change(p)
		}
		g.processes = append(g.processes, p)
	}
	g = g.start(t)
	for _, x := range g.Stores() {
		dbs = append(dbs, x.(*pebblestore.DB))
	}
	t.Cleanup(func() {
		if err := g.Close(); err != nil {
			t.Error(err)
		}
	})
	return s, g, dbs
}

func device(id, rest string) store.Write {
	return store.Write{Resource: fhir.Resource{Type: "Device", ID: id,
		JSON: []byte(fhir.Prefix("Device", id) + "}" + rest + "}")}}
}

func batchOf(ws ...store.Write) *store.Batch { return &store.Batch{Writes: ws} }

func must(t *testing.T, d store.Store, b *store.Batch) store.Result {
	t.Helper()
	r, err := d.Commit(context.Background(), b)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func wantKind(t *testing.T, err error, k fhir.Kind) {
	t.Helper()
	if err == nil || fhir.KindOf(err) != k {
		t.Fatalf("got error %v, want kind %d", err, k)
	}
}

// synced calls Sync, again if the store has less patience than this machine needs.
func synced(t *testing.T, d *pebblestore.DB) {
	t.Helper()
	until(t, "Sync succeeds", func() bool {
		err := d.Sync(context.Background())
		if err != nil && fhir.KindOf(err) != fhir.Unavailable {
			t.Fatal(err)
		}
		return err == nil
	})
}

// until waits for a condition.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("waited in vain until " + what)
		}
	}
}

type outcome struct {
	result store.Result
	err    error
}

func commitLater(d store.Store, b *store.Batch) <-chan outcome {
	out := make(chan outcome, 1)
	go func() {
		r, err := d.Commit(context.Background(), b)
		out <- outcome{r, err}
	}()
	return out
}

// TestRefusalIsCurrent lets a process refuse and accept on a state that it has not seen
// when the request comes.
func TestRefusalIsCurrent(t *testing.T) {
	_, _, dbs := lazy(t, 2, nil)
	a, b := dbs[0], dbs[1]
	for v := range uint64(3) {
		must(t, a, batchOf(device("d", fmt.Sprintf(`,"lotNumber":"%d"`, v))))
	}
	at := func(v uint64) *store.Batch {
		w := device("d", `,"lotNumber":"9"`)
		w.Expect, w.IfVersion = store.Version, v
		return batchOf(w)
	}
	if r := must(t, b, at(3)); r.Outcomes[0].Version != 4 {
		t.Fatalf("%+v", r)
	}
	// a does not know of version 4.
	_, err := a.Commit(context.Background(), at(3))
	wantKind(t, err, fhir.PreconditionFailed)
	must(t, b, batchOf(store.Write{Op: store.Remove, Resource: fhir.Resource{Type: "Device", ID: "d"}}))
	w := device("d", "")
	w.Expect = store.Existing
	_, err = a.Commit(context.Background(), batchOf(w))
	wantKind(t, err, fhir.Gone)
	// Nothing to write is an answer, too.
	w = device("e", "")
	must(t, a, batchOf(w))
	must(t, b, batchOf(device("e", `,"lotNumber":"1"`)))
	w.SkipSame = true
	if r := must(t, a, batchOf(w)); r.Outcomes[0].Unchanged || r.Outcomes[0].Version != 3 {
		t.Fatalf("%+v", r)
	}
}

// TestRefusalNeedsTheLog requires that a process refuses nothing before it has looked at
// the log.
func TestRefusalNeedsTheLog(t *testing.T) {
	s, _, dbs := lazy(t, 1, nil)
	must(t, dbs[0], batchOf(device("d", "")))
	w := device("d", "")
	w.Expect = store.Absent
	held, called := make(chan struct{}), make(chan struct{})
	var once atomic.Bool
	s.set(func(c memlog.Call) memlog.Fault {
		if c.Op != memlog.OpRead || once.Swap(true) {
			return memlog.Fault{}
		}
		close(called)
		return memlog.Fault{Held: held}
	})
	answer := commitLater(dbs[0], batchOf(w))
	<-called
	select {
	case o := <-answer:
		t.Fatalf("answered before the look: %+v", o)
	default:
	}
	close(held)
	wantKind(t, (<-answer).err, fhir.Conflict)
}

func TestGuardsOfAnotherProcess(t *testing.T) {
	_, _, dbs := lazy(t, 2, nil)
	a, b := dbs[0], dbs[1]
	must(t, a, batchOf(device("d", "")))
	if err := b.Sync(context.Background()); err != nil {
		t.Fatal(err)
	}
	seen := b.LastSeq()
	must(t, a, batchOf(store.Write{Resource: fhir.Resource{Type: "Consent", ID: "c", JSON: []byte(fhir.Prefix("Consent",
		"c") + `},"patient":{"reference":"Patient/p1"}}`)}}))
	audited := &store.Batch{Leaves: []store.Leaf{store.Leaf("x")}, Guards: []string{store.ConsentGuard("p1")},
		Seen: seen}
	_, err := b.Commit(context.Background(), audited)
	wantKind(t, err, fhir.Conflict)
	audited.Guards = []string{store.ConsentGuard("p2")}
	must(t, b, audited)
}

func TestSyncShowsAndCallsWatchers(t *testing.T) {
	_, _, dbs := lazy(t, 2, nil)
	a, b := dbs[0], dbs[1]
	var own, foreign []store.Commit
	defer a.Watch(func(c store.Commit) { own = append(own, c) })()
	defer b.Watch(func(c store.Commit) { foreign = append(foreign, c) })()
	tpl := stream(1)
	for i := range 5 {
		batch := batchOf(device(fmt.Sprint("d", i), ""), device("same", fmt.Sprintf(`,"lotNumber":"%d"`, i)),
			store.Write{Resource: fhir.Resource{Type: "AuditEvent", ID: fmt.Sprint("a", i),
				JSON: []byte(fhir.Prefix("AuditEvent", fmt.Sprint("a", i)) + `}}`)}})
		if i == 2 {
			batch.Series = []store.SeriesWrite{{Template: tpl, Columns: samples(int64(i), 7)}}
			batch.Probed = a.LastSeq()
		}
		if i == 3 {
			batch.Writes = []store.Write{{Op: store.Remove, Resource: fhir.Resource{Type: "Device", ID: "same"}}}
		}
		r := must(t, a, batch)
		must(t, a, &store.Batch{State: []store.StateWrite{{Key: "k", Value: []byte{byte(i)}}}})
		if b.LastSeq() >= r.Seq {
			t.Fatal("the other process looks at the log although nothing wants it to")
		}
		if err := b.Sync(context.Background()); err != nil {
			t.Fatal(err)
		}
		if v, err := b.Get(context.Background(), "k"); err != nil || len(v) != 1 || v[0] != byte(i) {
			t.Fatalf("state %v, error %v", v, err)
		}
		if b.LastSeq() != a.LastSeq() || b.Position() != a.Position() {
			t.Fatal("the processes differ after Sync")
		}
	}
	if len(own) != 10 || len(foreign) != 10 || own[4].Samples != 7 {
		t.Fatalf("%d and %d commits, %+v", len(own), len(foreign), own)
	}
	plain := func(cs []store.Commit) (out []store.Commit) {
		for _, c := range cs {
			for i := range c.Changes {
				c.Changes[i].Facts.Tokens = nil
			}
			out = append(out, c)
		}
		return out
	}
	if x, y := plain(own), plain(foreign); !reflect.DeepEqual(x, y) {
		t.Fatalf("watchers saw\n%+v\nand\n%+v", x, y)
	}
}

// TestForeignSignatures lets another process write a document of a cluster that was
// searched.
func TestForeignSignatures(t *testing.T) {
	_, _, dbs := lazy(t, 2, nil)
	a, b := dbs[0], dbs[1]
	observed := func(id, status, start string) store.Write {
		return store.Write{Resource: fhir.Resource{Type: "Observation", ID: id,
			JSON: []byte(fhir.Prefix("Observation", id) +
				`},"status":"` + status +
				`","code":{"coding":[{"system":"urn:s","code":"c"},{"system":"urn:t","code":"` +
				status + `"}]},"subject":{"reference":"Patient/p1"},"effectiveDateTime":"` + start + `"}`)}}
	}
	v, err := search.Pairs("patient=p1")
	if err != nil {
		t.Fatal(err)
	}
	query, err := search.Parse("Observation", v, search.ParseOptions{})
	if err != nil {
		t.Fatal(err)
	}
	newest := func() (ids []string) {
		t.Helper()
		if err := b.Sync(context.Background()); err != nil {
			t.Fatal(err)
		}
		err := b.FindNewest(context.Background(),
			store.Find{Query: query, Filter: access.All().Filter(access.Search)}, 1,
			func(f *store.Found) bool { ids = append(ids, f.Resource.ID); return true })
		if err != nil {
			t.Fatal(err)
		}
		return ids
	}
	must(t, a, batchOf(observed("o1", "final", "2026-01-03T10:00:00Z")))
	for range 2 { // the second search uses the signatures of the first
		if ids := newest(); len(ids) != 1 {
			t.Fatalf("found %v", ids)
		}
	}
	must(t, a, batchOf(observed("o2", "amended", "2026-01-02T10:00:00Z")))
	if ids := newest(); len(ids) != 2 {
		t.Fatalf("found %v, although a document of another process has other codings", ids)
	}
}

// TestNothingBeforeTheMajority requires that a commit is neither answered nor shown
// before its entry is durable. The controls do so, and must be found.
func TestNothingBeforeTheMajority(t *testing.T) {
	for name, change := range map[string]func(*pebblestore.Shared){
		"": nil, "answer early": pebblestore.AnswerEarly, "apply early": pebblestore.ApplyEarly,
	} {
		t.Run(name, func(t *testing.T) {
			_, g, dbs := lazy(t, 2, func(p *process) { p.change = change })
			g.cluster.LoseMajority()
			answer := commitLater(dbs[0], batchOf(device("d", "")))
			until(t, "the entry is stored", func() bool { return g.cluster.Holds(1) })
			early := func() bool { return dbs[0].LastSeq() != 0 || dbs[1].LastSeq() != 0 || len(answer) > 0 }
			if change != nil {
				until(t, "the control shows or answers too early", early)
			} else if early() {
				t.Fatal("a commit was shown or answered before its entry is durable")
			}
			g.cluster.RegainMajority()
			if o := <-answer; o.err != nil || o.result.Seq != 1 {
				t.Fatalf("%+v", o)
			}
			until(t, "the commit shows",
				func() bool { return dbs[0].Sync(context.Background()) == nil && dbs[0].LastSeq() == 1 })
		})
	}
}

// TestTwoOnTheirWay holds back the first of two groups.
func TestTwoOnTheirWay(t *testing.T) {
	for _, lost := range []bool{false, true} {
		t.Run(fmt.Sprint("lost=", lost), func(t *testing.T) {
			s, g, dbs := lazy(t, 2, nil)
			held, called := make(chan struct{}), make(chan struct{}, 1)
			var done atomic.Bool
			s.set(func(c memlog.Call) memlog.Fault {
				if c.Client == "node0" && c.Op == memlog.OpAppend && c.Index == 1 && !done.Swap(true) {
					called <- struct{}{}
					return memlog.Fault{Held: held}
				}
				return memlog.Fault{}
			})
			one := commitLater(dbs[0], &store.Batch{Writes: []store.Write{device("one", "")},
				Leaves: []store.Leaf{store.Leaf("one")}})
			<-called
			w := device("one", `,"lotNumber":"2"`) // depends on the group before it
			w.Expect, w.IfVersion = store.Version, 1
			two := commitLater(dbs[0], &store.Batch{Writes: []store.Write{w}, Leaves: []store.Leaf{store.Leaf("two")}})
			until(t, "the second group is stored", func() bool { return g.cluster.Holds(2) })
			select {
			case o := <-two:
				t.Fatalf("the second group was answered before the first: %+v", o)
			default:
			}
			first := store.Seq(1)
			if lost {
				must(t, dbs[1], &store.Batch{Writes: []store.Write{device("other", "")},
					Leaves: []store.Leaf{store.Leaf("other")}})
				first = 2
			}
			close(held)
			if o := <-one; o.err != nil || o.result.Seq != first || o.result.LeafIndex != uint64(first)-1 {
				t.Fatalf("%+v", o)
			}
			if o := <-two; o.err != nil || o.result.Seq != first+1 || o.result.Outcomes[0].Version != 2 {
				t.Fatalf("%+v", o)
			}
			if err := dbs[0].Check(context.Background(), func(p string) { t.Error(p) }); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// TestFourOnTheirWay holds back one of four groups, each of which depends on all before
// it. In the end all are built again if the held one loses its place to another process.
// The control builds a group on the one before it only, and must be found.
func TestFourOnTheirWay(t *testing.T) {
	for _, late := range []uint64{1, 2} {
		for _, lost := range []bool{false, true} {
			t.Run(fmt.Sprintf("late=%d,lost=%t", late, lost), func(t *testing.T) {
				if err := fourOnTheirWay(t, late, lost, nil); err != nil {
					t.Error(err)
				}
			})
		}
	}
	t.Run("control", func(t *testing.T) {
		if fourOnTheirWay(t, 1, false, pebblestore.Shallow) == nil {
			t.Error("a group that ignores the groups before it is not found: the test proves nothing")
		}
	})
}

func fourOnTheirWay(t *testing.T, late uint64, lost bool, change func(*pebblestore.Shared)) error {
	s, g, dbs := lazy(t, 2, func(p *process) { p.change = change })
	held, called := make(chan struct{}), make(chan struct{}, 1)
	var done atomic.Bool
	s.set(func(c memlog.Call) memlog.Fault {
		if c.Client == "node0" && c.Op == memlog.OpAppend && c.Index == late && !done.Swap(true) {
			called <- struct{}{}
			return memlog.Fault{Held: held}
		}
		return memlog.Fault{}
	})
	// Each group writes the next version of a resource, and the second version of one of
	// the group before the last. It touches a guard of its own.
	write := func(n uint64) *store.Batch {
		w := device("one", fmt.Sprintf(`,"lotNumber":"%d"`, n))
		w.Expect, w.IfVersion = store.Version, n-1
		if n == 1 {
			w.Expect = store.Absent
		}
		ws := []store.Write{w, device(fmt.Sprint("of", n), "")}
		if n > 2 {
			ws = append(ws, device(fmt.Sprint("of", n-2), fmt.Sprintf(`,"lotNumber":"%d"`, n)))
		}
		return &store.Batch{Writes: ws, Leaves: []store.Leaf{store.Leaf(fmt.Sprint("leaf", n))},
			Touches: []string{fmt.Sprint("guard", n)}}
	}
	var answers []<-chan outcome
	for n := range uint64(4) {
		answers = append(answers, commitLater(dbs[0], write(n+1)))
		if n+1 == late {
			<-called
			continue
		}
		stored := n + 1
		until(t, "the group is stored", func() bool { return g.cluster.Holds(stored) })
	}
	// The fifth waits for a place on the way. It was decided on before the third.
	guarded := &store.Batch{Leaves: []store.Leaf{store.Leaf("guarded")}, Guards: []string{"guard3"}, Seen: 2}
	refused := commitLater(dbs[0], guarded)
	if late == 1 && len(answers[1])+len(answers[3]) > 0 {
		return errors.New("a group was answered before the first")
	}
	first := store.Seq(1)
	if lost {
		must(t, dbs[1], &store.Batch{Writes: []store.Write{device("other", "")},
			Leaves: []store.Leaf{store.Leaf("other")}})
	}
	close(held)
	for i, a := range answers {
		if lost && uint64(i)+1 == late {
			first++
		}
		o := <-a
		if o.err != nil || o.result.Seq != first+store.Seq(i) || o.result.Outcomes[0].Version != uint64(i)+1 ||
			o.result.LeafIndex != uint64(first)-1+uint64(i) {
			return fmt.Errorf("group %d: %+v", i+1, o)
		}
		if i >= 2 && o.result.Outcomes[2].Version != 2 {
			return fmt.Errorf("group %d does not know what group %d wrote", i+1, i-1)
		}
	}
	if o := <-refused; fhir.KindOf(o.err) != fhir.Conflict {
		return fmt.Errorf("a guard that a group touched: %+v", o)
	}
	var bad []error
	err := dbs[0].Check(context.Background(), func(p string) { bad = append(bad, errors.New(p)) })
	return errors.Join(append(bad, err)...)
}

func TestTooLarge(t *testing.T) {
	_, _, dbs := lazy(t, 1, func(p *process) { p.wrap = func(l sharedlog.Log) sharedlog.Log { return small{l, 2000} } })
	d := dbs[0]
	// Random text does not become much smaller.
	rng := rand.New(rand.NewPCG(1, 1))
	text := func(n int) string {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte('a' + rng.IntN(26))
		}
		return fmt.Sprintf(`,"lotNumber":"%s"`, b)
	}
	var answers []<-chan outcome
	for i := range 40 {
		n := 10
		if i%5 == 0 {
			n = 30000
		}
		answers = append(answers, commitLater(d,
			&store.Batch{Writes: []store.Write{device(fmt.Sprint("d", i), text(n))},
				Leaves: []store.Leaf{store.Leaf(text(n))}}))
	}
	for i, a := range answers {
		switch o := <-a; {
		case i%5 == 0:
			wantKind(t, o.err, fhir.TooLarge)
		case o.err != nil:
			t.Fatal(o.err)
		}
	}
	if d.LastSeq() != 32 {
		t.Fatalf("%d commits", d.LastSeq())
	}
}

// small is a log that takes small entries only.
type small struct {
	sharedlog.Log
	limit int
}

func (s small) Append(ctx context.Context, e *sharedlog.Entry) error {
	if len(e.Rows) > s.limit {
		return sharedlog.ErrTooLarge
	}
	return s.Log.Append(ctx, e)
}

// TestLogFails lets requests fail after a bounded time while the log does not answer,
// and keeps the outcome of the commit on its way.
func TestLogFails(t *testing.T) {
	_, g, dbs := lazy(t, 2, func(p *process) { p.patience = time.Second })
	a := dbs[0]
	until(t, "a commit succeeds", func() bool {
		_, err := a.Commit(context.Background(), batchOf(device("before", "")))
		return err == nil
	})
	g.processes[0].log.Cut()
	pending := commitLater(a, batchOf(device("pending", "")))
	wantKind(t, a.Sync(context.Background()), fhir.Unavailable)
	until(t, "commits are refused", func() bool {
		select {
		case o := <-commitLater(a, batchOf(device("refused", ""))):
			wantKind(t, o.err, fhir.Unavailable)
			return true
		case <-time.After(time.Millisecond):
			return false
		}
	})
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	wantKind(t, a.Sync(ended), fhir.Unavailable)
	if r, _, err := a.Read(context.Background(), fhir.Ref{Type: "Device", ID: "before"}, 0); err != nil ||
		r.Version != 1 {
		t.Fatal(r, err)
	}
	g.processes[0].log.Heal()
	if o := <-pending; o.err != nil {
		t.Fatal(o.err)
	}
	until(t, "commits succeed", func() bool {
		_, err := a.Commit(context.Background(), batchOf(device("after", "")))
		return err == nil
	})
}

// TestTakenWithoutMajority lets an entry have the place of another that is not durable.
// Neither is answered until one of them is; meanwhile further commits fail.
func TestTakenWithoutMajority(t *testing.T) {
	for _, rollBack := range []bool{false, true} {
		t.Run(fmt.Sprint("rollback=", rollBack), func(t *testing.T) {
			s, g, dbs := lazy(t, 2, func(p *process) {
				if p.conf.Node == "node0" {
					p.patience = time.Second
				}
			})
			called := make(chan struct{}, 1)
			s.set(func(c memlog.Call) memlog.Fault {
				if c.Client == "node0" && c.Op == memlog.OpAppend {
					select {
					case called <- struct{}{}:
					default:
					}
				}
				return memlog.Fault{}
			})
			g.cluster.LoseMajority()
			b := commitLater(dbs[1], &store.Batch{Leaves: []store.Leaf{store.Leaf("b")}})
			until(t, "an entry has the place", func() bool { return g.cluster.Holds(1) })
			a := commitLater(dbs[0], &store.Batch{Leaves: []store.Leaf{store.Leaf("a")}})
			<-called
			until(t, "commits are refused", func() bool {
				select {
				case o := <-commitLater(dbs[0], batchOf(device("refused", ""))):
					wantKind(t, o.err, fhir.Unavailable)
					return true
				case <-time.After(time.Millisecond):
					return false
				}
			})
			if len(a)+len(b) > 0 {
				t.Fatal("a commit was answered without a majority")
			}
			if rollBack {
				g.cluster.RollBack()
			} else {
				g.cluster.RegainMajority()
			}
			for _, answer := range []<-chan outcome{a, b} {
				if o := <-answer; o.err != nil {
					t.Fatal(o.err)
				}
			}
			synced(t, dbs[0])
			if dbs[0].Log().Size() != 2 {
				t.Fatalf("%d leaves", dbs[0].Log().Size())
			}
		})
	}
}

func TestReady(t *testing.T) {
	_, g, dbs := lazy(t, 1, func(p *process) {
		p.conf.Poll, p.conf.Confirmed = time.Millisecond, 200*time.Millisecond
	})
	until(t, "the store is ready", func() bool { return dbs[0].Ready() == nil })
	g.processes[0].log.Cut()
	until(t, "the store is not ready", func() bool { return fhir.KindOf(dbs[0].Ready()) == fhir.Unavailable })
	g.processes[0].log.Heal()
	until(t, "the store is ready again", func() bool { return dbs[0].Ready() == nil })
}

func TestWake(t *testing.T) {
	wake := make(chan struct{}, 1)
	var rung atomic.Uint64
	_, _, dbs := lazy(t, 2, func(p *process) {
		if p.conf.Node == "node1" {
			p.conf.Wake = wake
		} else {
			p.conf.Ring = func(index uint64) { rung.Store(index) }
		}
	})
	must(t, dbs[0], batchOf(device("d", "")))
	until(t, "Ring is called", func() bool { return rung.Load() == 1 })
	wake <- struct{}{}
	until(t, "the other process has looked", func() bool { return dbs[1].LastSeq() == 1 })
}

// TestCloseGivesUp closes a store while its log does not answer.
func TestCloseGivesUp(t *testing.T) {
	_, g, dbs := lazy(t, 2, func(p *process) { p.patience = 10 * time.Millisecond })
	g.processes[0].log.Cut()
	answer := commitLater(dbs[0], batchOf(device("d", "")))
	until(t, "the commit is on its way", func() bool { return g.cluster.Calls() > 3 })
	g.closed = true // the stores are not equal
	if err := dbs[0].Close(); err != nil {
		t.Fatal(err)
	}
	wantKind(t, (<-answer).err, fhir.Unavailable)
	if err := dbs[0].Sync(context.Background()); !errors.As(err, new(*fhir.Error)) {
		t.Fatal(err)
	}
}
