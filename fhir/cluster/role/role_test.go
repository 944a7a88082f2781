package role

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"pgregory.net/rapid"

	"pulsegate/fhir"
	"pulsegate/fhir/rapidtest"
	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore"
)

const testLease = 10 * time.Second

// errCut is the error of a commit of a process that was cut off.
var errCut = fhir.Errorf(fhir.Unavailable, "test", "cut off")

// open returns a store in memory.
func open(t *testing.T) *pebblestore.DB {
	t.Helper()
	db, err := pebblestore.Open("", pebblestore.Options{FS: vfs.NewMem()})
	if err != nil {
		t.Fatal(err)
	}
	return db
}

// process is a process of a cluster that can be stopped like by SIGSTOP, and be cut
// off from the store. It is a State and a clock.
type process struct {
	store.State
	t      *testing.T
	leases *Leases
	ctx    context.Context
	kill   context.CancelFunc
	wg     sync.WaitGroup

	mu sync.Mutex
	// running is closed while the process is not stopped. stale, if set, answers Get
	// in place of the store. mangle, if set, changes batches. All are guarded by mu.
	running chan struct{}
	cut     chan struct{} // if not nil, commits block until it is closed
	stale   map[string][]byte
	mangle  func(*store.Batch)
	commits int
	// swallow is the number of commits whose answer is lost. still, if not zero, is
	// the time that the clock shows. Both are guarded by mu.
	swallow int
	still   time.Time
	failing bool // commits fail; guarded by mu
	blind   bool // reads fail; guarded by mu
}

func newProcess(t *testing.T, st store.State, node string) *process {
	t.Helper()
	return newProcessIn(t, st, node, "")
}

// newProcessIn returns a process that has locked a data directory.
func newProcessIn(t *testing.T, st store.State, node, dir string) *process {
	t.Helper()
	p := &process{State: st, t: t, running: make(chan struct{})}
	close(p.running)
	p.ctx, p.kill = context.WithCancel(t.Context())
	var err error
	if p.leases, err = New(Options{State: p, Node: node, Dir: dir, Lease: testLease, Clock: p.Now,
		After: p.After}); err != nil {
		t.Fatal(err)
	}
	return p
}

func (p *process) Now() time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.still.IsZero() {
		return p.still
	}
	return time.Now()
}

// freeze lets the process read the present rows of a role from now on.
func (p *process) freeze(name string) {
	p.t.Helper()
	stale := map[string][]byte{}
	for _, key := range []string{leaseKey(name), renewedKey(name)} {
		v, err := p.State.Get(p.t.Context(), key)
		if err != nil {
			p.t.Fatal(err)
		}
		stale[key] = v
	}
	p.set(func() { p.stale = stale })
}

// count returns the number of commits.
func (p *process) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.commits
}

func (p *process) After(d time.Duration) <-chan time.Time {
	out := make(chan time.Time, 1)
	go func() {
		<-time.After(d)
		p.mu.Lock()
		running := p.running
		p.mu.Unlock()
		<-running
		out <- time.Now()
	}()
	return out
}

func (p *process) stop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.running:
		p.running = make(chan struct{})
	default: // stopped already
	}
}

func (p *process) resume() {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.running:
	default:
		close(p.running)
	}
}

// cutOff makes commits block, and mend lets them fail and later ones succeed.
func (p *process) cutOff() {
	p.set(func() {
		if p.cut == nil {
			p.cut = make(chan struct{})
		}
	})
}

func (p *process) mend() {
	p.set(func() {
		if p.cut != nil {
			close(p.cut)
		}
		p.cut = nil
	})
}

func (p *process) set(fn func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	fn()
}

func (p *process) Get(ctx context.Context, key string) ([]byte, error) {
	p.mu.Lock()
	stale, blind := p.stale, p.blind
	p.mu.Unlock()
	if blind {
		return nil, errCut
	}
	if stale != nil {
		return stale[key], nil
	}
	return p.State.Get(ctx, key)
}

