package ingest

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"pulsegate/adapters"
	"pulsegate/adapters/apple"
	"pulsegate/adapters/fitbit"
	"pulsegate/adapters/oura"
	"pulsegate/fhir"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/clocktest"
	"pulsegate/fhir/store"
	"pulsegate/mapping/sample"
)

// columns is a store with columns.
type columns interface {
	store.Store
	store.Columnar
}

// process is the store as one process of several sees it. A test can act before and
// after its commits, as another process would.
type process struct {
	columns
	before, after func(n int) // called with the number of the commit
	commits       int
	unguarded     bool // a broken driver: guards and preconditions are ignored
}

func (p *process) Commit(ctx context.Context, b *store.Batch) (store.Result, error) {
	p.commits++
	n := p.commits
	if p.before != nil {
		p.before(n)
	}
	if p.unguarded {
		b.Guards = nil
		for i := range b.State {
			b.State[i].Expect, b.State[i].Old = store.StateAny, nil
		}
	}
	res, err := p.columns.Commit(ctx, b)
	if err == nil && p.after != nil {
		p.after(n)
	}
	return res, err
}

// shared makes the store of w one that several processes share, and returns the view
// of w.
func (w *world) shared() *process {
	p := &process{columns: w.pipeline.Store.(columns)}
	w.pipeline.Store = p
	return p
}

// another returns another process over the store of w, which has called shared.
func (w *world) another() (*world, *process) {
	of := w.pipeline
	p := &process{columns: of.Store.(*process).columns}
	return &world{w.t, &Pipeline{Store: p, Audit: of.Audit, Consents: of.Consents, Mapper: of.Mapper, Clock: of.Clock,
		Adapters: of.Adapters, SpoolDir: of.SpoolDir}, w.consents, w.othersWrite}, p
}

// state returns the state that ingest keeps.
func (w *world) state() map[string]string {
	w.t.Helper()
	out := map[string]string{}
	for _, prefix := range []string{"ingest/", "quarantine/"} {
		err := w.pipeline.Store.List(w.t.Context(), prefix, func(key string, v []byte) bool {
			out[strings.Clone(key)] = string(v)
			return true
		})
		if err != nil {
			w.t.Fatal(err)
		}
	}
	return out
}

// same reports whether two worlds hold the same.
func (w *world) same(other *world) bool {
	w.t.Helper()
	same := maps.Equal(w.state(), other.state())
	for _, typ := range []string{"Observation", "Device"} {
		same = same && maps.Equal(w.content(typ), other.content(typ))
	}
	return same && len(w.all("Provenance")) == len(other.all("Provenance"))
}

// versioned is a heart rate of a device whose firmware is known.
func versioned(hour int, software string, facts ...sample.Fact) sample.Sample {
	s := heartRate(oct(1, hour), "62")
	s.Device.Software, s.Device.Facts = software, facts
	return s
}

// collisions are payloads that two processes store at the same time, each of which
// reads state that the other one writes.
var collisions = map[string][2][]any{
	"the channels": {{heartRate(oct(1, 8), "62")}, {coarseRate(8)}},
	"the facts of a device": {
		{versioned(8, "11.0", sample.Fact{Name: "battery", Value: "80", Unit: "%"})}, {versioned(9, "12.0")}},
	"restatements": {{weight("a1", "70")}, {weight("a1", "71")}},
	"a revision":   {{revised(7, "70")}, {revised(8, "71")}},
	"the nights":   {{asleep(22, 2)}, {asleep(24, 4)}},
	"the quarantine": {
		{sample.Reject{Metric: weightType, VendorID: "a1", Reason: sample.ReasonBadValue, Raw: []byte("x")}},
		{weight("a1", "70")}},
}

func coarseRate(hour int) sample.Sample {
	s := heartRate(oct(1, hour), "62")
	s.Coarse, s.Device, s.KeyValue = true, sample.Device{}, false
	return s
}

func revised(revision int64, kg string) sample.Sample {
	s := weight("a1", kg)
	s.Revision = revision
	return s
}

func asleep(from, hours int) sample.Sample {
	s := heartRate(oct(1, from), "")
	s.Metric, s.KeyValue, s.End = "HKCategoryTypeIdentifierSleepAnalysis", false, oct(1, from+hours)
	s.Value = sample.Value{Kind: sample.Code, Text: "HKCategoryValueSleepAnalysisAsleepCore"}
	return s
}

