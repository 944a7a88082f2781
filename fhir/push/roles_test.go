package push

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/cluster/role/roletest"
	"pulsegate/fhir/store"
)

// peer is one of several processes that share a store.
type peer struct {
	*roletest.Peer
	engine *Engine
	// blind hides changes of targets. damaged, if not 0, is the number of reads of counters
	// until one fails.
	blind   atomic.Bool
	damaged atomic.Int64
}

func (p *peer) Get(ctx context.Context, key string) ([]byte, error) {
	if key == revisionKey && p.blind.Load() {
		return nil, nil
	}
	if strings.HasPrefix(key, statKey("")) && p.damaged.Load() > 0 && p.damaged.Add(-1) == 0 {
		return nil, fhir.Errorf(fhir.Internal, "test", "damaged")
	}
	return p.DB.Get(ctx, key)
}

// newPeer starts an Engine in another process. edit may change its options.
func (w *world) newPeer(node string, edit func(*Options)) *peer {
	w.t.Helper()
	return w.newSyncedPeer(node, nil, edit)
}

// newSyncedPeer is newPeer with a function that Sync calls.
func (w *world) newSyncedPeer(node string, onSync func() error, edit func(*Options)) *peer {
	w.t.Helper()
	p := &peer{Peer: roletest.NewPeer(w.t, w.st, node)}
	p.OnSync = onSync
	o := w.options(p)
	o.Roles = p.Roles
	if edit != nil {
		edit(&o)
	}
	var err error
	if p.engine, err = New(context.Background(), o); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(p.engine.Close)
	return p
}

// newCluster returns a world without an Engine.
func newCluster(t *testing.T) *world {
	t.Helper()
	w := newWorld(t)
	w.engine.Close()
	return w
}

// held reports whether a process works under the role.
func held(p *peer) func() bool { return func() bool { return p.engine.role.Current() != nil } }

// pass lets the time of some peers pass until cond holds.
func (w *world) pass(what string, cond func() bool, peers ...*peer) {
	w.t.Helper()
	w.until(what, func() bool {
		for _, p := range peers {
			p.Pass()
		}
		return cond()
	})
}

// TestTwoProcesses gives each command to a process that does not send: the one that
// sends obeys it, and each Observation is sent once, also if the role is handed over.
// Control: a process that believes that it is alone does not notice the commands.
func TestTwoProcesses(t *testing.T) {
	w := newCluster(t)
	ctx := context.Background()
	a := w.newPeer("a", nil)
	w.pass("a has the role", held(a), a)
	b := w.newPeer("b", nil)
	w.engine = b.engine
	w.add(nil)
	n := 0
	put := func(k int) {
		for range k {
			n++
			w.put(observation(fmt.Sprint("o", n), "ada", 60, n, ""))
		}
	}
	sent := func() bool { return len(w.ehr.has()) == n }
	put(3)
	w.pass("sent", sent, a, b)
	w.until("counted", func() bool { return w.show().Sent == 3 && w.show().Waiting == 0 })
	if err := b.engine.Pause(ctx, "ehr", b.engine.commitState); err != nil {
		t.Fatal(err)
	}
	w.until("paused", func() bool { return a.status() == Paused })
	put(2)
	w.until("queued", func() bool { return w.show().Waiting == 2 })
	if sent() {
		t.Error("sent although the target is paused")
	}
	a.engine.Close()
	w.pass("b has the role", held(b), b)
	if err := b.engine.Resume(ctx, "ehr", time.Time{}, b.engine.commitState); err != nil {
		t.Fatal(err)
	}
	put(2)
	w.pass("sent by b", sent, b)
	if got := w.ehr.count("POST"); got != n {
		t.Errorf("%d requests for %d Observations", got, n)
	}
	c := w.newPeer("c", nil)
	w.engine = c.engine
	if list, err := c.engine.List(ctx); err != nil || len(list) != 1 || list[0].Status != Active {
		t.Errorf("%+v, %v", list, err)
	}
	if err := c.engine.Remove(ctx, "ehr", c.engine.commitState); err != nil {
		t.Fatal(err)
	}
	if _, err := c.engine.Show(ctx, "ehr"); fhir.KindOf(err) != fhir.NotFound {
		t.Errorf("a removed target: %v", err)
	}
	w.until("the state is deleted", func() bool {
		v, err := w.st.Get(ctx, targetKey("ehr"))
		return err == nil &&
			v == nil
	})

	t.Run("control", func(t *testing.T) {
		w := newCluster(t)
		alone := func(o *Options) { o.Roles = nil }
		a, b := w.newPeer("a", alone), w.newPeer("b", alone)
		w.engine = a.engine
		w.add(nil)
		if err := b.engine.Pause(ctx, "ehr", b.engine.commitState); err != nil {
			t.Fatal(err)
		}
		w.put(observation("o1", "ada", 60, 1, ""))
		w.until("sent although it is paused", func() bool { return len(w.ehr.has()) == 1 })
	})
}