// Commit blocks while the process is cut off, whatever its context says.
func (p *process) Commit(ctx context.Context, b *store.Batch) (store.Result, error) {
	p.mu.Lock()
	p.commits++
	cut, mangle, failing := p.cut, p.mangle, p.failing
	p.mu.Unlock()
	if failing {
		return store.Result{}, errCut
	}
	if mangle != nil {
		mangle(b)
	}
	if cut != nil {
		<-cut
		return store.Result{}, errCut
	}
	r, err := p.State.Commit(ctx, b)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.swallow > 0 {
		p.swallow--
		return store.Result{}, errCut
	}
	return r, err
}

// job is the work of a role that notes when it began and ended.
type job struct {
	p            *process
	name         string
	term         Term
	ctx          context.Context
	began, ended time.Time // ended is zero while the job is running
}

// journal collects jobs.
type journal struct {
	mu   sync.Mutex
	jobs []*job
}

// start runs a role in a process until it is killed.
func (j *journal) start(p *process, name string) {
	p.wg.Go(func() {
		p.leases.Run(p.ctx, name, func(ctx context.Context, t Term) {
			job := &job{p: p, name: name, term: t, ctx: ctx, began: time.Now()}
			j.mu.Lock()
			j.jobs = append(j.jobs, job)
			j.mu.Unlock()
			<-ctx.Done()
			j.mu.Lock()
			job.ended = time.Now()
			j.mu.Unlock()
		})
	})
}

func (j *journal) list() []job {
	j.mu.Lock()
	defer j.mu.Unlock()
	var out []job
	for _, x := range j.jobs {
		out = append(out, *x)
	}
	return out
}

// running returns the jobs that are running.
func (j *journal) running() (out []job) {
	for _, x := range j.list() {
		if x.ended.IsZero() {
			out = append(out, x)
		}
	}
	return out
}

// pass lets time pass.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// cluster runs fn in a bubble with a store, and ends the processes afterwards.
func cluster(t *testing.T, nodes int, fn func(t *testing.T, db *pebblestore.DB, ps []*process, j *journal)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		db := open(t)
		var ps []*process
		for i := range nodes {
			ps = append(ps, newProcess(t, db, fmt.Sprintf("node-%d", i)))
		}
		fn(t, db, ps, &journal{})
		for _, p := range ps {
			p.resume()
			p.mend()
			p.kill()
			p.wg.Wait()
		}
		pass(2 * testLease) // the last goroutines of After end
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
}

func only(t *testing.T, jobs []job) job {
	t.Helper()
	if len(jobs) != 1 {
		t.Fatalf("%d jobs are running, want 1: %+v", len(jobs), jobs)
	}
	return jobs[0]
}

// put commits a value of small state.
func put(st store.Store, key string) error {
	_, err := st.Commit(context.Background(), &store.Batch{State: []store.StateWrite{{Key: key, Value: []byte("v")}}})
	return err
}

func has(t *testing.T, st store.State, key string) bool {
	t.Helper()
	v, err := st.Get(context.Background(), key)
	if err != nil {
		t.Fatal(err)
	}
	return v != nil
}

func TestRelease(t *testing.T) {
	cluster(t, 2, func(t *testing.T, _ *pebblestore.DB, ps []*process, j *journal) {
		j.start(ps[0], "x")
		pass(time.Second)
		j.start(ps[1], "x")
		pass(time.Hour)
		if jobs := j.list(); len(jobs) != 1 || jobs[0].p != ps[0] || !jobs[0].ended.IsZero() {
			t.Fatalf("jobs %+v", jobs)
		}
		ps[0].kill()
		ps[0].wg.Wait()
		at := time.Now()
		pass(testLease / 2)
		if next := only(t, j.running()); next.p != ps[1] || next.began.Sub(at) > testLease/100 {
			t.Errorf("taken %v after the release by %s", next.began.Sub(at), next.p.leases.opts.Node)
		}
	})
}