// TestTwoProcesses checks that two processes that store data of one patient at the same
// time leave the same as one after another. Without guards they do not.
func TestTwoProcesses(t *testing.T) {
	wrong := 0
	for name, payloads := range collisions {
		for _, unguarded := range []bool{false, true} {
			want := newWorld(t)
			w := newWorld(t)
			w.othersWrite = unguarded // nothing is checked of a broken store
			p := w.shared()
			p.unguarded = unguarded
			other, _ := w.another()
			p.before = func(n int) {
				if n == 1 {
					if _, err := other.deliver("apple", nil, payloads[1]...); err != nil {
						t.Fatal(err)
					}
				}
			}
			if _, err := w.deliver("apple", nil, payloads[0]...); err != nil && !unguarded {
				t.Fatal(err)
			}
			for _, i := range []int{1, 0} {
				if _, err := want.deliver("apple", nil, payloads[i]...); err != nil {
					t.Fatal(err)
				}
			}
			if same := w.same(want); same == unguarded {
				if !unguarded {
					t.Errorf("%s: %v\nwant\n%v", name, w.state(), want.state())
				}
			} else if unguarded {
				wrong++
			}
		}
	}
	if wrong < 3 {
		t.Errorf("%d of the payloads show that guards are necessary", wrong)
	}
}

// TestProcessesStoreAnyPayloads is TestTwoProcesses for drawn payloads of several commits.
func TestProcessesStoreAnyPayloads(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w, done := newWorldOf(t)
		defer done()
		want, done := newWorldOf(t)
		defer done()
		p := w.shared()
		other, _ := w.another()
		draw := func() (out []sample.Sample) {
			for _, s := range drawSamples(t, 12) {
				if rapid.IntRange(0, 3).Draw(t, "coarse") == 0 {
					s.Coarse, s.Device, s.KeyValue = true, sample.Device{}, false
				}
				out = append(out, s)
			}
			return out
		}
		first, second, third := draw(), draw(), draw()
		p.before = func(n int) {
			if n == 2 { // the first attempt of the payload
				if _, err := other.take("b", second...); err != nil {
					t.Fatal(err)
				}
			}
		}
		for _, deliver := range []func() error{
			func() error { _, err := w.take("a", first...); return err },
			func() error { _, err := w.take("c", third...); return err },
			func() error { _, err := want.take("a", first...); return err },
			func() error { _, err := want.take("b", second...); return err },
			func() error { _, err := want.take("c", third...); return err },
		} {
			if err := deliver(); err != nil {
				t.Fatal(err)
			}
		}
		if p.commits == 1 {
			t.Skip("the first payload was empty")
		}
		if !w.same(want) {
			t.Errorf("%v\nwant\n%v", w.state(), want.state())
		}
	})
}

// TestConsentWithdrawnElsewhere checks that a consent that is withdrawn at another process
// after it was looked at, and before the commit, stops the commit.
func TestConsentWithdrawnElsewhere(t *testing.T) {
	w := newWorld(t)
	p := w.shared()
	p.before = func(n int) {
		if n != 1 {
			return
		}
		w.consents.withdrawn = true
		consent := fhir.Resource{Type: "Consent", ID: "c1", JSON: []byte(fhir.Prefix("Consent", "c1") +
			`},"status":"inactive","patient":{"reference":"Patient/p1"}}`)}
		if _, err := p.columns.Commit(t.Context(),
			&store.Batch{Writes: []store.Write{{Resource: consent}}}); err != nil {
			t.Fatal(err)
		}
	}
	_, err := w.deliver("apple", nil, weight("a1", "70"))
	if fhir.KindOf(err) != fhir.Forbidden || len(w.all("Observation")) != 0 {
		t.Errorf("%v, %d Observations", err, len(w.all("Observation")))
	}
}

