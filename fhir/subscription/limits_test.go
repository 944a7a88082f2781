package subscription

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"pulsegate/fhir"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/store"
)

func (w *world) check(client, id string) error {
	res := &fhir.Resource{Type: "Subscription", ID: id,
		JSON: []byte(fhir.Prefix("Subscription", id) + `},` + subscriptionJSON("http://127.0.0.1:1/x", iDOnly, "", ""))}
	_, err := w.engine.Check(context.Background(), w.principal(client), res, nil)
	return err
}

// TestLimitBeforeCommit checks that the limit of a client holds for the
// Subscriptions of one transaction, which are all checked before the first is
// committed, for concurrent requests, and across a restart.
func TestLimitBeforeCommit(t *testing.T) {
	w := newWorld(t)
	w.engine.Close()
	w.opts.MaxPerClient = 5
	w.start()
	for i := range 20 {
		err := w.check("ehr", fmt.Sprint("t", i))
		if again := w.check("ehr", fmt.Sprint("t", i)); (again == nil) != (err == nil) {
			t.Errorf("%d: second check: %v, first %v", i, again, err)
		}
		if ok := i < 5; (err == nil) != ok || !ok && fhir.KindOf(err) != fhir.TooMany {
			t.Errorf("%d of one transaction: %v", i, err)
		}
	}
	var passed atomic.Int64
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			if w.check("other", fmt.Sprint("c", i)) == nil {
				passed.Add(1)
			}
		})
	}
	wg.Wait()
	if n := passed.Load(); n != 5 {
		t.Errorf("%d concurrent requests accepted, want 5", n)
	}
	var b store.Batch
	for i := range 5 {
		id := fmt.Sprint("r", i)
		b.Writes = append(b.Writes, store.Write{Author: "third", Resource: fhir.Resource{Type: "Subscription", ID: id,
			JSON: []byte(fhir.Prefix("Subscription", id) + `},` +
				subscriptionJSON("http://127.0.0.1:1/x", iDOnly, "", ""))}})
	}
	w.engine.Close() // so that the follower does not process them yet
	if _, err := w.st.Commit(context.Background(), &b); err != nil {
		t.Fatal(err)
	}
	w.start()
	if err := w.check("third", "r9"); fhir.KindOf(err) != fhir.TooMany {
		t.Errorf("after a restart: %v", err)
	}
	if v, err := w.st.Get(context.Background(), reservedKey("third")); err != nil || v != nil {
		t.Errorf("reservations of committed Subscriptions: %s, %v", v, err)
	}
}

// rows returns the number of event rows of a Subscription.
func (w *world) rows(id string) (n int) {
	w.t.Helper()
	if err := w.st.List(context.Background(), eventPrefix(id),
		func(string, []byte) bool { n++; return true }); err != nil {
		w.t.Fatal(err)
	}
	return n
}

func (w *world) total(id string) string {
	w.t.Helper()
	b, err := w.engine.Status(context.Background(), Request{Caller: audit.Caller{Principal: w.principal("ehr")}},
		[]string{id}, nil, true)
	if err != nil {
		w.t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), `"events-since-subscription-start","valueString":"`)
	n, _, _ := strings.Cut(rest, `"`)
	return n
}

// TestErrorNumbersAtConstantCost checks that the events of a Subscription in error
// are numbered across restarts without a row or a write for each, and that the
// numbers continue correctly when it is set to requested again.
func TestErrorNumbersAtConstantCost(t *testing.T) {
	w, r := newWorld(t), newReceiver(t)
	w.subscribe("s1", subscriptionJSON(r.URL, iDOnly, "", ""))
	w.until("active", func() bool { return w.status("s1") == "active" })
	r.mu.Lock()
	r.fail = func(int) bool { return true }
	r.mu.Unlock()
	w.observe("p1", "8867-4")
	w.until("error", func() bool { return w.status("s1") == "error" })
	for range keepMissed {
		w.observe("p1", "8867-4")
	}
	w.until("the first are kept", func() bool { return w.total("s1") == fmt.Sprint(keepMissed+1) })
	full := w.rows("s1")
	before := w.st.LastSeq()
	const more = 400
	for range more {
		w.observe("p1", "8867-4")
	}
	want := fmt.Sprint(keepMissed + 1 + more)
	w.until("numbered in error", func() bool { return w.total("s1") == want })
	if n := w.rows("s1"); n != full {
		t.Errorf("%d rows of events after %d more, %d before", n, more, full)
	}
	// One commit for each Observation, and one for the count.
	if n := w.st.LastSeq() - before; n > more+2 {
		t.Errorf("%d commits for %d Observations", n, more)
	}
	w.restart()
	w.until("numbered after a restart", func() bool { return w.total("s1") == want })
	w.observe("p1", "8867-4")
	want = fmt.Sprint(keepMissed + 2 + more)
	w.until("numbered on after a restart", func() bool { return w.total("s1") == want })
	w.restart()
	w.until("numbered after another restart", func() bool { return w.total("s1") == want })

	r.mu.Lock()
	r.fail = nil
	r.mu.Unlock()
	ctx := context.Background()
	old, _, err := w.st.Read(ctx, fhir.Ref{Type: "Subscription", ID: "s1"}, 0)
	if err != nil {
		t.Fatal(err)
	}
	body, err := unstamp(&old)
	if err != nil {
		t.Fatal(err)
	}
	next, err := w.engine.Check(ctx, w.principal("ehr"), &fhir.Resource{Type: "Subscription", ID: "s1", JSON: body},
		&old)
	if err != nil {
		t.Fatal(err)
	}
	w.put("ehr", *next)
	last := uint64(keepMissed + 3 + more)
	w.until("active again", func() bool { return w.status("s1") == "active" })
	w.observe("p1", "8867-4")
	w.until("the next has its number", func() bool { n, _ := r.events(); return slices.Contains(n, last) })
	numbers, _ := r.events()
	if kept := numbers[:len(numbers)-1]; !slices.Equal(kept, upTo(len(kept))) || len(kept) < keepMissed {
		t.Errorf("delivered %v", numbers)
	}
	w.restart()
	if got := w.total("s1"); got != fmt.Sprint(last) {
		t.Errorf("number %s after the last restart, want %d", got, last)
	}
}