// TestTakeover tests that a role of a process that was killed is taken when its lease
// has ended and not before, and the same after a restart of a process of that name.
func TestTakeover(t *testing.T) {
	for _, same := range []bool{false, true} {
		cluster(t, 1, func(t *testing.T, db *pebblestore.DB, ps []*process, j *journal) {
			j.start(ps[0], "x")
			pass(time.Minute)
			ps[0].stop()
			ps[0].cutOff()
			at := time.Now()
			node := "other"
			if same {
				node = ps[0].leases.opts.Node
			}
			next := newProcess(t, db, node)
			defer func() { next.kill(); next.wg.Wait() }()
			j.start(next, "x")
			pass(testLease - time.Millisecond)
			if len(j.list()) != 1 {
				t.Fatal("taken before the lease has ended")
			}
			pass(testLease / 50)
			if jobs := j.list(); len(jobs) != 2 || jobs[1].p != next || jobs[1].began.Sub(at) < testLease {
				t.Fatalf("not taken after the end of the lease: %+v", jobs)
			}
			all, err := List(t.Context(), db)
			if err != nil || len(all) != 1 || all[0].Epoch != 2 || all[0].Node != node ||
				all[0].Instance != next.leases.instance {
				t.Errorf("roles %+v, %v", all, err)
			}
		})
	}
}

// TestOverslept stops a process for longer than its lease. What its work writes then
// fails, and ends its context, although none of its own timers has run. Without Bind
// it writes.
func TestOverslept(t *testing.T) {
	cluster(t, 2, func(t *testing.T, db *pebblestore.DB, ps []*process, j *journal) {
		j.start(ps[0], "x")
		pass(time.Second)
		j.start(ps[1], "x")
		pass(time.Minute)
		old := only(t, j.running())
		if err := put(old.term.Store(db), "before"); err != nil {
			t.Fatal(err)
		}
		if err := old.term.Store(db).Sync(t.Context()); err != nil {
			t.Error(err)
		}
		ps[0].set(func() { ps[0].blind = true })
		if err := old.term.Store(db).Sync(t.Context()); !errors.Is(err, errCut) {
			t.Errorf("Sync that cannot read the lease: %v", err)
		}
		ps[0].set(func() { ps[0].blind = false })
		ps[0].stop()
		pass(2 * testLease)
		next := j.list()[1]
		if err := put(next.term.Store(db), "next"); err != nil {
			t.Fatal(err)
		}
		if old.ctx.Err() != nil {
			t.Fatal("a process that is stopped has noticed the end of its lease")
		}
		// Control: a commit without the precondition succeeds.
		if err := put(db, "unbound"); err != nil || !has(t, db, "unbound") {
			t.Error(err)
		}
		bare := &store.Batch{State: []store.StateWrite{{Key: "bare", Value: []byte("v")}}}
		old.term.Bind(bare)
		if _, err := db.Commit(t.Context(), bare); fhir.KindOf(err) != fhir.Conflict || has(t, db, "bare") {
			t.Errorf("a batch of the former term: %v", err)
		}
		if err := put(old.term.Store(db), "late"); fhir.KindOf(err) != fhir.Conflict || has(t, db, "late") {
			t.Errorf("a commit of the former term: %v", err)
		}
		if old.ctx.Err() == nil {
			t.Error("the context of the work has not ended after the Conflict")
		}
		if err := old.term.Store(db).Sync(t.Context()); fhir.KindOf(err) != fhir.Conflict {
			t.Errorf("Sync of the former term: %v", err)
		}
		// Bind replaces the precondition of an earlier term.
		next.term.Bind(bare)
		if _, err := db.Commit(t.Context(), bare); err != nil || len(bare.State) != 2 {
			t.Error(err)
		}
		ps[0].resume()
		pass(time.Minute)
		if now := only(t, j.running()); now.p != ps[1] {
			t.Error("the process that overslept has the role")
		}
	})
}

