package follow

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/cluster/role"
	"pulsegate/fhir/cluster/role/roletest"
	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore/pebbletest"
)

// tally counts the Patients that were written, in small state.
type tally struct {
	ctx    context.Context
	st     store.Store
	at     store.Seq
	cursor Cursor
	bad    error         // of Load
	hold   chan struct{} // if not nil, Step waits for it before it commits
	// results has the results of the first commits.
	results chan error
	tasks   sync.WaitGroup
	closed  chan struct{} // has an element for each call of Close
}

func (w *tally) Load(ctx context.Context) error {
	w.tasks.Go(func() { <-w.ctx.Done() })
	_, err := w.cursor.Load(ctx, w.st)
	w.at = w.cursor.Saved
	return errors.Join(err, w.bad)
}

func (w *tally) Step(ctx context.Context) (next time.Duration, err error) {
	old, err := w.st.Get(ctx, "tally")
	if err != nil {
		return 0, err
	}
	n, _ := strconv.Atoi(string(old))
	to, before := w.at, n
	err = w.st.Changes(ctx, w.at, func(c *store.Change) bool {
		n, to = n+1, c.Seq
		return true
	})
	if err != nil || n == before {
		return 0, err
	}
	if w.hold != nil {
		<-w.hold
	}
	if _, err = w.st.Commit(context.WithoutCancel(ctx), &store.Batch{State: []store.StateWrite{w.cursor.Write(to),
		{Key: "tally", Value: strconv.AppendInt(nil, int64(n), 10)}}}); err == nil {
		w.at, w.cursor.Saved = to, to
	}
	select {
	case w.results <- err:
	default:
	}
	return 0, err
}

func (w *tally) Close() {
	w.tasks.Wait()
	w.closed <- struct{}{}
}

// process is a process with a Follower that tallies.
type process struct {
	Follower[*tally]
	steps chan *tally // the work of each term
	log   bytes.Buffer
}

// start starts a process. edit may change the work of each term before it is loaded.
func start(t *testing.T, st store.Store, roles role.Roles, edit func(*tally)) (*process, error) {
	t.Helper()
	p := &process{steps: make(chan *tally, 100)}
	err := p.Start(t.Context(), Options[*tally]{Store: st, Roles: roles, Role: "tally",
		Begin: func(ctx context.Context, _ role.Term, st store.Store) *tally {
			w := &tally{ctx: ctx, st: st, cursor: Cursor{Key: "tally/cursor"},
				results: make(chan error, 2), closed: make(chan struct{}, 2)}
			if edit != nil {
				edit(w)
			}
			p.steps <- w
			return w
		},
		MinBackoff: time.Millisecond, MaxBackoff: time.Millisecond,
		Logger: slog.New(slog.NewTextHandler(&p.log, nil))})
	return p, err
}

// put writes n Patients in commits of their own.
func put(t *testing.T, st store.Store, n int) {
	t.Helper()
	for range n {
		id := fmt.Sprint("p", st.LastSeq())
		body := []byte(fhir.Prefix("Patient", id) + "}}")
		if _, err := st.Commit(t.Context(), &store.Batch{Writes: []store.Write{{Resource: fhir.Resource{
			Type: "Patient", ID: id, JSON: body}}}}); err != nil {
			t.Fatal(err)
		}
	}
}

// await waits until the tally is n.
func await(t *testing.T, st store.Store, n int) {
	t.Helper()
	committed, stop := Watch(st)
	defer stop()
	late := time.After(2 * time.Minute)
	for {
		v, err := st.Get(t.Context(), "tally")
		if err != nil {
			t.Fatal(err)
		}
		if string(v) == strconv.Itoa(n) {
			return
		}
		select {
		case <-committed:
		case <-late:
			t.Fatalf("the tally is %s, want %d", v, n)
		}
	}
}

