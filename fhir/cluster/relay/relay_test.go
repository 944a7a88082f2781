package relay

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/cluster/hints"
	"pulsegate/fhir/store"
	"pulsegate/fhir/store/sharedlog/memlog"
	"pulsegate/fhir/store/storetest"
	"pulsegate/fhir/store/storetest/several"
)

// TestContract runs the suite of the store through two processes, with each call at the
// other one.
func TestContract(t *testing.T) {
	if testing.Short() {
		t.Skip("the suite takes ten seconds")
	}
	storetest.Run(t, storetest.Driver{Lives: time.Second / 2,
		Open: func(t testing.TB, clock func() time.Time) store.Store {
			return newCluster(t, 2, clock, nil).store()
		},
		Reopen: func(t testing.TB, s store.Store) store.Store {
			c := s.(*whole).cluster
			for _, p := range c.processes {
				_ = p.server.Close() // returns nil
				if err := p.Close(); err != nil {
					t.Fatal(err)
				}
			}
			c.start(t)
			return c.store()
		},
	})
}

// whole is a cluster as one store.
type whole struct {
	*several.Store
	cluster *cluster
}

func (c *cluster) store() *whole {
	return &whole{several.New(c.processes[0], c.processes[1]), c}
}

// TestOnlySequencerAppends commits at a process that is not the sequencer.
func TestOnlySequencerAppends(t *testing.T) {
	c := newCluster(t, 2, nil, nil)
	a, b := c.processes[0], c.processes[1]
	// The watcher is called for a commit that the local store already shows.
	var seen atomic.Uint64
	called, finish := make(chan struct{}), make(chan struct{})
	var once sync.Once
	stop := b.Watch(func(c store.Commit) {
		once.Do(func() { close(called); <-finish })
		seen.Store(uint64(c.Seq))
	})
	defer stop()
	done := make(chan store.Result, 1)
	go func() {
		r, err := b.Commit(t.Context(), put("x"))
		if err != nil {
			t.Error(err)
		}
		done <- r
	}()
	<-called
	short, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if at := b.LastSeq(); at == 0 || b.show(short, at) == nil {
		t.Errorf("commit %d counts as shown before the watcher has returned", at)
	}
	close(finish)
	r := <-done
	if r.Seq == 0 {
		t.FailNow()
	}
	// The answer is as of what this process shows, and its watchers were called.
	if b.LastSeq() < r.Seq || seen.Load() != uint64(r.Seq) {
		t.Errorf("the process shows %d, its watchers %d, after commit %d", b.LastSeq(), seen.Load(), r.Seq)
	}
	got, _, err := b.ReadVersion(t.Context(), fhir.Ref{Type: "Patient", ID: "x"}, 1)
	if err != nil || string(got.JSON) != string(r.Outcomes[0].JSON) || len(got.JSON) == 0 {
		t.Errorf("outcome %s, stored %s, %v", r.Outcomes[0].JSON, got.JSON, err)
	}
	if n, m := c.appended(0), c.appended(1); n != 1 || m != 0 {
		t.Errorf("appended: sequencer %d, other %d; want 1, 0", n, m)
	}
	// Without a sequencer, the process appends itself.
	b.lease.set(hints.Holder{})
	if r, err = b.Commit(t.Context(), put("y")); err != nil || r.Outcomes[0].Version != 1 {
		t.Fatal(r, err)
	}
	if m := c.appended(1); m != 1 {
		t.Errorf("appended without a sequencer: %d, want 1", m)
	}
	if err := a.Sync(t.Context()); err != nil || a.LastSeq() != r.Seq {
		t.Errorf("the other process shows %d, %v; want %d", a.LastSeq(), err, r.Seq)
	}
}