// TestCutOff cuts the holder off from the store at any moment: its work ends before
// another begins, even though its commits hang and its reads show an old state. Control:
// with a holder whose clock stands still, two work at a time.
func TestCutOff(t *testing.T) {
	for offset := range 9 {
		for _, careless := range []bool{false, true} {
			cluster(t, 2, func(t *testing.T, _ *pebblestore.DB, ps []*process, j *journal) {
				j.start(ps[0], "x")
				pass(time.Second)
				j.start(ps[1], "x")
				pass(time.Minute + time.Duration(offset)*testLease/17)
				ps[0].cutOff()
				ps[0].freeze("x")
				if careless {
					now := time.Now()
					ps[0].set(func() { ps[0].still = now })
				}
				pass(3 * testLease)
				jobs := j.list()
				if len(jobs) != 2 {
					t.Fatalf("%d jobs, want 2", len(jobs))
				}
				if overlap := jobs[0].ended.IsZero() || jobs[0].ended.After(jobs[1].began); overlap != careless {
					t.Errorf("careless %v, overlap %v: %+v", careless, overlap, jobs)
				}
			})
		}
	}
}

// TestStale lets a process that waits for a role see an old state: its takeover fails,
// because the holder has renewed the lease. Control: without the precondition on the
// renewal, the role of a holder that works is taken.
func TestStale(t *testing.T) {
	for _, broken := range []bool{false, true} {
		cluster(t, 2, func(t *testing.T, _ *pebblestore.DB, ps []*process, j *journal) {
			j.start(ps[0], "x")
			pass(time.Minute)
			ps[1].freeze("x")
			if broken {
				ps[1].set(func() {
					ps[1].mangle = func(b *store.Batch) {
						for i := range b.State {
							if b.State[i].Key == renewedKey("x") {
								b.State[i].Expect = store.StateAny
							}
						}
					}
				})
			}
			j.start(ps[1], "x")
			pass(time.Minute)
			ps[1].set(func() { ps[1].stale = nil })
			pass(time.Minute)
			if taken := len(j.list()) > 1; taken != broken {
				t.Errorf("broken %v: taken %v", broken, taken)
			}
			if n := ps[1].count(); n == 0 {
				t.Error("no takeover was attempted")
			}
		})
	}
}

// TestLostAnswer loses the answer to a takeover: the process takes the role again at
// once, in a new epoch.
func TestLostAnswer(t *testing.T) {
	cluster(t, 1, func(t *testing.T, db *pebblestore.DB, ps []*process, j *journal) {
		ps[0].set(func() { ps[0].swallow = 1 })
		j.start(ps[0], "x")
		pass(time.Second)
		only(t, j.running())
		all, err := List(t.Context(), db)
		if err != nil || len(all) != 1 || all[0].Epoch != 2 {
			t.Errorf("roles %+v, %v", all, err)
		}
	})
}

// TestSpread starts processes with ten roles together: each takes its share. A process
// without peers takes all.
func TestSpread(t *testing.T) {
	for nodes := 1; nodes <= 3; nodes++ {
		cluster(t, nodes, func(t *testing.T, db *pebblestore.DB, ps []*process, j *journal) {
			for _, p := range ps {
				for i := range 10 {
					j.start(p, fmt.Sprint("role-", i))
				}
			}
			pass(testLease)
			by := map[*process]int{}
			for _, x := range j.running() {
				by[x.p]++
			}
			for _, p := range ps {
				// A process can lose attempts to others, so that the shares are not equal.
				if n := by[p]; n < min(10, 6/nodes) || n > 12/nodes && nodes > 1 {
					t.Errorf("%d nodes: one has %d of 10 roles", nodes, n)
				}
			}
			all, err := List(t.Context(), db)
			if err != nil || len(all) != 10 || all[3].Role != "role-3" || all[3].Renewed.IsZero() {
				t.Errorf("roles %+v, %v", all, err)
			}
		})
	}
}

