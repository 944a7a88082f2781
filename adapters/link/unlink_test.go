package link_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"pulsegate/adapters/cloud"
	"pulsegate/adapters/link"
	"pulsegate/fhir"
	"pulsegate/fhir/audit"
)

// eraser records erasures, and fails the first ones.
type eraser struct {
	fails int
	done  []string
}

func (e *eraser) erase(_ context.Context, patient, vendor string, _ audit.Caller) error {
	if e.fails > 0 {
		e.fails--
		return errors.New("the disk is full")
	}
	e.done = append(e.done, patient+" "+vendor)
	return nil
}

func (w *world) sweep(want int) {
	w.Helper()
	if left, err := w.restart().Sweep(w.Context(), by); err != nil || left != want {
		w.Errorf("Sweep: %d, %v, want %d", left, err, want)
	}
}

func TestUnlink(t *testing.T) {
	for _, erase := range []bool{false, true} {
		w := newWorld(t, true)
		e := &eraser{}
		w.opts.Erase = e.erase
		w.links = w.restart()
		l := w.connect("p1")
		if err := w.links.Unlink(t.Context(), by, l.ID, erase); err != nil {
			t.Fatal(err)
		}
		if n := w.srv.live(); n > 0 {
			t.Errorf("%d grants are live", n)
		}
		for _, r := range w.srv.requests {
			if r.path != "/account" && !r.close {
				t.Errorf("%s: the connection may be reused", r.path)
			}
		}
		if left := w.keys("link/"); len(left) > 0 {
			t.Errorf("remain: %v", left)
		}
		if len(e.done) > 0 != erase {
			t.Errorf("erased %v", e.done)
		}
		if _, err := w.links.Get(t.Context(), l.ID); fhir.KindOf(err) != fhir.NotFound {
			t.Errorf("Get: %v", err)
		}
		if _, err := w.token(w.links, l.ID, ""); err == nil {
			t.Error("an unlinked account has a token")
		}
		if n := w.audited(l.ID); n != 2 {
			t.Errorf("%d AuditEvents, want one of linking and one of unlinking", n)
		}
		if last := w.notes[len(w.notes)-1]; last.ID != l.ID || last.Status != link.Ended {
			t.Errorf("last notification %+v", last)
		}
		if err := w.links.Unlink(t.Context(), by, l.ID, erase); fhir.KindOf(err) != fhir.NotFound {
			t.Errorf("second Unlink: %v", err)
		}
	}
}

func TestSweepRevokes(t *testing.T) {
	w := newWorld(t, true)
	l := w.connect("p1")
	w.srv.revoke = answer(503, "")
	if err := w.links.Unlink(t.Context(), by, l.ID, false); err != nil {
		t.Fatal(err)
	}
	w.sweep(1)
	w.srv.set(func() { w.srv.revoke = answer(401, `{"error":"invalid_client"}`) })
	w.sweep(1)
	w.srv.set(func() { w.srv.revoke = nil })
	w.sweep(0)
	if n := w.srv.live(); n > 0 {
		t.Errorf("%d grants are live", n)
	}
	n := w.srv.count("/revoke", "")
	w.sweep(0)
	if w.srv.count("/revoke", "") != n {
		t.Error("a finished revocation was repeated")
	}
}

func TestSweepGivesUpAfterAWeek(t *testing.T) {
	w := newWorld(t, true)
	l := w.connect("p1")
	w.srv.revoke = cut
	if err := w.links.Unlink(t.Context(), by, l.ID, false); err != nil {
		t.Fatal(err)
	}
	w.clock.Add(7*24*time.Hour - time.Second)
	w.sweep(1)
	w.clock.Add(time.Second)
	w.sweep(0)
	if left := w.keys("link/"); len(left) > 0 {
		t.Errorf("remain: %v", left)
	}
	if !strings.Contains(w.log.String(), "did not revoke a grant within a week") {
		t.Error("the log does not say so")
	}
}

