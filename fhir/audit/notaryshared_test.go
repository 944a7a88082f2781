package audit

import (
	"bytes"
	"context"
	"crypto/rand"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/cluster/role"
	"pulsegate/fhir/cluster/sealed"
	"pulsegate/fhir/cluster/sealed/sealedtest"
	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore"
	"pulsegate/fhir/store/pebblestore/pebbletest"
)

// cluster is a store of several processes.
type cluster struct {
	t   *testing.T
	db  *pebblestore.DB
	rec *Recorder
}

func newCluster(t *testing.T) *cluster {
	t.Helper()
	db := pebbletest.Open(t)
	rec, err := NewRecorder(Options{Store: db, Clock: time.Now, Rand: rand.Reader,
		Observer: "https://pulse.example.org"})
	if err != nil {
		t.Fatal(err)
	}
	return &cluster{t, db, rec}
}

// process is a process of a cluster, with its own data directory. Its store may differ
// from that of the cluster.
type process struct {
	*Notary
	w   *cluster
	dir string
	st  store.Store
}

func (w *cluster) process() *process { return &process{w: w, dir: w.t.TempDir(), st: w.db} }

// start opens the Notary, as at a start of the process.
func (p *process) start(accept bool) (err error) {
	p.Notary, err = OpenSharedNotary(p.w.t.Context(), NotaryOptions{Store: p.st, Dir: p.dir, Rand: rand.Reader,
		Roles: never{}, Every: time.Hour, Accept: accept}, sealedtest.Open(p.w.t, p.st, "cluster"))
	return err
}

func (w *cluster) started() *process {
	w.t.Helper()
	p := w.process()
	if err := p.start(false); err != nil {
		w.t.Fatal(err)
	}
	return p
}

// hold gives the process the role under an epoch. If check is not set, its commits do not
// depend on the role, as a control.
func (p *process) hold(epoch string, check bool) {
	var t role.Term = term{epoch, check}
	p.shared.term.Store(&t)
}

// elect makes epoch the current one.
func (w *cluster) elect(epoch string) { w.put("role/notary", []byte(epoch)) }

func (w *cluster) put(key string, value []byte) {
	w.t.Helper()
	if _, err := w.db.Commit(w.t.Context(), &store.Batch{State: []store.StateWrite{{Key: key,
		Value: value}}}); err != nil {
		w.t.Fatal(err)
	}
}

func (w *cluster) row() string {
	w.t.Helper()
	b, err := w.db.Get(w.t.Context(), checkpointKey)
	if err != nil {
		w.t.Fatal(err)
	}
	return string(b)
}

type term struct {
	epoch string
	check bool
}

func (t term) Bind(b *store.Batch) {
	if t.check {
		b.State = append(b.State, store.StateWrite{Key: "role/notary", Value: []byte(t.epoch),
			Expect: store.StateEquals, Old: []byte(t.epoch)})
	}
}

func (term) Store(store.Store) store.Store { panic("not used") }

type never struct{}

func (never) Run(ctx context.Context, _ string, _ func(context.Context, role.Term)) { <-ctx.Done() }

// sign records n events and signs.
func (p *process) sign(n int) {
	p.w.t.Helper()
	record(p.w.t, p.w.rec, n)
	if err := p.Sign(); err != nil {
		p.w.t.Fatal(err)
	}
}

func (p *process) file() string {
	p.w.t.Helper()
	b, err := os.ReadFile(filepath.Join(p.dir, checkpointFile))
	if err != nil {
		p.w.t.Fatal(err)
	}
	return string(b)
}

func (p *process) size() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.last.size
}

// TestNotariesOfACluster checks that the process with the role signs, that all show and
// write its checkpoints, and that the log verifies at each of them.
func TestNotariesOfACluster(t *testing.T) {
	w := newCluster(t)
	one, two := w.started(), w.started()
	if one.Verifier() != two.Verifier() || string(one.Checkpoint()) != string(two.Checkpoint()) {
		t.Fatal("two keys")
	}
	w.elect("1")
	one.hold("1", true)
	two.sign(1)
	if two.size() != 0 {
		t.Error("a process without the role signed")
	}
	kept := [][]byte{}
	check := func(size uint64) {
		t.Helper()
		for _, p := range []*process{one, two, w.started()} {
			c := p.Checkpoint()
			if p.size() != size || string(c) != w.row() || p.file() != w.row() {
				t.Errorf("checkpoint of %d leaves, want %d", p.size(), size)
			}
			rep, err := Verify(t.Context(), w.db, c, VerifyOptions{Verifier: p.Verifier(), Also: kept})
			if err != nil || !rep.OK {
				t.Error(rep.Problems, err)
			}
		}
		kept = append(kept, one.Checkpoint())
	}
	one.sign(3)
	check(w.db.Log().Size())
	w.elect("2")
	one.shared.term.Store(nil)
	two.hold("2", true)
	two.sign(2)
	check(w.db.Log().Size())
	before := w.db.LastSeq()
	if err := two.Sign(); err != nil || w.db.LastSeq() != before {
		t.Error("a checkpoint without new leaves was committed", err)
	}
	for _, p := range []*process{one, two} {
		if err := p.start(false); err != nil || p.Accepted() != "" {
			t.Error("a restart:", err)
		}
	}
}

