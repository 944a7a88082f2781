package bulk

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/cluster/role/roletest"
	"pulsegate/fhir/store"
)

// view is the store as one process of several sees it.
type view struct {
	store.Store
	after     func()                // called after a commit
	before    func()                // called before a commit
	sync      func()                // called by Sync
	scan      func(context.Context) // called by Scan
	unguarded bool                  // a broken driver that ignores guards
	commits   atomic.Int32          // number of commits
}

func (v *view) Commit(ctx context.Context, b *store.Batch) (store.Result, error) {
	v.commits.Add(1)
	if f := v.before; f != nil {
		v.before = nil
		f()
	}
	if v.unguarded {
		b.Guards = nil
	}
	res, err := v.Store.Commit(ctx, b)
	if f := v.after; f != nil && err == nil {
		v.after = nil
		f()
	}
	return res, err
}

func (v *view) Sync(ctx context.Context) error {
	if v.sync != nil {
		v.sync()
	}
	return v.Store.Sync(ctx)
}

func (v *view) Scan(ctx context.Context, r store.ScanRange, fn func(*store.Found) bool) error {
	if v.scan != nil {
		v.scan(ctx)
	}
	return v.Store.Scan(ctx, r, fn)
}

// process is one process of several.
type process struct {
	*world
	view   *view
	role   *roletest.Process
	grants atomic.Int32 // number of jobs that it has begun to prepare for others
}

// cluster returns n processes over the store of w, whose own exporter is closed. None
// has a role.
func (w *world) cluster(n int) (*roletest.Roles, []*process) {
	w.t.Helper()
	w.exporter.Close()
	roles := roletest.New(w.st)
	var all []*process
	for range n {
		p := &process{world: &world{t: w.t, st: w.st, opts: w.opts, consents: w.consents, clock: w.clock},
			view: &view{Store: w.st}, role: roles.Process()}
		p.opts.Store, p.opts.Roles = p.view, p.role
		grant := p.opts.GrantFor
		p.opts.GrantFor = func(ctx context.Context, client, scope string) (*access.Grant, error) {
			p.grants.Add(1)
			return grant(ctx, client, scope)
		}
		all = append(all, p)
	}
	return roles, all
}

func (p *process) open() {
	p.start()
	p.t.Cleanup(p.exporter.Close)
}

// give gives the roles to p.
func give(t *testing.T, roles *roletest.Roles, p *process) {
	t.Helper()
	var to *roletest.Process
	if p != nil {
		to = p.role
	}
	if err := roles.Give(to); err != nil {
		t.Fatal(err)
	}
}

// files returns the files of a job.
func (p *process) files(id string) map[string][]string {
	c := p.caller("ehr")
	out := map[string][]string{}
	for _, f := range p.manifest(c, id).Output {
		out[f.Type] = p.file(c, f)
	}
	return out
}

// TestStartDuringKickOff checks that processes that start while another one accepts a
// kick-off leave it alone, and that each job is prepared once.
func TestStartDuringKickOff(t *testing.T) {
	w := newWorld(t)
	w.seed()
	want := w.export(w.caller("ehr"), Request{Level: System})
	roles, all := w.cluster(3)
	all[0].open()
	all[0].view.after = func() { // the job is stored and has no snapshot yet
		for _, p := range all[1:] {
			p.open()
		}
		give(t, roles, all[1])
	}
	id := all[0].kick(w.caller("ehr"), Request{Level: System})
	for _, p := range all {
		if got := p.files(id); !maps.EqualFunc(got, want, slices.Equal[[]string]) {
			t.Errorf("%v, want %v", got, want)
		}
	}
	for i, n := range []int32{0, 1, 0} {
		if got := all[i].grants.Load(); got != n {
			t.Errorf("process %d has prepared %d jobs, want %d", i, got, n)
		}
	}
}