// TestErasedElsewhere checks that a delivery fails that another process's erasure
// overlaps, that one which begins afterwards succeeds, and that nothing of the first is
// left.
func TestErasedElsewhere(t *testing.T) {
	w := newWorld(t)
	p := w.shared()
	other, q := w.another()
	if _, err := w.deliver("apple", nil, weight("a1", "70")); err != nil {
		t.Fatal(err)
	}
	at := p.commits + 1
	p.before = func(n int) {
		if n == at {
			if sum, err := other.erase("apple"); err != nil || sum.Erased == 0 {
				t.Errorf("%+v %v", sum, err)
			}
		}
	}
	if _, err := w.deliver("apple", nil, weight("a2", "71")); !errors.Is(err, errBeingErased) {
		t.Errorf("a delivery that began before the erasure: %v", err)
	}
	if ids, keys := w.ids(), w.keys(); len(ids)+len(keys) != 0 {
		t.Errorf("%v and %v are left", ids, keys)
	}
	if _, err := w.deliver("apple", nil, weight("a2", "71")); err != nil {
		t.Errorf("after the erasure: %v", err)
	}
	during := 0
	q.after = func(int) {
		during++
		if _, err := w.deliver("apple", nil, weight("a3", "72")); !errors.Is(err, errBeingErased) {
			t.Errorf("a delivery during the erasure: %v", err)
		}
		if _, err := w.erase("apple"); !errors.Is(err, errBeingErased) {
			t.Errorf("another erasure: %v", err)
		}
		if during == 2 {
			q.after = nil
		}
	}
	if _, err := other.erase("apple"); err != nil {
		t.Error(err)
	}
	if ids, keys := w.ids(), w.keys(); len(ids)+len(keys) != 0 || during != 2 {
		t.Errorf("%v and %v are left after %d commits", ids, keys, during)
	}
}

// TestEraserDies checks that an erasure whose process has died blocks deliveries for the
// length of its lease, and that a process that was only slow cannot continue afterwards.
func TestEraserDies(t *testing.T) {
	w := newWorld(t)
	clock := clocktest.Ticking(w.pipeline.Clock(), time.Millisecond)
	w.pipeline.Clock = clock.Now
	w.shared()
	other, q := w.another()
	if _, err := w.deliver("apple", nil, weight("a1", "70"), weight("a2", "71")); err != nil {
		t.Fatal(err)
	}
	asleep := false
	q.before = func(n int) {
		if n != 2 { // the first deletion
			return
		}
		asleep = true
		if _, err := w.deliver("apple", nil, weight("a3", "72")); !errors.Is(err, errBeingErased) {
			t.Errorf("within the lease: %v", err)
		}
		clock.Add(erasureLease)
		if sum, err := w.deliver("apple", nil, weight("a3", "72")); err != nil || sum.Created != 1 {
			t.Errorf("after the lease: %+v %v", sum.Counts, err)
		}
	}
	if _, err := other.erase("apple"); !errors.Is(err, errBeingErased) || !asleep {
		t.Errorf("the slow erasure: %v", err)
	}
	if n := len(w.all("Observation")); n != 3 {
		t.Errorf("%d Observations, want 3", n)
	}
	w.pipeline.Adapters = []adapters.Adapter{apple.New(), fitbit.New(), oura.New()}
	if _, err := w.erase("apple"); err != nil || len(w.ids())+len(w.keys()) != 0 {
		t.Errorf("erased again: %v, %v", err, w.keys())
	}
}

// TestPartAtTwoProcesses checks that of a part that two processes get at the same time
// one copy is processed, so that neither undoes a newer statement; and that deliveries
// without a session do.
func TestPartAtTwoProcesses(t *testing.T) {
	for _, session := range []string{"s1", ""} {
		for _, first := range []bool{true, false} { // whether the copy comes before the first commit
			w := newWorld(t)
			p := w.shared()
			other, _ := w.another()
			third, _ := w.another()
			var handlers []http.Handler
			for _, one := range []*world{w, other, third} {
				handlers = append(handlers, one.handler(keyOf("p1", "apple")))
			}
			const to = "/ingest/apple/health-auto-export"
			var copies sync.WaitGroup
			var repeated bool
			act := func(n int) {
				if n != 1 {
					return
				}
				p.before, p.after = nil, nil
				send := func() {
					code, sum := part(t, handlers[1], to, session, exportedRate(62))
					if repeated = sum.Repeated; code != http.StatusOK {
						t.Errorf("the copy: %d", code)
					}
				}
				if first || session == "" {
					send()
				} else { // it waits for the first delivery
					copies.Go(send)
				}
				if code, _ := part(t, handlers[2], to, "s2", exportedRate(63)); code != http.StatusOK {
					t.Errorf("the newer part: %d", code)
				}
			}
			if p.after = act; first {
				p.before, p.after = act, nil
			}
			code, sum := part(t, handlers[0], to, session, exportedRate(62))
			if copies.Wait(); code != http.StatusOK || session != "" && sum.Repeated == repeated {
				t.Errorf("%d, repeated %v and %v", code, sum.Repeated, repeated)
			}
			want := "63"
			if session == "" && first { // the older statement was processed again
				want = "62"
			}
			if got := w.rate(); got != want {
				t.Errorf("session %q, before the commit %v: heart rate %s, want %s", session, first, got, want)
			}
		}
	}
}

