package preferred

import (
	"testing"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/cluster/role/roletest"
)

// peer is one of several processes that share a store.
type peer struct {
	*roletest.Peer
	engine *Engine
}

// newPeer starts an Engine in another process. edit may change its options.
func (w *world) newPeer(node string, edit func(*Options)) *peer {
	w.t.Helper()
	p := &peer{Peer: roletest.NewPeer(w.t, w.db, node)}
	o := w.options
	o.Store, o.Roles = p, p.Roles
	if edit != nil {
		edit(&o)
	}
	var err error
	if p.engine, err = New(w.t.Context(), o); err != nil {
		w.t.Fatal(err)
	}
	return p
}

// takes lets the time of some peers pass until the last one has the role.
func (w *world) takes(peers ...*peer) {
	w.t.Helper()
	last := peers[len(peers)-1]
	for end := time.Now().Add(2 * time.Minute); last.engine.role.Current() == nil; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			w.t.Fatal("the role is not taken")
		}
		for _, p := range peers {
			p.Pass()
		}
	}
}

// TestTwoProcesses tests that one process derives values, that every process answers
// $stats, that a process that does not derive has no lag, and that the next holder of the
// role goes on.
func TestTwoProcesses(t *testing.T) {
	w := newWorld(t)
	w.engine.Close()
	a := w.newPeer("a", nil)
	w.takes(a)
	b := w.newPeer("b", nil)
	defer b.engine.Close()
	w.deliver("apple", steps("apple", phone, noon, 900))
	w.clock.Add(time.Minute)
	if err := b.engine.Sync(t.Context()); fhir.KindOf(err) != fhir.Unavailable {
		t.Errorf("the other process derives: %v", err)
	}
	if a.engine.Lag() < time.Minute || b.engine.Lag() != 0 {
		t.Errorf("lag %v, and %v at the process that does not derive", a.engine.Lag(), b.engine.Lag())
	}
	if err := a.engine.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.view.Store = b
	if got := w.stats(w.client(), "http://loinc.org|55423-8", "sum", viaPreferred); got != "900" {
		t.Errorf("$stats at the other process: %s", got)
	}
	before := w.value("preferred-steps")
	a.engine.Close()
	w.takes(b)
	written := b.Written.Load()
	if err := b.engine.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := b.Written.Load() - written; n != 0 {
		t.Errorf("the next holder has written %d times although nothing has changed", n)
	}
	w.deliver("apple", steps("apple", phone, noon.Add(time.Hour), 100))
	if err := b.engine.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := w.value("preferred-steps"); before.ValueQuantity.Value != "900" || got.ValueQuantity.Value != "1000" ||
		got.Version != before.Version+1 {
		t.Errorf("before %+v, then %+v", before, got)
	}
}

// TestOverslept lets the holder oversleep its lease: it writes nothing. Control: without
// the precondition it writes.
func TestOverslept(t *testing.T) {
	for _, control := range []bool{false, true} {
		w := newWorld(t)
		w.engine.Close()
		a := w.newPeer("a", func(o *Options) {
			if control {
				o.Roles = roletest.Unbound{Roles: o.Roles}
			}
		})
		w.takes(a)
		b := w.newPeer("b", nil)
		w.takes(b)
		w.deliver("apple", steps("apple", phone, noon, 900))
		before := a.Written.Load()
		if err := a.engine.Sync(t.Context()); (err == nil) != control {
			t.Errorf("control %v: %v", control, err)
		}
		if n := a.Written.Load() - before; (n > 0) != control {
			t.Errorf("control %v: the former holder has written %d times", control, n)
		}
		if err := b.engine.Sync(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := w.value("preferred-steps"); got.ValueQuantity.Value != "900" || got.Version != 1 {
			t.Errorf("%+v", got)
		}
		a.engine.Close()
		b.engine.Close()
	}
}