// TestErasureIsResumed: the erasure neither waits for a vendor that does not revoke,
// nor is it forgotten or repeated.
func TestErasureIsResumed(t *testing.T) {
	w := newWorld(t, true)
	e := &eraser{fails: 2}
	w.opts.Erase = e.erase
	w.links = w.restart()
	l := w.connect("p1")
	w.srv.revoke = answer(503, "")
	if err := w.links.Unlink(t.Context(), by, l.ID, true); err != nil {
		t.Fatal(err)
	}
	w.clock.Add(8 * 24 * time.Hour)
	w.sweep(1)
	if len(e.done) > 0 {
		t.Fatal("erased too early")
	}
	w.sweep(0)
	w.sweep(0)
	if len(e.done) != 1 || e.done[0] != "p1 ring" {
		t.Errorf("erased %v", e.done)
	}

	w.srv.set(func() { w.srv.revoke = answer(503, "") })
	l = w.connect("p1")
	if err := w.links.Unlink(t.Context(), by, l.ID, true); err != nil {
		t.Fatal(err)
	}
	if len(e.done) != 2 {
		t.Error("the erasure waits for the vendor")
	}
	w.srv.set(func() { w.srv.revoke = nil })
	w.sweep(0)
	if len(e.done) != 2 {
		t.Error("the erasure was repeated")
	}
}

// TestUnusedGrantsAreSwept: a grant that no link uses and that the vendor did not
// revoke is revoked later.
func TestUnusedGrantsAreSwept(t *testing.T) {
	w := newWorld(t, true)
	w.srv.unticked = []string{"daily"}
	w.srv.revoke = answer(503, "")
	_, err := w.complete(w.browse("p1", session))
	w.refused(err, fhir.Forbidden, "your days")
	if w.srv.live() != 1 {
		t.Fatal("the grant is not live")
	}
	w.sweep(1)
	w.srv.set(func() { w.srv.revoke = nil })
	w.sweep(0)
	if n := w.srv.live(); n > 0 {
		t.Errorf("%d grants are live", n)
	}
}

// TestForget deletes the data of a vendor without a link, and goes on after an error.
func TestForget(t *testing.T) {
	w := newWorld(t, true)
	e := &eraser{fails: 2}
	w.opts.Erase = e.erase
	w.links = w.restart()
	if err := w.links.Forget(t.Context(), by, "p1", "apple"); err != nil {
		t.Fatal(err)
	}
	if len(e.done) > 0 || w.audited(`"erase-vendor"`) != 1 {
		t.Errorf("erased %v, %d events", e.done, w.audited(`"erase-vendor"`))
	}
	w.sweep(1)
	w.sweep(0)
	w.sweep(0)
	if len(e.done) != 1 || e.done[0] != "p1 apple" || len(w.keys("link/")) > 0 {
		t.Errorf("erased %v", e.done)
	}
}

// TestRevoker checks the revocation by the id of the account: it gets the tokens and the
// account, is repeated if it fails, and spares an account that was linked again.
func TestRevoker(t *testing.T) {
	for name, c := range map[string]struct {
		refuse error
		again  bool // the account is linked again before the repetition
		calls  int  // to the vendor, with one sweep
	}{
		"revoked":      {nil, false, 1},
		"refused":      {&cloud.Error{Problem: cloud.Rejected}, false, 1},
		"unavailable":  {&cloud.Error{Problem: cloud.Unavailable}, false, 2},
		"linked again": {&cloud.Error{Problem: cloud.Unavailable}, true, 1},
	} {
		w := newWorld(t, true)
		r := &revoker{vendor: w.vendor, refuse: c.refuse}
		w.opts.Vendors = []cloud.Vendor{r}
		w.links = w.restart()
		l := w.connect("p1")
		if err := w.links.Unlink(t.Context(), by, l.ID, false); err != nil {
			t.Fatal(err)
		}
		r.refuse = nil
		if c.again {
			w.connect("p1")
		}
		left, err := w.links.Sweep(t.Context(), by)
		if err != nil || left > 0 || len(w.keys("link/ended/")) > 0 {
			t.Errorf("%s: %d grants remain, %v", name, left, err)
		}
		if len(r.got) != c.calls {
			t.Errorf("%s: %d calls, want %d", name, len(r.got), c.calls)
		}
		for _, g := range r.got {
			if g.Access == "" || g.Refresh == "" || !slices.Equal(g.Accounts, l.Accounts) {
				t.Errorf("%s: the vendor got %d accounts, tokens %v", name, len(g.Accounts), g.Access != "")
			}
		}
	}
}