// TestFirstStartOfTwoNotaries interrupts the first start of a process by that of another
// one. Both must have the same key.
func TestFirstStartOfTwoNotaries(t *testing.T) {
	for name, control := range map[string]bool{"": false, "control": true} {
		t.Run(name, func(t *testing.T) {
			w := newCluster(t)
			one, two := w.process(), w.process()
			verifier := ""
			two.st = &sealedtest.Interrupted{Store: w.db, Key: checkpointKey, Careless: control, By: func() {
				if err := one.start(false); err != nil {
					t.Error(err)
				}
				verifier = one.Verifier()
			}}
			if err := two.start(false); err != nil {
				t.Fatal(err)
			}
			if verifier == "" || (two.Verifier() == verifier) == control {
				t.Error("the verifier key that the first process published is void, or the control failed")
			}
		})
	}
}

// TestNotariesWithFiles is the control of the tests of a cluster: two processes that keep
// their keys in files have different ones, and a process that joins is refused.
func TestNotariesWithFiles(t *testing.T) {
	w := newCluster(t)
	open := func() (*Notary, error) {
		return OpenNotary(NotaryOptions{Store: w.db, Dir: t.TempDir(), Rand: rand.Reader})
	}
	one, err := open()
	if err != nil {
		t.Fatal(err)
	}
	two, err := open()
	if err != nil || one.Verifier() == two.Verifier() {
		t.Error("the same key:", err)
	}
	record(t, w.rec, 1)
	if _, err := open(); fhir.KindOf(err) != fhir.Conflict {
		t.Error(err)
	}
}

// forked returns a store with other leaves from the leaf from on, such as a damaged copy.
func forked(st store.Store, from uint64) *tampered {
	return &tampered{Store: st, recompute: true, leaf: func(i uint64, l store.Leaf) store.Leaf {
		if i >= from {
			l[8] ^= 1
		}
		return l
	}}
}

// TestOversleptNotary checks that a process that has lost the role without noticing
// cannot sign another tree. The control signs without the precondition of the role.
func TestOversleptNotary(t *testing.T) {
	for name, control := range map[string]bool{"": false, "control": true} {
		t.Run(name, func(t *testing.T) {
			w := newCluster(t)
			one, two := w.started(), w.started()
			w.elect("1")
			one.hold("1", !control)
			one.sign(3)
			size := w.db.Log().Size()
			w.elect("2")
			two.hold("2", true)
			record(t, w.rec, 2)
			one.opts.Store = forked(w.db, size)
			if err := one.Sign(); store.Lost(err) == control {
				t.Error(err)
			}
			fork := w.row()
			honest := two.Sign() == nil && two.size() == w.db.Log().Size()
			if honest == control {
				t.Errorf("the next notary signed: %t", honest)
			}
			// Nothing of the fork is published.
			if got := string(one.Checkpoint()); !control && (got == w.row() || fork == w.row()) {
				t.Error("published a forked tree")
			}
			_, problem, err := two.continues([]byte(fork), two.Verifier(), rowSource)
			if (problem != "") != control || err != nil {
				t.Error(problem, err)
			}
		})
	}
}

// TestForkedProcessDoesNotFollow checks that a process with another log than the notary
// takes over no checkpoint, and that as a notary it signs no log that does not continue
// the last checkpoint.
func TestForkedProcessDoesNotFollow(t *testing.T) {
	w := newCluster(t)
	one, two := w.started(), w.started()
	one.hold("1", false)
	one.sign(3)
	before := string(two.Checkpoint())
	two.opts.Store = forked(w.db, 2)
	one.sign(3)
	if string(two.Checkpoint()) != before || two.file() != before || two.Cover(t.Context()) == nil {
		t.Error("took over a checkpoint that its log does not continue")
	}
	two.hold("1", false)
	row := w.row()
	record(t, w.rec, 1)
	if err := two.Sign(); err == nil || w.row() != row {
		t.Error("signed a log that does not continue the checkpoint:", err)
	}
}