// TestPartOfDeadProcess checks that a part whose process has died is processed by another
// one after its lease, and that the dead one can write nothing afterwards.
func TestPartOfDeadProcess(t *testing.T) {
	w := newWorld(t)
	clock := clocktest.Ticking(w.pipeline.Clock(), time.Millisecond)
	w.pipeline.Clock = clock.Now
	w.pipeline.Limits.Batch = 1
	p := w.shared()
	other, _ := w.another()
	const to = "/ingest/apple/health-auto-export"
	body := strings.Replace(exportedRate(62), `]}]}}`, `]},{"name":"weight_body_mass","units":"kg","data":`+
		`[{"date":"2026-04-07 08:00:00 +0200","qty":70}]},{"name":"weight_body_mass","units":"kg","data":`+
		`[{"date":"2026-04-08 08:00:00 +0200","qty":71}]}]}}`, 1)
	p.after = func(n int) {
		if n != 1 {
			return
		}
		clock.Add(partLease)
		code, sum := part(t, other.handler(keyOf("p1", "apple")), to, "s1", body)
		if code != http.StatusOK || sum.Repeated || sum.Read != 3 {
			t.Errorf("the other process: %d %+v", code, sum)
		}
	}
	if code, _ := part(t, w.handler(keyOf("p1", "apple")), to, "s1", body); code != http.StatusServiceUnavailable {
		t.Errorf("the first process: %d", code)
	}
	if code, sum := part(t, w.handler(keyOf("p1", "apple")), to, "s1", body); code != http.StatusOK || !sum.Repeated {
		t.Errorf("again: %d %+v", code, sum)
	}
}