// TestRenewals counts the commits of a process that holds many roles: they are renewed
// together.
func TestRenewals(t *testing.T) {
	cluster(t, 1, func(t *testing.T, _ *pebblestore.DB, ps []*process, j *journal) {
		for i := range 10 {
			j.start(ps[0], fmt.Sprint("role-", i))
		}
		pass(time.Minute)
		before := ps[0].count()
		pass(time.Hour)
		if n, want := ps[0].count()-before, int(4*time.Hour/testLease); n > want+want/20 || n < want-want/20 {
			t.Errorf("%d commits in an hour, want about %d", n, want)
		}
		if n := len(j.list()); n != 10 {
			t.Errorf("%d jobs, want 10", n)
		}
	})
}

// TestLostAmongMany takes one of several roles away: the others go on.
func TestLostAmongMany(t *testing.T) {
	cluster(t, 1, func(t *testing.T, db *pebblestore.DB, ps []*process, j *journal) {
		for _, name := range []string{"a", "a-b", "b"} {
			j.start(ps[0], name)
		}
		pass(time.Minute)
		foreign := store.StateWrite{Key: leaseKey("a"), Value: encode(lease{Node: "z", Instance: "i", Epoch: 9})}
		if _, err := db.Commit(t.Context(), &store.Batch{State: []store.StateWrite{foreign}}); err != nil {
			t.Fatal(err)
		}
		pass(testLease / 2)
		var names []string
		for _, x := range j.running() {
			names = append(names, x.name)
		}
		if slices.Sort(names); !slices.Equal(names, []string{"a-b", "b"}) {
			t.Errorf("running are %v", names)
		}
		pass(2 * testLease) // the foreign process does not renew its lease
		if n := len(j.running()); n != 3 {
			t.Errorf("%d are running, want 3", n)
		}
		all, err := List(t.Context(), db)
		if err != nil || len(all) != 3 || all[0].Epoch != 10 || all[0].Renewed.IsZero() {
			t.Errorf("roles %+v, %v", all, err)
		}
	})
}

// TestGivingUp tests that work that returns leaves the role to another process.
func TestGivingUp(t *testing.T) {
	cluster(t, 2, func(t *testing.T, _ *pebblestore.DB, ps []*process, j *journal) {
		calls := 0
		ps[0].wg.Go(func() {
			ps[0].leases.Run(ps[0].ctx, "x", func(context.Context, Term) { calls++ })
		})
		pass(time.Second)
		if calls != 1 {
			t.Fatalf("%d calls within a second, want 1", calls)
		}
		j.start(ps[1], "x")
		pass(time.Minute)
		if only(t, j.running()).p != ps[1] || calls != 1 {
			t.Error("the role is not with the other process")
		}
		ps[1].kill()
		pass(time.Minute)
		if calls < 5 {
			t.Errorf("%d calls a minute after the other process has ended", calls)
		}
	})
}

// TestStore tests that a bound store can do what its store can, and that a batch can be
// committed again.
func TestStore(t *testing.T) {
	cluster(t, 1, func(t *testing.T, db *pebblestore.DB, ps []*process, j *journal) {
		j.start(ps[0], "x")
		pass(time.Second)
		st := only(t, j.running()).term.Store(db)
		if _, ok := st.(store.Columnar); !ok {
			t.Error("the bound store is not Columnar")
		}
		if _, ok := only(t, j.running()).term.Store(struct{ store.Store }{db}).(store.Columnar); ok {
			t.Error("the bound store is Columnar, and its store is not")
		}
		b := &store.Batch{State: make([]store.StateWrite, 1, 8)}
		b.State[0] = store.StateWrite{Key: "k", Value: []byte("v")}
		for range 2 {
			if _, err := st.Commit(t.Context(), b); err != nil || len(b.State) != 1 || b.State[:2][1].Key != "" {
				t.Errorf("%v, the batch is %+v", err, b.State[:2])
			}
		}
		// A Conflict that has nothing to do with the role does not end the term.
		b.State[0].Expect = store.StateAbsent
		if _, err := st.Commit(t.Context(), b); fhir.KindOf(err) != fhir.Conflict {
			t.Error(err)
		}
		only(t, j.running())
	})
}