// stale is the copy of the store of a process that was away, until Sync.
type stale struct {
	*tampered
	synced, broken bool
}

func (s *stale) Sync(context.Context) error {
	s.synced = !s.broken
	return nil
}

// TestReturnOfAProcess starts a process with a copy of the store that is older than its
// checkpoint file. The control does not bring its copy up to date.
func TestReturnOfAProcess(t *testing.T) {
	for name, control := range map[string]bool{"": false, "control": true} {
		t.Run(name, func(t *testing.T) {
			w := newCluster(t)
			one, two := w.started(), w.started()
			one.hold("1", false)
			one.sign(3)
			two.Checkpoint()
			st := &stale{tampered: &tampered{Store: w.db}, broken: control}
			st.size = func(n uint64) uint64 {
				if st.synced {
					return n
				}
				return n - 2
			}
			two.st = st
			err := two.start(false)
			if (fhir.KindOf(err) == fhir.Conflict && err != nil) != control {
				t.Error(err)
			}
		})
	}
}

// restored is a cluster after its log was restored to an earlier time.
type restored struct {
	*tampered
	row string
}

func (s *restored) Get(ctx context.Context, key string) ([]byte, error) {
	if key == checkpointKey {
		return []byte(s.row), nil
	}
	return s.tampered.Get(ctx, key)
}

// TestRestoredCluster checks that each process notices at its start that the log was
// rolled back, and that an operator can accept it.
func TestRestoredCluster(t *testing.T) {
	w := newCluster(t)
	one, two, away := w.started(), w.started(), w.started()
	one.hold("1", false)
	one.sign(3)
	size, row := w.db.Log().Size(), w.row()
	away.Checkpoint()
	one.sign(3)
	ahead := string(two.Checkpoint())
	past := &restored{&tampered{Store: w.db, size: func(uint64) uint64 { return size }}, row}
	for _, p := range []*process{one, two} {
		p.st = past
		if err := p.start(false); err == nil || fhir.KindOf(err) != fhir.Conflict ||
			!strings.Contains(err.Error(), "rolled back") || !strings.Contains(err.Error(), "recover audit-log") {
			t.Error(err)
		}
		if p.file() != ahead {
			t.Error("a refused start changed the checkpoint file")
		}
		if err := p.start(true); err != nil || !strings.Contains(p.Accepted(), "rolled back") || p.size() != size {
			t.Error(err)
		}
		if former, err := os.ReadFile(filepath.Join(p.dir, former([]byte(ahead)))); err != nil ||
			string(former) != ahead || p.file() != row {
			t.Error("the former checkpoint was not kept:", err)
		}
		if err := p.start(false); err != nil || p.Accepted() != "" {
			t.Error("the next start:", err)
		}
	}
	// A process that was away at the later checkpoint, and a new one, know nothing of it.
	for _, p := range []*process{away, w.process()} {
		p.st = past
		if err := p.start(false); err != nil {
			t.Error(err)
		}
	}
}

// TestLossesOfACluster checks that a cluster without its checkpoint or key is not treated
// as a new one, and that after an operator has accepted that, the processes that run
// continue with the new key.
func TestLossesOfACluster(t *testing.T) {
	secret := "sealed/" + secretName
	for name, lose := range map[string][]string{"checkpoint": {checkpointKey}, "key": {secret},
		"both": {checkpointKey, secret}} {
		t.Run(name, func(t *testing.T) {
			w := newCluster(t)
			one := w.started()
			one.hold("1", false)
			one.sign(3)
			old, kept := one.Verifier(), one.Checkpoint()
			for _, key := range lose {
				w.put(key, nil)
			}
			record(t, w.rec, 1)
			if err := one.Sign(); err == nil || store.Lost(err) {
				t.Error("a running process signed:", err)
			}
			two := w.process()
			if err := two.start(false); err == nil || fhir.KindOf(err) != fhir.Conflict ||
				!strings.Contains(err.Error(), "recover audit-log") {
				t.Error(err)
			}
			if err := two.start(true); err != nil || two.Accepted() == "" {
				t.Fatal(err)
			}
			if name != "checkpoint" {
				// The process may have checkpoints of the old key.
				if err := one.start(false); fhir.KindOf(err) != fhir.Conflict {
					t.Error("a checkpoint file of another key:", err)
				}
				if err := one.start(true); err != nil {
					t.Fatal(err)
				}
				one.hold("1", false)
			}
			one.sign(1)
			if one.Verifier() != two.Verifier() || (old == two.Verifier()) != (name == "checkpoint") {
				t.Error("two keys")
			}
			for _, p := range []*process{two, w.process()} {
				if err := p.start(false); err != nil || p.size() != w.db.Log().Size() {
					t.Error("the next start:", err)
				}
			}
			rep, err := Verify(t.Context(), w.db, kept, VerifyOptions{Verifier: old})
			if err != nil || !rep.OK {
				t.Error("the checkpoint of an auditor:", rep.Problems, err)
			}
		})
	}
}

