package subscription

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/cluster/role"
	"pulsegate/fhir/cluster/role/roletest"
	"pulsegate/fhir/store/pebblestore"
)

// peer is one of several processes that share a store.
type peer struct {
	*roletest.Peer
	engine *Engine
}

// newPeer starts an Engine in another process. edit may change its options.
func (w *world) newPeer(node string, edit func(*Options)) *peer {
	w.t.Helper()
	return w.newSyncedPeer(node, nil, edit)
}

// newSyncedPeer is newPeer with a function that Sync calls.
func (w *world) newSyncedPeer(node string, onSync func() error, edit func(*Options)) *peer {
	w.t.Helper()
	p := &peer{Peer: roletest.NewPeer(w.t, w.st.(*pebblestore.DB), node)}
	p.OnSync = onSync
	o := w.opts
	o.Store, o.Roles = p, p.Roles
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

// holder returns the node that holds the role.
func (w *world) holder() string {
	w.t.Helper()
	all, err := role.List(context.Background(), w.st)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, h := range all {
		if h.Role == roleName {
			return h.Node
		}
	}
	return ""
}

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

func (w *world) held(node string) func() bool { return func() bool { return w.holder() == node } }

// distinct returns the events that an endpoint got, in the order of their first delivery.
// It requires that repetitions are equal.
func (r *receiver) distinct(t *testing.T) (numbers []uint64) {
	t.Helper()
	_, all := r.events()
	focus := map[uint64]string{}
	for _, n := range all {
		for i, number := range n.numbers {
			if old, ok := focus[number]; !ok {
				numbers = append(numbers, number)
			} else if old != n.focus[i] {
				t.Errorf("event %d is %s and %s", number, old, n.focus[i])
			}
			focus[number] = n.focus[i]
		}
	}
	return numbers
}

// TestTwoProcesses tests that a Subscription that another process accepts is served by
// the holder of the role, that each event is delivered once, also if the role is handed
// over, and that every process answers $status and $events. Control: without roles,
// both processes deliver each event.
func TestTwoProcesses(t *testing.T) {
	w, r := newStore(t), newReceiver(t)
	a := w.newPeer("a", nil)
	w.pass("a has the role", w.held("a"), a)
	b := w.newPeer("b", nil)
	w.engine = b.engine
	w.subscribe("s1", subscriptionJSON(r.URL, iDOnly, "", ""))
	w.pass("active", func() bool { return w.status("s1") == "active" }, a, b)
	for range 20 {
		w.observe("p1", "8867-4")
	}
	w.pass("20 events", func() bool { n, _ := r.events(); return slices.Equal(n, upTo(20)) }, a, b)
	w.until("counted", func() bool { return w.total("s1") == "20" })
	body, err := b.engine.Events(context.Background(), Request{Caller: audit.Caller{Principal: w.principal("ehr")}},
		"s1", 3, 5, "")
	if err != nil || !slices.Equal(readNotification(t, body).numbers, []uint64{3, 4, 5}) {
		t.Errorf("$events at the other process: %v %s", err, body)
	}
	a.engine.Close()
	w.pass("b has the role", w.held("b"), b)
	for range 10 {
		w.observe("p1", "8867-4")
	}
	w.pass("30 events", func() bool { n, _ := r.events(); return len(n) >= 30 }, b)
	if n, _ := r.events(); !slices.Equal(n, upTo(30)) {
		t.Errorf("events %v", n)
	}

	t.Run("control", func(t *testing.T) {
		w, r := newStore(t), newReceiver(t)
		alone := func(o *Options) { o.Roles = nil }
		w.engine = w.newPeer("a", alone).engine
		w.newPeer("b", alone)
		w.subscribe("s1", subscriptionJSON(r.URL, iDOnly, "", ""))
		w.until("active", func() bool { return w.status("s1") == "active" })
		w.observe("p1", "8867-4")
		w.until("twice", func() bool { n, _ := r.events(); return len(n) == 2 })
	})
}

// TestTakeover kills the holder, or lets it oversleep its lease, while notifications
// are pending. The next holder goes on from its position: all events are delivered, in
// order, and repetitions are equal. The former holder writes nothing. Control: without
// the precondition it writes.
func TestTakeover(t *testing.T) {
	for _, how := range []string{"killed", "overslept", "control"} {
		t.Run(how, func(t *testing.T) {
			w, r := newStore(t), newReceiver(t)
			w.opts.MaxBackoff = time.Hour // the Subscription does not go to error
			a := w.newPeer("a", func(o *Options) {
				if how == "control" {
					o.Roles = roletest.Unbound{Roles: o.Roles}
				}
			})
			w.engine = a.engine
			w.pass("a has the role", w.held("a"), a)
			w.subscribe("s1", subscriptionJSON(r.URL, iDOnly, "", ""))
			w.pass("active", func() bool { return w.status("s1") == "active" }, a)
			for range 5 {
				w.observe("p1", "8867-4")
			}
			w.pass("5 events", func() bool { return len(r.distinct(t)) == 5 }, a)
			r.mu.Lock()
			r.fail = func(int) bool { return true }
			r.mu.Unlock()
			for range 5 {
				w.observe("p1", "8867-4")
			}
			w.pass("numbered", func() bool { return a.engine.count("s1") == 10 }, a)
			a.Killed.Store(how == "killed")
			b := w.newPeer("b", nil)
			w.pass("b has the role", w.held("b"), b)
			w.until("b works", func() bool { return b.engine.role.Current() != nil })
			before := a.Written.Load()
			r.mu.Lock()
			r.fail = nil
			r.mu.Unlock()
			for range 5 {
				w.observe("p1", "8867-4")
			}
			if how == "control" {
				w.pass("a writes", func() bool { return a.Written.Load() > before }, b)
				return
			}
			w.pass("15 events", func() bool { return len(r.distinct(t)) == 15 }, b)
			w.until("a has noticed", func() bool { return how == "killed" || a.engine.role.Current() == nil })
			if got := r.distinct(t); !slices.Equal(got, upTo(15)) {
				t.Errorf("events %v", got)
			}
			a.engine.Close()
			if n := a.Written.Load() - before; n != 0 {
				t.Errorf("the former holder has written %d times", n)
			}
			w.engine = b.engine
			if got := w.total("s1"); got != "15" {
				t.Errorf("%s events", got)
			}
		})
	}
}

// TestLimitOfSeveralProcesses tests that the limit of a client holds for requests that
// different processes answer.
func TestLimitOfSeveralProcesses(t *testing.T) {
	w := newStore(t)
	limit := func(o *Options) { o.MaxPerClient = 5 }
	peers := []*peer{w.newPeer("a", limit), w.newPeer("b", limit)}
	var passed atomic.Int64
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			res := &fhir.Resource{Type: "Subscription", ID: fmt.Sprint("c", i), JSON: []byte(fhir.Prefix("Subscription",
				fmt.Sprint("c", i)) + `},` + subscriptionJSON("http://127.0.0.1:1/x", iDOnly, "", ""))}
			_, err := peers[i%2].engine.Check(context.Background(), w.principal("ehr"), res, nil)
			switch {
			case err == nil:
				passed.Add(1)
			case fhir.KindOf(err) != fhir.TooMany:
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := passed.Load(); n != 5 {
		t.Errorf("%d requests accepted, want 5", n)
	}
}

// TestOwnerAtEveryProcess tests that a process that does not hold the role refuses an
// update by another client, and shows the Subscription to its owner before the holder
// has numbered anything.
func TestOwnerAtEveryProcess(t *testing.T) {
	w := newStore(t)
	b := w.newPeer("b", func(o *Options) { o.Roles = roletest.Never{} })
	w.engine = b.engine
	body := subscriptionJSON("http://127.0.0.1:1/x", iDOnly, "", "")
	w.put("ehr", fhir.Resource{Type: "Subscription", ID: "s1", JSON: []byte(fhir.Prefix("Subscription", "s1") +
		`},` + body)})
	ctx := context.Background()
	old, _, err := w.st.Read(ctx, fhir.Ref{Type: "Subscription", ID: "s1"}, 0)
	if err != nil {
		t.Fatal(err)
	}
	next := &fhir.Resource{Type: "Subscription", ID: "s1",
		JSON: []byte(fhir.Prefix("Subscription", "s1") + `},` + body)}
	if _, err := b.engine.Check(ctx, w.principal("other"), next, &old); fhir.KindOf(err) != fhir.Forbidden {
		t.Errorf("an update by another client: %v", err)
	}
	if _, err := b.engine.Check(ctx, w.principal("ehr"), next, &old); err != nil {
		t.Errorf("an update by the owner: %v", err)
	}
	if got := w.total("s1"); got != "0" {
		t.Errorf("%s events", got)
	}
	rq := Request{Caller: audit.Caller{Principal: w.principal("other")}}
	if _, err := b.engine.Status(ctx, rq, []string{"s1"}, nil, true); fhir.KindOf(err) != fhir.NotFound {
		t.Errorf("$status by another client: %v", err)
	}
	all, err := b.engine.Status(ctx, rq, nil, nil, false)
	if err != nil || !strings.Contains(string(all), `"total":0`) {
		t.Errorf("$status of all by another client: %v %s", err, all)
	}
}

// TestConsentWithdrawnElsewhere withdraws a consent at another process after an event was
// numbered: this process learns of it by Sync, and the notification has no content.
func TestConsentWithdrawnElsewhere(t *testing.T) {
	w, r := newStore(t), newReceiver(t)
	var active atomic.Bool
	p := w.newSyncedPeer("a", func() error {
		if active.Load() {
			w.consents.withdraw("p1")
		}
		return nil
	}, nil)
	w.engine = p.engine
	w.pass("a has the role", w.held("a"), p)
	w.subscribe("s1", subscriptionJSON(r.URL, fullResource, "", ""))
	w.pass("active", func() bool { return w.status("s1") == "active" }, p)
	active.Store(true)
	w.observe("p1", "8867-4")
	w.pass("event", func() bool { n, _ := r.events(); return len(n) == 1 }, p)
	if _, all := r.events(); len(all[len(all)-1].focus)+len(all[len(all)-1].resources) != 0 {
		t.Errorf("disclosed %+v", all[len(all)-1])
	}
}

// TestCutOffSendsNothing fails Sync: nothing is sent, and the Subscription does not go to
// error, however long that takes.
func TestCutOffSendsNothing(t *testing.T) {
	w, r := newStore(t), newReceiver(t)
	var cut atomic.Bool
	var tries atomic.Int64
	p := w.newSyncedPeer("a", func() error {
		if !cut.Load() {
			return nil
		}
		tries.Add(1)
		return fhir.Errorf(fhir.Unavailable, "test", "cut off")
	}, nil)
	w.engine = p.engine
	w.pass("a has the role", w.held("a"), p)
	w.subscribe("s1", subscriptionJSON(r.URL, iDOnly, "", ""))
	w.pass("active", func() bool { return w.status("s1") == "active" }, p)
	cut.Store(true)
	w.observe("p1", "8867-4")
	w.pass("many attempts", func() bool { return tries.Load() > 50 }, p)
	if n, _ := r.events(); len(n) != 0 || w.status("s1") != "active" {
		t.Errorf("events %v, status %s", n, w.status("s1"))
	}
	cut.Store(false)
	w.pass("event", func() bool { n, _ := r.events(); return len(n) == 1 }, p)
}
