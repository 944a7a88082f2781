package sync_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	gosync "sync"
	"testing"
	"time"

	"bytes"

	"crypto/rand"

	"pulsegate/adapters/cloud"
	"pulsegate/adapters/link"
	"pulsegate/adapters/sync"
	"pulsegate/fhir"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/cluster/role/roletest"
)

// node is one process of several.
type node struct {
	*world
	role *roletest.Process
	stop func() // ends the process
}

// cluster starts n processes over the store of w. None has the role.
func (w *world) cluster(n int) (*roletest.Roles, []*node) {
	w.t.Helper()
	roles := roletest.New(w.db)
	w.chart.db = w.db
	var all []*node
	for range n {
		p := &node{world: &world{t: w.t, db: w.db, clock: w.clock, acme: w.acme, chart: w.chart}, role: roles.Process()}
		rec, err := audit.NewRecorder(audit.Options{Store: w.db, Clock: w.clock.Now, Rand: rand.Reader,
			Observer: "https://pg.example"})
		if err != nil {
			w.t.Fatal(err)
		}
		p.links = link.New(link.Options{Store: w.db, Audit: rec, Vault: plainVault{}, Vendors: []cloud.Vendor{w.acme},
			HTTP: http.DefaultClient, Callback: "https://pg.example/cb", Clock: w.clock.Now, Clustered: true,
			API: func(_ cloud.Vendor, token string) *cloud.Client {
				return &cloud.Client{Token: token, Clock: w.clock.Now}
			}})
		p.engine, err = sync.New(w.t.Context(), sync.Options{Store: w.db, Links: p.links, Ingest: w.chart, Consents: w,
			Clock: w.clock.Now, Hooks: "https://pg.example/hooks", Backfill: 20 * 24 * time.Hour, Roles: p.role})
		if err != nil {
			w.t.Fatal(err)
		}
		e := newRouter()
		p.engine.Mount(e)
		p.hooks = e
		all = append(all, p)
	}
	for _, p := range all {
		ctx, cancel := context.WithCancel(context.Background())
		var run gosync.WaitGroup
		run.Go(func() { p.engine.Run(ctx) })
		p.stop = func() { cancel(); run.Wait() }
		w.t.Cleanup(p.stop)
	}
	return roles, all
}

func give(t *testing.T, roles *roletest.Roles, p *node) {
	t.Helper()
	var to *roletest.Process
	if p != nil {
		to = p.role
	}
	if err := roles.Give(to); err != nil {
		t.Fatal(err)
	}
}

// until waits for a condition.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(2 * time.Minute); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: timeout", what)
		}
	}
}

// upToDate reports whether everything of a link was read.
func (w *world) upToDate(id string) bool {
	st, err := w.engine.Status(id)
	if err != nil || st.Past < 1 || len(st.Streams) == 0 {
		return false
	}
	for _, s := range st.Streams {
		if s.Polled.IsZero() && s.Problem == "" {
			return false
		}
	}
	return true
}

// equals reports whether the chart of a patient is what the vendor holds of an account.
func (w *world) equals(patient, account string) bool {
	w.acme.mu.Lock()
	defer w.acme.mu.Unlock()
	w.chart.mu.Lock()
	defer w.chart.mu.Unlock()
	for _, s := range []string{"beats", "days", "ring"} {
		want, got := w.acme.items[account][s], w.chart.held[patient+"/"+s]
		if len(want)+len(got) > 0 && !maps.Equal(want, got) {
			return false
		}
	}
	return true
}

// recent gives an account data that are not older than the past that is read.
func (w *world) recent(account string) {
	for i := range 15 {
		at := start.Add(-time.Duration(i) * day)
		w.put(account, "beats", item{ID: fmt.Sprintf("b%d", i), At: at.Add(-time.Minute), V: i})
		w.put(account, "days", item{ID: fmt.Sprintf("d%d", i), At: at.Truncate(day), V: i})
	}
	w.put(account, "ring", item{ID: "ring", At: start, V: 80})
}

// count returns the number of requests for pages.
func (w *world) count() int {
	w.acme.mu.Lock()
	defer w.acme.mu.Unlock()
	return w.acme.pages
}

// change changes what the vendor holds.
func (w *world) change(account, stream string, it item) {
	w.acme.mu.Lock()
	defer w.acme.mu.Unlock()
	w.put(account, stream, it)
}

// TestOneProcessReads checks that of three processes that start together one reads the
// links, with as many requests as a single process.
func TestOneProcessReads(t *testing.T) {
	alone := newWorld(t)
	alone.recent("ada")
	alone.link("p1", "ada")
	alone.engine.Drain(t.Context())
	w := newWorld(t)
	w.recent("ada")
	l := w.link("p1", "ada")
	before := w.count()
	roles, all := w.cluster(3)
	give(t, roles, all[0])
	until(t, "the account is read", func() bool { return all[2].upToDate(l.ID) && w.equals("p1", "ada") })
	if got, want := w.count()-before, alone.count(); got != want {
		t.Errorf("%d requests, want %d", got, want)
	}
	w.chart.mu.Lock()
	defer w.chart.mu.Unlock()
	if got, want := w.chart.writes, alone.chart.writes; got != want {
		t.Errorf("%d items were written, want %d", got, want)
	}
}