// TestShowsWithoutLook commits through a process whose looks at the log do not return. It
// shows the commit by the entry that the sequencer sends. The control sends none, and must
// not show it.
func TestShowsWithoutLook(t *testing.T) {
	for _, withhold := range []bool{false, true} {
		t.Run(fmt.Sprint("withhold=", withhold), func(t *testing.T) {
			c := newCluster(t, 2, nil, func(o *Options) {
				if o.withholdEntries = withhold; withhold {
					o.Timing.Show = 20 * time.Millisecond
				}
			})
			a, b := c.processes[0], c.processes[1]
			eventually(t, "the sequencer knows the process", func() bool {
				a.server.mu.Lock()
				defer a.server.mu.Unlock()
				return len(a.server.pipes) == 1
			})
			held := make(chan struct{})
			t.Cleanup(func() { close(held) })
			plan := memlog.Plan(func(call memlog.Call) (f memlog.Fault) {
				if call.Client == "p1" && call.Op == memlog.OpRead {
					f.Held = held
				}
				return f
			})
			c.faults.Store(&plan)
			for i := range 5 {
				_, err := b.Commit(t.Context(), put(fmt.Sprint("x", i)))
				switch {
				case withhold && fhir.KindOf(err) != fhir.Unavailable:
					t.Fatalf("the process shows a commit of which it cannot know: %v", err)
				case !withhold && err != nil:
					t.Fatal(err)
				}
			}
			if at := b.LastSeq(); !withhold && at != 5 {
				t.Errorf("the process shows %d commits of 5", at)
			}
			// Sync still needs the log.
			short, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
			defer cancel()
			if b.Sync(short) == nil {
				t.Error("Sync ends without a look at the log")
			}
		})
	}
}

// TestResultsEqual compares the results of a process that relays with those of the
// sequencer's own commits.
func TestResultsEqual(t *testing.T) {
	c := newCluster(t, 2, nil, nil)
	results := func(s store.Store, prefix string) (out []string) {
		first := put(prefix + "1")
		second := put(prefix + "1")
		second.Writes[0].SkipSame = true
		remove := &store.Batch{Writes: []store.Write{{Op: store.Remove,
			Resource: fhir.Resource{Type: "Patient", ID: prefix + "1"}}}}
		missing := put(prefix + "2")
		missing.Writes[0].Expect = store.Existing
		old := put(prefix + "1")
		old.Writes[0].Expect, old.Writes[0].IfVersion = store.Version, 7
		invalid := put(prefix + "3")
		invalid.Writes[0].Resource.JSON = []byte("{}")
		state := &store.Batch{State: []store.StateWrite{{Key: prefix + "k", Value: []byte{}, Expect: store.StateAbsent}},
			Leaves: []store.Leaf{store.Leaf("leaf"), store.Leaf("leaf 2")}}
		empty := &store.Batch{}
		for _, b := range []*store.Batch{first, second, remove, remove, missing, old, invalid, state, state, empty} {
			r, err := s.Commit(t.Context(), b)
			for i := range r.Outcomes {
				o := &r.Outcomes[i]
				if o.LastUpdated.IsZero() != (o.Unchanged && o.Version == 0) && !o.Unchanged {
					t.Errorf("outcome %+v", o)
				}
				o.LastUpdated, o.Ref, o.JSON = time.Time{}, fhir.Ref{}, []byte(fmt.Sprint(o.JSON != nil))
			}
			seq := r.Seq != 0
			r.Seq, r.LeafIndex = 0, 0
			var e *fhir.Error
			if err != nil && !errors.As(err, &e) {
				t.Fatalf("%v is no fhir.Error", err)
			}
			text := fmt.Sprintf("%v %+v", seq, r)
			if e != nil {
				text += fmt.Sprintf(" %v %v %+v", e.Kind, e.Op, e.Issues)
			}
			out = append(out, text)
		}
		return out
	}
	want, got := results(c.processes[0], "a"), results(c.processes[1], "b")
	if !reflect.DeepEqual(got, want) {
		for i := range want {
			t.Errorf("%d: %s\nwant %s", i, got[i], want[i])
		}
	}
}

