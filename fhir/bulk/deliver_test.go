package bulk

import (
	"bytes"
	"context"
	"errors"
	"io"
	"maps"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/store"
)

// target is a Target in memory.
type target struct {
	mu      sync.Mutex
	objects map[string]string // guarded by mu
	puts    map[string]int    // attempts by object; guarded by mu
	fail    int               // calls that will fail; guarded by mu
	// begin is called before a file is written, written after it is and before it is stored.
	begin, written func(ctx context.Context, name string)
}

var errDown = errors.New("the target is down")

func (g *target) Put(ctx context.Context, name string, write func(io.Writer) error) error {
	g.mu.Lock()
	begin, written := g.begin, g.written
	g.puts[name]++
	fail := g.fail > 0
	if fail {
		g.fail--
	}
	g.mu.Unlock()
	if fail {
		return errDown
	}
	if begin != nil {
		begin(ctx, name)
	}
	var buf bytes.Buffer
	if err := write(&buf); err != nil {
		return err
	}
	if written != nil {
		written(ctx, name)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.objects[name] = buf.String()
	return nil
}

func (g *target) Delete(_ context.Context, name string) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.fail > 0 {
		g.fail--
		return errDown
	}
	delete(g.objects, name)
	return nil
}

func (*target) Locate(name string) string { return "s3://bucket/" + name }
func (*target) Host() string              { return "objects.example.org" }

func (g *target) all() map[string]string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return maps.Clone(g.objects)
}

// deliver makes the exporter deliver the exports of the client "ehr" to a target.
func (w *world) deliver(remove bool) *target {
	g := &target{objects: map[string]string{}, puts: map[string]int{}}
	w.exporter.Close()
	w.opts.Delivery = &Delivery{Target: g, Clients: []string{"ehr"}, Remove: remove, Pause: time.Millisecond}
	w.opts.Clock = time.Now
	w.start()
	return g
}

// until waits until the delivery of a job satisfies ok; it is nil if there is none.
func (w *world) until(id string, ok func(*delivery) bool) {
	w.t.Helper()
	for end := time.Now().Add(2 * time.Minute); time.Now().Before(end); time.Sleep(time.Millisecond) {
		d, _, err := w.exporter.deliveryOf(context.Background(), id)
		if err != nil {
			w.t.Fatal(err)
		}
		if ok(d) {
			return
		}
	}
	w.t.Fatal("timeout: the delivery has not reached its state")
}

func isDelivered(d *delivery) bool { return d != nil && d.State == delivered }

// TestDelivery checks that the files of a job are put to the target as they are downloaded,
// with an audit event per patient and file that names the object, that the manifest tells
// where they are, and that exports of other clients are not delivered.
func TestDelivery(t *testing.T) {
	w := newWorld(t)
	w.seed()
	w.put("Observation", "gone", `,"status":"final","code":{"text":"x"},"subject":{"reference":"Patient/p1"}`)
	since := time.Now().UTC().Add(-time.Hour).Format(time.RFC3339)
	w.remove("Observation", "gone")
	g := w.deliver(false)
	c := w.caller("ehr")
	r := Request{Level: Patients, Lenient: true, Params: url.Values{"_type": {"Observation,Patient"}, "_since": {since},
		"odd": {"1"}}}
	other := w.kick(w.caller("other"), r)
	w.manifest(w.caller("other"), other)
	before := w.st.Log().Size()
	id := w.kick(c, r)
	w.until(id, isDelivered)
	m := w.manifest(c, id)
	want := map[string]string{}
	for _, f := range slices.Concat(m.Output, m.Deleted, *m.Error) {
		want[id+"/"+nameOf(f)] = w.text(c, id, nameOf(f))
		if f.Extension == nil || (*f.Extension)[deliveryExtension]["url"] != "s3://bucket/"+id+"/"+nameOf(f) {
			t.Errorf("%s: %+v", nameOf(f), f.Extension)
		}
	}
	if got := g.all(); len(want) != 4 || !maps.Equal(got, want) {
		t.Errorf("objects %v, want %v", got, want)
	}
	if (*m.Extension)[deliveryExtension]["status"] != "complete" {
		t.Errorf("the manifest: %+v", m.Extension)
	}
	// Kick-off, three patients in two files, their deletions (one patient), the errors; twice,
	// because the test downloads them, too.
	if n := w.st.Log().Size() - before; n != 1+2*(3+3+1+1) {
		t.Errorf("%d audit events", n)
	}
	if m := w.manifest(w.caller("other"), other); m.Extension != nil || m.Output[0].Extension != nil {
		t.Error("the export of another client is delivered")
	}
	found := 0
	err := w.st.Scan(t.Context(), store.ScanRange{Types: []string{"AuditEvent"}, Filter: c.Principal.Grant.Filter(access.Read)},
		func(f *store.Found) bool {
			if strings.Contains(string(f.Resource.JSON), "objects.example.org") &&
				strings.Contains(string(f.Resource.JSON), "s3://bucket/"+id+"/Observation.ndjson") {
				found++
			}
			return true
		})
	if err != nil || found != 3 {
		t.Errorf("%d events name the object and its host: %v", found, err)
	}
}