// TestKeyIsReplacedWhileSigning checks that no checkpoint with the former key follows
// when the key is replaced during a signature. The control has no preconditions.
func TestKeyIsReplacedWhileSigning(t *testing.T) {
	for name, control := range map[string]bool{"": false, "control": true} {
		t.Run(name, func(t *testing.T) {
			w := newCluster(t)
			one, two := w.started(), w.started()
			one.hold("1", false)
			one.opts.Store = &sealedtest.Interrupted{Store: w.db, Key: checkpointKey, Careless: control, By: func() {
				w.put("sealed/"+secretName, nil)
				if err := two.start(true); err != nil {
					t.Error(err)
				}
			}}
			record(t, w.rec, 1)
			if err := one.Sign(); store.Lost(err) == control {
				t.Error(err)
			}
			_, err := openCheckpoint([]byte(w.row()), two.Verifier())
			if good := err == nil || w.row() == string(accepted); good == control {
				t.Error(w.row())
			}
			if control {
				return
			}
			if err := one.Sign(); err != nil || one.Verifier() != two.Verifier() {
				t.Error("with the new key:", err)
			}
		})
	}
}

// TestResealWhileSigning checks that a signature that is lost to the replacement of the
// cluster key is made by the next call.
func TestResealWhileSigning(t *testing.T) {
	w := newCluster(t)
	p := w.started()
	p.hold("1", false)
	both := sealedtest.Open(t, w.db, "next", "cluster")
	p.shared.secrets = both
	p.shared.key = sealed.NewValue(both, secretName, func(b []byte) (noteKey, error) { return parseKey(b, "") })
	p.opts.Store = &sealedtest.Interrupted{Store: w.db, Key: checkpointKey, By: func() {
		if n, err := both.Reseal(t.Context()); n == 0 || err != nil {
			t.Error(n, err)
		}
	}}
	record(t, w.rec, 1)
	if err := p.Sign(); !store.Lost(err) {
		t.Error(err)
	}
	if err := p.Sign(); err != nil || p.size() != w.db.Log().Size() {
		t.Error(err)
	}
}

// watched reports on watching when a Watch begins.
type watched struct {
	store.Store
	watching chan struct{}
}

func (s watched) Watch(fn func(store.Commit)) func() {
	stop := s.Store.Watch(fn)
	close(s.watching)
	return stop
}

// TestCoverWaitsForTheNotary checks that a process without the role waits until the
// process with the role has signed, and not forever.
func TestCoverWaitsForTheNotary(t *testing.T) {
	w := newCluster(t)
	one, two := w.started(), w.started()
	one.hold("1", false)
	record(t, w.rec, 3)
	size := w.db.Log().Size()
	st := watched{w.db, make(chan struct{})}
	two.opts.Store = st
	covered := make(chan error)
	go func() { covered <- two.Cover(t.Context()) }()
	<-st.watching
	select {
	case err := <-covered:
		t.Fatal("did not wait:", err)
	default:
	}
	if err := one.Sign(); err != nil {
		t.Fatal(err)
	}
	if err := <-covered; err != nil || two.size() != size {
		t.Error(two.size(), err)
	}
	two.opts.Store = w.db
	record(t, w.rec, 1)
	two.shared.wait = time.Millisecond
	if err := two.Cover(t.Context()); err != nil || two.size() != size {
		t.Error("without a notary:", two.size(), err)
	}
	if err := one.Cover(t.Context()); err != nil || one.size() != w.db.Log().Size() {
		t.Error("the notary itself:", one.size(), err)
	}
	two.shared.wait = time.Hour
	record(t, w.rec, 1)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := two.Cover(ended); err == nil {
		t.Error("waited for a request that has ended")
	}
}

// passed gives the role to the processes in turn.
type passed struct {
	turn <-chan context.Context // ends the term
	term term
}

