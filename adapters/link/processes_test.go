package link_test

import (
	"net/http"
	"testing"
	"time"

	"pulsegate/adapters/cloud"
	"pulsegate/adapters/link"
	"pulsegate/fhir/store"
)

// shared returns a world whose store is shared by w.links and another process.
func shared(t *testing.T, rotates bool) (w *world, other *link.Links) {
	w = newWorld(t, rotates)
	w.opts.Clustered = true
	w.links = w.restart()
	return w, w.restart()
}

// TestRefreshAtTwoProcesses checks that two processes never refresh the tokens of a link
// at the same time, that the second one gets the result of the first, and that the patient
// need not connect again.
func TestRefreshAtTwoProcesses(t *testing.T) {
	for _, rotates := range []bool{true, false} {
		w, other := shared(t, rotates)
		l := w.connect("p1")
		w.clock.Add(time.Hour)
		came, release := w.hold(nil)
		done := w.later(l.ID)
		<-came
		_, err := w.token(other, l.ID, "")
		w.problem(err, cloud.Unavailable, l.ID, link.Working, "")
		close(release)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		token, err := w.token(other, l.ID, "")
		if err != nil || token != w.mustToken(l.ID, "") {
			t.Errorf("%q, %v", token, err)
		}
		if n := w.srv.count("/token", "refresh_token"); n != 1 {
			t.Errorf("%d refreshes, want 1", n)
		}
	}
}

// TestRefreshOfDeadProcess checks that another process finds out, after the time that a
// refresh may take, that the process which refreshed has died.
func TestRefreshOfDeadProcess(t *testing.T) {
	for _, rotates := range []bool{true, false} {
		w, other := shared(t, rotates)
		l := w.connect("p1")
		w.clock.Add(time.Hour)
		came, release := w.hold(cut)
		done := w.later(l.ID)
		<-came
		w.clock.Add(2 * time.Minute)
		token, err := w.token(other, l.ID, "")
		if rotates {
			w.problem(err, cloud.Unauthorized, l.ID, link.Reconnect, "refresh-interrupted")
		} else if err != nil || token == "" {
			t.Errorf("%q, %v", token, err)
		}
		close(release)
		if err := <-done; err == nil {
			t.Error("the dead process has a token")
		}
	}
}

// TestSweepAtTwoProcesses checks that one of two processes revokes a grant, and that the
// other one does it if that one dies.
func TestSweepAtTwoProcesses(t *testing.T) {
	w, other := shared(t, true)
	l := w.connect("p1")
	w.srv.revoke = answer(503, "")
	if err := w.links.Unlink(t.Context(), by, l.ID, false); err != nil {
		t.Fatal(err)
	}
	came, release := make(chan struct{}), make(chan struct{})
	w.srv.set(func() {
		w.srv.revoke = func(rw http.ResponseWriter, r *http.Request) bool {
			w.srv.set(func() { w.srv.revoke = nil })
			close(came)
			<-release
			return cut(rw, r)
		}
	})
	before := w.srv.count("/revoke", "")
	done := make(chan error, 1)
	go func() {
		_, err := w.links.Sweep(w.Context(), by)
		done <- err
	}()
	<-came
	if _, err := other.Sweep(t.Context(), by); err != nil {
		t.Error(err)
	}
	if n := w.srv.count("/revoke", "") - before; n != 1 {
		t.Errorf("%d requests, want 1", n)
	}
	w.clock.Add(11 * time.Minute)
	if _, err := other.Sweep(t.Context(), by); err != nil {
		t.Error(err)
	}
	close(release)
	if err := <-done; err != nil {
		t.Error(err)
	}
	if n := w.srv.live(); n > 0 {
		t.Errorf("%d grants are live", n)
	}
	if left := w.keys("link/ended/"); len(left) > 0 {
		t.Errorf("remain: %v", left)
	}
}

// TestFlowAtTwoProcesses checks that a flow that one process began is completed by
// another one, once, and that the change of the link is kept until it was seen.
func TestFlowAtTwoProcesses(t *testing.T) {
	w, other := shared(t, true)
	a := w.browse("p1", session)
	l, err := other.Complete(t.Context(), by, session, a)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.links.Complete(t.Context(), by, session, a); w.keep(err) == nil {
		t.Error("a flow was completed twice")
	}
	changes, err := w.links.Changes(t.Context(), 10)
	if err != nil || len(changes) != 1 || changes[0].ID != l.ID {
		t.Fatalf("%v %v", changes, err)
	}
	if _, err := other.SetStatus(t.Context(), l.ID, link.Gone, "x"); err != nil {
		t.Fatal(err)
	}
	see := func(c *link.Change) error {
		_, err := w.db.Commit(t.Context(), &store.Batch{State: []store.StateWrite{c.Seen()}})
		return err
	}
	if err := see(&changes[0]); !store.Lost(err) {
		t.Errorf("a later change is gone: %v", err)
	}
	if changes, err = w.links.Changes(t.Context(), 10); err != nil || len(changes) != 1 {
		t.Fatalf("%v %v", changes, err)
	}
	if err := see(&changes[0]); err != nil {
		t.Error(err)
	}
	if changes, err = w.links.Changes(t.Context(), 10); err != nil || len(changes) != 0 {
		t.Errorf("%v %v", changes, err)
	}
}