// TestRefusalIsCurrent checks that after a refusal the process shows what it was based
// on, so that the second attempt of a retry succeeds.
func TestRefusalIsCurrent(t *testing.T) {
	c := newCluster(t, 2, nil, nil)
	a, b := c.processes[0], c.processes[1]
	key := "counter"
	for i := range 20 {
		for _, p := range []*process{a, b} {
			attempts := 0
			err := store.Retry(2, "test", "busy", func() error {
				attempts++
				old, err := p.Get(t.Context(), key)
				if err != nil {
					return err
				}
				w := store.StateWrite{Key: key, Value: append(old, 'x'), Expect: store.StateEquals, Old: old}
				if old == nil {
					w.Expect = store.StateAbsent
				}
				_, err = p.Commit(t.Context(), &store.Batch{State: []store.StateWrite{w}})
				return err
			})
			if err != nil {
				t.Fatalf("round %d: %v after %d attempts", i, err, attempts)
			}
		}
	}
	if v, err := b.Get(t.Context(), key); err != nil || len(v) != 40 {
		t.Errorf("%d changes, %v; want 40", len(v), err)
	}
}

// TestLostAnswer loses the answer to a batch that was committed. With an ID it is
// written once; the control, without an ID, writes it twice.
func TestLostAnswer(t *testing.T) {
	for _, forget := range []bool{false, true} {
		c := newCluster(t, 2, nil, func(o *Options) { o.forgetID = forget })
		a, b := c.processes[0], c.processes[1]
		p := newProxy(t, a.holder.Address)
		b.follow(p.through(a.holder))
		if forget {
			// The server refuses batches without an ID; the control needs one that takes them.
			a.server.takeAll = true
		}
		p.discard.Store(true)
		done := make(chan uint64, 1)
		go func() {
			r, err := b.Commit(t.Context(), put("x"))
			if err != nil {
				t.Error(err)
				r.Outcomes = make([]store.Outcome, 1)
			} else if r.Outcomes[0].JSON == nil {
				t.Error("no JSON in the outcome of a repeated batch")
			}
			done <- r.Outcomes[0].Version
		}()
		eventually(t, "the sequencer's commit", func() bool { return a.LastSeq() > 0 })
		p.cut()
		want := uint64(1)
		if forget {
			want = 2
		}
		if got := <-done; got != want {
			t.Errorf("without an ID %v: version %d, want %d", forget, got, want)
		}
	}
}

// TestLostRequest loses a batch before it reaches the sequencer.
func TestLostRequest(t *testing.T) {
	c := newCluster(t, 2, nil, nil)
	a, b := c.processes[0], c.processes[1]
	p := newProxy(t, a.holder.Address)
	b.follow(p.through(a.holder))
	p.cut()
	r, err := b.Commit(t.Context(), put("x"))
	if err != nil || r.Outcomes[0].Version != 1 || r.Outcomes[0].JSON == nil {
		t.Fatal(r, err)
	}
}

// TestSilentSequencer checks that a connection on which nothing arrives is given up.
func TestSilentSequencer(t *testing.T) {
	for name, change := range map[string]func(*Options){
		"no pong":   func(o *Options) { o.Timing.Silence = 100 * time.Millisecond },
		"no answer": func(o *Options) { o.Timing.Answer = 100 * time.Millisecond },
	} {
		c := newCluster(t, 2, nil, change)
		a, b := c.processes[0], c.processes[1]
		p := newProxy(t, a.holder.Address)
		b.follow(p.through(a.holder))
		p.discard.Store(true)
		r, err := b.Commit(t.Context(), put("x"))
		if err != nil || r.Outcomes[0].Version != 1 {
			t.Errorf("%s: %v, %v", name, r, err)
		}
	}
}