// TestDeliveryAndConsents checks that an object has nothing of a patient whose consent was
// withdrawn before it was stored, even if its bytes were written by then; that consents that
// change all the time do not stop a delivery; and that a client that is disabled gets nothing.
func TestDeliveryAndConsents(t *testing.T) {
	w := newWorld(t)
	w.seed()
	g := w.deliver(false)
	c := w.caller("ehr")
	r := Request{Level: System, Params: url.Values{"_type": {"Observation"}}}
	inner := w.opts.Store
	over := func(st store.Store) {
		w.exporter.Close()
		w.opts.Store = st
		w.start()
	}
	var done atomic.Bool
	over(syncing{inner, func() {
		if done.CompareAndSwap(false, true) { // after the last byte, before the object is stored
			w.withdraw("p1")
		}
	}})
	id := w.kick(c, r)
	w.until(id, isDelivered)
	object := id + "/Observation.ndjson"
	if got := g.all()[object]; strings.Contains(got, "Patient/p1") || strings.Count(got, "\n") != 6 {
		t.Errorf("after a withdrawal: %q", got)
	}
	over(syncing{inner, func() { w.withdraw("p2") }})
	id = w.kick(c, r)
	w.until(id, isDelivered)
	if got := g.all()[id+"/Observation.ndjson"]; strings.Contains(got, "Patient/p2") || g.puts[id+"/Observation.ndjson"] > again+1 {
		t.Errorf("with consents that change: %d attempts, %q", g.puts[id+"/Observation.ndjson"], got)
	}
	w.opts.GrantFor = func(context.Context, string, string) (*access.Grant, error) {
		return nil, fhir.Errorf(fhir.Forbidden, "test", "disabled")
	}
	over(inner)
	id = w.kick(c, r) // prepared with the grant of the request
	w.until(id, func(d *delivery) bool { return d != nil && d.State == refused })
	if _, ok := g.all()[id+"/Observation.ndjson"]; ok {
		t.Error("the export of a disabled client was delivered")
	}
}

// syncing calls a function at Sync.
type syncing struct {
	store.Store
	do func()
}

func (s syncing) Sync(ctx context.Context) error {
	s.do()
	return s.Store.Sync(ctx)
}

// TestDeliveryRepeats checks that a delivery goes on after failures of the target and the
// death of processes: each file is stored once, and those that are there are not sent again.
func TestDeliveryRepeats(t *testing.T) {
	w := newWorld(t)
	w.seed()
	g := w.deliver(false)
	roles, all := w.cluster(3)
	for _, p := range all {
		p.opts.FileBytes = 1
		p.open()
	}
	g.fail = 3
	c := w.caller("ehr")
	id := all[0].kick(c, Request{Level: System, Params: url.Values{"_type": {"Observation"}}})
	for i, p := range all[:2] {
		dying := make(chan struct{})
		g.mu.Lock()
		n := 0
		g.written = func(ctx context.Context, _ string) { // the file is sent, and not stored
			if n++; n == 3 {
				close(dying)
				<-ctx.Done()
			}
		}
		g.mu.Unlock()
		give(t, roles, p)
		<-dying
		p.exporter.Close()
		if len(g.all()) != 2*(i+1) {
			t.Errorf("process %d: %d objects", i, len(g.all()))
		}
	}
	g.mu.Lock()
	g.written = nil
	g.mu.Unlock()
	give(t, roles, all[2])
	all[2].until(id, isDelivered)
	attempts := 0
	for name, n := range g.puts {
		attempts += n
		if g.objects[name] == "" || n > 5 {
			t.Errorf("%s: %d attempts", name, n)
		}
	}
	if len(g.objects) != 9 || attempts != 9+3+2 {
		t.Errorf("%d objects, %d attempts", len(g.objects), attempts)
	}
}

// TestDeliveryRemoved checks that the objects of a job that its client deletes are deleted if
// that is set, after failures and from the middle of a delivery, and stay otherwise; and that
// a job that is too large is refused.
func TestDeliveryRemoved(t *testing.T) {
	for _, remove := range []bool{true, false} {
		w := newWorld(t)
		w.seed()
		g := w.deliver(remove)
		c := w.caller("ehr")
		r := Request{Level: Patients, Params: url.Values{"_type": {"Observation,Patient"}}}
		id := w.kick(c, r)
		w.until(id, isDelivered)
		g.mu.Lock()
		g.fail = 2
		g.mu.Unlock()
		if err := w.exporter.Delete(t.Context(), c, id); err != nil {
			t.Fatal(err)
		}
		w.until(id, func(d *delivery) bool { return d == nil })
		if n := len(g.all()); remove && n != 0 || !remove && n != 2 {
			t.Errorf("remove %v: %d objects", remove, n)
		}
		g.mu.Lock()
		g.fail, g.objects = 0, map[string]string{}
		asked := make(chan string)
		g.written = func(ctx context.Context, name string) {
			if strings.HasSuffix(name, "/Patient.ndjson") {
				asked <- name
				<-asked
			}
		}
		g.mu.Unlock()
		id = w.kick(c, r)
		<-asked
		if err := w.exporter.Delete(t.Context(), c, id); err != nil {
			t.Fatal(err)
		}
		asked <- ""
		w.until(id, func(d *delivery) bool { return d == nil })
		if remove {
			w.exporter.Close() // the last step is over
			if n := len(g.all()); n != 0 {
				t.Errorf("%d objects of a job that was deleted during the delivery", n)
			}
			continue
		}
		w.exporter.Close()
		w.opts.Delivery.JobBytes = 10
		g.written = nil
		w.start()
		id = w.kick(c, r)
		w.until(id, func(d *delivery) bool { return d != nil && d.State == refused })
	}
}