// TestInterruptedKickOff checks that a job whose kick-off was interrupted is removed by
// the holder, and does not count for the limits.
func TestInterruptedKickOff(t *testing.T) {
	w := newWorld(t)
	w.seed()
	roles, all := w.cluster(2)
	for _, p := range all {
		p.opts.MaxRunning = 1
		p.open()
	}
	ctx, cancel := context.WithCancel(t.Context())
	all[0].view.after = func() { cancel(); all[0].clock.Add(unacknowledged) }
	all[0].view.Store = endsWith{all[0].view.Store}
	if _, err := all[0].exporter.KickOff(ctx, w.caller("ehr"), Request{Level: System}); err == nil {
		t.Fatal("the kick-off was not interrupted")
	}
	id := all[1].kick(w.caller("ehr"), Request{Level: System})
	give(t, roles, all[1])
	all[1].manifest(w.caller("ehr"), id)
	jobs := 2
	for end := time.Now().Add(2 * time.Minute); jobs != 1 && time.Now().Before(end); time.Sleep(time.Millisecond) {
		jobs = 0
		if err := w.st.List(t.Context(), "bulk/", func(string, []byte) bool { jobs++; return true }); err != nil {
			t.Fatal(err)
		}
	}
	if jobs != 1 {
		t.Errorf("%d jobs", jobs)
	}
}

// endsWith fails commits whose context has ended.
type endsWith struct{ store.Store }

func (s endsWith) Commit(ctx context.Context, b *store.Batch) (store.Result, error) {
	if err := ctx.Err(); err != nil {
		return store.Result{}, err
	}
	return s.Store.Commit(ctx, b)
}

// TestLimitsOfSeveralProcesses checks that the limits of a client hold for all processes
// together, and that without guards they do not.
func TestLimitsOfSeveralProcesses(t *testing.T) {
	for _, unguarded := range []bool{false, true} {
		w := newWorld(t)
		_, all := w.cluster(2)
		for _, p := range all {
			p.opts.MaxRunning, p.view.unguarded = 1, unguarded
			p.open()
		}
		c := w.caller("ehr")
		all[0].view.before = func() { all[1].kick(c, Request{Level: System}) }
		_, err := all[0].exporter.KickOff(t.Context(), c, Request{Level: System})
		if refused := fhir.KindOf(err) == fhir.TooMany && err != nil; refused == unguarded {
			t.Errorf("without guards %v: %v", unguarded, err)
		}
		if unguarded {
			continue
		}
		if _, err := all[1].exporter.KickOff(t.Context(), w.caller("other"), Request{Level: System}); err != nil {
			t.Errorf("another client: %v", err)
		}
	}
}

// TestHolderEnds checks that a job whose process ends while it prepares it is continued
// by another process, with the same files, and that any process deletes it.
func TestHolderEnds(t *testing.T) {
	w := newWorld(t)
	w.seed()
	want := w.export(w.caller("ehr"), Request{Level: System})
	roles, all := w.cluster(3)
	scanning := make(chan struct{}, 100)
	all[0].view.scan = func(ctx context.Context) { scanning <- struct{}{}; <-ctx.Done() }
	for _, p := range all {
		p.open()
	}
	give(t, roles, all[0])
	id := all[0].kick(w.caller("ehr"), Request{Level: System})
	w.observation("later", "p1")
	<-scanning
	all[0].exporter.Close()
	if s, err := all[2].exporter.Status(t.Context(), w.caller("ehr"), id, 0, Form3); err != nil || s.Manifest != nil {
		t.Errorf("%+v %v", s, err)
	}
	give(t, roles, all[1])
	if got := all[2].files(id); !maps.EqualFunc(got, want, slices.Equal[[]string]) {
		t.Errorf("%v, want %v", got, want)
	}
	if err := all[2].exporter.Delete(t.Context(), w.caller("ehr"), id); err != nil {
		t.Error(err)
	}
	if _, err := all[1].exporter.Status(t.Context(), w.caller("ehr"), id, 0, Form3); fhir.KindOf(err) != fhir.NotFound {
		t.Errorf("after the deletion: %v", err)
	}
}

// TestHolderOversleeps checks that a process that was suspended while it prepared a job
// writes nothing after another one has taken over.
func TestHolderOversleeps(t *testing.T) {
	w := newWorld(t)
	w.seed()
	roles, all := w.cluster(3)
	asleep, awake, heir := make(chan struct{}), make(chan struct{}), make(chan struct{})
	all[0].opts.GrantFor = func(context.Context, string, string) (*access.Grant, error) {
		close(asleep)
		<-awake
		return nil, errors.New("an old process")
	}
	grant := all[1].opts.GrantFor
	all[1].opts.GrantFor = func(ctx context.Context, client, scope string) (*access.Grant, error) {
		<-heir
		return grant(ctx, client, scope)
	}
	var once sync.Once
	release := func() { once.Do(func() { close(awake) }) }
	for _, p := range all {
		p.open()
	}
	t.Cleanup(release) // before the exporters are closed
	give(t, roles, all[0])
	id := all[2].kick(w.caller("ehr"), Request{Level: System})
	<-asleep
	roles.Deafen(all[0].role)
	give(t, roles, all[1])
	before := all[0].view.commits.Load()
	release()
	for end := time.Now().Add(2 * time.Minute); all[0].view.commits.Load() == before && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	if s, err := all[2].exporter.Status(t.Context(), w.caller("ehr"), id, 0, Form3); err != nil || s.Manifest != nil {
		t.Errorf("the old process has written: %+v %v", s, err)
	}
	close(heir)
	if got := all[2].files(id); len(got["Observation"]) != 9 {
		t.Errorf("%v", got)
	}
}