// TestContext checks that a context ends only the wait before a batch is sent.
func TestContext(t *testing.T) {
	c := newCluster(t, 2, nil, nil)
	a, b := c.processes[0], c.processes[1]
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := b.Commit(ctx, put("x")); fhir.KindOf(err) != fhir.Unavailable || !errors.Is(err, context.Canceled) {
		t.Errorf("a context that has ended: %v", err)
	}
	// All bytes on their way are taken.
	if err := b.sent.Acquire(t.Context(), maxSent); err != nil {
		t.Fatal(err)
	}
	ctx, cancel = context.WithCancel(t.Context())
	done := make(chan error)
	go func() { _, err := b.Commit(ctx, put("x")); done <- err }()
	cancel()
	if err := <-done; fhir.KindOf(err) != fhir.Unavailable {
		t.Errorf("a context that ends while the batch waits: %v", err)
	}
	b.sent.Release(maxSent)
	if a.LastSeq() != 0 {
		t.Error("a batch was written after its context had ended")
	}
	// Once the batch is on its way, its result is returned.
	p := newProxy(t, a.holder.Address)
	b.follow(p.through(a.holder))
	p.discard.Store(true)
	ctx, cancel = context.WithCancel(t.Context())
	go func() { _, err := b.Commit(ctx, put("x")); done <- err }()
	eventually(t, "the sequencer's commit", func() bool { return a.LastSeq() > 0 })
	cancel()
	p.cut()
	if err := <-done; err != nil {
		t.Errorf("a context that ends after the batch was sent: %v", err)
	}
}

func TestDraining(t *testing.T) {
	c := newCluster(t, 2, nil, nil)
	c.processes[0].server.Drain()
	r, err := c.processes[1].Commit(t.Context(), put("x"))
	if err != nil || r.Outcomes[0].Version != 1 || c.appended(1) != 1 {
		t.Errorf("%v, %v, %d appended", r, err, c.appended(1))
	}
}

// failing is a store whose commits fail.
type failing struct {
	Local
	err atomic.Pointer[fhir.Error]
}

func (f *failing) Commit(ctx context.Context, b *store.Batch) (store.Result, error) {
	if err := f.err.Load(); err != nil {
		return store.Result{}, err
	}
	return f.Local.Commit(ctx, b)
}

// TestFailingSequencer checks that a sequencer whose disk or log fails does not make
// other processes fail, and gives up the lease.
func TestFailingSequencer(t *testing.T) {
	for _, kind := range []fhir.Kind{fhir.Unavailable, fhir.NoSpace} {
		f := &failing{}
		c := newCluster(t, 2, nil, func(o *Options) {
			if f.Local == nil {
				f.Local = o.Local
				o.Local = f
			}
		})
		a, b := c.processes[0], c.processes[1]
		f.err.Store(fhir.Errorf(kind, "test", "failing"))
		r, err := b.Commit(t.Context(), put("x"))
		if err != nil || r.Outcomes[0].Version != 1 || c.appended(1) != 1 {
			t.Errorf("%v: %v, %v, %d appended", kind, r, err, c.appended(1))
		}
		if a.lease.resigned.Load() == 0 || b.lease.resigned.Load() != 0 {
			t.Errorf("%v: resigned %d and %d times", kind, a.lease.resigned.Load(), b.lease.resigned.Load())
		}
		if _, err := a.Commit(t.Context(), put("y")); fhir.KindOf(err) != kind || a.lease.resigned.Load() != 2 {
			t.Errorf("%v: the sequencer's own commit: %v, resigned %d times", kind, err, a.lease.resigned.Load())
		}
		// A context that ends says nothing of the log.
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := a.Commit(ctx, put("y")); err == nil || a.lease.resigned.Load() != 2 {
			t.Errorf("%v: after a canceled commit: %v, resigned %d times", kind, err, a.lease.resigned.Load())
		}
	}
}

// TestLateBatch checks that a batch that was on its way for too long is not committed:
// its ID may be forgotten.
func TestLateBatch(t *testing.T) {
	c := newCluster(t, 1, nil, nil)
	a := c.processes[0]
	for age, want := range map[time.Duration]byte{0: frameResult, maxAge - time.Second: frameResult,
		maxAge + time.Second: frameBusy, -maxAge - time.Minute: frameBusy} {
		b := put("x")
		b.ID = [16]byte{1, byte(age / time.Second)}
		payload := appendSent(nil, time.Now().Add(-age))
		payload, err := a.codec.AppendBatch(payload, b)
		if err != nil {
			t.Fatal(err)
		}
		if f := a.server.commit(frame{kind: frameCommit, payload: payload}); f.kind != want {
			t.Errorf("age %v: frame of type %d, want %d", age, f.kind, want)
		}
	}
}