// TestHandover moves the role between two processes while Patients are written: each is
// counted once. The first holder oversleeps its term in the middle of a step, and writes
// nothing after that. Control: without the precondition of the term, it counts Patients
// again that the next holder has counted.
func TestHandover(t *testing.T) {
	for _, control := range []bool{false, true} {
		db := pebbletest.Open(t)
		roles := roletest.New(db)
		first, second := roles.Process(), roles.Process()
		var firstRoles role.Roles = first
		if control {
			firstRoles = roletest.Unbound{Roles: first}
		}
		hold := make(chan struct{})
		a, err := start(t, db, firstRoles, func(w *tally) { w.hold = hold })
		if err != nil {
			t.Fatal(err)
		}
		b, err := start(t, db, second, nil)
		if err != nil {
			t.Fatal(err)
		}
		if a.Current() != nil || b.Current() != nil || a.Alone() {
			t.Error("a process works without the role")
		}
		if err := roles.Give(first); err != nil {
			t.Fatal(err)
		}
		work := <-a.steps
		put(t, db, 3)
		hold <- struct{}{}
		if err := <-work.results; err != nil {
			t.Errorf("the first commit: %v", err)
		}
		roles.Deafen(first)
		if err := roles.Give(second); err != nil {
			t.Fatal(err)
		}
		await(t, db, 3)
		put(t, db, 2)
		await(t, db, 5)
		close(hold)
		if err := <-work.results; store.Lost(err) == control {
			t.Errorf("control %v: the commit of the former holder: %v", control, err)
		}
		a.Close()
		b.Close()
		if control {
			continue
		}
		v, err := db.Get(t.Context(), "tally")
		if err != nil || string(v) != "5" {
			t.Errorf("tally %s, %v", v, err)
		}
		if n := len(work.closed); n != 1 {
			t.Errorf("closed %d times", n)
		}
	}
}

// TestLoadFails tests that a term whose state cannot be read ends, with the goroutines that
// Load has started, and that the role is given up for a next term.
func TestLoadFails(t *testing.T) {
	db := pebbletest.Open(t)
	roles := roletest.New(db)
	holder := roles.Process()
	terms := 0
	p, err := start(t, db, holder, func(w *tally) {
		if terms++; terms == 1 {
			w.bad = errors.New("damaged")
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	put(t, db, 1)
	next := func() *tally {
		if err := roles.Give(holder); err != nil {
			t.Fatal(err)
		}
		return <-p.steps
	}
	first := next()
	<-first.closed
	second := next()
	await(t, db, 1)
	if p.Current() != second {
		t.Error("the work of the second term is not current")
	}
	p.Close()
	if p.Current() != nil || len(first.closed) != 0 || len(second.closed) != 1 {
		t.Errorf("closed %d and %d times", 1+len(first.closed), len(second.closed))
	}
	if got := p.log.String(); strings.Count(got, "\n") != 1 || !strings.Contains(got, "role=tally error=damaged") {
		t.Errorf("log %s", got)
	}
}

// TestAlone tests that Start without other processes has read the state, and returns the
// error if it cannot be read.
func TestAlone(t *testing.T) {
	db := pebbletest.Open(t)
	put(t, db, 2)
	p, err := start(t, db, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if p.Current() == nil || !p.Alone() {
		t.Error("the state has not been read")
	}
	await(t, db, 2)
	put(t, db, 1)
	await(t, db, 3)
	p.Close()
	if p, err = start(t, db, nil, func(w *tally) { w.bad = errors.New("damaged") }); err == nil {
		t.Error("no error")
	}
	if w := <-p.steps; len(w.closed) != 1 {
		t.Error("the work is not closed")
	}
}

func TestCursor(t *testing.T) {
	db := pebbletest.Open(t)
	c := Cursor{Key: "x"}
	if found, err := c.Load(t.Context(), db); found || err != nil || c.Saved != 0 {
		t.Errorf("%v %v %d before the first save", found, err, c.Saved)
	}
	if c.Due(SaveEvery) || !c.Due(SaveEvery+1) {
		t.Error("due at another commit")
	}
	save := func(w store.StateWrite) {
		if _, err := db.Commit(t.Context(), &store.Batch{State: []store.StateWrite{w}}); err != nil {
			t.Fatal(err)
		}
	}
	save(c.Write(7000))
	if found, err := c.Load(t.Context(), db); !found || err != nil || c.Saved != 7000 {
		t.Errorf("%v %v %d after a save", found, err, c.Saved)
	}
	if c.Due(7000+SaveEvery) || !c.Due(7001+SaveEvery) {
		t.Error("due at another commit after a save")
	}
	save(store.StateWrite{Key: "x", Value: []byte("secret")})
	if _, err := c.Load(t.Context(), db); fhir.KindOf(err) != fhir.Internal ||
		!strings.Contains(err.Error(), "the row x is") || strings.Contains(err.Error(), "secret") {
		t.Errorf("a damaged row: %v", err)
	}
}