// status returns the status of the target as its sender knows it.
func (p *peer) status() Status {
	f := p.engine.role.Current()
	if f == nil {
		return ""
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if s := f.targets["ehr"]; s != nil {
		return s.target.Status
	}
	return ""
}

// TestJoin tests that what changes after a target was added is sent, although the
// process that sends learns of the target later. Control: without the mark in the target,
// it is not.
func TestJoin(t *testing.T) {
	for _, control := range []bool{false, true} {
		w := newCluster(t)
		a := w.newPeer("a", nil)
		w.pass("a has the role", held(a), a)
		b := w.newPeer("b", nil)
		a.blind.Store(true)
		w.engine = b.engine
		w.add(nil)
		for i := range 3 {
			w.put(observation(fmt.Sprint("o", i), "ada", 60, i, ""))
		}
		w.engine = a.engine
		w.until("a has passed", func() bool { return w.cursor() >= w.st.LastSeq() })
		w.engine = b.engine
		if control {
			t, err := b.engine.find(context.Background(), "ehr")
			if err != nil {
				w.t.Fatal(err)
			}
			t.Joining = false
			if err := b.engine.commitState(context.Background(), mustWrite(w.t, &t.Target)); err != nil {
				w.t.Fatal(err)
			}
		}
		a.blind.Store(false)
		w.patient("any", "1") // a commit, after which a looks for changed targets
		w.until("a knows the target", func() bool { return a.status() == Active })
		w.put(observation("last", "ada", 60, 10, ""))
		w.until("sent", func() bool { return w.ehr.has()["last"] != "" })
		if got := len(w.ehr.has()); (got == 4) == control {
			t.Errorf("control %v: %d Observations", control, got)
		}
	}
}

func mustWrite(t *testing.T, target *Target) store.StateWrite {
	t.Helper()
	w, err := target.write()
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// TestTakeover kills the process that sends, or lets it oversleep its lease, while the
// target is down. The next one goes on from the queue: the target has each Observation
// once. The former one writes nothing. Control: without the precondition it writes.
func TestTakeover(t *testing.T) {
	for _, how := range []string{"killed", "overslept", "control"} {
		t.Run(how, func(t *testing.T) {
			w := newCluster(t)
			a := w.newPeer("a", func(o *Options) {
				if how == "control" {
					o.Roles = roletest.Unbound{Roles: o.Roles}
				}
			})
			w.engine = a.engine
			w.pass("a has the role", held(a), a)
			w.add(nil)
			w.put(observation("o1", "ada", 60, 1, ""))
			w.until("sent", func() bool { return w.ehr.has()["o1"] != "" })
			w.ehr.setFault(status(http.StatusServiceUnavailable))
			w.put(observation("o1", "ada", 61, 1, ""), observation("o2", "ada", 60, 2, ""))
			w.put(observation("o3", "bob", 60, 3, ""))
			w.pass("queued", func() bool { return w.show().Waiting == 3 && w.show().Failures > 0 }, a)
			a.Killed.Store(how == "killed")
			b := w.newPeer("b", nil)
			w.engine = b.engine
			w.pass("b has the role", held(b), b)
			before := a.Written.Load()
			w.ehr.setFault(nil)
			w.put(observation("o4", "ada", 60, 4, ""))
			if how == "control" {
				w.until("a writes", func() bool { return a.Written.Load() > before })
				return
			}
			w.pass("sent by b", func() bool { return len(w.ehr.has()) == 4 && w.show().Waiting == 0 }, b)
			w.until("a has noticed", func() bool { return how == "killed" || a.engine.role.Current() == nil })
			a.engine.Close()
			if n := a.Written.Load() - before; n != 0 {
				t.Errorf("the former process has written %d times", n)
			}
			for id, want := range map[string]string{"o1": "Patient/ada final 61 v2", "o2": "Patient/ada final 60 v1",
				"o3": "Patient/bob final 60 v1", "o4": "Patient/ada final 60 v1"} {
				if got := w.ehr.has()[id]; got != want {
					t.Errorf("%s: %s, want %s", id, got, want)
				}
			}
		})
	}
}

// TestConsentWithdrawnElsewhere withdraws a consent at another process after an
// Observation was prepared: this process learns of it by Sync, and sends nothing.
func TestConsentWithdrawnElsewhere(t *testing.T) {
	w := newCluster(t)
	p := w.newSyncedPeer("a", func() error {
		w.consents.set("ada", true)
		return nil
	}, nil)
	w.engine = p.engine
	w.pass("has the role", held(p), p)
	w.add(nil)
	w.put(observation("o1", "ada", 60, 1, ""))
	w.until("withheld", func() bool { return w.show().Withheld == 1 })
	if n := w.ehr.count(""); n != 0 {
		t.Errorf("%d requests", n)
	}
}

// TestCommandsOfSeveralProcesses adds and pauses targets at two processes together: no
// command is lost, and each name is added once.
func TestCommandsOfSeveralProcesses(t *testing.T) {
	w := newCluster(t)
	peers := []*peer{w.newPeer("a", nil), w.newPeer("b", nil)}
	ctx := context.Background()
	results := make(chan error, 40)
	for i := range 40 {
		go func() {
			e := peers[i%2].engine
			_, err := e.Add(ctx, Target{Name: fmt.Sprint("t", i/2), Base: w.url, Recipient: "ehr", ClientID: "us",
				Scope: "s",
				Form:  FormStored}, time.Time{}, e.commitState)
			if err == nil {
				err = e.Pause(ctx, fmt.Sprint("t", i/2), e.commitState)
			}
			results <- err
		}()
	}
	added := 0
	for range 40 {
		if err := <-results; err == nil {
			added++
		} else if fhir.KindOf(err) != fhir.Conflict {
			t.Error(err)
		}
	}
	list, err := peers[0].engine.List(ctx)
	if err != nil || len(list) != 20 || added != 20 {
		t.Errorf("%d targets, %d commands succeeded, %v", len(list), added, err)
	}
	for _, s := range list {
		if s.Status != Paused {
			t.Errorf("%s is %s", s.Name, s.Status)
		}
	}
	v, err := w.st.Get(ctx, revisionKey)
	var n int
	if err == nil {
		err = json.Unmarshal(v, &n)
	}
	if err != nil || n < 40 {
		t.Errorf("revision %d, %v", n, err)
	}
}

// TestLoadFails fails the reading of the second target at the beginning of a term, when
// the sender of the first has begun: the process gives up the role, takes it again, and
// sends.
func TestLoadFails(t *testing.T) {
	w := newCluster(t)
	a := w.newPeer("a", nil)
	w.engine = a.engine
	w.pass("a has the role", held(a), a)
	w.add(nil)
	w.add(func(t *Target) { t.Name = "other" })
	a.engine.Close()
	b := w.newPeer("b", func(o *Options) { o.Store.(*peer).damaged.Store(2) })
	w.engine = b.engine
	w.pass("b has the role", held(b), b)
	if b.damaged.Load() != 0 {
		t.Error("no read has failed")
	}
	w.put(observation("o1", "ada", 60, 1, ""))
	w.pass("sent", func() bool { return len(w.ehr.has()) == 1 }, b)
}