// TestOutage takes the store away for a minute: that is logged once for each role that
// the process holds or waits for, and not at each attempt.
func TestOutage(t *testing.T) {
	cluster(t, 1, func(t *testing.T, _ *pebblestore.DB, ps []*process, j *journal) {
		var log bytes.Buffer
		ps[0].leases.opts.Logger = slog.New(slog.NewTextHandler(&log, nil))
		ps[0].set(func() { ps[0].failing = true })
		j.start(ps[0], "x")
		j.start(ps[0], "y")
		pass(time.Minute)
		if n := strings.Count(log.String(), "cannot be taken"); n != 2 {
			t.Errorf("%d lines for 2 roles:\n%s", n, log.String())
		}
		ps[0].set(func() { ps[0].failing = false })
		pass(time.Minute)
		if n := len(j.running()); n != 2 {
			t.Errorf("%d roles after the outage, want 2", n)
		}
		ps[0].set(func() { ps[0].failing = true })
		pass(time.Minute)
		if n := len(j.running()); n != 0 {
			t.Errorf("%d roles during the outage", n)
		}
		if n := strings.Count(log.String(), "cannot be renewed"); n == 0 || n > 2 {
			t.Errorf("%d lines about renewals:\n%s", n, log.String())
		}
	})
}

// TestAlone tests that a server that is alone writes nothing for its roles.
func TestAlone(t *testing.T) {
	db := open(t)
	defer func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	}()
	ctx, cancel := context.WithCancel(t.Context())
	Alone{}.Run(ctx, "x", func(_ context.Context, term Term) {
		b := &store.Batch{}
		if term.Bind(b); len(b.State) != 0 || term.Store(db) != store.Store(db) {
			t.Error("a term of Alone binds")
		}
		cancel()
	})
	if n := db.LastSeq(); n != 0 {
		t.Errorf("%d commits", n)
	}
	if all, err := List(t.Context(), db); err != nil || len(all) != 0 {
		t.Errorf("roles %+v, %v", all, err)
	}
}

// TestHistory stops, cuts off, kills and restarts processes at random. No two that are
// not stopped work at a time, epochs grow, and in the end one has the role.
func TestHistory(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		steps := rapid.SliceOfN(rapid.Custom(func(r *rapid.T) [3]int {
			return [3]int{rapid.IntRange(0, 2).Draw(r, "node"), rapid.IntRange(0, 4).Draw(r, "what"),
				rapid.IntRange(1, 3000).Draw(r, "then wait")}
		}), 1, 12).Draw(r, "steps")
		cluster(t, 3, func(t *testing.T, db *pebblestore.DB, ps []*process, j *journal) {
			for _, p := range ps {
				j.start(p, "x")
			}
			stopped := map[*process]time.Time{} // when a process was last stopped
			for _, s := range steps {
				pass(time.Duration(s[2]) * testLease / 1000)
				p := ps[s[0]]
				switch s[1] {
				case 0:
					if _, ok := stopped[p]; !ok {
						stopped[p] = time.Now()
					}
					p.stop()
				case 1:
					p.cutOff()
				default:
					p.resume()
					p.mend()
				}
			}
			for _, p := range ps {
				p.resume()
				p.mend()
			}
			pass(3 * testLease)
			only(t, j.running())
			jobs := j.list()
			for i := range jobs {
				at, was := stopped[jobs[i].p]
				for k := i + 1; k < len(jobs); k++ {
					// The work of a process that was stopped ends when it is resumed.
					if was && at.Before(jobs[k].began) {
						continue
					}
					if jobs[i].ended.IsZero() || jobs[i].ended.After(jobs[k].began) {
						t.Errorf("two work at a time: %+v", jobs)
					}
				}
				if e := jobs[i].term.(*term).epoch; i > 0 && e <= jobs[i-1].term.(*term).epoch {
					t.Errorf("epoch %d follows %d", e, jobs[i-1].term.(*term).epoch)
				}
			}
		})
	})
}

// TestMain sets the default to few cases. Flags override it.
func TestMain(m *testing.M) { rapidtest.Main(m, 20, 4) }