// TestAnyProcessServes checks that links, notifications, requests to poll, and the end of
// links reach the process that reads, at whichever process they arrive.
func TestAnyProcessServes(t *testing.T) {
	w := newWorld(t)
	w.recent("ada")
	roles, all := w.cluster(3)
	give(t, roles, all[0])
	to, err := all[1].links.Begin(t.Context(), "p1", "acme", "session")
	if err != nil {
		t.Fatal(err)
	}
	_, state, _ := strings.Cut(to, "state=")
	state, _, _ = strings.Cut(state, "&")
	l, err := all[2].links.Complete(t.Context(), caller, "session", link.Answer{State: state, Code: "ada"})
	if err != nil {
		t.Fatal(err)
	}
	until(t, "the new account is read", func() bool { return all[1].upToDate(l.ID) && w.equals("p1", "ada") })
	at := w.clock.Now().Add(-time.Hour)
	w.change("ada", "days", item{"d-new", at, 7})
	send := func(p *node, nonce string) int {
		body, err := json.Marshal([]note{{Account: "ada", Stream: "days", From: at, To: at.Add(time.Minute),
			Nonce: nonce}})
		if err != nil {
			t.Fatal(err)
		}
		rq := httptest.NewRequest(http.MethodPost, "/hooks/acme", bytes.NewReader(body))
		rq.Header.Set("Signature", "good")
		rec := httptest.NewRecorder()
		p.hooks.ServeHTTP(rec, rq)
		return rec.Code
	}
	if code := send(all[1], "1"); code != http.StatusNoContent {
		t.Fatal(code)
	}
	until(t, "the notification is followed", func() bool { return w.equals("p1", "ada") && w.inbox() == 0 })
	requests := w.count()
	if code := send(all[2], "1"); code != http.StatusNoContent || w.inbox() != 0 {
		t.Errorf("the repetition at another process: %d, %d in the inbox", code, w.inbox())
	}
	w.change("ada", "beats", item{"b-new", at, 8})
	if err := all[2].engine.Pull(l.ID); err != nil {
		t.Fatal(err)
	}
	until(t, "the account is polled", func() bool { return w.equals("p1", "ada") })
	if n := w.count(); n == requests {
		t.Error("no request")
	}
	if err := all[1].engine.Pull("another"); fhir.KindOf(err) != fhir.NotFound {
		t.Errorf("an unknown link: %v", err)
	}
	if err := all[2].links.Unlink(t.Context(), caller, l.ID, false); err != nil {
		t.Fatal(err)
	}
	until(t, "the end is followed", func() bool { _, err := all[0].engine.Status(l.ID); return err != nil })
	until(t, "the rows are removed", func() bool {
		left := 0
		for _, prefix := range []string{"link/changed/", "sync/new/", "sync/pull/", "sync/plan/"} {
			_ = w.db.List(t.Context(), prefix, func(string, []byte) bool { left++; return true }) // never fails
		}
		return left == 0
	})
}

// TestReaderEnds checks that another process goes on when the one that reads ends in the
// middle of an account, that notifications are kept meanwhile, and that nothing is lost
// or read twice from the beginning.
func TestReaderEnds(t *testing.T) {
	w := newWorld(t)
	w.recent("ada")
	l := w.link("p1", "ada")
	roles, all := w.cluster(3)
	const enough = 9
	reached := make(chan struct{})
	var once gosync.Once
	w.acme.fail = func(string, cloud.Query) error {
		if w.acme.pages < enough {
			return nil
		}
		once.Do(func() { close(reached) })
		return &cloud.Error{Problem: cloud.Unavailable}
	}
	give(t, roles, all[0])
	<-reached
	all[0].stop()
	give(t, roles, nil)
	at := w.clock.Now().Add(-time.Hour)
	w.change("ada", "days", item{"d-new", at, 7})
	if code := all[2].notify(note{Account: "ada", Stream: "days", From: at,
		To: at.Add(time.Minute)}); code != http.StatusNoContent {
		t.Fatal(code)
	}
	w.acme.mu.Lock()
	w.acme.fail = nil
	w.acme.mu.Unlock()
	w.clock.Add(2 * time.Minute)
	give(t, roles, all[1])
	until(t, "the account is read", func() bool {
		return all[2].upToDate(l.ID) && w.equals("p1", "ada") &&
			w.inbox() == 0
	})
}

// TestReaderOversleeps checks that a process that was suspended in the middle of a window
// stores nothing after another one has read newer values.
func TestReaderOversleeps(t *testing.T) {
	w := newWorld(t)
	at := w.clock.Now().Add(-time.Hour)
	w.put("ada", "beats", item{"b1", at, 1})
	w.link("p1", "ada")
	roles, all := w.cluster(2)
	asleep, awake := make(chan struct{}), make(chan struct{})
	var once, wakeOnce gosync.Once
	wake := func() { wakeOnce.Do(func() { close(awake) }) }
	w.acme.after = func(q cloud.Query) {
		if q.Stream.Name != "beats" {
			return
		}
		first := false
		once.Do(func() { first = true })
		if first {
			close(asleep)
			<-awake
		}
	}
	t.Cleanup(wake)
	give(t, roles, all[0])
	<-asleep
	roles.Deafen(all[0].role)
	w.change("ada", "beats", item{"b1", at, 2})
	give(t, roles, all[1])
	until(t, "the other process has read", func() bool { return w.equals("p1", "ada") })
	wake()
	all[0].stop()
	if !w.equals("p1", "ada") {
		t.Errorf("%v", w.chart.held)
	}
}