// TestConsentWithdrawnElsewhere checks that a download stops data whose consent was
// withdrawn at another process, even if this process has not seen that yet.
func TestConsentWithdrawnElsewhere(t *testing.T) {
	w := newWorld(t)
	w.seed()
	roles, all := w.cluster(1)
	p := all[0]
	p.open()
	give(t, roles, p)
	c := w.caller("ehr")
	id := p.kick(c, Request{Level: System})
	p.manifest(c, id)
	var once sync.Once
	p.view.sync = func() {
		once.Do(func() {
			w.consents.mu.Lock()
			w.consents.withdrawn["p3"] = true
			w.consents.mu.Unlock()
			w.put("Consent", "c3", `,"status":"inactive","patient":{"reference":"Patient/p3"}`)
		})
	}
	f, err := p.exporter.Open(t.Context(), c, id, "Observation.ndjson")
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := f.WriteTo(t.Context(), &out); err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(out.Bytes(), []byte("Patient/p3")) || !bytes.Contains(out.Bytes(), []byte("Patient/p1")) {
		t.Errorf("%s", out.Bytes())
	}
}

// TestNodesDie checks that an export goes on while the processes that prepare it die one
// after the other, each after a few files: no file that was finished is made again, any
// process serves the files, and they are those of an undisturbed export. A download that
// breaks off continues at another process.
func TestNodesDie(t *testing.T) {
	w := newWorld(t)
	w.seed()
	w.resize(1)
	c := w.caller("ehr")
	whole := map[string]string{}
	r := Request{Level: System, Params: url.Values{"_type": {"Observation"}}}
	first := w.kick(c, r)
	for _, f := range w.manifest(c, first).Output {
		whole[nameOf(f)] = w.text(c, first, nameOf(f))
	}
	roles, all := w.cluster(4)
	for _, p := range all {
		p.opts.FileBytes = 1
		p.open()
	}
	id := all[3].kick(c, r)
	made := map[string]string{} // stored bytes of each file that is known
	known := func() {
		if err := w.st.List(t.Context(), filePrefix+id, func(k string, v []byte) bool {
			if old, ok := made[k]; ok && old != string(v) {
				t.Errorf("file %s was made again", k)
			}
			made[k] = string(v)
			return true
		}); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 3 {
		dying, scans := make(chan struct{}), 0
		p := all[i]
		p.view.scan = func(ctx context.Context) {
			if scans++; scans == 3 {
				close(dying)
				<-ctx.Done()
			}
		}
		give(t, roles, p)
		<-dying
		p.exporter.Close()
		before := len(made)
		if known(); len(made) == before {
			t.Errorf("process %d finished no file", i)
		}
	}
	give(t, roles, all[3])
	m := all[3].manifest(c, id)
	known()
	if len(m.Output) != len(whole) || len(m.Output) != len(made) {
		t.Errorf("%d files, want %d", len(m.Output), len(whole))
	}
	reader := all[3]
	for _, f := range m.Output {
		want := whole[nameOf(f)]
		if got := reader.text(c, id, nameOf(f)); got != want {
			t.Errorf("%s: %q, want %q", nameOf(f), got, want)
		}
		x, err := all[0].exporter.Open(t.Context(), c, id, nameOf(f)) // reads need no role
		if err != nil {
			t.Fatal(err)
		}
		half := int64(len(want) / 2)
		x.SetRange(half, int64(len(want)))
		var rest bytes.Buffer
		if err := x.WriteTo(t.Context(), &rest); err != nil || want[:half]+rest.String() != want {
			t.Errorf("the rest of %s: %q %v", nameOf(f), rest.String(), err)
		}
	}
}