// TestKeyOfSeveralProcesses checks that processes that start together with an empty store
// use one key, and record the packs once.
func TestKeyOfSeveralProcesses(t *testing.T) {
	w := newWorld(t)
	p := w.shared()
	other, q := w.another()
	var second []byte
	p.before = func(int) {
		p.before = nil
		var err error
		if second, err = Key(t.Context(), q, bytes.NewReader(bytes.Repeat([]byte{2}, 32))); err != nil {
			t.Fatal(err)
		}
	}
	first, err := Key(t.Context(), p, bytes.NewReader(bytes.Repeat([]byte{1}, 32)))
	if err != nil || !bytes.Equal(first, second) || first[0] != 2 {
		t.Errorf("%x and %x, %v", first, second, err)
	}
	p.before = func(int) {
		p.before = nil
		if err := other.pipeline.RecordPacks(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.pipeline.RecordPacks(t.Context()); err != nil {
		t.Fatal(err)
	}
	if epochs, _, err := w.pipeline.packEpochs(t.Context(), "apple"); err != nil || len(epochs) != 1 {
		t.Errorf("%+v %v", epochs, err)
	}
}

// states collects the states of jobs.
type states struct {
	mu   sync.Mutex
	list []string
}

func (s *states) add(job RemapJob) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !slices.Contains(s.list, job.Status) {
		s.list = append(s.list, job.Status)
	}
}

// runRemaps runs the jobs of w until stop is called.
func (w *world) runRemaps() (stop func()) {
	ctx, cancel := context.WithCancel(w.t.Context())
	var run sync.WaitGroup
	run.Go(func() { w.pipeline.RunRemaps(ctx, func(RemapJob) audit.Caller { return operator() }) })
	return func() { cancel(); run.Wait() }
}

// TestRemapContinuesElsewhere checks that a job that was started at one process runs at
// another one; that a third continues it when that process ends in the middle; that the
// first one follows it to its end; and that the result is that of one process.
func TestRemapContinuesElsewhere(t *testing.T) {
	want := newWorld(t)
	want.twoKinds(2*remapBatch + 20)
	want.use(renamed(t))
	want.remap(RemapRequest{Vendor: "apple"})
	w := newWorld(t)
	w.twoKinds(2*remapBatch + 20)
	w.use(renamed(t))
	w.shared()
	runner, p := w.another()
	heir, _ := w.another()
	changed := make(chan struct{})
	var once sync.Once
	p.after = func(int) {
		if job, _, err := w.pipeline.remapJob(w.t.Context(), "apple"); err == nil && job.Report.Changed > 0 {
			once.Do(func() { close(changed) })
		}
	}
	end := runner.runRemaps()
	job, err := w.pipeline.StartRemap(t.Context(), RemapRequest{Vendor: "apple", Caller: operator()})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := heir.pipeline.StartRemap(t.Context(),
		RemapRequest{Vendor: "apple", Caller: operator()}); fhir.KindOf(err) != fhir.Conflict {
		t.Errorf("a second job: %v", err)
	}
	var followed sync.WaitGroup
	var seen states
	followed.Go(func() {
		last, err := w.pipeline.FollowRemap(t.Context(), job, seen.add)
		if err != nil || last.Status != RemapDone || last.Report.Changed != 2*remapBatch+21 {
			t.Errorf("%+v %v", last, err)
		}
	})
	<-changed
	end()
	end = heir.runRemaps()
	followed.Wait()
	end()
	w.sameChart(want)
	if got, want := w.versions(), want.versions(); !maps.Equal(got, want) {
		t.Errorf("versions %v, want %v", got, want)
	}
	if !slices.Equal(seen.list, []string{RemapRunning}) {
		t.Errorf("states %v", seen.list)
	}
}

// TestRemapCanceledElsewhere checks that a job can be canceled at another process than
// the one that runs it, and that the runner changes nothing afterwards.
func TestRemapCanceledElsewhere(t *testing.T) {
	w := newWorld(t)
	w.twoKinds(2*remapBatch + 20)
	w.use(renamed(t))
	p := w.shared()
	other, _ := w.another()
	canceled := false
	p.before = func(int) {
		job, _, err := other.pipeline.remapJob(t.Context(), "apple")
		if err != nil || job == nil || job.Report.Changed == 0 || canceled {
			return
		}
		canceled = true
		if jobs, err := other.pipeline.RemapJobs(t.Context()); err != nil || jobs[0].Status != RemapRunning {
			t.Errorf("%+v %v", jobs, err)
		}
		if _, err := other.pipeline.Remap(t.Context(),
			RemapRequest{Vendor: "apple", Caller: operator()}); fhir.KindOf(err) != fhir.Conflict {
			t.Errorf("a second job: %v", err)
		}
		if err := other.pipeline.CancelRemap(t.Context(), "apple", operator()); err != nil {
			t.Error(err)
		}
	}
	_, err := w.pipeline.Remap(t.Context(), RemapRequest{Vendor: "apple", Caller: operator()})
	if !errors.Is(err, errRemapCanceled) || !canceled {
		t.Errorf("%v", err)
	}
	jobs, err := w.pipeline.RemapJobs(t.Context())
	if err != nil || len(jobs) != 1 || jobs[0].Status != RemapCanceled || w.versions()["2 amended"] != remapBatch {
		t.Errorf("%+v %v %v", jobs, err, w.versions())
	}
	w.remap(RemapRequest{Vendor: "apple"})
}

// TestRemapOverslept checks that a process that was suspended while another one took over
// its job changes nothing afterwards.
func TestRemapOverslept(t *testing.T) {
	w := newWorld(t)
	w.twoKinds(2*remapBatch + 20)
	w.use(renamed(t))
	p := w.shared()
	heir, _ := w.another()
	taken := false
	p.before = func(int) {
		job, _, err := heir.pipeline.remapJob(t.Context(), "apple")
		if err != nil || job == nil || job.Report.Changed == 0 || taken {
			return
		}
		taken = true
		run, err := heir.pipeline.beginRemap(t.Context(), job.Request(operator()), true)
		if err != nil {
			t.Fatal(err)
		}
		if report, err := run.Run(t.Context()); err != nil || report.Changed != 2*remapBatch+21 {
			t.Errorf("%+v %v", report, err)
		}
	}
	if _, err := w.pipeline.Remap(t.Context(),
		RemapRequest{Vendor: "apple", Caller: operator()}); !errors.Is(err, errRemapTaken) || !taken {
		t.Errorf("the slow process: %v", err)
	}
	if v := w.versions(); v["2 amended"] != 2*remapBatch+21 {
		t.Errorf("%v", v)
	}
}