// noting is a store that notes the time at which each batch was sent.
type noting struct {
	Local
	commits chan time.Time
}

func (n *noting) Commit(ctx context.Context, b *store.Batch) (store.Result, error) {
	n.commits <- b.Sent
	return n.Local.Commit(ctx, b)
}

// TestRepeatedWithItsTime checks that a batch that this process commits after it sent it
// to the sequencer has the time at which it was sent first, so that the store refuses it
// after a suspension.
func TestRepeatedWithItsTime(t *testing.T) {
	commits := make(chan time.Time, 1)
	c := newCluster(t, 2, nil, func(o *Options) { o.Local = &noting{o.Local, commits} })
	a, b := c.processes[0], c.processes[1]
	p := newProxy(t, a.holder.Address)
	b.follow(p.through(a.holder))
	p.discard.Store(true)
	before := time.Now()
	done := make(chan error, 1)
	go func() { _, err := b.Commit(t.Context(), put("x")); done <- err }()
	if sent := <-commits; !sent.IsZero() {
		t.Errorf("the sequencer got the time %v, which is of another process", sent)
	}
	arrived := time.Now()
	p.cut()
	if sent := <-commits; sent.Before(before) || sent.After(arrived) {
		t.Errorf("sent at %v, want a time from %v to %v", sent, before, arrived)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	// A store that has no result of such a batch refuses it.
	old := put("y")
	old.ID, old.Sent = [16]byte{1}, before.Add(-store.BatchMemory/2-time.Minute)
	b.follow(hints.Holder{})
	_, err := b.Commit(t.Context(), old)
	if <-commits; fhir.KindOf(err) != fhir.Unavailable {
		t.Errorf("a batch sent long ago: %v", err)
	}
}

// workers commit at all processes at once. Each worker writes a document of its own
// again and again, and expects the next version each time.
type workers struct {
	t    testing.TB
	wg   sync.WaitGroup
	stop atomic.Bool
	// unknown allows commits of which the process does not know whether they took place.
	unknown bool
	acks    [3]atomic.Uint64 // by process
}

func (w *workers) start(c *cluster, perProcess int) {
	for i, p := range c.processes {
		for j := range perProcess {
			w.wg.Go(func() { w.work(p, i, fmt.Sprintf("w-%d-%d", i, j)) })
		}
	}
}

func (w *workers) work(p *process, process int, id string) {
	for n := uint64(1); !w.stop.Load(); n++ {
		b := put(id)
		b.Leaves = []store.Leaf{store.Leaf(fmt.Sprint(id, n))}
		r, err := p.Commit(context.Background(), b)
		if err != nil && w.unknown && fhir.KindOf(err) == fhir.Unavailable {
			n = w.version(p, id, n)
			continue
		}
		if err != nil {
			if process != 0 { // process 0 is killed
				w.t.Errorf("%s %d: %v", id, n, err)
			}
			return
		}
		if r.Outcomes[0].Version != n {
			w.t.Errorf("%s: acknowledgment %d is version %d", id, n, r.Outcomes[0].Version)
			return
		}
		w.acks[process].Add(1)
	}
}

// version returns the version of a document after a commit whose outcome is unknown: n or
// the one before.
func (w *workers) version(p *process, id string, n uint64) uint64 {
	eventually(w.t, "the log", func() bool { return p.Sync(context.Background()) == nil })
	heads, err := p.Heads(context.Background(), []fhir.Ref{{Type: "Patient", ID: id}})
	if err != nil {
		w.t.Error(err)
		return n
	}
	v := heads[0].Version
	if v != n && v != n-1 {
		w.t.Errorf("%s: version %d after commit %d", id, v, n)
	}
	if v == n {
		w.acks[p.number].Add(1)
	}
	return v
}

// atLeast waits until every process in from.. has n more acknowledgments.
func (w *workers) atLeast(n uint64, from int) {
	w.t.Helper()
	for i := from; i < len(w.acks); i++ {
		want := w.acks[i].Load() + n
		eventually(w.t, "acknowledgments", func() bool { return w.acks[i].Load() >= want || w.t.Failed() })
	}
}

// TestSequencerKilled kills the sequencer under load and lets another process take its
// place: every acknowledgment is one version and one leaf.
func TestSequencerKilled(t *testing.T) {
	c := newCluster(t, 3, nil, nil)
	a, b, d := c.processes[0], c.processes[1], c.processes[2]
	w := &workers{t: t}
	w.start(c, 4)
	w.atLeast(20, 0)
	_ = a.server.Close()
	_ = a.Close()
	w.atLeast(20, 1) // they commit themselves
	for _, p := range []*process{b, d} {
		p.lease.set(b.holder)
	}
	eventually(t, "connection to the new sequencer", func() bool { return d.sequencer() != nil })
	w.atLeast(20, 1)
	w.stop.Store(true)
	w.wg.Wait()
	w.check(b, d)
}

// TestRoughLog lets the log lose requests, answers and majorities, and deliver entries
// late, while the sequencer changes and connections are cut.
func TestRoughLog(t *testing.T) {
	c := newCluster(t, 3, nil, nil)
	w := &workers{t: t, unknown: true}
	plan := memlog.Random(7, memlog.Rough)
	c.faults.Store(&plan)
	w.start(c, 4)
	for i := range 6 {
		next := c.processes[i%3].holder
		for _, p := range c.processes {
			p.lease.set(next)
		}
		w.atLeast(5, 0)
		if l := c.processes[(i+1)%3].link.Load(); l != nil {
			_ = l.conn.Close() // what is on its way is lost
		}
		w.atLeast(5, 0)
	}
	w.stop.Store(true)
	w.wg.Wait()
	c.faults.Store(nil)
	w.check(c.processes...)
}

// TestTwoSequencers lets two processes believe that they are the sequencer.
func TestTwoSequencers(t *testing.T) {
	c := newCluster(t, 3, nil, nil)
	c.processes[1].lease.set(c.processes[1].holder)
	w := &workers{t: t}
	w.start(c, 4)
	w.atLeast(30, 0)
	w.stop.Store(true)
	w.wg.Wait()
	if c.appended(0) == 0 || c.appended(1) == 0 {
		t.Errorf("appended: %d and %d", c.appended(0), c.appended(1))
	}
	w.check(c.processes...)
}

// check compares the acknowledgments with what the processes show.
func (w *workers) check(processes ...*process) {
	var total uint64
	for i := range w.acks {
		total += w.acks[i].Load()
	}
	for _, p := range processes {
		if err := p.Sync(context.Background()); err != nil {
			w.t.Fatal(err)
		}
		var versions, leaves uint64
		for i := range w.acks {
			var of uint64
			for j := range 4 {
				ref := fhir.Ref{Type: "Patient", ID: fmt.Sprintf("w-%d-%d", i, j)}
				heads, err := p.Heads(context.Background(), []fhir.Ref{ref})
				if err != nil {
					w.t.Fatal(err)
				}
				of += heads[0].Version
			}
			// Of the killed process, up to one write per worker was not acknowledged.
			if acks := w.acks[i].Load(); of != acks && (i != 0 || of < acks || of > acks+4) {
				w.t.Errorf("process %d: %d acknowledgments, %d versions", i, acks, of)
			}
			versions += of
		}
		if leaves = p.Log().Size(); leaves != versions {
			w.t.Errorf("%d versions, %d leaves", versions, leaves)
		}
		if versions < total {
			w.t.Errorf("%d versions of %d acknowledgments", versions, total)
		}
	}
}