func (r passed) Run(ctx context.Context, name string, work func(context.Context, role.Term)) {
	for {
		select {
		case <-ctx.Done():
			return
		case held := <-r.turn:
			here, cancel := context.WithCancel(ctx)
			stop := context.AfterFunc(held, cancel)
			if name == roleName {
				work(here, r.term)
			}
			stop()
			cancel()
		}
	}
}

// TestRunOfACluster runs two processes while the role moves from one to the other, and
// checks that the files of both follow, and that the last signature covers the log.
func TestRunOfACluster(t *testing.T) {
	w := newCluster(t)
	one, two := w.started(), w.started()
	w.elect("1")
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var running sync.WaitGroup
	turns := []chan context.Context{make(chan context.Context), make(chan context.Context)}
	for i, p := range []*process{one, two} {
		p.opts.Every, p.opts.Roles = time.Millisecond, passed{turns[i], term{"1", true}}
		running.Go(func() {
			if err := p.Run(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	covered := func() bool {
		size := w.db.Log().Size()
		return one.covers(size) && two.covers(size) && one.file() == two.file()
	}
	for i := range 4 {
		held, lose := context.WithCancel(t.Context())
		turns[i%2] <- held
		record(t, w.rec, 2)
		until(t, covered)
		if i == 3 {
			record(t, w.rec, 1) // signed at the end
			stop()
			running.Wait()
		}
		lose()
	}
	if one.size() != w.db.Log().Size() && two.size() != w.db.Log().Size() || w.row() == "" {
		t.Error("the last signature does not cover the log")
	}
	if err := one.start(false); err != nil || one.size() != w.db.Log().Size() {
		t.Error(err)
	}
}

// until waits for a condition.
func until(t *testing.T, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the condition does not come true")
		}
	}
}

// TestNotaryRole runs two processes with leases, and stops them one after the other. The
// other one must take over.
func TestNotaryRole(t *testing.T) {
	w := newCluster(t)
	var ps []*process
	var stops []func()
	for range 3 {
		p := w.started()
		leases, err := role.New(role.Options{State: w.db, Node: "n", Lease: 200 * time.Millisecond, Clock: time.Now})
		if err != nil {
			t.Fatal(err)
		}
		p.opts.Every, p.opts.Roles = time.Millisecond, leases
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() {
			if err := p.Run(ctx); err != nil {
				t.Error(err)
			}
		})
		stop := func() { cancel(); running.Wait() }
		defer stop()
		ps, stops = append(ps, p), append(stops, stop)
	}
	for i := range ps {
		record(t, w.rec, 2)
		size := w.db.Log().Size()
		until(t, func() bool {
			return !slices.ContainsFunc(ps[i:], func(p *process) bool { return !p.covers(size) })
		})
		stops[i]()
	}
	for _, p := range ps {
		if p.Checkpoint(); p.file() != w.row() {
			t.Error("the processes have different checkpoints")
		}
	}
}

// TestImportNotary checks that a server that becomes a cluster keeps its key, and that
// its checkpoint still protects the log.
func TestImportNotary(t *testing.T) {
	w := newCluster(t)
	dir := t.TempDir()
	o := NotaryOptions{Store: w.db, Dir: dir, Rand: rand.Reader}
	secrets := sealedtest.Open(t, w.db, "cluster")
	if imported, err := ImportNotary(t.Context(), NotaryOptions{Store: w.db, Dir: t.TempDir(), Rand: rand.Reader},
		secrets); imported || err != nil {
		t.Error("an empty directory:", imported, err)
	}
	alone, err := OpenNotary(o)
	if err != nil {
		t.Fatal(err)
	}
	record(t, w.rec, 3)
	if err := alone.Sign(); err != nil {
		t.Fatal(err)
	}
	o.Accept = true
	o.Store = &tampered{Store: w.db, size: func(uint64) uint64 { return 1 }}
	if _, err := ImportNotary(t.Context(), o, secrets); fhir.KindOf(err) != fhir.Conflict {
		t.Error("imported a log that was rolled back:", err)
	}
	o.Store = w.db
	for i := range 2 {
		if imported, err := ImportNotary(t.Context(), o, secrets); err != nil || imported != (i == 0) {
			t.Error(imported, err)
		}
	}
	same := w.process()
	same.dir = dir
	for _, p := range []*process{same, w.process()} {
		if err := p.start(false); err != nil {
			t.Fatal(err)
		}
		if c := p.Checkpoint(); p.Verifier() != alone.Verifier() || string(c) != w.row() ||
			p == same && !bytes.Equal(c, alone.Checkpoint()) {
			t.Error("another key or checkpoint")
		}
		p.hold("1", false)
		p.sign(1)
		p.shared.term.Store(nil)
	}
}
